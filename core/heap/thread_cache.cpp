#include "core/heap/thread_cache.hpp"

#include <cstring>

#include "core/heap/arena.hpp"
#include "core/heap/heap.hpp"

namespace btd {

static_assert(sizeof(Bin) * kSizeClassCount < (1u << kKeyOwnerShift));

void ThreadCache::init(Arena& arena, Heap& heap, const Geometry& geometry, uint8_t tag, CachedBlock* blocks) noexcept {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    uint32_t capacity = blocks != nullptr ? bin_capacity(size_class) : 0;
    bins_[size_class] = {blocks, blocks, blocks + min(capacity, kFirstEnd), blocks + capacity};
    blocks += capacity;
  }
  key_base_ = bin_key(heap.id(), 0);
  tag_ = tag;
  remote_count_ = 0;
  geometry_ = geometry;
  arena_ = &arena;
  heap_ = &heap;
}

bool ThreadCache::refill(size_t size_class) noexcept {
  Bin& bin = bins_[size_class];
  if (remote_count_ > 0) flush_remote();
  auto count = static_cast<uint32_t>(bin.end - bin.begin);
  // A class in use gets a larger bin each time, up to its limit; a class used once stays small.
  bin.end = bin.begin + min<size_t>(2 * count, static_cast<size_t>(bin.limit - bin.begin));
  for (;;) {
    {
      LockGuard guard(heap_->lock());
      uint32_t taken = heap_->take(size_class, bin.begin, max(count / 2, 1u));
      bin.top = bin.begin + taken;
      if (taken > 0) return true;
    }
    if (!arena_->provide(size_class, *heap_)) return false;
  }
}

void ThreadCache::keep(Superblock& superblock, void* block, uint8_t* state) noexcept {
  Bin& bin = bins_[superblock.size_class];
  if (bin.top == bin.end) {
    auto count = static_cast<uint32_t>(bin.end - bin.begin);
    if (bin.end < bin.limit) {
      bin.end = bin.begin + min<size_t>(2 * count, static_cast<size_t>(bin.limit - bin.begin));
    } else {
      flush(bin, (count + 1) / 2);
    }
  }
  *bin.top++ = {block, state};
}

// The oldest blocks go: the ones on top are the ones in the CPU's caches.
void ThreadCache::flush(Bin& bin, uint32_t count) noexcept {
  {
    LockGuard guard(heap_->lock());
    for (uint32_t i = 0; i < count; i++) {
      void* block = bin.begin[i].block;
      Superblock& superblock = *arena_->superblock_of(block);
      if (heap_->give(superblock, superblock.slot_of(block))) arena_->retire(superblock);
    }
  }
  auto left = static_cast<size_t>(bin.top - bin.begin) - count;
  std::memmove(bin.begin, bin.begin + count, left * sizeof(CachedBlock));
  bin.top = bin.begin + left;
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
  for (Bin& bin : bins_) {
    auto count = static_cast<uint32_t>(bin.top - bin.begin);
    if (count > 0) flush(bin, count);
    bin.end = bin.begin + min<size_t>(kFirstEnd, static_cast<size_t>(bin.limit - bin.begin));
  }
  if (remote_count_ > 0) flush_remote();
}

}  // namespace btd
