// Sizes and small arithmetic that every layer shares.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

inline constexpr size_t kKiB = size_t{1} << 10;
inline constexpr size_t kMiB = size_t{1} << 20;
inline constexpr size_t kGiB = size_t{1} << 30;

inline constexpr size_t kCacheLineBytes = 64;

// The unit of arena space.  16 KiB holds 256 blocks of 64 B, so that one frame header (64 B) and
// its states (256 B) cost 1.95 % of it.
inline constexpr unsigned kFrameShift = 14;
inline constexpr size_t kFrameBytes = size_t{1} << kFrameShift;

// REQUIRES: `alignment` is a power of two.
constexpr uint64_t round_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

constexpr uint64_t round_down(uint64_t value, uint64_t alignment) {
  return value & ~(alignment - 1);
}

constexpr bool is_power_of_two(uint64_t value) { return value != 0 && (value & (value - 1)) == 0; }

constexpr uint64_t divide_up(uint64_t value, uint64_t divisor) {
  return (value + divisor - 1) / divisor;
}

template <typename T>
constexpr T min(T a, T b) {
  return b < a ? b : a;
}

template <typename T>
constexpr T max(T a, T b) {
  return a < b ? b : a;
}

}  // namespace btd
