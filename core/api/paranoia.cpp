#include "core/api/paranoia.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr uintptr_t kLowest = 0x10000;              // nothing is ever mapped below
constexpr uintptr_t kHighest = uintptr_t{1} << 47;  // of user addresses
constexpr uint32_t kFirstCapacity = 512;
constexpr size_t kLineMax = 4400;  // a path of 4,096 characters, and the numbers before it

// Digits up to the first other character, which is stepped over.
uintptr_t parse_hex(const char*& at, const char* end) {
  uintptr_t value = 0;
  for (; at < end; at++) {
    int digit = *at >= '0' && *at <= '9'   ? *at - '0'
                : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10
                                           : -1;
    if (digit < 0) break;
    value = value << 4 | static_cast<uintptr_t>(digit);
  }
  if (at < end) at++;
  return value;
}

}  // namespace

uint64_t VolatileMap::find(const void* address, size_t size_bytes, IsPersistent is_persistent,
                           VolatilePointer* found, uint32_t found_max) {
  LockGuard guard(lock_);
  uint64_t count = 0;
  bool is_read = false;
  uintptr_t first = round_up(reinterpret_cast<uintptr_t>(address), sizeof(uintptr_t));
  uintptr_t end = reinterpret_cast<uintptr_t>(address) + size_bytes;
  for (uintptr_t at = first; at + sizeof(uintptr_t) <= end; at += sizeof(uintptr_t)) {
    uintptr_t value;
    std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof(value));
    if (value < kLowest || value >= kHighest || is_persistent(value)) continue;
    const Entry* entry = look_up(value);
    // Both may be out of date: a mapping that is new, and one that is gone.
    if (!is_read && (entry == nullptr || count == 0)) {
      read();
      is_read = true;
      entry = look_up(value);
    }
    if (entry == nullptr) continue;
    if (count++ >= found_max) continue;
    VolatilePointer& pointer = found[count - 1];
    pointer = {reinterpret_cast<const void*>(at), value, entry->is_code, {}};
    std::memcpy(pointer.into, entry->name, sizeof(entry->name));
  }
  return count;
}

const VolatileMap::Entry* VolatileMap::look_up(uintptr_t address) const {
  uint32_t low = 0;
  uint32_t high = count_;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (entries_[middle].end <= address) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < count_ && entries_[low].first <= address ? &entries_[low] : nullptr;
}

bool VolatileMap::make_room() {
  if (count_ < capacity_) return true;
  uint32_t wanted = capacity_ == 0 ? kFirstCapacity : capacity_ * 2;
  intptr_t got = sys::map(nullptr, wanted * sizeof(Entry), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got < 0) return false;
  if (entries_ != nullptr) {
    std::memcpy(reinterpret_cast<void*>(got), entries_, count_ * sizeof(Entry));
    sys::unmap(entries_, capacity_ * sizeof(Entry));
  }
  entries_ = reinterpret_cast<Entry*>(got);
  capacity_ = wanted;
  return true;
}

// first-end rwxp offset device inode   name
void VolatileMap::add(const char* line, size_t length) {
  const char* at = line;
  const char* end = line + length;
  Entry entry{};
  entry.first = parse_hex(at, end);
  entry.end = parse_hex(at, end);
  if (end - at < 5) return;
  bool is_mapped = at[0] == 'r' || at[1] == 'w' || at[2] == 'x';
  entry.is_code = at[2] == 'x';
  for (int field = 0; field < 4 && at != nullptr; field++) {
    at = static_cast<const char*>(std::memchr(at, ' ', static_cast<size_t>(end - at)));
    while (at != nullptr && at < end && *at == ' ') at++;
  }
  if (at != nullptr) {
    const char* name = at;
    for (; at < end; at++) {
      if (*at == '/') name = at + 1;
    }
    std::memcpy(entry.name, name, min(static_cast<size_t>(end - name), sizeof(entry.name) - 1));
  }
  if (is_mapped && make_room()) entries_[count_++] = entry;
}

void VolatileMap::read() {
  count_ = 0;
  int opened = sys::open("/proc/self/maps", O_RDONLY);
  if (opened < 0) return;
  char buffer[kLineMax];
  size_t held = 0;
  for (;;) {
    long got = sys::read(opened, buffer + held, sizeof(buffer) - held);
    if (got <= 0) break;
    held += static_cast<size_t>(got);
    size_t used = 0;
    while (const void* line_end = std::memchr(buffer + used, '\n', held - used)) {
      auto length = static_cast<size_t>(static_cast<const char*>(line_end) - (buffer + used));
      add(buffer + used, length);
      used += length + 1;
    }
    std::memmove(buffer, buffer + used, held - used);
    held -= used;
  }
  sys::close(opened);
}

}  // namespace btd
