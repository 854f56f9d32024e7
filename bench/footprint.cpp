// How much memory does a pattern need against what is live?
//
//   footprint blowup [--threads N] [--rounds N] [--live-mib N]
//     Hoard's pattern (ASPLOS 2000, section 2.2): each thread in turn allocates, the next one
//     frees. Live memory never exceeds one thread's share, so resident must stay within a constant
//     of it.
//   footprint fragmentation [--live-mib N]
//     fill with 240 B, replace at random by 492 B at the same total, then free two thirds at random

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

  void print(const char* workload, uint64_t threads, uint64_t elapsed_ns) const {
    const uint64_t now_bytes = bench::resident_bytes();
    const uint64_t peak_bytes = bench::status_bytes("VmHWM:");
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
  pthread_barrier_t turn;
  pthread_barrier_init(&turn, nullptr, static_cast<unsigned>(threads));
  const uint64_t elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
    for (uint64_t round = 0; round < rounds * threads; round++) {
      if (round % threads == index) {
        const uint64_t size_bytes = sizes[round / threads % 3];
        count = live_bytes / size_bytes;
        for (uint64_t i = 0; i < count; i++) blocks[i] = allocate_whole(size_bytes);
      }
      pthread_barrier_wait(&turn);
      if ((round + 1) % threads == index) {
        for (uint64_t i = 0; i < count; i++) std::free(blocks[i]);
      }
      pthread_barrier_wait(&turn);
    }
  });
  Footprint{static_cast<double>(live_bytes), before_bytes}.print("blowup", threads, elapsed_ns);
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
  while (small_left > 0) std::free(small[--small_left]);
  uint64_t left = big_count;
  while (left > big_count / 3) {
    const uint64_t victim = random.between(0, left - 1);
    std::free(big[victim]);
    big[victim] = big[--left];
  }
  const uint64_t elapsed_ns = bench::now_ns() - start;
  Footprint{static_cast<double>(left * kBigBytes), before_bytes}.print("fragmentation", 1,
                                                                       elapsed_ns);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  if (std::strcmp(options.word("blowup"), "blowup") == 0) {
    blowup(options);
  } else {
    fragmentation(options);
  }
}
