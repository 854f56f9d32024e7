#include "core/heap/superblock.hpp"

#include <bit>

#include "core/persist/layout.hpp"

namespace btd {

void Superblock::mark_all_free() noexcept {
  uint32_t slots = info().slot_count;
  for (uint32_t word = 0; word * 64 < slots; word++) {
    uint32_t rest = slots - word * 64;
    free_bits[word] = rest >= 64 ? ~uint64_t{0} : (uint64_t{1} << rest) - 1;
  }
  free_count = static_cast<uint16_t>(slots);
  is_scanned = true;
}

void Superblock::scan() noexcept {
  for (uint64_t& word : free_bits) word = 0;
  free_count = 0;
  for (uint32_t slot = 0; slot < info().slot_count; slot++) {
    if (*state(slot) == kStateFree) mark_free(slot);
  }
  is_scanned = true;
}

// By runs of set bits: a fresh superblock is one of them, and costs a few instructions a slot.
uint32_t Superblock::take(CachedBlock* out, uint32_t count) noexcept {
  uint32_t taken = min<uint32_t>(count, free_count);
  const SizeClassInfo& info = this->info();
  CachedBlock* top = out + taken;
  for (uint32_t word = 0; top != out; word++) {
    uint64_t bits = free_bits[word];
    while (bits != 0 && top != out) {
      auto first = static_cast<uint32_t>(std::countr_zero(bits));
      auto run = min(static_cast<uint32_t>(std::countr_one(bits >> first)),
                     static_cast<uint32_t>(top - out));
      bits &= ~(~uint64_t{0} >> (64 - run) << first);
      char* block = data + size_t{word * 64 + first} * info.slot_bytes;
      uint8_t* state = states + size_t{word * 64 + first} * info.granules;
      for (CachedBlock* end = top - run; top != end;) {
        *--top = {block, state};
        block += info.slot_bytes;
        state += info.granules;
      }
    }
    free_bits[word] = bits;
  }
  free_count = static_cast<uint16_t>(free_count - taken);
  return taken;
}

}  // namespace btd
