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

  // What became of the superblock that blocks were given to.
  struct Given {
    uint32_t count;  // of blocks
    bool is_spare;   // it is empty now, not the last one with free slots of its class, and was
                     // removed: retire it
  };

  // Returns those leading ones of `blocks` that lie in the superblock.  REQUIRES: the first does;
  // count > 0.
  template <typename Block>
  [[nodiscard]] Given give(Superblock& superblock, const Block* blocks, uint32_t count) noexcept {
    if (!superblock.is_scanned) return {1, false};  // its state says all; a scan will find it
    bool was_full = superblock.is_full();
    uint32_t given = superblock.mark_free(blocks, count);
    if (!was_full && !superblock.is_empty()) return {given, false};
    return {given, settle(superblock, was_full)};
  }

  // Returns a slot.  True: as is_spare.
  [[nodiscard]] bool give(Superblock& superblock, uint32_t slot) noexcept {
    if (!superblock.is_scanned) return false;
    bool was_full = superblock.is_full();
    superblock.mark_free(slot);
    return (was_full || superblock.is_empty()) && settle(superblock, was_full);
  }

  Heap* next_idle = nullptr;  // protected by the orphan heap's lock

 private:
  // After slots came back to a superblock that was full or is empty: the list that it belongs to
  // now.  True: none, it is spare.
  bool settle(Superblock& superblock, bool was_full) noexcept;

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
