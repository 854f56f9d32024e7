// The few large blocks that a thread freed last, kept whole: their descriptors still stand, their
// state is free.
//
// To take one again is to store its state, and nothing else: a pair of 64 KiB or 2 MiB costs what a
// small one does, where a trip to the extent map costs a lock, two descriptors and their checks.
// After a crash they are extents without a live block, which recovery gives back.
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

  // Keeps the extent.  False: there is no room; take_oldest() makes some.  REQUIRES:
  // fits(extent.frame_count).
  bool keep(WarmExtent extent) noexcept {
    if (count_ == kCountMax || frames_ + extent.frame_count > kFramesMax) return false;
    extents_[count_++] = extent;
    frames_ += extent.frame_count;
    return true;
  }

  WarmExtent take_oldest() noexcept { return count_ == 0 ? WarmExtent{} : remove(0); }

  static bool fits(uint32_t frame_count) { return frame_count <= kFramesMax; }

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
};

}  // namespace btd
