// The few large blocks that a thread freed last, kept whole: their descriptors still stand, their
// state is free.
//
// To take one again is to store its state, and nothing else: a pair of 64 KiB or 2 MiB costs what a
// small one does, where a trip to the extent map costs a lock, two descriptors and their checks.
// After a crash they are extents without a live block, which recovery gives back.
//
// The frames that all threads together may keep are a budget of the arena's: a thread is granted a
// part of it when it first has so much to keep, and has it until release.
//
// Thread safety: owned by one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/units.hpp"

namespace btd {

struct WarmExtent {
  uint32_t first_frame;
  uint32_t frame_count;  // 0: none
};

class WarmExtents {
 public:
  // The extent of exactly this length that was kept last.
  WarmExtent take(uint32_t frame_count) noexcept {
    for (uint32_t i = count_; i-- > 0;) {
      if (extents_[i].frame_count == frame_count) return remove(i);
    }
    return {};
  }

  bool has_room(uint32_t frame_count) const {
    return count_ < kCountMax && frames_ + frame_count <= granted_;
  }

  // Keeps the extent.  False: there is no room; grant() or take_oldest() makes some.
  bool keep(WarmExtent extent) noexcept {
    if (!has_room(extent.frame_count)) return false;
    extents_[count_++] = extent;
    frames_ += extent.frame_count;
    return true;
  }

  WarmExtent take_oldest() noexcept { return count_ == 0 ? WarmExtent{} : remove(0); }

  // Whether such an extent could be kept, if others went.
  bool fits(uint32_t frame_count) const { return frame_count <= granted_; }

  // What the grant is short of to keep such an extent besides the others; 0: enough, or a thread
  // may not have that much.
  uint32_t missing(uint32_t frame_count) const {
    uint32_t needed = frames_ + frame_count;
    return needed <= granted_ || needed > kFramesMax ? 0 : needed - granted_;
  }
  void grant(uint32_t frame_count) { granted_ += frame_count; }
  // REQUIRES: nothing is kept.
  uint32_t return_grant() noexcept {
    uint32_t granted = granted_;
    granted_ = 0;
    return granted;
  }

 private:
  static constexpr uint32_t kCountMax = 8;
  static constexpr uint32_t kFramesMax =
      4 * kMiB / kFrameBytes;  // what a thread may keep for itself

  WarmExtent remove(uint32_t index) noexcept {
    WarmExtent extent = extents_[index];
    for (count_--; index < count_; index++) extents_[index] = extents_[index + 1];
    frames_ -= extent.frame_count;
    return extent;
  }

  WarmExtent extents_[kCountMax] = {};  // oldest first
  uint32_t count_ = 0;
  uint32_t frames_ = 0;
  uint32_t granted_ = 0;  // frames_ <= granted_ <= kFramesMax
};

}  // namespace btd
