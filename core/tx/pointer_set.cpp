#include "core/tx/pointer_set.hpp"

#include <sys/mman.h>

#include "core/base/sys.hpp"

namespace btd {
namespace {

constexpr size_t kFirstSize = 256;  // one page

}  // namespace

bool PointerSet::grow() {
  size_t size = size_ == 0 ? kFirstSize : 2 * size_;
  intptr_t got = sys::map(nullptr, size * sizeof(Entry), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got < 0) return false;
  Entry* old = entries_;
  size_t old_size = size_;
  entries_ = reinterpret_cast<Entry*>(got);
  size_ = size;
  for (size_t i = 0; i < old_size; i++) {
    if (old[i].pointer == nullptr) continue;
    size_t at = place_of(old[i].pointer);
    while (entries_[at].pointer != nullptr) at = (at + 1) & (size_ - 1);
    entries_[at] = old[i];
  }
  if (old != nullptr) sys::unmap(old, old_size * sizeof(Entry));
  return true;
}

bool PointerSet::insert(const void* pointer, uint32_t owner) {
  if (2 * (count_ + 1) > size_ && !grow()) return false;
  size_t at = place_of(pointer);
  while (entries_[at].pointer != nullptr) at = (at + 1) & (size_ - 1);
  entries_[at] = {pointer, owner};
  count_++;
  return true;
}

uint32_t PointerSet::owner_of(const void* pointer) const {
  if (count_ == 0) return kNobody;
  for (size_t at = place_of(pointer); entries_[at].pointer != nullptr;
       at = (at + 1) & (size_ - 1)) {
    if (entries_[at].pointer == pointer) return entries_[at].owner;
  }
  return kNobody;
}

void PointerSet::remove(const void* pointer) {
  if (count_ == 0) return;
  size_t at = place_of(pointer);
  while (entries_[at].pointer != pointer) {
    if (entries_[at].pointer == nullptr) return;
    at = (at + 1) & (size_ - 1);
  }
  count_--;
  // Whatever follows and would not be found across the gap moves into it.
  for (size_t next = (at + 1) & (size_ - 1); entries_[next].pointer != nullptr;
       next = (next + 1) & (size_ - 1)) {
    size_t home = place_of(entries_[next].pointer);
    if (((next - home) & (size_ - 1)) < ((next - at) & (size_ - 1))) continue;
    entries_[at] = entries_[next];
    at = next;
  }
  entries_[at] = {};
}

}  // namespace btd
