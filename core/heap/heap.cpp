#include "core/heap/heap.hpp"

#include "core/heap/arena.hpp"

namespace btd {

void Heap::init(Arena& arena, uint16_t id, uint8_t tag, CachedBlock* blocks) noexcept {
  id_ = id;
  cache_.init(arena, *this, tag, blocks);
}

uint32_t Heap::take(size_t size_class, CachedBlock* out, uint32_t count) noexcept {
  uint32_t taken = 0;
  while (taken < count) {
    Superblock* superblock = partial(size_class);
    if (superblock == nullptr) break;
    taken += superblock->take(out + taken, count - taken);
    if (!superblock->is_full()) break;
    partial_[size_class].remove(*superblock);
    full_[size_class].push(*superblock);
  }
  return taken;
}

bool Heap::settle(Superblock& superblock, bool was_full) noexcept {
  SuperblockList& list = partial_[superblock.size_class];
  if (was_full) full_[superblock.size_class].remove(superblock);
  bool is_only = was_full ? list.front() == nullptr
                          : list.front() == &superblock && superblock.next == nullptr;
  if (superblock.is_empty() && !is_only) {
    if (!was_full) list.remove(superblock);
    return true;
  }
  if (was_full) list.push(superblock);
  return false;
}

}  // namespace btd
