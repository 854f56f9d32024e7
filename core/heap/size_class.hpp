// Size classes: which slot size serves a request of up to 32 KiB.
//
// As jemalloc's (Evans, "A Scalable Concurrent malloc(3) Implementation for FreeBSD", BSDCan 2006):
// a quantum of 16 B, four classes a doubling, so that at most 20 % of a slot is slack.  Above 32
// KiB blocks are large: whole OS pages, never the next of four a doubling (a 64 MiB + 1 request
// must not take 80 MiB).
//
// Each class lives in one of two zones of the arena.  The coarse zone has a state byte for each 64
// B of data and takes the classes that are multiples of 64; the fine zone has one for each 16 B and
// takes the others.  So no two blocks ever share a state byte, and a pointer into a block's middle
// finds state 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "core/base/units.hpp"

namespace btd {

inline constexpr size_t kQuantumBytes = 16;
inline constexpr size_t kSmallBytesMax = 32 * kKiB;
inline constexpr unsigned kCoarseShift = 6;  // 64 B of data a state
inline constexpr unsigned kFineShift = 4;    // 16 B of data a state
inline constexpr size_t kSlotsMax =
    1024;  // slots of a superblock: the bitmap of its free ones is 128 B

inline constexpr unsigned kReciprocalShift = 35;  // the most with which 16 B's fits 32 bits

struct SizeClassInfo {
  uint32_t slot_bytes;
  uint16_t slot_count;  // of a superblock
  uint8_t frame_count;  // of a superblock
  bool is_fine;         // lives in the fine zone
  uint32_t granules;    // states from one slot's to the next's
  uint32_t reciprocal;  // slot = (offset * reciprocal) >> kReciprocalShift, see slot_at()
};

namespace detail {

constexpr size_t kSizeClassCountMax = 48;

constexpr size_t next_class_bytes(size_t slot_bytes) {
  if (slot_bytes < 128) return slot_bytes + kQuantumBytes;
  size_t doubling = 128;
  while (doubling * 2 <= slot_bytes) doubling *= 2;
  return slot_bytes + doubling / 4;
}

// Superblocks of about 64 KiB (at most 1,024 slots, at least 8), grown by up to 8 frames where that
// loses less of the last frame.
constexpr size_t superblock_frames(size_t slot_bytes) {
  size_t target = max(min(kSlotsMax * slot_bytes, 64 * kKiB), 8 * slot_bytes);
  size_t least = max<size_t>(target / kFrameBytes, 1);
  size_t best = least;
  auto waste = [&](size_t frames) { return (frames * kFrameBytes % slot_bytes) * 1000 / frames; };
  for (size_t frames = least; frames <= least + 8 && frames <= 24; frames++) {
    if (frames * kFrameBytes / slot_bytes > kSlotsMax) break;
    if (waste(frames) < waste(best)) best = frames;
  }
  return best;
}

constexpr SizeClassInfo make_size_class(size_t slot_bytes) {
  SizeClassInfo info{};
  size_t frames = superblock_frames(slot_bytes);
  info.slot_bytes = static_cast<uint32_t>(slot_bytes);
  info.frame_count = static_cast<uint8_t>(frames);
  info.slot_count = static_cast<uint16_t>(min(frames * kFrameBytes / slot_bytes, kSlotsMax));
  info.is_fine = slot_bytes % 64 != 0;
  info.granules = static_cast<uint32_t>(slot_bytes >> (info.is_fine ? kFineShift : kCoarseShift));
  info.reciprocal = static_cast<uint32_t>(divide_up(uint64_t{1} << kReciprocalShift, slot_bytes));
  return info;
}

struct SizeClassTable {
  std::array<SizeClassInfo, kSizeClassCountMax> classes{};
  size_t count = 0;
};

constexpr SizeClassTable make_size_classes() {
  SizeClassTable table;
  for (size_t bytes = kQuantumBytes; bytes <= kSmallBytesMax; bytes = next_class_bytes(bytes)) {
    table.classes[table.count++] = make_size_class(bytes);
  }
  return table;
}

inline constexpr SizeClassTable kTable = make_size_classes();

}  // namespace detail

inline constexpr size_t kSizeClassCount = detail::kTable.count;
inline constexpr auto& kSizeClasses = detail::kTable.classes;

namespace detail {

// One byte for each quantum of request size: the whole map from request to class is one load.
constexpr auto make_class_of_quantum() {
  std::array<uint8_t, kSmallBytesMax / kQuantumBytes + 1> map{};
  size_t index = 0;
  for (size_t quantum = 0; quantum < map.size(); quantum++) {
    while (kSizeClasses[index].slot_bytes < quantum * kQuantumBytes) index++;
    map[quantum] = static_cast<uint8_t>(index);
  }
  return map;
}

}  // namespace detail

inline constexpr auto kClassOfQuantum = detail::make_class_of_quantum();

// REQUIRES: size_bytes <= kSmallBytesMax.  0 is served as 1.
constexpr size_t size_class_of(size_t size_bytes) {
  return kClassOfQuantum[(size_bytes + kQuantumBytes - 1) / kQuantumBytes];
}

// The class that takes over when the fine zone is full: the first coarse one that is large enough.
constexpr size_t coarse_class_of(size_t size_class) {
  return size_class_of(round_up(kSizeClasses[size_class].slot_bytes, 64));
}

// The slot that the byte at this offset from slot 0 is in: division by multiplication, exact while
// offset * (reciprocal * slot_bytes - 2^35) < 2^35.  A superblock has at most 24 frames, an offset
// less than 2^19; what stands in brackets is 0 for powers of two, and less than slot_bytes, thus
// than 2^15, for the others.
constexpr uint64_t slot_at(uint64_t reciprocal, uint64_t offset_bytes) {
  return offset_bytes * reciprocal >> kReciprocalShift;
}

static_assert(kSizeClassCount <= detail::kSizeClassCountMax);
static_assert(kSizeClasses[kSizeClassCount - 1].slot_bytes == kSmallBytesMax);

}  // namespace btd
