#include "core/heap/thread_cache.hpp"

#include <cstring>

#include "core/heap/arena.hpp"
#include "core/heap/heap.hpp"
#include "core/heap/spread.hpp"

namespace btd {

void ThreadCache::init(Arena& arena, Heap& heap, uint8_t tag, CachedBlock* blocks) noexcept {
  blocks_ = blocks;
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    if (blocks != nullptr) reset_bin(size_class);
    rows_[kOwner][size_class].cache = blocks != nullptr ? this : nullptr;
  }
  tag_ = tag;
  remote_count_ = 0;
  arena_ = &arena;
  heap_ = &heap;
}

// To its first slots.  REQUIRES: the bin is empty.
void ThreadCache::reset_bin(size_t size_class) noexcept {
  CachedBlock* begin = blocks_ + size_class * kFirstBinBlocks;
  rows_[kTop][size_class].block = rows_[kBegin][size_class].block = begin;
  rows_[kEnd][size_class].block = begin + kFirstBinBlocks;
}

// A class in use gets a larger bin each time, up to its capacity; a class used once stays small.
void ThreadCache::grow_bin(size_t size_class, uint32_t blocks) noexcept {
  blocks = min(blocks, bin_capacity(size_class));
  CachedBlock* begin = blocks_ + kBinOffsets[size_class];
  CachedBlock* old_begin = rows_[kBegin][size_class].block;
  if (old_begin != begin && blocks > kFirstBinBlocks) {
    uint32_t count = cached_count(size_class);
    std::memcpy(begin, old_begin, count * sizeof(CachedBlock));
    rows_[kBegin][size_class].block = begin;
    rows_[kTop][size_class].block = begin + count;
  }
  rows_[kEnd][size_class].block = rows_[kBegin][size_class].block + blocks;
}

bool ThreadCache::refill(size_t size_class) noexcept {
  if (remote_count_ > 0) flush_remote();
  age_next_bin();
  bool is_strict = arena_->is_strict();
  for (;;) {
    {
      LockGuard guard(heap_->lock());
      if (heap_->partial(size_class) != nullptr) {
        uint32_t count = bin_blocks(size_class);
        if (is_strict) count = bin_capacity(size_class);  // many lines to spread over
        grow_bin(size_class, 2 * count);
        CachedBlock* begin = rows_[kBegin][size_class].block;
        uint32_t taken = heap_->take(size_class, begin, max(count / 2, 1u));
        if (is_strict) spread_states(begin, taken);
        rows_[kTop][size_class].block = begin + taken;
        return true;
      }
    }
    if (shared_count_[size_class] < shared_count_max(size_class) && arena_->is_crowded())
      return take_shared(size_class);
    if (!arena_->provide(size_class, *heap_)) return false;
  }
}

// One class at each visit to the heap.  A bin that holds as much as one round ago is taken to be
// idle and goes home: its blocks, freed in any order, may each keep another superblock from being
// retired.
void ThreadCache::age_next_bin() noexcept {
  next_aged_ = static_cast<uint8_t>((next_aged_ + 1) % kSizeClassCount);
  uint32_t count = cached_count(next_aged_);
  if (count > 0 && count == aged_count_[next_aged_]) {
    flush(next_aged_, count);
    reset_bin(next_aged_);
    count = 0;
  }
  aged_count_[next_aged_] = static_cast<uint16_t>(count);
}

bool ThreadCache::take_shared(size_t size_class) noexcept {
  CachedBlock block = arena_->take_orphan_block(size_class);
  if (block.block == nullptr) return false;
  shared_count_[size_class]++;
  *rows_[kTop][size_class].block++ = block;
  return true;
}

void ThreadCache::keep(Superblock& superblock, void* block, uint8_t* state) noexcept {
  size_t size_class = superblock.size_class;
  CachedBlock*& top = rows_[kTop][size_class].block;
  if (top == rows_[kEnd][size_class].block) {
    if (bin_blocks(size_class) < bin_capacity(size_class)) {
      grow_bin(size_class, 2 * bin_blocks(size_class));
    } else {
      flush(size_class, (cached_count(size_class) + 1) / 2);
      age_next_bin();
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
    reset_bin(size_class);
    shared_count_[size_class] = 0;
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
