// Makes room: takes frames away from extents that nobody has touched for a while, after the nodes
// have what was written to them.
//
// CLOCK with a queue of idle extents.  The page table does not tell us what was touched, so the
// hand unmaps extents and queues them; one that is touched again faults, and is mapped again by the
// fault handler; one that comes to the end of the queue untouched is evicted.
//
// The order that loses no write, for each extent:
//   1. unmap.  From now on a write faults, and the handler changes the word first.
//   2. look which pages were written to.  Not before 1: a write between looking and unmapping would
//      not be seen.
//   3. copy, and write back to all replicas.  Not before 1: a write after the copy would be lost.
//   4. punch, if the word is still ours: then nobody has written since 1.
//
// Thread safety: one evictor, one thread.
#pragma once

#include <cstdint>

#include "core/spill/healer.hpp"
#include "core/spill/pager.hpp"

namespace btd {

class Evictor {
 public:
  // `nodes`: the evictor's own connections.  `queue` has room for queue_count extents.
  void open(Pager& pager, Node* const* nodes, uint64_t* queue, uint64_t queue_count) noexcept;

  // Until the pager is stopping.
  void run() noexcept;

 private:
  // A write-back in flight.  Its slots have this one's index, on each node it goes to.
  struct Writing {
    uint64_t extent;
    ExtentWord word;   // as it was changed to when the write began
    uint32_t pending;  // nodes, a bit each
    uint32_t acknowledged;
    uint32_t tried;
    bool is_active;
    bool is_release;  // not a write: space is given back
    bool is_void;     // its generation is too low for a node: to be written again
  };
  enum class Outcome : uint8_t { kDone, kUnderWay, kOvertaken, kStuck };

  bool make_room() noexcept;
  void make_idle() noexcept;
  uint64_t unmap(uint64_t first, uint64_t count_max) noexcept;
  Outcome evict(uint64_t extent) noexcept;
  Outcome punch(uint64_t extent, ExtentWord from, ExtentWord punching) noexcept;
  Outcome start_write(uint64_t extent, ExtentWord word) noexcept;
  uint32_t choose_targets(const Writing& writing) noexcept;
  uint32_t post_writes(uint32_t slot, uint32_t targets) noexcept;
  void harvest(uint32_t wait_us) noexcept;
  void complete(uint32_t node, const NodeCompletion& completion) noexcept;
  void finish(uint32_t slot) noexcept;
  void start_release(uint32_t slot, uint64_t extent, uint32_t nodes) noexcept;
  void release_discarded() noexcept;

  uint32_t live_nodes() noexcept;
  void connect(uint32_t node) noexcept;
  void reconnect() noexcept;
  void notice_losses() noexcept;
  bool is_in_flight(uint64_t extent) const noexcept;
  uint32_t free_slot() noexcept;

  Pager* pager_ = nullptr;
  Node* const* nodes_ = nullptr;
  uint64_t* queue_ = nullptr;  // of idle extents: a ring
  uint64_t queue_count_ = 0;
  uint64_t queue_head_ = 0;
  uint64_t queue_tail_ = 0;
  uint64_t hand_ = 0;
  uint64_t release_hand_ = 0;
  uint64_t failures_ = 0;  // of write-backs
  uint64_t punched_ = 0;
  Writing writings_[kNodeDepth] = {};
  uint32_t in_flight_ = 0;
  Healer healer_;
  uint64_t reconnect_at_s_[kFarNodesMax] = {};
};

}  // namespace btd
