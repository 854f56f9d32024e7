// The hot path: a thread's own stacks of free blocks, one bin a size class.
//
// malloc pops {block, state address} and stores the epoch's tag; free checks the tag, stores 0 and
// pushes.  Budget: no lock, no atomic read-modify-write, no flush, no system call; at most 54
// instructions a pair with the caller's.  Nothing is ever written into a free block.
//
// Whose block it is and of which class is one word, the frame's bin: the bin of its class in its
// owner's cache.  It is ours if the word beside the bin that names the cache is; that word is
// constant and lies apart from the bins, so that looking does not disturb the owner.
//
// A bin begins in a few slots beside the other classes' bins, and moves to an area of its own when
// it grows beyond them: a class that is hardly used costs no page.
//
// Invariants: 1. Every block in a bin has state 0 and belongs to a superblock of this cache's heap;
// the one exception is a block of an orphan between refill() and the allocation that asked for it.
// 2. begin <= top <= end <= begin + bin_capacity().
// 3. A slot with this epoch's tag lies in a frame that has a bin.
//
// Thread safety: owned by one thread.  The bins of other threads' frames are read without a lock;
// only their owners change them, and never to one of ours.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "core/base/attributes.hpp"
#include "core/base/in_place.hpp"
#include "core/heap/size_class.hpp"
#include "core/heap/superblock.hpp"
#include "core/heap/warm_extents.hpp"
#include "core/persist/layout.hpp"

namespace btd {

class Arena;
class Heap;

class ThreadCache;

// A bin: a stack of free blocks.  A cache keeps its bins as rows of equal fields, so that the hot
// path finds a field by one scaled address; a Bin* points at its field of the first row, and the
// other fields lie at fixed distances from it.
struct Bin {
  union {
    CachedBlock* block;
    ThreadCache* cache;
  };
};

// Where blocks, states and bins are.  Constant after the arena is open, but for the granules, which
// grow.
struct Geometry {
  uintptr_t coarse_base;     // address of frame 0
  uint64_t coarse_granules;  // of the grown part, which alone may be touched; 0: no arena
  uint8_t* coarse_states;
  Bin** bins;           // by frame: the bin of its class and owner; nullptr: it is in no superblock
  uint64_t data_bytes;  // of both zones; 0: no arena
  uint64_t coarse_bytes;  // of the coarse zone
  uint64_t fine_granules;
  uint8_t* fine_states;
  Bin** fine_bins;  // `bins` of the fine zone's first frame
};

// Blocks a bin may hold: 64 KiB of them, at least 8, at most 1,024.
constexpr uint32_t bin_capacity(size_t size_class) {
  return static_cast<uint32_t>(
      max<size_t>(8, min<size_t>(1024, 64 * kKiB / kSizeClasses[size_class].slot_bytes)));
}

// A thread of many has earned a superblock of its own when it has taken a quarter of one.
constexpr uint32_t shared_count_max(size_t size_class) {
  return max<uint32_t>(4, kSizeClasses[size_class].slot_count / 4);
}

// Blocks a bin may hold before it has been refilled.
inline constexpr uint32_t kFirstBinBlocks = 8;

namespace detail {

// Where each bin's own area begins, behind the first slots of all; last, the room for them all.
constexpr auto make_bin_offsets() {
  std::array<uint32_t, kSizeClassCount + 1> offsets{};
  offsets[0] = kSizeClassCount * kFirstBinBlocks;
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++)
    offsets[size_class + 1] = offsets[size_class] + bin_capacity(size_class);
  return offsets;
}

}  // namespace detail

inline constexpr auto kBinOffsets = detail::make_bin_offsets();
inline constexpr size_t kBinBlocks = kBinOffsets[kSizeClassCount];

class ThreadCache {
 public:
  // A block of at least size_bytes, live; when the bin is empty, what slow() returns.
  // REQUIRES: size_bytes <= kSmallBytesMax.
  template <typename Slow>
  BTD_ALWAYS_INLINE void* allocate(size_t size_bytes, Slow slow) noexcept {
    size_t size_class = size_class_of(size_bytes);
    CachedBlock* top = rows_[kTop][size_class].block;
    if (top == rows_[kBegin][size_class].block) [[unlikely]]
      return slow();
    add_in_place(rows_[kTop][size_class].block, -1);
    *top[-1].state = tag_;  // the commit
    return top[-1].block;
  }

  // Frees a block that is live in this epoch, ours, and has room in its bin.  False: anything else,
  // nothing was done.
  //
  // Rotations put a misaligned pointer's low bits on top, so that one comparison checks range and
  // alignment.  A pointer that is not of this arena, as most are where only large sizes are routed,
  // is found out by the second: foreign() is called for it.  remote(state, bin) is called for one
  // that is live in this epoch and belongs to another heap.
  template <typename Foreign, typename Remote>
  BTD_ALWAYS_INLINE static bool free(void* pointer, const Geometry& geometry,
                                     ThreadCache* const& mine, Foreign foreign,
                                     Remote remote) noexcept {
    uint64_t granule =
        std::rotr(reinterpret_cast<uintptr_t>(pointer) - geometry.coarse_base, kCoarseShift);
    if (granule < geometry.coarse_granules) [[likely]] {
      return mine->take_back(pointer, geometry.coarse_states + granule, geometry.bins,
                             granule >> (kFrameShift - kCoarseShift), remote);
    }
    hide_origin(granule);  // or the offset would be kept from before the rotation, at the cost of a
                           // move for every free
    uint64_t offset = std::rotl(granule, kCoarseShift);
    if (offset >= geometry.data_bytes) [[likely]]
      return foreign();
    granule = std::rotr(offset - geometry.coarse_bytes, kFineShift);
    if (granule >= geometry.fine_granules) [[unlikely]]
      return false;
    return mine->take_back(pointer, geometry.fine_states + granule, geometry.fine_bins,
                           granule >> (kFrameShift - kFineShift), remote);
  }
  template <typename Foreign>
  BTD_ALWAYS_INLINE static bool free(void* pointer, const Geometry& geometry,
                                     ThreadCache* const& mine, Foreign foreign) noexcept {
    return free(pointer, geometry, mine, foreign, [](uint8_t*, const Bin*) { return false; });
  }

  // Set-up by Heap.  `blocks`: room for kBinBlocks; nullptr: the bins never hold any.
  void init(Arena& arena, Heap& heap, uint8_t tag, CachedBlock* blocks) noexcept;

  // Fills the bin; for a thread that shares (see Arena::is_crowded()), with a single block.  The
  // caller takes one at once.  False: the arena is full.
  BTD_COLD bool refill(size_t size_class) noexcept;

  // A free block, which stays free until its state is stored.  nullptr: the bin is empty.
  CachedBlock take(size_t size_class) noexcept {
    CachedBlock* top = rows_[kTop][size_class].block;
    if (top == rows_[kBegin][size_class].block) return {};
    rows_[kTop][size_class].block = top - 1;
    return top[-1];
  }

  // Takes a block whose state is 0 already and which belongs to this heap.
  void keep(Superblock& superblock, void* block, uint8_t* state) noexcept;

  // Frees a block that free() found to be another heap's.  False: that heap is no thread's, nothing
  // was done.
  BTD_ALWAYS_INLINE bool give_away(void* pointer, uint8_t* state, const Bin* bin) noexcept {
    if (bin[kOwner * kSizeClassCount].cache == nullptr) return false;
    *state = 0;  // the commit
    keep_remote(pointer);
    return true;
  }

  // Takes a block of another heap, whose state is 0 already; it goes home with the next batch, to
  // whoever has its superblock then.
  void keep_remote(void* block) noexcept;

  // Sends everything home.
  void flush_all() noexcept;
  void flush_remote() noexcept;
  // Gives back the large blocks kept warm.  True: there were any.
  bool release_warm() noexcept;

  Heap* heap() const { return heap_; }
  WarmExtents& warm() { return warm_; }
  Bin* bin(size_t size_class) { return &rows_[kTop][size_class]; }
  uint32_t cached_count(size_t size_class) const {
    return static_cast<uint32_t>(rows_[kTop][size_class].block - rows_[kBegin][size_class].block);
  }

 private:
  static constexpr uint32_t kRemoteMax = 64;

  enum Row : size_t {
    kTop,  // first: a Bin* points here
    kBegin,
    kEnd,    // grows from few to the capacity as the thread uses the class
    kOwner,  // constant, and rows away from kTop: others may look at it without disturbing this
             // thread.  nullptr: the heap is no thread's, and takes its blocks under its lock
    kRowCount,
  };

  void flush(size_t size_class, uint32_t count) noexcept;
  void grow_bin(size_t size_class, uint32_t blocks) noexcept;
  void reset_bin(size_t size_class) noexcept;
  bool take_shared(size_t size_class) noexcept;
  void age_next_bin() noexcept;
  uint32_t bin_blocks(size_t size_class) const {
    return static_cast<uint32_t>(rows_[kEnd][size_class].block - rows_[kBegin][size_class].block);
  }

  template <typename Remote>
  BTD_ALWAYS_INLINE bool take_back(void* pointer, uint8_t* state, Bin* const* bins, uint64_t frame,
                                   Remote remote) noexcept {
    if (*state != tag_) [[unlikely]]
      return false;
    Bin* bin = bins[frame];
    if (bin[kOwner * kSizeClassCount].cache != this) [[unlikely]]
      return remote(state, bin);
    CachedBlock* top = bin->block;
    if (top == bin[kEnd * kSizeClassCount].block) [[unlikely]]
      return false;
    *state = 0;  // the commit
    *top = {pointer, state};
    add_in_place(bin->block, 1);
    return true;
  }

  Bin rows_[kRowCount][kSizeClassCount] = {};
  uint8_t tag_ = kStateReserved;  // of a cache that was never set up: no block has it
  uint8_t remote_count_ = 0;
  uint8_t next_aged_ = 0;  // class
  Arena* arena_ = nullptr;
  Heap* heap_ = nullptr;
  CachedBlock* blocks_ = nullptr;
  WarmExtents warm_;
  uint16_t shared_count_[kSizeClassCount] = {};  // blocks taken from orphans, one at a time
  uint16_t aged_count_[kSizeClassCount] = {};    // what the bin held when age_next_bin() saw it
  void* remote_[kRemoteMax] = {};
};

}  // namespace btd
