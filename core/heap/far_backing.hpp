// What lies behind the far zone's frames, as the heap sees it: memory that is always there, some of
// it on other machines (core/spill).
//
// The heap keeps all of its own books near, and never touches the far zone's bytes.  It tells what
// is free, so that nobody keeps or moves it, and asks what is zero, so that calloc need not fetch
// what it would only overwrite.
//
// Thread safety: all may run concurrently on different units.
#pragma once

#include <cstdint>

namespace btd {

inline constexpr uint32_t kFarUnitFrames = 4;  // 64 KiB: what is fetched and evicted as one

class FarBacking {
 public:
  // Units of kFarUnitFrames, counted from the far zone's first frame.

  // They read as zeros from now on.  A kill leaves each zero or as it was.
  virtual void discard(uint64_t first_unit, uint64_t unit_count) noexcept = 0;
  // Without fetching it.
  virtual bool is_zero(uint64_t unit) const noexcept = 0;

 protected:
  ~FarBacking() = default;  // nobody deletes one through this interface
};

}  // namespace btd
