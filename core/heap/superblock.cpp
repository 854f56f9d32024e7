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

uint32_t Superblock::take(CachedBlock* out, uint32_t count) noexcept {
  uint32_t taken = min<uint32_t>(count, free_count);
  uint32_t left = taken;
  const SizeClassInfo& info = this->info();
  for (uint32_t word = 0; left > 0; word++) {
    uint64_t bits = free_bits[word];
    while (bits != 0 && left > 0) {
      uint32_t slot = word * 64 + static_cast<uint32_t>(std::countr_zero(bits));
      bits &= bits - 1;
      left--;
      out[left] = {data + size_t{slot} * info.slot_bytes, states + size_t{slot} * info.granules};
    }
    free_bits[word] = bits;
  }
  free_count = static_cast<uint16_t>(free_count - taken);
  return taken;
}

}  // namespace btd
