// The extents that a memory node keeps for others.
//
// A new generation goes into a free slot, never over the one that is there; its header makes it the
// extent's newest, and only then is the older slot let go.  commit() takes many at a time, so that
// their drains are shared:
//
//     1. bytes into free slots, flush, drain     a cut: the slots are free, the old generations
//     stay
//     2. their headers, flush, drain             a cut: some are there, whole; none was
//     acknowledged
//        now they are durable and may be acknowledged
//     3. the older slots' headers = 0, flush     a cut: two generations; the scan takes the higher
//     4. released extents' headers = 0, flush, drain, then acknowledged
//
// An arena is forgotten in this order:
//
//     1. its record says kGoing, drain           a cut before it: everything is there
//     2. its slots' headers = 0, flush, drain    a cut: the next scan goes on here
//     3. its record's older entry = 0, drain, then the newer one; the index is free
//
// A slot let go in 3 or 4 is used again only after a later drain: until its header is gone for
// good, its bytes stay.
//
// Invariants: 1. each extent has at most one slot in its arena's map, and that slot's header is
// durable; 2. a slot is free, let go, leased, or in exactly one map; 3. an arena's epoch on media
// is at least that of every client that was accepted since the arena was last forgotten.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <vector>

#include "tools/node/media.hpp"
#include "tools/node/store_layout.hpp"

namespace btd::tools {

using Uuid = std::array<uint8_t, wire::kUuidBytes>;
using SlotIndex = uint32_t;
inline constexpr SlotIndex kNoSlot = UINT32_MAX;

struct NodeArena {
  Uuid uuid;
  Uuid client;
  uint64_t epoch;
  uint64_t sequence;  // of the newer of its two entries
  uint32_t index;     // of its entries
  wire::ArenaState state = wire::ArenaState::kKept;
  uint32_t connections = 0;     // of its owner
  uint64_t alone_since_ms = 0;  // kMarked: nobody is connected since then; 0: not known yet
  uint64_t length_bytes = 0;
  uint64_t leased_new = 0;  // leases for extents that are not there yet: the quota counts them
  std::map<uint64_t, SlotIndex> extents;
};

// A write whose bytes are in a leased slot, or (slot == kNoSlot) a release.
struct Change {
  NodeArena* arena;
  uint64_t extent;
  uint64_t generation;
  uint64_t epoch;
  uint32_t length_bytes;
  uint32_t crc;
  SlotIndex slot;
  NodeStatus status = NodeStatus::kGood;  // set by commit()
  uint64_t newest = 0;                    // with kStale: what is there
  wire::Seal seal{};                      // goes with the bytes
};

// Thread safety: one thread.
class Store {
 public:
  // Reads what is there, or makes a store of slot_count slots on media that is all zero.
  // slot_count 0: take what is there.  Throws Failure.
  Store(Media& media, uint64_t slot_count, uint64_t quota_extents);

  // The arena, with this client as its owner.  ERRORS: kFenced a higher epoch was here, or another
  // client with this one; kNoSpace no more arenas fit.  Durable on return.
  NodeStatus take_over(const Uuid& uuid, const Uuid& client, uint64_t epoch, NodeArena*& arena);
  // What take_over() would say, and nothing is changed.
  NodeStatus may_take_over(const Uuid& uuid, const Uuid& client, uint64_t epoch);

  // nullptr: there is none.
  NodeArena* find_arena(const Uuid& uuid);
  // Durable on return.
  void set_state(NodeArena& arena, wire::ArenaState state);
  // Releases up to extent_count extents of an arena that is kGoing, and with the last one the arena
  // itself; true: `arena` is no more.  REQUIRES: no change or lease of it is left.
  bool forget(NodeArena& arena, size_t extent_count);
  bool is_any_leaving() const { return leaving_count_ != 0; }

  // A free slot for a new generation.  ERRORS: kStale, and `newest` is what is there; kNoSpace.
  NodeStatus lease(NodeArena& arena, uint64_t extent, uint64_t generation, SlotIndex& slot,
                   uint64_t& newest);
  void give_back(SlotIndex slot);
  // Checks the bytes and makes them durable.  REQUIRES: no two changes name the same extent.
  // Leased slots are used up, whatever the status.
  void commit(std::vector<Change>& changes);

  // nullptr: there is none.
  const SlotHeader* find(const NodeArena& arena, uint64_t extent, SlotIndex& slot) const;
  char* bytes(SlotIndex slot) { return media_.base() + data_offset_ + slot * kFarExtentBytes; }
  Media& media() { return media_; }
  // A pinned slot is not used again.
  void pin(SlotIndex slot) { pins_[slot]++; }
  void unpin(SlotIndex slot) { pins_[slot]--; }

  const Uuid& node() const { return node_; }
  uint64_t slot_count() const { return slot_count_; }
  uint64_t free_count() const { return free_.size() + let_go_.size(); }
  uint64_t reserve_count() const { return reserve_count_; }
  uint64_t quota_extents() const { return quota_extents_; }
  uint64_t damaged_headers() const { return damaged_headers_; }
  const std::vector<std::unique_ptr<NodeArena>>& arenas() const { return arenas_; }

 private:
  void make(uint64_t slot_count);
  void open();
  void scan_arenas();
  void scan_slots();
  void finish_forgetting();
  NodeArena* add_arena(const Uuid& uuid);
  void write_entry(NodeArena& arena);
  void clear_entry(ArenaEntry& entry);
  SlotHeader* header(SlotIndex slot) { return slot_headers_ + slot; }
  void let_go(SlotIndex slot);
  void end_lease(SlotIndex slot);
  void drain();
  void judge(Change& change);
  void publish(const Change& change);

  Media& media_;
  // Constant after open.
  Uuid node_{};
  uint64_t slot_count_ = 0;
  uint64_t quota_extents_;
  uint64_t reserve_count_ = 0;
  uint64_t data_offset_ = 0;
  uint64_t damaged_headers_ = 0;
  ArenaEntry* arena_entries_ = nullptr;
  SlotHeader* slot_headers_ = nullptr;

  std::vector<std::unique_ptr<NodeArena>> arenas_;
  std::map<Uuid, NodeArena*> by_uuid_;
  std::vector<bool> is_index_used_;
  size_t leaving_count_ = 0;  // arenas that are not kKept
  std::vector<SlotIndex> free_;
  std::vector<SlotIndex> let_go_;  // free after the next drain
  std::vector<uint16_t> pins_;
  std::map<SlotIndex, NodeArena*> new_leases_;
};

}  // namespace btd::tools
