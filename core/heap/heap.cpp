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
    partial_[size_class].remove(*superblock);
    taken += superblock->take(out + taken, count - taken);
    add(*superblock);
  }
  return taken;
}

bool Heap::give(Superblock& superblock, uint32_t slot) noexcept {
  if (!superblock.is_scanned) return false;  // its state says all; a scan will find it
  if (superblock.is_full()) {
    remove(superblock);
    superblock.mark_free(slot);
    add(superblock);
    return false;
  }
  superblock.mark_free(slot);
  SuperblockList& list = partial_[superblock.size_class];
  bool is_only = list.front() == &superblock && superblock.next == nullptr;
  if (!superblock.is_empty() || is_only) return false;
  list.remove(superblock);
  return true;
}

}  // namespace btd
