// What the pager's threads share: the window, its file, its userfaultfd and how full it is.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/spill/far_file.hpp"
#include "core/spill/node.hpp"
#include "core/spill/trend.hpp"
#include "core/spill/userfault.hpp"

namespace btd {

// Each counts since open().
struct FarStats {
  std::atomic<uint64_t> faults{0};
  std::atomic<uint64_t> zeroed{0};         // extents made of zeros
  std::atomic<uint64_t> fetched{0};        // extents that came from a node
  std::atomic<uint64_t> prefetched{0};     // of these, ahead of the program
  std::atomic<uint64_t> runs_hit{0};       // runs fetched ahead whose first extent was touched
  std::atomic<uint64_t> runs_missed{0};    // and those evicted untouched
  std::atomic<uint64_t> reactivated{0};    // idle extents touched again
  std::atomic<uint64_t> canceled{0};       // evictions that a touch overtook
  std::atomic<uint64_t> dropped_clean{0};  // evicted without a byte sent
  std::atomic<uint64_t> written_back{0};   // evicted after a write to the nodes
  std::atomic<uint64_t> writes_failed{0};  // write-backs that no node took
  std::atomic<uint64_t> reads_retried{0};  // answers that sent us to another replica
  std::atomic<uint64_t> poisoned{0};       // extents lost
  std::atomic<uint64_t> over_limit{0};     // extents brought near though there was no room
  std::atomic<uint64_t> locked{0};         // unmaps refused because of mlock
  std::atomic<uint64_t> released{0};       // extents given back to nodes
};

inline void count(std::atomic<uint64_t>& counter) noexcept {
  counter.fetch_add(1, std::memory_order_relaxed);
}

// Somebody may wait until somebody else raises it.  No system call when nobody waits.
class Call {
 public:
  uint32_t seen() const noexcept { return raised_.load(); }

  void raise() noexcept {
    raised_.fetch_add(1);
    if (waiting_.load() != 0) ::syscall(SYS_futex, &raised_, FUTEX_WAKE_PRIVATE, INT32_MAX);
  }

  // Returns when it was raised since it was `seen`, or after the time, or now and then for nothing.
  void wait(uint32_t seen, uint32_t wait_us) noexcept {
    timespec limit{wait_us / 1'000'000, static_cast<long>(wait_us % 1'000'000) * 1000};
    waiting_.fetch_add(1);
    ::syscall(SYS_futex, &raised_, FUTEX_WAIT_PRIVATE, seen, &limit);
    waiting_.fetch_sub(1);
  }

 private:
  // Sequentially consistent: the raiser counts and then looks for waiters, the waiter says that it
  // waits and then the kernel looks at the count.
  std::atomic<uint32_t> raised_{0};
  std::atomic<uint32_t> waiting_{0};
};

struct Pager {
  // Constant after open().
  FarFile file;
  Userfault faults;
  char* base = nullptr;
  uint64_t window_bytes = 0;
  uint32_t node_count = 0;
  uint32_t replica_count = 0;
  bool tracks_async = false;
  bool maps_protected = false;  // what is clean can be mapped again and stay so
  uint32_t lost_wait_ms = 0;    // how long a fault waits for a holder that is gone

  // In extents.  May be changed at any time.
  std::atomic<uint64_t> near_max{0};
  std::atomic<uint64_t> near_high{0};  // above it the evictor starts
  std::atomic<uint64_t> near_low{0};   // down to it
  std::atomic<bool> may_prefetch{false};
  // Frames of how many extents are here.
  std::atomic<uint64_t> near_count{0};
  std::atomic<bool> is_stopping{false};
  // A node said that another client owns the arena now: nothing may be written any more.
  std::atomic<bool> is_fenced{false};
  // The evictor could not make room when it last tried; so nobody should wait for it.
  std::atomic<bool> is_stuck{false};
  Call evictor_call;  // wakes the evictor
  Call room_call;     // extents have gone
  FarStats stats;

  Lock trend_lock;
  Trend trend;  // protected by trend_lock

  // The first handler serves faults; the others sleep unless there is work for more than one.
  std::atomic<bool> wants_help{true};
  Call help_call;

  void call_for_help() noexcept {
    if (!wants_help.exchange(true)) help_call.raise();
  }

  uint64_t address_of(uint64_t extent) const {
    return reinterpret_cast<uint64_t>(base) + extent * kFarExtentBytes;
  }
  char* extent_at(uint64_t extent) const { return base + extent * kFarExtentBytes; }
};

}  // namespace btd
