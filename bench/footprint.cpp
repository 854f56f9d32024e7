// How much memory does a pattern need against what is live?
//
//   footprint blowup [--threads N] [--rounds N] [--live-mib N]
//     Hoard's pattern (ASPLOS 2000, section 2.2): each thread in turn allocates, the next one
//     frees. Live memory never exceeds one thread's share, so resident must stay within a constant
//     of it.
//   footprint fragmentation [--live-mib N]
//     fill with 240 B, replace at random by 492 B at the same total, then free two thirds at random
//   footprint idle
//     one block of 64 B, and the memory of the process as a whole
//   footprint metadata [--count N] [--size BYTES]
//     the memory that N more blocks take when N are there already, for each byte of theirs
//   footprint caches [--threads N] [--count BLOCKS] [--size BYTES] [--size-max BYTES]
//     N live threads, each of which has allocated and freed; what they keep is the caches
//   footprint handover [--live-mib N]
//     a thread allocates, frees every other block and ends; the share of those free slots that the
//     next thread gets when it asks for as many
//   footprint exits [--threads N] [--live-mib N]
//     threads one after another, which end with all their blocks live; the main thread frees them

#include <algorithm>
#include <atomic>

#include "support.hpp"

namespace {

constexpr uint64_t kSmallBytes = 240;
constexpr uint64_t kBigBytes = 492;

void* allocate_whole(uint64_t size_bytes) {
  void* block = std::malloc(size_bytes);
  bench::touch(block);
  std::memset(block, 1, size_bytes);
  return block;
}

// Resident memory is counted above what the process had before its first block, the table included.
struct Footprint {
  double live_bytes;
  uint64_t before_bytes;

  void print(const char* workload, uint64_t threads, uint64_t elapsed_ns,
             uint64_t peak_bytes) const {
    const uint64_t now_bytes = bench::resident_bytes();
    if (peak_bytes < now_bytes) peak_bytes = now_bytes;
    bench::Result(workload)
        .number("threads", static_cast<double>(threads))
        .number("live_bytes", live_bytes)
        .number("resident_per_live", static_cast<double>(now_bytes - before_bytes) / live_bytes)
        .number("peak_per_live", static_cast<double>(peak_bytes - before_bytes) / live_bytes)
        .number("seconds", 1e-9 * static_cast<double>(elapsed_ns));
  }
};

void blowup(const bench::Options& options) {
  const uint64_t threads = options.number("--threads", 2);
  const uint64_t rounds = options.number("--rounds", 50);
  const uint64_t live_bytes = options.number("--live-mib", 16) * bench::kMiB;
  const uint64_t sizes[] = {64, 200, 1000};
  void** blocks = bench::own_table<void*>(live_bytes / sizes[0]);
  const uint64_t before_bytes = bench::resident_bytes();
  uint64_t count = 0;
  uint64_t peak_bytes = 0;
  pthread_barrier_t turn;
  pthread_barrier_init(&turn, nullptr, static_cast<unsigned>(threads));
  const uint64_t elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
    for (uint64_t round = 0; round < rounds * threads; round++) {
      if (round % threads == index) {
        const uint64_t size_bytes = sizes[round / threads % 3];
        count = live_bytes / size_bytes;
        for (uint64_t i = 0; i < count; i++) blocks[i] = allocate_whole(size_bytes);
        peak_bytes = std::max(peak_bytes, bench::resident_bytes());
      }
      pthread_barrier_wait(&turn);
      if ((round + 1) % threads == index) {
        for (uint64_t i = 0; i < count; i++) std::free(blocks[i]);
      }
      pthread_barrier_wait(&turn);
    }
  });
  Footprint{static_cast<double>(live_bytes), before_bytes}.print("blowup", threads, elapsed_ns,
                                                                 peak_bytes);
}

void fragmentation(const bench::Options& options) {
  const uint64_t live_bytes = options.number("--live-mib", 64) * bench::kMiB;
  const uint64_t small_count = live_bytes / kSmallBytes;
  const uint64_t big_count = live_bytes / kBigBytes;
  void** small = bench::own_table<void*>(small_count);
  void** big = bench::own_table<void*>(big_count);
  const uint64_t before_bytes = bench::resident_bytes();
  const uint64_t start = bench::now_ns();
  bench::Random random(1);
  for (uint64_t i = 0; i < small_count; i++) small[i] = allocate_whole(kSmallBytes);
  uint64_t peak_bytes = bench::resident_bytes();
  uint64_t small_left = small_count;
  for (uint64_t i = 0; i < big_count; i++) {
    // Free at random until the next 492 B fit under the total.
    while (small_left * kSmallBytes + (i + 1) * kBigBytes > live_bytes && small_left > 0) {
      const uint64_t victim = random.between(0, small_left - 1);
      std::free(small[victim]);
      small[victim] = small[--small_left];
    }
    big[i] = allocate_whole(kBigBytes);
  }
  peak_bytes = std::max(peak_bytes, bench::resident_bytes());
  while (small_left > 0) std::free(small[--small_left]);
  uint64_t left = big_count;
  while (left > big_count / 3) {
    const uint64_t victim = random.between(0, left - 1);
    std::free(big[victim]);
    big[victim] = big[--left];
  }
  const uint64_t elapsed_ns = bench::now_ns() - start;
  Footprint{static_cast<double>(left * kBigBytes), before_bytes}.print("fragmentation", 1,
                                                                       elapsed_ns, peak_bytes);
}

// The program's own start, libc included, is in the number: it is compared with no preload.
void idle(const bench::Options&) {
  allocate_whole(64);
  bench::Result("idle").number("resident_bytes", static_cast<double>(bench::resident_bytes()));
}

// The second N blocks, so that what is needed once does not count.
void metadata(const bench::Options& options) {
  const uint64_t count = options.number("--count", 1'000'000);
  const uint64_t size_bytes = options.number("--size", 64);
  for (uint64_t i = 0; i < count; i++) allocate_whole(size_bytes);
  const uint64_t before_bytes = bench::resident_bytes();
  for (uint64_t i = 0; i < count; i++) allocate_whole(size_bytes);
  const uint64_t grown_bytes = bench::resident_bytes() - before_bytes;
  bench::Result("metadata")
      .number("resident_per_live",
              static_cast<double>(grown_bytes) / static_cast<double>(count * size_bytes));
}

// Threads that stay alive between two barriers; their stacks are paid before the first measurement.
struct Crowd {
  pthread_barrier_t barrier;
  uint64_t count;
  uint64_t size_min;
  uint64_t size_max;
  std::atomic<uint64_t> seed;
  // Held by who has blocks: else the scheduler decides how many are live at a time, and what is
  // left of that peak would be counted as the caches'.
  pthread_mutex_t turn;
};

[[gnu::noinline]] void touch_stack() {
  char bytes[16 * bench::kKiB];
  std::memset(bytes, 1, sizeof(bytes));
  bench::use(bytes);
}

void* crowd_member(void* argument) {
  Crowd& crowd = *static_cast<Crowd*>(argument);
  void* blocks[256];
  touch_stack();
  pthread_barrier_wait(&crowd.barrier);  // all live
  pthread_barrier_wait(&crowd.barrier);  // measured before
  pthread_mutex_lock(&crowd.turn);
  bench::Random random(++crowd.seed);
  for (uint64_t i = 0; i < crowd.count; i++) {
    blocks[i] = allocate_whole(random.between(crowd.size_min, crowd.size_max));
  }
  for (uint64_t i = 0; i < crowd.count; i++) std::free(blocks[i]);
  pthread_mutex_unlock(&crowd.turn);
  pthread_barrier_wait(&crowd.barrier);  // all have freed
  pthread_barrier_wait(&crowd.barrier);  // measured after
  return nullptr;
}

void caches(const bench::Options& options) {
  const uint64_t threads = options.number("--threads", 1500);
  static Crowd crowd;
  crowd.count = options.number("--count", 100);
  crowd.size_min = options.number("--size", 8);
  crowd.size_max = options.number("--size-max", 512);
  if (crowd.count > 256) bench::fail("--count at most 256");
  pthread_mutex_init(&crowd.turn, nullptr);
  pthread_barrier_init(&crowd.barrier, nullptr, static_cast<unsigned>(threads + 1));
  auto* members = bench::own_table<pthread_t>(threads);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 64 * bench::kKiB);
  for (uint64_t i = 0; i < threads; i++) {
    if (pthread_create(&members[i], &attributes, crowd_member, &crowd) != 0) {
      bench::fail("no thread");
    }
  }
  pthread_barrier_wait(&crowd.barrier);
  const uint64_t before_bytes = bench::resident_bytes();
  pthread_barrier_wait(&crowd.barrier);
  pthread_barrier_wait(&crowd.barrier);
  const uint64_t after_bytes = bench::resident_bytes();
  pthread_barrier_wait(&crowd.barrier);
  for (uint64_t i = 0; i < threads; i++) pthread_join(members[i], nullptr);
  bench::Result("caches")
      .number("threads", static_cast<double>(threads))
      .number("kept_bytes", static_cast<double>(after_bytes - before_bytes));
}

int by_address(const void* a, const void* b) {
  const auto x = *static_cast<const uint64_t*>(a);
  const auto y = *static_cast<const uint64_t*>(b);
  return x < y ? -1 : x > y;
}

// What threads that come one after another share.
struct Relay {
  uint64_t* blocks;  // addresses of what this thread allocates
  uint64_t count;
  bool frees_every_other;
};

void* runner(void* argument) {
  Relay& relay = *static_cast<Relay*>(argument);
  for (uint64_t i = 0; i < relay.count; i++) {
    relay.blocks[i] = reinterpret_cast<uint64_t>(allocate_whole(64));
  }
  for (uint64_t i = 0; relay.frees_every_other && i < relay.count; i += 2) {
    std::free(reinterpret_cast<void*>(relay.blocks[i]));
  }
  return nullptr;
}

void run_to_its_end(Relay& relay) {
  pthread_t thread;
  if (pthread_create(&thread, nullptr, runner, &relay) != 0) bench::fail("no thread");
  pthread_join(thread, nullptr);
}

// The first thread leaves holes: half its blocks.  The second asks for as many as there are holes.
void handover(const bench::Options& options) {
  const uint64_t count = options.number("--live-mib", 8) * bench::kMiB / 64;
  Relay first = {bench::own_table<uint64_t>(count), count, true};
  Relay second = {bench::own_table<uint64_t>(count / 2), count / 2, false};
  run_to_its_end(first);
  run_to_its_end(second);
  uint64_t reused = 0;
  uint64_t* holes = bench::own_table<uint64_t>(count / 2);
  for (uint64_t i = 0; i < count / 2; i++) holes[i] = first.blocks[2 * i];
  qsort(holes, count / 2, sizeof(*holes), by_address);
  for (uint64_t i = 0; i < count / 2; i++) {
    reused += bsearch(&second.blocks[i], holes, count / 2, sizeof(*holes), by_address) != nullptr;
  }
  bench::Result("handover")
      .number("reused", static_cast<double>(reused) / static_cast<double>(count / 2));
}

void exits(const bench::Options& options) {
  const uint64_t threads = options.number("--threads", 50);
  const uint64_t count = options.number("--live-mib", 4) * bench::kMiB / 64;
  Relay relay = {bench::own_table<uint64_t>(count), count, false};
  const uint64_t before_bytes = bench::resident_bytes();
  uint64_t peak_bytes = 0;
  for (uint64_t i = 0; i < threads; i++) {
    run_to_its_end(relay);
    peak_bytes = std::max(peak_bytes, bench::resident_bytes());
    for (uint64_t k = 0; k < count; k++) std::free(reinterpret_cast<void*>(relay.blocks[k]));
  }
  Footprint{static_cast<double>(count * 64), before_bytes}.print("exits", threads, 0, peak_bytes);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const struct {
    const char* name;
    void (*run)(const bench::Options&);
  } patterns[] = {
      {"blowup", blowup}, {"fragmentation", fragmentation},
      {"idle", idle},     {"metadata", metadata},
      {"caches", caches}, {"handover", handover},
      {"exits", exits},
  };
  for (const auto& pattern : patterns) {
    if (std::strcmp(options.word("blowup"), pattern.name) == 0) {
      pattern.run(options);
      return 0;
    }
  }
  bench::fail("the first word must name a pattern");
}
