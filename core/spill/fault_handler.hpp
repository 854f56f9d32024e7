// Serves faults of the window: makes zeros, fetches from nodes, maps frames that are still here.
//
// Invariants: 1. it maps only pages of an extent that it owns (kFetching, kMapping), so the evictor
// never punches what it maps.  2. every fault it has read is answered by a fill or a wake-up of its
// range, or belongs to an extent that a handler is fetching, which ends with one.  3. it never
// touches the window itself: nobody would serve that fault.
//
// Thread safety: one thread per handler; several handlers may serve one window.
#pragma once

#include <cstdint>

#include "core/spill/follower.hpp"
#include "core/spill/pager.hpp"

namespace btd {

class FaultHandler {
 public:
  // `nodes`: this handler's own connections, pager.node_count of them.  `is_first`: it stays on the
  // processor of the thread that faults, and decides whether the others help; there is one such.
  void open(Pager& pager, Node* const* nodes, bool is_first) noexcept;

  // Until the pager is stopping and the doorbell is rung.
  void run() noexcept;

 private:
  // A read in flight.  Its slot has this one's index, on whichever node.
  struct Fetch {
    uint64_t extent;
    uint32_t node;
    uint32_t tried;  // nodes, a bit each
    bool is_active;
    bool is_ahead;           // nobody had touched it when it was posted
    bool is_write;           // the touch was one
    uint64_t give_up_ms;     // not 0: its holders were gone, and it waits for one until then
    bool is_parked = false;  // it waits, and no node was asked
  };

  void serve(const PageFault& fault) noexcept;
  void serve_extent(uint64_t extent, const PageFault& fault) noexcept;
  void ring(const PageFault& fault) noexcept;
  bool map(uint64_t extent, ExtentWord word, const PageFault& fault) noexcept;
  bool make_zero(uint64_t extent, ExtentWord word, bool is_write) noexcept;
  bool start_fetch(uint64_t extent, ExtentWord word, const PageFault& fault) noexcept;
  bool want(uint64_t extent, ExtentWord word) noexcept;
  void hit(uint64_t extent) noexcept;
  void prefetch(const Run& run) noexcept;
  uint32_t prefetch_some(const Run& run) noexcept;
  void wait_until_needed() noexcept;
  void wait_for_room() noexcept;

  uint32_t free_slot() noexcept;
  bool post(uint32_t slot) noexcept;
  void harvest(uint32_t wait_us) noexcept;
  void retry_parked() noexcept;
  void complete(const NodeCompletion& completion) noexcept;
  void install(uint32_t slot) noexcept;
  void fill(uint64_t extent, const char* from, bool is_protected) noexcept;
  void lose(uint32_t slot) noexcept;
  void lose_frames(uint64_t extent, ExtentWord word) noexcept;
  void poison(uint64_t extent, ExtentWord word, const char* why) noexcept;
  void reconnect() noexcept;

  Pager* pager_ = nullptr;
  Node* const* nodes_ = nullptr;
  Fetch fetches_[kNodeDepth] = {};
  uint32_t in_flight_ = 0;
  uint32_t ahead_ = 0;   // of these, fetched ahead
  uint32_t parked_ = 0;  // of these, with a time to give up
  uint64_t parked_at_ms_ = 0;
  uint64_t reconnect_at_ms_[kFarNodesMax] = {};
  bool is_done_ = false;
  bool is_first_ = false;
  Follower follower_;
};

}  // namespace btd
