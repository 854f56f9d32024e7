// The far window against a bare userfaultfd loop, in one run.
//
//   far fault        a touch of a far extent, beside the least that userfaultfd allows: a blocking
//                    read and one UFFDIO_COPY, of 64 KiB and of 4 KiB
//   far sequential   all of a far window, in order, over a link of a given bandwidth and delay;
//                    beside the link alone, and beside demand of 4 KiB pages over it
//   far evict        processor time of the evictor for each extent, dirty and clean
//   far write        the first store into a clean page
//
// Unlike the other programs it is built with core/: nothing can be preloaded to reach the window.
// The node is a copy in this process behind a link that is made up, so what is measured is the
// pager.  One JSON line a result.

#include <dirent.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <new>

#include "core/spill/far_window.hpp"
#include "support.hpp"

namespace {

using btd::kFarExtentBytes;

uint64_t percentile(uint64_t* values, uint64_t count, uint64_t percent) {
  std::sort(values, values + count);
  return values[std::min(count - 1, count * percent / 100)];
}

// Where the extents of all nodes lie, and what it costs to get there.
struct Link {
  char* store = nullptr;  // one copy of each extent
  uint64_t* generations = nullptr;
  uint64_t delay_ns = 0;
  uint64_t bytes_per_us = 0;  // 0: no limit
  bool keeps = true;          // false: a write costs nothing
  uint64_t free_at_ns = 0;    // one reader at a time

  uint64_t due() {
    const uint64_t now = bench::now_ns();
    uint64_t start = std::max(now, free_at_ns);
    if (bytes_per_us != 0) start += kFarExtentBytes * 1000 / bytes_per_us;
    free_at_ns = start;
    return start + delay_ns;
  }
};

class LinkNode final : public btd::Node {
 public:
  explicit LinkNode(Link& link) : link_(link) {
    buffers_ =
        static_cast<char*>(mmap(nullptr, btd::kNodeDepth * kFarExtentBytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    if (buffers_ == MAP_FAILED) bench::fail("no memory for buffers");
  }
  btd::NodeStatus connect(uint32_t) noexcept override {
    is_connected_ = true;
    return btd::NodeStatus::kGood;
  }
  bool is_connected() const noexcept override { return is_connected_; }
  char* buffer(uint32_t slot) noexcept override { return buffers_ + slot * kFarExtentBytes; }
  bool read(uint32_t slot, uint64_t extent, uint64_t) noexcept override {
    operations_[slot] = {extent, link_.due(), true, true};
    return true;
  }
  bool write(uint32_t slot, uint64_t extent, uint64_t generation, uint32_t) noexcept override {
    if (link_.keeps)
      std::memcpy(link_.store + extent * kFarExtentBytes, buffer(slot), kFarExtentBytes);
    link_.generations[extent] = generation;
    operations_[slot] = {extent, 0, true, false};
    return true;
  }
  bool release(uint32_t slot, uint64_t extent) noexcept override {
    operations_[slot] = {extent, 0, true, false};
    return true;
  }
  bool list(uint32_t slot, uint64_t) noexcept override {
    operations_[slot] = {0, 0, true, false};
    return true;
  }
  uint32_t poll(btd::NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept override {
    const uint64_t until = bench::now_ns() + wait_us * 1000;
    while (true) {
      const uint64_t now = bench::now_ns();
      uint32_t count = 0;
      for (uint32_t slot = 0; slot < btd::kNodeDepth && count < count_max; slot++) {
        Operation& one = operations_[slot];
        if (!one.is_posted || one.due_ns > now) continue;
        one.is_posted = false;
        if (one.is_read)
          std::memcpy(buffer(slot), link_.store + one.extent * kFarExtentBytes, kFarExtentBytes);
        out[count++] = {slot, btd::NodeStatus::kGood,
                        one.is_read ? static_cast<uint32_t>(kFarExtentBytes) : 0,
                        one.is_read ? link_.generations[one.extent] : 0};
      }
      if (count > 0 || now >= until) return count;
    }
  }
  void close() noexcept override { is_connected_ = false; }

 private:
  struct Operation {
    uint64_t extent;
    uint64_t due_ns;
    bool is_posted;
    bool is_read;
  };
  Link& link_;
  char* buffers_;
  Operation operations_[btd::kNodeDepth] = {};
  bool is_connected_ = false;
};

const char* const kPath = "/dev/shm/bartender-bench-far";

// A window of `extents` far extents.
struct Window {
  Window(uint64_t extents, bool tracks_async)
      : handler(link), evictor(link), handlers{&handler}, evictors{&evictor} {
    link.store = bench::own_table<char>(extents * kFarExtentBytes);
    link.generations = bench::own_table<uint64_t>(extents);
    request.path = kPath;
    request.window_bytes = extents * kFarExtentBytes;
    request.near_bytes = 2 * extents * kFarExtentBytes;
    request.node_count = 1;
    request.replica_count = 1;
    request.handler_nodes[0] = handlers;
    request.evictor_nodes = evictors;
    request.tracks_async = tracks_async;
    request.may_prefetch = false;
    unlink(kPath);
    btd::Line why;
    if (far.open(request, why) != btd::Error::kNone) {
      std::fputs(why.c_str(), stderr);
      bench::fail("no far window");
    }
    count = extents;
  }
  ~Window() {
    far.close();
    unlink(kPath);
    munmap(link.store, count * kFarExtentBytes);
    munmap(link.generations, count * sizeof(uint64_t));
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

  Link link;
  LinkNode handler;
  LinkNode evictor;
  btd::Node* handlers[1];
  btd::Node* evictors[1];
  btd::FarRequest request;
  btd::FarWindow far;
  uint64_t count = 0;
};

// The least: nothing but a blocking read and a copy, in a thread.
class Bare {
 public:
  Bare(uint64_t bytes, uint64_t unit, uint64_t delay_ns)
      : bytes_(bytes), unit_(unit), delay_ns_(delay_ns) {
    descriptor_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{};
    api.api = UFFD_API;
    if (descriptor_ < 0 || ioctl(descriptor_, UFFDIO_API, &api) != 0) bench::fail("no userfaultfd");
    file_ = memfd_create("bare", MFD_CLOEXEC);
    if (ftruncate(file_, static_cast<off_t>(bytes)) != 0) bench::fail("no window");
    base = static_cast<char*>(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0));
    uffdio_register watch{};
    watch.range = {reinterpret_cast<uint64_t>(base), bytes};
    watch.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(descriptor_, UFFDIO_REGISTER, &watch) != 0) bench::fail("cannot watch");
    data_ = bench::own_table<char>(unit);
    if (pthread_create(&thread_, nullptr, main, this) != 0) bench::fail("no thread");
  }
  // The thread ends with the fault on the last unit.
  ~Bare() {
    static_cast<volatile char*>(base)[bytes_ - 1];
    pthread_join(thread_, nullptr);
    munmap(base, bytes_);
    munmap(data_, unit_);
    close(descriptor_);
    close(file_);
  }
  char* base;

 private:
  static void* main(void* argument) {
    auto* bare = static_cast<Bare*>(argument);
    while (true) {
      uffd_msg message;
      if (read(bare->descriptor_, &message, sizeof(message)) != sizeof(message)) continue;
      if (bare->delay_ns_ != 0) {
        const uint64_t due = bench::now_ns() + bare->delay_ns_;
        while (bench::now_ns() < due) {
        }
      }
      uffdio_copy copy{};
      copy.dst = message.arg.pagefault.address & ~(bare->unit_ - 1);
      copy.src = reinterpret_cast<uint64_t>(bare->data_);
      copy.len = bare->unit_;
      // It may stop in the middle; what is there already only needs a wake-up.
      while (ioctl(bare->descriptor_, UFFDIO_COPY, &copy) != 0) {
        if (errno != EAGAIN) {
          uffdio_range range{copy.dst, copy.len};
          ioctl(bare->descriptor_, UFFDIO_WAKE, &range);
          break;
        }
        if (copy.copy > 0) {
          copy.dst += static_cast<uint64_t>(copy.copy);
          copy.src += static_cast<uint64_t>(copy.copy);
          copy.len -= static_cast<uint64_t>(copy.copy);
        }
      }
      if (message.arg.pagefault.address >=
          reinterpret_cast<uint64_t>(bare->base) + bare->bytes_ - bare->unit_)
        return nullptr;
    }
  }
  uint64_t bytes_;
  uint64_t unit_;
  uint64_t delay_ns_;
  int descriptor_;
  int file_;
  char* data_;
  pthread_t thread_;
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

void fault(uint64_t extents, uint64_t rounds) {
  auto* times = bench::own_table<uint64_t>(extents);
  Window window(extents, true);
  for (uint64_t round = 0; round < rounds; round++) {
    uint64_t bare_p50[2];
    uint64_t bare_p99[2];
    int which = 0;
    for (uint64_t unit : {kFarExtentBytes, size_t{4096}}) {
      // The last unit ends the thread.
      Bare bare((extents + 1) * unit, unit, 0);
      touch_all(bare.base, unit, extents, times, round);
      bare_p50[which] = percentile(times, extents, 50);
      bare_p99[which++] = percentile(times, extents, 99);
    }
    window.spill_all();
    window.set_near(2 * extents);
    touch_all(window.far.base(), kFarExtentBytes, extents, times, round);
    const uint64_t ours_p50 = percentile(times, extents, 50);
    const uint64_t ours_p99 = percentile(times, extents, 99);
    // The transport's part: a read of the node, as the handler makes it.
    LinkNode node(window.link);
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
        "\"bare_4k_ns\":%lu,\"far_ns\":%lu,\"far_p99_ns\":%lu,\"link_ns\":%lu,"
        "\"ratio\":%.3f}\n",
        round, bare_p50[0], bare_p99[0], bare_p50[1], ours_p50, ours_p99, link_p50,
        static_cast<double>(ours_p50 - link_p50) / static_cast<double>(bare_p50[0]));
    std::fflush(stdout);
  }
}

void sequential(uint64_t extents, uint64_t rounds, uint64_t delay_us, uint64_t megabytes_per_s) {
  Window window(extents, true);
  for (uint64_t round = 0; round < rounds; round++) {
    window.link.delay_ns = 0;
    window.link.bytes_per_us = 0;
    window.spill_all();
    window.link.delay_ns = delay_us * 1000;
    window.link.bytes_per_us = megabytes_per_s;
    const double bytes = static_cast<double>(extents * kFarExtentBytes);
    // The link alone, 16 deep.
    LinkNode node(window.link);
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
  Window window(extents, true);
  window.spill_all();
  window.link.keeps = false;  // the transport's part is not ours
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

void write(uint64_t extents, uint64_t rounds) {
  auto* times = bench::own_table<uint64_t>(extents * btd::kPagesPerExtent);
  for (bool tracks_async : {true, false}) {
    Window window(extents, tracks_async);
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
      // Of an extent's first page and of the other ones: tracked synchronously they differ.
      for (uint64_t i = 0; i < extents; i++) std::swap(times[i], times[i * btd::kPagesPerExtent]);
      std::printf(
          "{\"test\":\"far write\",\"round\":%lu,\"async\":%s,\"first_page_ns\":%lu,"
          "\"later_page_ns\":%lu,\"extent_us\":%.2f}\n",
          round, tracks_async ? "true" : "false", percentile(times, extents, 50),
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
  auto is_asked = [&](const char* name) {
    return std::strcmp(what, "all") == 0 || std::strcmp(what, name) == 0;
  };
  if (is_asked("fault")) fault(extents, rounds);
  if (is_asked("sequential"))
    sequential(extents, rounds, options.number("--delay-us", 20), options.number("--mb-s", 1000));
  if (is_asked("evict")) evict(extents, rounds);
  if (is_asked("write")) write(extents, rounds);
  return 0;
}
