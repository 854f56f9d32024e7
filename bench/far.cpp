// The far window against a bare userfaultfd loop, in one run.
//
//   far fault        a touch of a far extent, beside the least that userfaultfd allows: a blocking
//                    read and one UFFDIO_COPY, of 64 KiB and of 4 KiB
//   far sequential   all of a far window, in order, over a link of a given bandwidth and delay;
//                    beside the link alone, and beside demand of 4 KiB pages over it
//   far tcp          both over the real transport on loopback, bartenderd as a child; beside its
//                    reads alone, one thread that puts what it reads into a window (bare_mb_s), a
//                    raw TCP link, and demand of 4 KiB pages over that
//   far zram         beside the kernel's swap to compressed memory; as root, where there is zram
//   far evict        processor time of the evictor for each extent, dirty and clean
//   far write        the first store into a clean page; --tracking async or sync
//
// Unlike the other programs it is built with core/: nothing can be preloaded to reach the window.
// But in `tcp` and `zram` the node is a copy in this process behind a link that is made up, so what
// is measured is the pager.  One JSON line a result.

#include <dirent.h>
#include <time.h>

#include "far_link.hpp"
#include "far_real.hpp"
#include "far_window.hpp"

namespace bench {
namespace {

// A node in this process.
struct Here {
  Here(uint64_t extents, uint32_t handler_count)
      : handlers{LinkNode(link), LinkNode(link)},
        evictor(link),
        handler_count(handler_count),
        count(extents) {
    if (handler_count > 2) fail("at most 2 handlers");
    link.store = own_table<char>(count * kFarExtentBytes);
    link.generations = own_table<uint64_t>(count);
  }
  ~Here() {
    munmap(link.store, count * kFarExtentBytes);
    munmap(link.generations, count * sizeof(uint64_t));
  }
  void fill_in(btd::FarRequest& request) {
    request.node_count = 1;
    request.replica_count = 1;
    request.handler_count = handler_count;
    for (uint32_t i = 0; i < handler_count; i++) request.handler_nodes[i] = handler_nodes[i];
    request.evictor_nodes = evictors;
  }

  Link link;
  LinkNode handlers[2];
  LinkNode evictor;
  btd::Node* handler_nodes[2][1] = {{&handlers[0]}, {&handlers[1]}};
  btd::Node* evictors[1] = {&evictor};
  uint32_t handler_count;
  uint64_t count;
};

void fault(const FarPlan& plan) {
  const uint64_t extents = plan.extents;
  auto* times = own_table<uint64_t>(extents);
  Here here(extents, plan.handler_count);
  Window window(here, plan.directory, extents, true);
  window.spill_all();
  for (uint64_t round = 0; round < plan.rounds; round++) {
    LinkNode node(here.link);
    node.connect(0);
    const Touches touches(window, node, times, round);
    std::printf("{\"test\":\"far fault\",\"round\":%lu,\"bare_4k_ns\":%lu,", round,
                touch_bare(extents, kPageBytes, times, round));
    touches.print();
    std::puts("}");
    std::fflush(stdout);
  }
  munmap(times, extents * sizeof(uint64_t));
}

void sequential(const FarPlan& plan, uint64_t delay_us, uint64_t megabytes_per_s) {
  const uint64_t extents = plan.extents;
  Here here(extents, plan.handler_count);
  Window window(here, plan.directory, extents, true);
  for (uint64_t round = 0; round < plan.rounds; round++) {
    here.link.delay_ns = 0;
    here.link.bytes_per_us = 0;
    window.spill_all();
    here.link.delay_ns = delay_us * 1000;
    here.link.bytes_per_us = megabytes_per_s;
    // The link alone, 16 deep.
    LinkNode node(here.link);
    node.connect(0);
    const double link_rate = read_all(node, extents, nullptr);

    double rates[2];
    for (bool ahead : {false, true}) {
      window.drain();
      window.far.pager().may_prefetch = ahead;
      window.set_near(2 * extents);
      rates[ahead] = read_in_order(window.far.base(), extents * kFarExtentBytes);
    }
    window.far.pager().may_prefetch = false;
    // Pages of 4 KiB on demand, each with the link's delay and its share of the bandwidth.
    const uint64_t pages = extents;
    const uint64_t wait_ns =
        delay_us * 1000 + (megabytes_per_s == 0 ? 0 : 4096 * 1000 / megabytes_per_s);
    double demand_rate;
    {
      Bare bare((pages + 1) * 4096, 4096, wait_ns);
      demand_rate = read_in_order(bare.base, pages * kPageBytes);
    }
    std::printf(
        "{\"test\":\"far sequential\",\"round\":%lu,\"delay_us\":%lu,\"link_mb_s\":%.0f,"
        "\"far_mb_s\":%.0f,\"far_no_prefetch_mb_s\":%.0f,\"demand_4k_mb_s\":%.0f,"
        "\"of_link\":%.3f,\"over_demand\":%.1f}\n",
        round, delay_us, link_rate, rates[1], rates[0], demand_rate, rates[1] / link_rate,
        rates[1] / demand_rate);
    std::fflush(stdout);
  }
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

// The least that eviction is made of, as cheap as the kernel has it: unmap sixteen, then read each
// and punch it; processor time of an extent.
double bare_evict_us(uint64_t extents, bool is_dirty) {
  const uint64_t bytes = extents * kFarExtentBytes;
  const int file = memfd_create("bare", MFD_CLOEXEC);
  if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) fail("no window");
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (mapped == MAP_FAILED) fail("no window");
  auto* base = static_cast<char*>(mapped);
  std::memset(base, 1, bytes);
  auto* buffer = own_table<char>(kFarExtentBytes);
  auto now = [] {
    timespec time;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
  };
  const double start = now();
  for (uint64_t i = 0; i < extents; i++) {
    if (i % 16 == 0)
      madvise(base + i * kFarExtentBytes, std::min<uint64_t>(16, extents - i) * kFarExtentBytes,
              MADV_DONTNEED);
    const auto offset = static_cast<off_t>(i * kFarExtentBytes);
    if (is_dirty && pread(file, buffer, kFarExtentBytes, offset) <= 0) fail("no bytes");
    if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, kFarExtentBytes) != 0)
      fail("cannot punch");
  }
  const double took = now() - start;
  munmap(base, bytes);
  munmap(buffer, kFarExtentBytes);
  close(file);
  return took / static_cast<double>(extents);
}

void evict(const FarPlan& plan) {
  const uint64_t extents = plan.extents;
  Here here(extents, plan.handler_count);
  Window window(here, plan.directory, extents, true);
  window.spill_all();
  here.link.keeps = false;  // the transport's part is not ours
  for (uint64_t round = 0; round < plan.rounds; round++) {
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
    const double bare_us[2] = {bare_evict_us(extents, false), bare_evict_us(extents, true)};
    std::printf(
        "{\"test\":\"far evict\",\"round\":%lu,\"dirty_us\":%.2f,\"clean_us\":%.2f,"
        "\"bare_dirty_us\":%.2f,\"bare_clean_us\":%.2f,\"dirty_ratio\":%.3f}\n",
        round, cost_us[1], cost_us[0], bare_us[1], bare_us[0], cost_us[1] / bare_us[1]);
    std::fflush(stdout);
  }
}

void write(const FarPlan& plan, const char* tracking) {
  const uint64_t extents = plan.extents;
  auto* times = own_table<uint64_t>(extents * btd::kPagesPerExtent);
  for (bool tracks_async : {true, false}) {
    if (std::strcmp(tracking, tracks_async ? "sync" : "async") == 0) continue;
    Here here(extents, plan.handler_count);
    Window window(here, plan.directory, extents, tracks_async);
    for (uint64_t round = 0; round < plan.rounds; round++) {
      window.spill_all();
      window.set_near(2 * extents);
      for (uint64_t i = 0; i < extents; i++) *static_cast<volatile char*>(window.at(i));
      const uint64_t begin = now_ns();
      for (uint64_t page = 0; page < extents * btd::kPagesPerExtent; page++) {
        volatile char* byte = window.far.base() + page * 4096;
        const uint64_t start = now_ns();
        *byte = 1;
        times[page] = now_ns() - start;
      }
      const uint64_t all = now_ns() - begin;
      const uint64_t count = extents * btd::kPagesPerExtent;
      auto* sorted = own_table<uint64_t>(count);
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
}  // namespace bench

int main(int argc, char** argv) {
  using namespace bench;
  Options options(argc, argv);
  const char* what = options.word("all");
  const char* given = options.text("--directory", nullptr);
  char directory[256];
  std::snprintf(directory, sizeof(directory), "%s",
                given != nullptr ? given : "/dev/shm/bartender-bench-XXXXXX");
  if (given == nullptr && mkdtemp(directory) == nullptr) fail("no directory");
  // As many handlers as an arena's far tier has.
  const auto handlers = static_cast<uint32_t>(
      options.number("--handlers", sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1));
  const FarPlan plan = {options.number("--extents", 1024), options.number("--rounds", 5), handlers,
                        directory};
  const char* program = options.text("--bartenderd", bartenderd());
  auto is_asked = [&](const char* name) {
    return std::strcmp(what, "all") == 0 || std::strcmp(what, name) == 0;
  };
  if (is_asked("fault")) fault(plan);
  if (is_asked("sequential"))
    sequential(plan, options.number("--delay-us", 20), options.number("--mb-s", 1000));
  if (is_asked("tcp")) far_tcp(plan, program);
  if (std::strcmp(what, "zram") == 0) far_zram(plan, program);
  if (is_asked("evict")) evict(plan);
  if (is_asked("write")) write(plan, options.text("--tracking", "both"));
  if (given == nullptr) rmdir(directory);
  return 0;
}
