// A memory node in this process behind a link that is made up: so what is measured is the pager.
#pragma once

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/spill/node.hpp"
#include "support.hpp"

namespace bench {

using btd::kFarExtentBytes;

// Where the extents of all nodes lie, and what it costs to get there.
struct Link {
  char* store = nullptr;  // one copy of each extent
  uint64_t* generations = nullptr;
  uint64_t delay_ns = 0;
  uint64_t bytes_per_us = 0;             // 0: no limit
  bool keeps = true;                     // false: a write costs nothing
  std::atomic<uint64_t> free_at_ns = 0;  // one reader at a time

  uint64_t due() {
    const uint64_t now = now_ns();
    uint64_t free_at = free_at_ns;
    uint64_t end;
    do {
      end = std::max(now, free_at);
      if (bytes_per_us != 0) end += kFarExtentBytes * 1000 / bytes_per_us;
    } while (!free_at_ns.compare_exchange_weak(free_at, end));
    return end + delay_ns;
  }
};

class LinkNode final : public btd::Node {
 public:
  explicit LinkNode(Link& link) : link_(link) {
    buffers_ =
        static_cast<char*>(mmap(nullptr, btd::kNodeDepth * kFarExtentBytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
    if (buffers_ == MAP_FAILED) fail("no memory for buffers");
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
    const uint64_t until = now_ns() + wait_us * 1000;
    while (true) {
      const uint64_t now = now_ns();
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
      sched_yield();  // as a thread that waits for a real node gives its processor up
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

}  // namespace bench
