// malloc and free as the preload does them: the inline fast path of the thread cache, then the
// arena.
#pragma once

#include "core/heap/arena.hpp"

namespace btd::test {

// nullptr: the cache is empty.
inline void* allocate_fast(Heap& heap, size_t size_bytes) {
  return heap.cache().allocate(size_bytes, [] { return static_cast<void*>(nullptr); });
}

// REQUIRES: the block lies in the arena.  False: the arena does not take it for a live block.
inline bool free_block(Arena& arena, Heap& heap, void* block) {
  ThreadCache* mine = &heap.cache();
  return ThreadCache::free(block, arena.geometry(), mine, [] { return false; }) ||
         arena.free(*mine, block) == Verdict::kGood;
}

}  // namespace btd::test
