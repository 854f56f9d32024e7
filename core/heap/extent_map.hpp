// The free extents of one zone: which runs of frames are free, found by size, joined with their
// neighbours.
//
// Two-level segregated fit (Masmano et al., "TLSF", ECRTS 2004): lists by size, four a doubling,
// and a bitmap of the ones that are not empty, so that taking and giving are O(1).  Unlike theirs
// the boundary tags lie in DRAM, in a table indexed by frame, and are rebuilt at open from the
// frame headers.
//
// Invariants: 1. A free extent is in exactly one list.  2. Neighbouring free extents differ in
// whether they are backed (joined, the part that is backed would have to be allocated again at each
// use).  3. `kIsFree` is set for the first frame of a free extent and no other.
//
// Thread safety: the caller holds the arena's extent lock.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

inline constexpr uint32_t kNoIndex = 0xFFFFFFFF;

struct ExtentNode {
  uint32_t frame_count;  // first frame of a free extent: its length
  uint32_t next;         // in its list; kNoIndex: none
  uint32_t previous;
  uint32_t first;  // last frame of a free extent: its first
  uint32_t flags : 3;
  uint32_t freed_s : 29;  // steady clock, when the extent got its latest part
};

struct FreeExtent {
  uint32_t first_frame = kNoIndex;
  uint32_t frame_count = 0;
  bool is_backed = false;  // its space is allocated in the file; otherwise it must be, before use
  bool is_zero = false;    // all its bytes are zero

  bool exists() const { return first_frame != kNoIndex; }
};

class ExtentMap {
 public:
  // `nodes` is indexed by frame and zeroed.
  void init(ExtentNode* nodes, uint32_t first_frame) {
    nodes_ = nodes;
    first_frame_ = end_frame_ = first_frame;
    for (uint32_t& head : heads_) head = kNoIndex;
  }

  // More frames belong to the zone: [end, end + frame_count).  They are not free until given.
  void extend(uint32_t frame_count) { end_frame_ += frame_count; }

  // Takes exactly `frame_count` frames whose first is a multiple of `frame_alignment` counted from
  // frame `alignment_origin` (so that the address is aligned).  What is cut off stays free.
  FreeExtent take(uint32_t frame_count, uint32_t frame_alignment = 1,
                  uint32_t alignment_origin = 0) noexcept;

  // Takes exactly [first_frame, first_frame + frame_count) if it is the start of a free extent.
  FreeExtent take_at(uint32_t first_frame, uint32_t frame_count) noexcept;

  // Gives frames back; they join their free neighbours.  What they are part of then.
  FreeExtent give(FreeExtent extent, uint32_t now_s) noexcept;

  // A free extent that may hold memory without need and was freed at or before `freed_s_max`; it is
  // taken out.
  FreeExtent take_stale(uint32_t freed_s_max) noexcept;

  // The end of a large free extent that may hold memory without need, at most `frames_max` of it;
  // it is taken out.  None: there is none, or it hides behind extents as large that hold nothing.
  FreeExtent take_dirty(uint32_t frames_max) noexcept;

  // The free extent that starts here, if there is one, counts as not backed from now on: so it
  // joins such neighbours, and costs a system call when it is used next.
  void forget_backing(uint32_t first_frame, uint32_t now_s) noexcept;

  // Any free extent that is backed; it is taken out.
  FreeExtent take_backed() noexcept;

  uint32_t free_frames() const { return free_frames_; }
  uint32_t dirty_frames() const { return dirty_frames_; }
  uint32_t largest_free() const noexcept;
  // Free frames at the zone's end.
  uint32_t free_tail() const noexcept;

 private:
  static constexpr uint32_t kIsFree = 1;
  static constexpr uint32_t kIsBacked = 2;
  static constexpr uint32_t kIsZero = 4;
  static constexpr uint32_t kFlags = kIsFree | kIsBacked | kIsZero;
  static constexpr uint32_t kListCount = 4 * 30;

  static uint32_t list_of(uint32_t frame_count) noexcept;
  void insert(uint32_t first, uint32_t count, uint32_t flags, uint32_t freed_s) noexcept;
  void remove(uint32_t first) noexcept;
  uint32_t find(uint32_t frame_count) const noexcept;
  FreeExtent cut(uint32_t first, uint32_t skipped_frames, uint32_t frame_count) noexcept;

  ExtentNode* nodes_ = nullptr;
  uint32_t first_frame_ = 0;
  uint32_t end_frame_ = 0;
  uint32_t free_frames_ = 0;
  uint32_t dirty_frames_ = 0;  // free and perhaps not zero: what give-back would return
  uint64_t non_empty_[2] = {};
  uint32_t heads_[kListCount] = {};
};

}  // namespace btd
