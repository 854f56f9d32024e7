// The far window against a bare userfaultfd loop, in one run.
//
//   far fault        a touch of a far extent, beside the least that userfaultfd allows: a blocking
//                    read and one UFFDIO_COPY, of 64 KiB and of 4 KiB
//   far sequential   all of a far window, in order, over a link of a given bandwidth and delay;
//                    beside the link alone, and beside demand of 4 KiB pages over it
//   far tcp          both over the real transport on loopback, bartenderd as a child; beside its
//                    reads alone, one thread that puts what it reads into a window (bare_mb_s), a
//                    raw TCP link, and demand of 4 KiB pages over that
//   far evict        processor time of the evictor for each extent, dirty and clean
//   far write        the first store into a clean page; --tracking async or sync
//
// Unlike the other programs it is built with core/: nothing can be preloaded to reach the window.
// But in `tcp` the node is a copy in this process behind a link that is made up, so what is
// measured is the pager.  One JSON line a result.

#include <dirent.h>
#include <sched.h>

#include <new>

#include "far_bare.hpp"
#include "far_link.hpp"
#include "far_tcp.hpp"

namespace {

using bench::Bare;
using bench::Link;
using bench::LinkNode;
using bench::RawLink;
using bench::TcpNode;
using btd::kFarExtentBytes;

uint64_t percentile(uint64_t* values, uint64_t count, uint64_t percent) {
  std::sort(values, values + count);
  return values[std::min(count - 1, count * percent / 100)];
}

// Where windows and stores lie: a directory in a tmpfs.
char directory[256];
char window_path[300];

// A node in this process.
struct Here {
  explicit Here(uint64_t extents) : handler(link), evictor(link), count(extents) {
    link.store = bench::own_table<char>(count * kFarExtentBytes);
    link.generations = bench::own_table<uint64_t>(count);
  }
  ~Here() {
    munmap(link.store, count * kFarExtentBytes);
    munmap(link.generations, count * sizeof(uint64_t));
  }
  void fill_in(btd::FarRequest& request) {
    request.node_count = 1;
    request.replica_count = 1;
    request.handler_nodes[0] = handlers;
    request.evictor_nodes = evictors;
  }

  Link link;
  LinkNode handler;
  LinkNode evictor;
  btd::Node* handlers[1] = {&handler};
  btd::Node* evictors[1] = {&evictor};
  uint64_t count;
};

// A window of `extents` far extents.
struct Window {
  template <typename Nodes>
  Window(Nodes& nodes, uint64_t extents, bool tracks_async) {
    nodes.fill_in(request);
    request.path = window_path;
    request.window_bytes = extents * kFarExtentBytes;
    request.near_bytes = 2 * extents * kFarExtentBytes;
    request.tracks_async = tracks_async;
    request.may_prefetch = false;
    unlink(window_path);
    btd::Line why;
    if (far.open(request, why) != btd::Error::kNone) {
      std::fputs(why.c_str(), stderr);
      bench::fail("no far window");
    }
    count = extents;
  }
  ~Window() {
    far.close();
    unlink(window_path);
  }
  // Every extent written once and gone.
  void spill_all() {
    set_near(64);
    for (uint64_t i = 0; i < count; i++)
      std::memset(at(i), static_cast<int>(i % 255 + 1), kFarExtentBytes);
    drain();
  }
  // Until everything is far.
  void drain() {
    btd::Pager& pager = far.pager();
    pager.near_low = 0;
    pager.near_high = 1;
    while (pager.near_count.load() > 0) {
      pager.evictor_call.raise();
      usleep(1000);
    }
  }
  void set_near(uint64_t extents) {
    btd::Pager& pager = far.pager();
    pager.near_max = extents;
    pager.near_high = extents * 9 / 10;
    pager.near_low = extents * 3 / 4;
  }
  char* at(uint64_t extent) { return far.base() + extent * kFarExtentBytes; }

  btd::FarRequest request;
  btd::FarWindow far;
  uint64_t count = 0;
};

// Touches one byte of each of `count` units in random order; fills `times`.
void touch_all(char* base, uint64_t unit, uint64_t count, uint64_t* times, uint64_t seed) {
  auto* order = bench::own_table<uint64_t>(count);
  for (uint64_t i = 0; i < count; i++) order[i] = i;
  bench::Random random(seed);
  for (uint64_t i = count - 1; i > 0; i--) std::swap(order[i], order[random.between(0, i)]);
  for (uint64_t i = 0; i < count; i++) {
    volatile char* byte = base + order[i] * unit;
    const uint64_t start = bench::now_ns();
    *byte;
    times[i] = bench::now_ns() - start;
  }
  munmap(order, count * sizeof(uint64_t));
}

// Bare faults with the handler on the faulting processor, which no scheduler has to find: the best
// that a handler can do.  p50.
uint64_t bare_beside(uint64_t extents, uint64_t* times, uint64_t seed) {
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  if (sched_getaffinity(0, sizeof(before), &before) != 0 ||
      sched_setaffinity(0, sizeof(one), &one) != 0)
    bench::fail("no affinity");
  {
    Bare bare((extents + 1) * kFarExtentBytes, kFarExtentBytes, uint64_t{0});
    touch_all(bare.base, kFarExtentBytes, extents, times, seed);
  }
  sched_setaffinity(0, sizeof(before), &before);
  return percentile(times, extents, 50);
}

void fault(uint64_t extents, uint64_t rounds) {
  auto* times = bench::own_table<uint64_t>(extents);
  Here here(extents);
  Window window(here, extents, true);
  for (uint64_t round = 0; round < rounds; round++) {
    uint64_t bare_p50[2];
    uint64_t bare_p99[2];
    int which = 0;
    for (uint64_t unit : {kFarExtentBytes, size_t{4096}}) {
      // The last unit ends the thread.
      Bare bare((extents + 1) * unit, unit, uint64_t{0});
      touch_all(bare.base, unit, extents, times, round);
      bare_p50[which] = percentile(times, extents, 50);
      bare_p99[which++] = percentile(times, extents, 99);
    }
    const uint64_t beside_p50 = bare_beside(extents, times, round);
    window.spill_all();
    window.set_near(2 * extents);
    touch_all(window.far.base(), kFarExtentBytes, extents, times, round);
    const uint64_t ours_p50 = percentile(times, extents, 50);
    const uint64_t ours_p99 = percentile(times, extents, 99);
    // The transport's part: a read of the node, as the handler makes it.
    LinkNode node(here.link);
    node.connect(0);
    for (uint64_t i = 0; i < extents; i++) {
      btd::NodeCompletion done;
      const uint64_t start = bench::now_ns();
      node.read(0, i * 7919 % extents, 0);
      while (node.poll(&done, 1, 20) == 0) {
      }
      times[i] = bench::now_ns() - start;
    }
    const uint64_t link_p50 = percentile(times, extents, 50);
    std::printf(
        "{\"test\":\"far fault\",\"round\":%lu,\"bare_64k_ns\":%lu,\"bare_64k_p99_ns\":%lu,"
        "\"bare_4k_ns\":%lu,\"bare_beside_ns\":%lu,\"far_ns\":%lu,\"far_p99_ns\":%lu,"
        "\"link_ns\":%lu,\"ratio\":%.3f,\"ratio_beside\":%.3f}\n",
        round, bare_p50[0], bare_p99[0], bare_p50[1], beside_p50, ours_p50, ours_p99, link_p50,
        static_cast<double>(ours_p50 - link_p50) / static_cast<double>(bare_p50[0]),
        static_cast<double>(ours_p50 - link_p50) / static_cast<double>(beside_p50));
    std::fflush(stdout);
  }
}

void sequential(uint64_t extents, uint64_t rounds, uint64_t delay_us, uint64_t megabytes_per_s) {
  Here here(extents);
  Window window(here, extents, true);
  for (uint64_t round = 0; round < rounds; round++) {
    here.link.delay_ns = 0;
    here.link.bytes_per_us = 0;
    window.spill_all();
    here.link.delay_ns = delay_us * 1000;
    here.link.bytes_per_us = megabytes_per_s;
    const double bytes = static_cast<double>(extents * kFarExtentBytes);
    // The link alone, 16 deep.
    LinkNode node(here.link);
    node.connect(0);
    uint64_t start = bench::now_ns();
    uint64_t posted = 0;
    uint64_t done_count = 0;
    for (; posted < btd::kNodeDepth; posted++) node.read(static_cast<uint32_t>(posted), posted, 0);
    while (done_count < extents) {
      btd::NodeCompletion done[btd::kNodeDepth];
      const uint32_t found = node.poll(done, btd::kNodeDepth, 100);
      for (uint32_t i = 0; i < found; i++, done_count++)
        if (posted < extents) node.read(done[i].slot, posted++, 0);
    }
    const double link_rate = bytes / static_cast<double>(bench::now_ns() - start);

    double rates[2];
    for (bool ahead : {false, true}) {
      window.drain();
      window.far.pager().may_prefetch = ahead;
      window.set_near(2 * extents);
      start = bench::now_ns();
      for (uint64_t offset = 0; offset < extents * kFarExtentBytes; offset += 4096)
        *static_cast<volatile char*>(window.far.base() + offset);
      rates[ahead] = bytes / static_cast<double>(bench::now_ns() - start);
    }
    window.far.pager().may_prefetch = false;
    // Pages of 4 KiB on demand, each with the link's delay and its share of the bandwidth.
    const uint64_t pages = extents;
    const uint64_t wait_ns =
        delay_us * 1000 + (megabytes_per_s == 0 ? 0 : 4096 * 1000 / megabytes_per_s);
    double demand_rate;
    {
      Bare bare((pages + 1) * 4096, 4096, wait_ns);
      start = bench::now_ns();
      for (uint64_t i = 0; i < pages; i++) *static_cast<volatile char*>(bare.base + i * 4096);
      demand_rate =
          static_cast<double>(pages * 4096) / static_cast<double>(bench::now_ns() - start);
    }
    std::printf(
        "{\"test\":\"far sequential\",\"round\":%lu,\"delay_us\":%lu,\"link_mb_s\":%.0f,"
        "\"far_mb_s\":%.0f,\"far_no_prefetch_mb_s\":%.0f,\"demand_4k_mb_s\":%.0f,"
        "\"of_link\":%.3f,\"over_demand\":%.1f}\n",
        round, delay_us, link_rate * 1000, rates[1] * 1000, rates[0] * 1000, demand_rate * 1000,
        rates[1] / link_rate, rates[1] / demand_rate);
    std::fflush(stdout);
  }
}

// All extents by one client, 16 at a time, each put into `window` if there is one; MB/s.
double read_all(btd::Node& node, uint64_t extents, Bare* window) {
  const uint64_t start = bench::now_ns();
  uint64_t posted = 0;
  for (; posted < btd::kNodeDepth; posted++) node.read(static_cast<uint32_t>(posted), posted, 0);
  for (uint64_t done_count = 0; done_count < extents;) {
    btd::NodeCompletion done[btd::kNodeDepth];
    const uint32_t found = node.poll(done, btd::kNodeDepth, 1000);
    for (uint32_t i = 0; i < found; i++, done_count++) {
      if (done[i].status != btd::NodeStatus::kGood) bench::fail("a read failed");
      if (window != nullptr) window->put(done_count, node.buffer(done[i].slot));
      if (posted < extents) node.read(done[i].slot, posted++, 0);
    }
  }
  return 1000.0 * static_cast<double>(extents * kFarExtentBytes) /
         static_cast<double>(bench::now_ns() - start);
}

// The same bytes over the raw link.
double take_all(RawLink& raw, char* to, uint64_t extents) {
  const uint64_t start = bench::now_ns();
  uint64_t asked = 0;
  for (; asked < btd::kNodeDepth; asked++) raw.ask(kFarExtentBytes);
  for (uint64_t taken = 0; taken < extents; taken++) {
    raw.take(to + taken % btd::kNodeDepth * kFarExtentBytes, kFarExtentBytes);
    if (asked++ < extents) raw.ask(kFarExtentBytes);
  }
  return 1000.0 * static_cast<double>(extents * kFarExtentBytes) /
         static_cast<double>(bench::now_ns() - start);
}

// Bare demand over the raw link, in units; MB/s.
double demand(RawLink& raw, uint64_t unit, uint64_t count) {
  Bare bare((count + 1) * unit, unit, [&raw](char* to, uint64_t bytes) {
    raw.ask(static_cast<uint32_t>(bytes));
    raw.take(to, bytes);
  });
  const uint64_t start = bench::now_ns();
  for (uint64_t i = 0; i < count; i++) *static_cast<volatile char*>(bare.base + i * unit);
  return 1000.0 * static_cast<double>(count * unit) / static_cast<double>(bench::now_ns() - start);
}

void tcp(uint64_t extents, uint64_t rounds, uint32_t handler_count, const char* program) {
  auto* times = bench::own_table<uint64_t>(extents);
  auto* buffers = bench::own_table<char>(btd::kNodeDepth * kFarExtentBytes);
  TcpNode node(program, directory, 2 * extents, handler_count);
  RawLink raw;
  Window window(node, extents, true);
  for (uint64_t round = 0; round < rounds; round++) {
    window.spill_all();
    const double raw_rate = take_all(raw, buffers, extents);
    const double transport_rate = read_all(node.ours(), extents, nullptr);
    double bare_rate;
    {
      Bare bare(extents * kFarExtentBytes, kFarExtentBytes);
      bare_rate = read_all(node.ours(), extents, &bare);
    }
    const double demand_rate = demand(raw, 4096, 4 * extents);
    window.far.pager().may_prefetch = true;
    window.set_near(2 * extents);
    uint64_t start = bench::now_ns();
    for (uint64_t offset = 0; offset < extents * kFarExtentBytes; offset += 4096)
      *static_cast<volatile char*>(window.far.base() + offset);
    const double far_rate = 1000.0 * static_cast<double>(extents * kFarExtentBytes) /
                            static_cast<double>(bench::now_ns() - start);
    window.far.pager().may_prefetch = false;

    window.drain();
    window.set_near(2 * extents);
    touch_all(window.far.base(), kFarExtentBytes, extents, times, round);
    const uint64_t far_p50 = percentile(times, extents, 50);
    const uint64_t far_p99 = percentile(times, extents, 99);
    for (uint64_t i = 0; i < extents; i++) {
      btd::NodeCompletion done;
      start = bench::now_ns();
      node.ours().read(0, i * 7919 % extents, 0);
      while (node.ours().poll(&done, 1, 20) == 0) {
      }
      times[i] = bench::now_ns() - start;
    }
    const uint64_t transport_p50 = percentile(times, extents, 50);
    uint64_t bare_p50;
    {
      Bare bare((extents + 1) * kFarExtentBytes, kFarExtentBytes, uint64_t{0});
      touch_all(bare.base, kFarExtentBytes, extents, times, round);
      bare_p50 = percentile(times, extents, 50);
    }
    const uint64_t beside_p50 = bare_beside(extents, times, round);
    const double ours = static_cast<double>(far_p50) - static_cast<double>(transport_p50);
    std::printf(
        "{\"test\":\"far tcp\",\"round\":%lu,\"raw_mb_s\":%.0f,\"transport_mb_s\":%.0f,"
        "\"bare_mb_s\":%.0f,"
        "\"far_mb_s\":%.0f,\"demand_4k_mb_s\":%.0f,\"far_ns\":%lu,\"far_p99_ns\":%lu,"
        "\"transport_ns\":%lu,\"bare_64k_ns\":%lu,\"bare_beside_ns\":%lu,\"of_raw\":%.3f,\"of_"
        "transport\":%.3f,\"of_"
        "bare\":%.3f,"
        "\"over_demand\":%.1f,\"ratio\":%.3f,\"ratio_beside\":%.3f}\n",
        round, raw_rate, transport_rate, bare_rate, far_rate, demand_rate, far_p50, far_p99,
        transport_p50, bare_p50, beside_p50, far_rate / raw_rate, far_rate / transport_rate,
        far_rate / bare_rate, far_rate / demand_rate, ours / static_cast<double>(bare_p50),
        ours / static_cast<double>(beside_p50));
    std::fflush(stdout);
  }
  munmap(times, extents * sizeof(uint64_t));
  munmap(buffers, btd::kNodeDepth * kFarExtentBytes);
}

// build/tools/node/bartenderd, beside build/bench/far.
const char* bartenderd() {
  static char path[4096];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 64);
  for (int parts = 0; parts < 2 && length > 0;)
    if (path[--length] == '/') parts++;
  std::strcpy(path + length, "/tools/node/bartenderd");
  return path;
}

// Processor time of the thread of this name, in ns.
uint64_t thread_ns(const char* name) {
  DIR* tasks = opendir("/proc/self/task");
  uint64_t found = 0;
  while (dirent* task = readdir(tasks)) {
    char path[64];
    char text[64] = {};
    std::snprintf(path, sizeof(path), "/proc/self/task/%.20s/comm", task->d_name);
    int file = open(path, O_RDONLY);
    if (file < 0) continue;
    if (read(file, text, sizeof(text) - 1) <= 0) text[0] = 0;
    close(file);
    if (std::strncmp(text, name, std::strlen(name)) != 0) continue;
    std::snprintf(path, sizeof(path), "/proc/self/task/%.20s/schedstat", task->d_name);
    file = open(path, O_RDONLY);
    if (read(file, text, sizeof(text) - 1) > 0) found = std::strtoull(text, nullptr, 10);
    close(file);
  }
  closedir(tasks);
  return found;
}

void evict(uint64_t extents, uint64_t rounds) {
  Here here(extents);
  Window window(here, extents, true);
  window.spill_all();
  here.link.keeps = false;  // the transport's part is not ours
  for (uint64_t round = 0; round < rounds; round++) {
    double cost_us[2];
    for (bool is_dirty : {false, true}) {
      window.set_near(2 * extents);
      for (uint64_t i = 0; i < extents; i++) {
        volatile char* byte = window.at(i);
        if (is_dirty) *byte = 1;
        if (!is_dirty) *byte;
      }
      const uint64_t before = thread_ns("far-evictor");
      window.drain();
      cost_us[is_dirty] = static_cast<double>(thread_ns("far-evictor") - before) / 1000.0 /
                          static_cast<double>(extents);
    }
    std::printf("{\"test\":\"far evict\",\"round\":%lu,\"dirty_us\":%.2f,\"clean_us\":%.2f}\n",
                round, cost_us[1], cost_us[0]);
    std::fflush(stdout);
  }
}

void write(uint64_t extents, uint64_t rounds, const char* tracking) {
  auto* times = bench::own_table<uint64_t>(extents * btd::kPagesPerExtent);
  for (bool tracks_async : {true, false}) {
    if (std::strcmp(tracking, tracks_async ? "sync" : "async") == 0) continue;
    Here here(extents);
    Window window(here, extents, tracks_async);
    for (uint64_t round = 0; round < rounds; round++) {
      window.spill_all();
      window.set_near(2 * extents);
      for (uint64_t i = 0; i < extents; i++) *static_cast<volatile char*>(window.at(i));
      const uint64_t begin = bench::now_ns();
      for (uint64_t page = 0; page < extents * btd::kPagesPerExtent; page++) {
        volatile char* byte = window.far.base() + page * 4096;
        const uint64_t start = bench::now_ns();
        *byte = 1;
        times[page] = bench::now_ns() - start;
      }
      const uint64_t all = bench::now_ns() - begin;
      const uint64_t count = extents * btd::kPagesPerExtent;
      auto* sorted = bench::own_table<uint64_t>(count);
      std::memcpy(sorted, times, count * sizeof(uint64_t));
      const uint64_t page_p50 = percentile(sorted, count, 50);
      munmap(sorted, count * sizeof(uint64_t));
      // Of an extent's first page and of the other ones: tracked synchronously they differ.
      for (uint64_t i = 0; i < extents; i++) std::swap(times[i], times[i * btd::kPagesPerExtent]);
      std::printf(
          "{\"test\":\"far "
          "write\",\"round\":%lu,\"async\":%s,\"page_ns\":%lu,\"first_page_ns\":%lu,"
          "\"later_page_ns\":%lu,\"extent_us\":%.2f}\n",
          round, tracks_async ? "true" : "false", page_p50, percentile(times, extents, 50),
          percentile(times + extents, count - extents, 50),
          static_cast<double>(all) / 1000.0 / static_cast<double>(extents));
      std::fflush(stdout);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  bench::Options options(argc, argv);
  const char* what = options.word("all");
  const uint64_t extents = options.number("--extents", 1024);
  const uint64_t rounds = options.number("--rounds", 5);
  const char* given = options.text("--directory", nullptr);
  std::snprintf(directory, sizeof(directory), "%s",
                given != nullptr ? given : "/dev/shm/bartender-bench-XXXXXX");
  if (given == nullptr && mkdtemp(directory) == nullptr) bench::fail("no directory");
  std::snprintf(window_path, sizeof(window_path), "%s/window", directory);
  auto is_asked = [&](const char* name) {
    return std::strcmp(what, "all") == 0 || std::strcmp(what, name) == 0;
  };
  if (is_asked("fault")) fault(extents, rounds);
  if (is_asked("sequential"))
    sequential(extents, rounds, options.number("--delay-us", 20), options.number("--mb-s", 1000));
  // As many handlers as an arena's far tier has.
  const uint64_t handlers = options.number("--handlers", sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1);
  if (is_asked("tcp"))
    tcp(extents, rounds, static_cast<uint32_t>(handlers),
        options.text("--bartenderd", bartenderd()));
  if (is_asked("evict")) evict(extents, rounds);
  if (is_asked("write")) write(extents, rounds, options.text("--tracking", "both"));
  if (given == nullptr) rmdir(directory);
  return 0;
}
