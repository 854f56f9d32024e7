// A far window and how it is measured, whatever carries its extents.
#pragma once

#include <sched.h>

#include <algorithm>
#include <utility>

#include "core/spill/far_window.hpp"
#include "far_bare.hpp"

namespace bench {

using btd::kFarExtentBytes;

inline uint64_t percentile(uint64_t* values, uint64_t count, uint64_t percent) {
  std::sort(values, values + count);
  return values[std::min(count - 1, count * percent / 100)];
}

// A window of `extents` far extents.
struct Window {
  // `directory`: in a tmpfs, for the window's file.
  template <typename Nodes>
  Window(Nodes& nodes, const char* directory, uint64_t extents, bool tracks_async) {
    nodes.fill_in(request);
    std::snprintf(path_, sizeof(path_), "%s/window", directory);
    request.path = path_;
    request.window_bytes = extents * kFarExtentBytes;
    request.near_bytes = 2 * extents * kFarExtentBytes;
    request.tracks_async = tracks_async;
    request.may_prefetch = false;
    unlink(path_);
    btd::Line why;
    if (far.open(request, why) != btd::Error::kNone) {
      std::fputs(why.c_str(), stderr);
      fail("no far window");
    }
    count = extents;
  }
  ~Window() {
    far.close();
    unlink(path_);
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

 private:
  char path_[512];
};

// Touches one byte of each of `count` units in random order; fills `times`.
inline void touch_all(char* base, uint64_t unit, uint64_t count, uint64_t* times, uint64_t seed) {
  auto* order = own_table<uint64_t>(count);
  for (uint64_t i = 0; i < count; i++) order[i] = i;
  Random random(seed);
  for (uint64_t i = count - 1; i > 0; i--) std::swap(order[i], order[random.between(0, i)]);
  for (uint64_t i = 0; i < count; i++) {
    volatile char* byte = base + order[i] * unit;
    const uint64_t start = now_ns();
    *byte;
    times[i] = now_ns() - start;
  }
  munmap(order, count * sizeof(uint64_t));
}

// Touches one byte of each far extent, or of each unit of a bare window, on one processor, which a
// thread that is woken could otherwise be moved from; p50.
template <typename Touch>
uint64_t on_one_processor(Touch touch) {
  cpu_set_t before;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(sched_getcpu()), &one);
  if (sched_getaffinity(0, sizeof(before), &before) != 0 ||
      sched_setaffinity(0, sizeof(one), &one) != 0)
    fail("no affinity");
  const uint64_t p50 = touch();
  sched_setaffinity(0, sizeof(before), &before);
  return p50;
}

inline uint64_t touch_far(Window& window, uint64_t* times, uint64_t seed) {
  window.drain();
  window.set_near(2 * window.count);
  touch_all(window.far.base(), kFarExtentBytes, window.count, times, seed);
  return percentile(times, window.count, 50);
}

inline uint64_t touch_bare(uint64_t extents, uint64_t unit, uint64_t* times, uint64_t seed) {
  // The last unit ends the thread.
  Bare bare((extents + 1) * unit, unit, uint64_t{0});
  touch_all(bare.base, unit, extents, times, seed);
  return percentile(times, extents, 50);
}

// The transport's part: a read of the node, as the handler makes it, and as far from the next one
// as touches are: who answers at once is still awake.
inline uint64_t read_node(btd::Node& node, uint64_t extents, uint64_t* times, uint64_t pause_ns) {
  for (uint64_t i = 0; i < extents; i++) {
    btd::NodeCompletion done;
    const uint64_t start = now_ns();
    node.read(0, i * 7919 % extents, 0);
    while (node.poll(&done, 1, 20) == 0) {
    }
    const uint64_t end = now_ns();
    times[i] = end - start;
    while (now_ns() < end + pause_ns) {
    }
  }
  return percentile(times, extents, 50);
}

// A touch beyond the transport, to a bare one: where the scheduler puts all threads, and where the
// thread that touches is kept on its processor.
struct Touches {
  Touches(Window& window, btd::Node& node, uint64_t* times, uint64_t seed) {
    const uint64_t count = window.count;
    bare_p50 = touch_bare(count, kFarExtentBytes, times, seed);
    far_p50 = touch_far(window, times, seed);
    far_p99 = percentile(times, count, 99);
    kept_bare_p50 =
        on_one_processor([&] { return touch_bare(count, kFarExtentBytes, times, seed); });
    kept_far_p50 = on_one_processor([&] { return touch_far(window, times, seed); });
    node_p50 = read_node(node, count, times, bare_p50);
    kept_node_p50 = on_one_processor([&] { return read_node(node, count, times, kept_bare_p50); });
  }
  void print() const {
    auto ratio = [](uint64_t far, uint64_t node, uint64_t bare) {
      return (static_cast<double>(far) - static_cast<double>(node)) / static_cast<double>(bare);
    };
    std::printf(
        "\"far_ns\":%lu,\"far_p99_ns\":%lu,\"node_ns\":%lu,\"bare_ns\":%lu,\"ratio\":%.3f,"
        "\"kept_far_ns\":%lu,\"kept_node_ns\":%lu,\"kept_bare_ns\":%lu,\"kept_ratio\":%.3f",
        far_p50, far_p99, node_p50, bare_p50, ratio(far_p50, node_p50, bare_p50), kept_far_p50,
        kept_node_p50, kept_bare_p50, ratio(kept_far_p50, kept_node_p50, kept_bare_p50));
  }
  uint64_t bare_p50, far_p50, far_p99, node_p50;
  uint64_t kept_bare_p50, kept_far_p50, kept_node_p50;
};

// A byte of each page of memory, in order; MB/s.
inline double read_in_order(char* base, uint64_t bytes) {
  const uint64_t start = now_ns();
  for (uint64_t offset = 0; offset < bytes; offset += kPageBytes)
    *static_cast<volatile char*>(base + offset);
  return 1000.0 * static_cast<double>(bytes) / static_cast<double>(now_ns() - start);
}

// All extents by one client, 16 at a time, each put into `window` if there is one; MB/s.
inline double read_all(btd::Node& node, uint64_t extents, Bare* window) {
  const uint64_t start = now_ns();
  uint64_t posted = 0;
  for (; posted < btd::kNodeDepth; posted++) node.read(static_cast<uint32_t>(posted), posted, 0);
  for (uint64_t done_count = 0; done_count < extents;) {
    btd::NodeCompletion done[btd::kNodeDepth];
    const uint32_t found = node.poll(done, btd::kNodeDepth, 1000);
    for (uint32_t i = 0; i < found; i++, done_count++) {
      if (done[i].status != btd::NodeStatus::kGood) fail("a read failed");
      if (window != nullptr) window->put(done_count, node.buffer(done[i].slot));
      if (posted < extents) node.read(done[i].slot, posted++, 0);
    }
  }
  return 1000.0 * static_cast<double>(extents * kFarExtentBytes) /
         static_cast<double>(now_ns() - start);
}

}  // namespace bench
