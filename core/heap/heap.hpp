// A heap: the superblocks of one thread, as in Hoard (Berger et al., ASPLOS 2000), and its thread
// cache.
//
// Blocks go back to the superblock they came from, and superblocks belong to one heap at a time; so
// two threads never get slots of one superblock (no false sharing passed on, not even of state
// lines), and memory freed by a consumer returns to its producer (bounded blowup).  A thread that
// ends gives its superblocks to the arena's orphan heap, where the next thread in need finds them.
//
// Lock order: a thread's heap, the orphan heap, the arena's extents.  Never two threads' heaps at
// once.
#pragma once

#include <cstdint>

#include "core/base/lock.hpp"
#include "core/heap/superblock.hpp"
#include "core/heap/thread_cache.hpp"

namespace btd {

class Heap {
 public:
  void init(Arena& arena, uint16_t id, uint8_t tag, CachedBlock* blocks) noexcept;

  uint16_t id() const { return id_; }
  ThreadCache& cache() { return cache_; }
  Lock& lock() { return lock_; }

  // All below: REQUIRES the lock.

  void add(Superblock& superblock) noexcept { list_of(superblock).push(superblock); }
  void remove(Superblock& superblock) noexcept { list_of(superblock).remove(superblock); }
  Superblock* partial(size_t size_class) const { return partial_[size_class].front(); }
  Superblock* full(size_t size_class) const { return full_[size_class].front(); }
  Superblock* unscanned(size_t size_class) const { return unscanned_[size_class].front(); }

  // Moves up to `count` blocks from partial superblocks to `out`.
  uint32_t take(size_t size_class, CachedBlock* out, uint32_t count) noexcept;

  // Returns a slot.  True: the superblock is empty now, not the last one with free slots of its
  // class, and was removed: retire it.
  [[nodiscard]] bool give(Superblock& superblock, uint32_t slot) noexcept;

  Heap* next_idle = nullptr;  // protected by the orphan heap's lock

 private:
  SuperblockList& list_of(Superblock& superblock) noexcept {
    if (!superblock.is_scanned) return unscanned_[superblock.size_class];
    return superblock.is_full() ? full_[superblock.size_class] : partial_[superblock.size_class];
  }

  ThreadCache cache_;  // first: owned by its thread, not protected
  Lock lock_;
  uint16_t id_ = 0;
  SuperblockList partial_[kSizeClassCount];
  SuperblockList full_[kSizeClassCount];
  SuperblockList unscanned_[kSizeClassCount];  // orphans only: recovered, states not looked at yet
};

}  // namespace btd
