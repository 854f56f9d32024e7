// Keeps a fault handler on the processor of the thread whose faults it serves.
//
// A thread that faults sleeps until it is served, so its own processor is free, its caches are
// warm, and no other processor has to be woken up for the fault nor for the answer.  The scheduler
// does not know that, and prefers an idle processor.  docs/far.md has the numbers.
//
// Of every kFaults faults that the handler serves one thread must have three quarters.  Where none
// has, as when many fault in turn, the handler runs wherever the scheduler puts it.
//
// Thread safety: of the handler alone.
#pragma once

#include <sched.h>

#include <cstdint>

namespace btd {

// The processor that a thread of this process is on or was last on.  -1: it cannot be known, or the
// thread has a real-time priority and would keep others from that processor.
int32_t processor_of(int32_t thread) noexcept;

class Follower {
 public:
  static constexpr uint32_t kFaults = 32;

  // By the thread that follows.
  void start() noexcept;
  // It serves a fault of `thread` (a gettid() number).  True: it has decided anew.
  bool saw(int32_t thread) noexcept;
  bool is_following() const { return processor_ >= 0; }
  // Where it is kept; -1: anywhere.
  int32_t processor() const { return processor_; }

 private:
  void keep_on(int32_t processor) noexcept;

  cpu_set_t anywhere_;
  bool can_move_ = false;
  int32_t processor_ = -1;
  // After Boyer and Moore, "MJRTY: A Fast Majority Vote Algorithm" (1991).
  int32_t candidate_ = 0;
  uint32_t lead_ = 0;  // its faults less those of all others
  uint32_t seen_ = 0;
};

}  // namespace btd
