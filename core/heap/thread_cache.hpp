// The hot path: a thread's own stacks of free blocks, one bin a size class.
//
// malloc pops {block, state address} and stores the epoch's tag; free checks the tag, stores 0 and pushes.  Budget: no lock, no atomic
// read-modify-write, no flush, no system call; at most 54 instructions a pair with the caller's.  Nothing is ever written into a free block.
//
// Whose block it is and of which class is one word, the key in the frame's entry: the owner's number above, the offset of the class's bin in this object
// below.  So `key - key_base_` is a bin's offset for a block of ours, and out of range for all else: another thread's, a large block's, a free frame's.
//
// Invariants: 1. Every block in a bin has state 0 and belongs to a superblock of this cache's heap.  2. begin <= top <= end <= begin + capacity.
//
// Thread safety: owned by one thread.  The entries of other threads' superblocks are read without a lock; only their owners change them, and never to our
// number.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/base/attributes.hpp"
#include "core/heap/size_class.hpp"
#include "core/heap/superblock.hpp"

namespace btd {

class Arena;
class Heap;

// Run-time word of a frame, in DRAM.
struct FrameEntry {
  uint32_t key;         // owner's heap number << 16 | offset of the bin; 0: no superblock
  uint32_t superblock;  // index into the arena's superblocks + 1; 0: none; kLargeEntry: first frame of a large block
};
inline constexpr uint32_t kLargeEntry = 0xFFFFFFFF;

struct Bin {
  CachedBlock* top;
  CachedBlock* begin;
  CachedBlock* end;      // grows from few to `limit` as the thread uses the class
  CachedBlock* limit;
};

inline constexpr unsigned kKeyOwnerShift = 16;

constexpr uint32_t bin_key(uint16_t owner, size_t size_class) {
  return (uint32_t{owner} << kKeyOwnerShift) | static_cast<uint32_t>(size_class * sizeof(Bin));
}

// Where blocks, states and entries are.  Constant after the arena is open; every thread has a copy, so that the hot path reads one object.
struct Geometry {
  uintptr_t coarse_base;       // address of the zone's first frame
  uint64_t coarse_granules;    // in the zone; 0: no arena
  uint8_t* coarse_states;
  FrameEntry* coarse_entries;  // of the zone's first frame
  uintptr_t fine_base;
  uint64_t fine_granules;
  uint8_t* fine_states;
  FrameEntry* fine_entries;
};

namespace detail {

constexpr auto make_bin_offset_of_quantum() {
  std::array<uint16_t, kClassOfQuantum.size()> map{};
  for (size_t quantum = 0; quantum < map.size(); quantum++) {
    map[quantum] = static_cast<uint16_t>(kClassOfQuantum[quantum] * sizeof(Bin));
  }
  return map;
}

}  // namespace detail

inline constexpr auto kBinOffsetOfQuantum = detail::make_bin_offset_of_quantum();

// Blocks a bin may hold: 64 KiB of them, at least 8, at most 1,024.
constexpr uint32_t bin_capacity(size_t size_class) {
  return static_cast<uint32_t>(max<size_t>(8, min<size_t>(1024, 64 * kKiB / kSizeClasses[size_class].slot_bytes)));
}

constexpr size_t total_bin_capacity() {
  size_t total = 0;
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) total += bin_capacity(size_class);
  return total;
}

class ThreadCache {
 public:
  // A block of at least size_bytes, live; nullptr: the bin is empty, go the slow way.
  // REQUIRES: size_bytes <= kSmallBytesMax.
  BTD_ALWAYS_INLINE void* allocate(size_t size_bytes) noexcept {
    size_t offset = kBinOffsetOfQuantum[(size_bytes + kQuantumBytes - 1) / kQuantumBytes];
    Bin& bin = *reinterpret_cast<Bin*>(reinterpret_cast<char*>(this) + offset);
    CachedBlock* top = bin.top;
    if (top == bin.begin) [[unlikely]] return nullptr;
    bin.top = --top;
    *top->state = tag_;  // the commit
    return top->block;
  }

  // Frees a block that is live in this epoch, ours, and has room in its bin.  False: anything else, nothing was done.
  //
  // The rotation puts a misaligned pointer's low bits on top, so that one comparison checks range and alignment.
  BTD_ALWAYS_INLINE bool free(void* pointer) noexcept {
    uint64_t granule = std::rotr(reinterpret_cast<uintptr_t>(pointer) - geometry_.coarse_base, kCoarseShift);
    uint8_t* state;
    uint32_t key;
    if (granule < geometry_.coarse_granules) [[likely]] {
      state = geometry_.coarse_states + granule;
      key = geometry_.coarse_entries[granule >> (kFrameShift - kCoarseShift)].key;
    } else {
      granule = std::rotr(reinterpret_cast<uintptr_t>(pointer) - geometry_.fine_base, kFineShift);
      if (granule >= geometry_.fine_granules) [[unlikely]] return false;
      state = geometry_.fine_states + granule;
      key = geometry_.fine_entries[granule >> (kFrameShift - kFineShift)].key;
    }
    uint32_t offset = key - key_base_;
    if (*state != tag_ || offset >= sizeof(bins_)) [[unlikely]] return false;
    Bin& bin = *reinterpret_cast<Bin*>(reinterpret_cast<char*>(this) + offset);
    CachedBlock* top = bin.top;
    if (top == bin.end) [[unlikely]] return false;
    *state = 0;  // the commit
    *top = {pointer, state};
    bin.top = top + 1;
    return true;
  }

  // Set-up by Heap.  `blocks`: room for total_bin_capacity().
  void init(Arena& arena, Heap& heap, const Geometry& geometry, uint8_t tag, CachedBlock* blocks) noexcept;

  // Fills the bin.  False: the arena is full.
  BTD_COLD bool refill(size_t size_class) noexcept;

  // Takes a block whose state is 0 already and which belongs to this heap.
  void keep(Superblock& superblock, void* block, uint8_t* state) noexcept;

  // Takes a block of another heap, whose state is 0 already; it goes home with the next batch.
  void keep_remote(void* block) noexcept;

  // Sends everything home.
  void flush_all() noexcept;
  void flush_remote() noexcept;

  const Geometry& geometry() const { return geometry_; }
  Heap* heap() const { return heap_; }
  uint32_t cached_count(size_t size_class) const { return static_cast<uint32_t>(bins_[size_class].top - bins_[size_class].begin); }

 private:
  static constexpr uint32_t kRemoteMax = 64;
  static constexpr uint32_t kFirstEnd = 8;  // blocks a bin holds before it has been refilled

  void flush(Bin& bin, uint32_t count) noexcept;

  Bin bins_[kSizeClassCount] = {};  // first: keys are offsets from this object
  uint32_t key_base_ = 0;
  uint8_t tag_ = 0;
  uint8_t remote_count_ = 0;
  Geometry geometry_ = {};
  Arena* arena_ = nullptr;
  Heap* heap_ = nullptr;
  void* remote_[kRemoteMax] = {};
};

}  // namespace btd
