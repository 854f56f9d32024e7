#include "core/api/reservations.hpp"

#include <sys/mman.h>

#include "core/base/sys.hpp"

namespace btd {
namespace {

constexpr uint32_t kFirstCapacity = 256;

}  // namespace

bool Reservations::keep(const Reservation& reservation, size_t size_bytes) {
  LockGuard guard(lock_);
  if (count_ * 2 >= capacity_ && !grow()) return false;
  insert({reservation, size_bytes});
  count_++;
  return true;
}

bool Reservations::take(const void* block, Reservation& reservation, size_t& size_bytes) {
  LockGuard guard(lock_);
  if (count_ == 0 || block == nullptr) return false;
  for (uint32_t i = home_of(block); entries_[i].reservation.block != nullptr;
       i = (i + 1) & (capacity_ - 1)) {
    if (entries_[i].reservation.block != block) continue;
    reservation = entries_[i].reservation;
    size_bytes = entries_[i].size_bytes;
    erase(i);
    count_--;
    return true;
  }
  return false;
}

void Reservations::for_each(void (*visit)(void* context, const void* begin, size_t size_bytes),
                            void* context) noexcept {
  LockGuard guard(lock_);
  for (uint32_t i = 0; i < capacity_; i++) {
    const Entry& entry = entries_[i];
    if (entry.reservation.block != nullptr)
      visit(context, entry.reservation.block, entry.size_bytes);
  }
}

// REQUIRES: the lock, and room.
void Reservations::insert(const Entry& entry) {
  uint32_t i = home_of(entry.reservation.block);
  while (entries_[i].reservation.block != nullptr) i = (i + 1) & (capacity_ - 1);
  entries_[i] = entry;
}

// Moves up the entries behind that would not be found past the gap.
void Reservations::erase(uint32_t index) {
  uint32_t gap = index;
  for (uint32_t i = (gap + 1) & (capacity_ - 1); entries_[i].reservation.block != nullptr;
       i = (i + 1) & (capacity_ - 1)) {
    uint32_t home = home_of(entries_[i].reservation.block);
    bool is_reachable = ((i - home) & (capacity_ - 1)) < ((i - gap) & (capacity_ - 1));
    if (is_reachable) continue;
    entries_[gap] = entries_[i];
    gap = i;
  }
  entries_[gap] = {};
}

bool Reservations::grow() {
  uint32_t wanted = capacity_ == 0 ? kFirstCapacity : capacity_ * 2;
  intptr_t got = sys::map(nullptr, wanted * sizeof(Entry), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got < 0) return false;
  Entry* old = entries_;
  uint32_t old_capacity = capacity_;
  entries_ = reinterpret_cast<Entry*>(got);
  capacity_ = wanted;
  for (uint32_t i = 0; i < old_capacity; i++) {
    if (old[i].reservation.block != nullptr) insert(old[i]);
  }
  if (old != nullptr) sys::unmap(old, old_capacity * sizeof(Entry));
  return true;
}

void Reservations::close() {
  if (entries_ != nullptr) sys::unmap(entries_, capacity_ * sizeof(Entry));
  entries_ = nullptr;
  capacity_ = count_ = 0;
}

}  // namespace btd
