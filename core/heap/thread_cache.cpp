#include "core/heap/thread_cache.hpp"

#include <cstring>

#include "core/heap/arena.hpp"
#include "core/heap/heap.hpp"
#include "core/heap/spread.hpp"

namespace btd {

void ThreadCache::init(Arena& arena, Heap& heap, uint8_t tag, CachedBlock* blocks) noexcept {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    uint32_t capacity = blocks != nullptr ? bin_capacity(size_class) : 0;
    rows_[kTop][size_class].block = rows_[kBegin][size_class].block = blocks;
    rows_[kEnd][size_class].block = blocks + min(capacity, kFirstEnd);
    blocks += capacity;
    rows_[kLimit][size_class].block = blocks;
    rows_[kOwner][size_class].cache = this;
  }
  tag_ = tag;
  remote_count_ = 0;
  arena_ = &arena;
  heap_ = &heap;
}

// A class in use gets a larger bin each time, up to its limit; a class used once stays small.
void ThreadCache::grow_bin(size_t size_class) noexcept {
  CachedBlock* begin = rows_[kBegin][size_class].block;
  CachedBlock*& end = rows_[kEnd][size_class].block;
  end = begin + min(2 * (end - begin), rows_[kLimit][size_class].block - begin);
}

bool ThreadCache::refill(size_t size_class) noexcept {
  if (remote_count_ > 0) flush_remote();
  CachedBlock* begin = rows_[kBegin][size_class].block;
  bool is_strict = arena_->is_strict();
  if (is_strict) rows_[kEnd][size_class] = rows_[kLimit][size_class];  // many lines to spread over
  auto count = static_cast<uint32_t>(rows_[kEnd][size_class].block - begin);
  grow_bin(size_class);
  for (;;) {
    {
      LockGuard guard(heap_->lock());
      uint32_t taken = heap_->take(size_class, begin, max(count / 2, 1u));
      if (is_strict) spread_states(begin, taken);
      rows_[kTop][size_class].block = begin + taken;
      if (taken > 0) return true;
    }
    if (!arena_->provide(size_class, *heap_)) return false;
  }
}

void ThreadCache::keep(Superblock& superblock, void* block, uint8_t* state) noexcept {
  size_t size_class = superblock.size_class;
  CachedBlock*& top = rows_[kTop][size_class].block;
  if (top == rows_[kEnd][size_class].block) {
    if (top != rows_[kLimit][size_class].block) {
      grow_bin(size_class);
    } else {
      flush(size_class, (cached_count(size_class) + 1) / 2);
    }
  }
  *top++ = {block, state};
}

// The oldest blocks go: the ones on top are the ones in the CPU's caches.
void ThreadCache::flush(size_t size_class, uint32_t count) noexcept {
  CachedBlock* begin = rows_[kBegin][size_class].block;
  {
    LockGuard guard(heap_->lock());
    for (uint32_t i = 0; i < count;) {
      Superblock& superblock = *arena_->superblock_of(begin[i].block);
      Heap::Given given = heap_->give(superblock, begin + i, count - i);
      if (given.is_spare) arena_->retire(superblock);
      i += given.count;
    }
  }
  size_t left = cached_count(size_class) - count;
  std::memmove(begin, begin + count, left * sizeof(CachedBlock));
  rows_[kTop][size_class].block = begin + left;
}

void ThreadCache::keep_remote(void* block) noexcept {
  remote_[remote_count_++] = block;
  if (remote_count_ == kRemoteMax) flush_remote();
}

void ThreadCache::flush_remote() noexcept {
  arena_->give_remote(remote_, remote_count_);
  remote_count_ = 0;
}

void ThreadCache::flush_all() noexcept {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    if (uint32_t count = cached_count(size_class); count > 0) flush(size_class, count);
    CachedBlock* begin = rows_[kBegin][size_class].block;
    rows_[kEnd][size_class].block =
        begin + min<ptrdiff_t>(kFirstEnd, rows_[kLimit][size_class].block - begin);
  }
  if (remote_count_ > 0) flush_remote();
  release_warm();
}

bool ThreadCache::release_warm() noexcept {
  bool is_any = false;
  for (WarmExtent extent = warm_.take_oldest(); extent.frame_count > 0;
       extent = warm_.take_oldest()) {
    arena_->release_extent(extent.first_frame);
    is_any = true;
  }
  arena_->return_warm(warm_.return_grant());
  return is_any;
}

}  // namespace btd
