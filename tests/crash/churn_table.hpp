// What the churn program says it holds: a table of slots in a file that it and the harness share.
//
// A slot is taken by a compare-and-swap to kBusy before the call of malloc, free or realloc, and
// told to be live or empty by one store after it.  A kill leaves the table as the last stores of
// each thread made it: what is live there was returned and not freed, what is busy may have gone
// either way.
//
// Thread safety: a slot's fields belong to the thread that made it kBusy.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

namespace btd::test {

inline constexpr uint32_t kChurnThreads = 4;
inline constexpr uint32_t kChurnSlots = 1024;

enum class SlotState : uint32_t { kEmpty, kLive, kBusy };

struct ChurnSlot {
  std::atomic<SlotState> state;
  uint32_t reserved;
  uint64_t address;
  uint64_t size_bytes;  // as asked for; all of it carries the pattern
  uint64_t pattern;     // seed of the contents
};

struct ChurnTable {
  std::atomic<uint64_t> operations;
  uint64_t seed;  // set by the harness
  ChurnSlot slots[kChurnSlots];
};

inline uint64_t churn_word(uint64_t pattern, uint64_t index) {
  uint64_t x = pattern + index * 0x9E3779B97F4A7C15;
  return (x ^ (x >> 32)) | 1;  // never the zero that a lost page reads as
}

// Fills whole words and the bytes after the last, from the word of first_byte on.
inline void fill_churn(void* block, uint64_t pattern, uint64_t first_byte, uint64_t size_bytes) {
  auto* bytes = static_cast<char*>(block);
  uint64_t at = first_byte & ~uint64_t{7};
  for (; at + 8 <= size_bytes; at += 8) {
    uint64_t word = churn_word(pattern, at / 8);
    std::memcpy(bytes + at, &word, 8);
  }
  uint64_t last = churn_word(pattern, at / 8);
  if (at < size_bytes) std::memcpy(bytes + at, &last, size_bytes - at);
}

// Offset of the first word that is not as filled; size_bytes: none.
inline uint64_t first_wrong_byte(const void* block, uint64_t pattern, uint64_t size_bytes) {
  auto* bytes = static_cast<const char*>(block);
  uint64_t at = 0;
  for (; at + 8 <= size_bytes; at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + at, 8);
    if (word != churn_word(pattern, at / 8)) return at;
  }
  uint64_t last = churn_word(pattern, at / 8);
  return at == size_bytes || std::memcmp(bytes + at, &last, size_bytes - at) == 0 ? size_bytes : at;
}

}  // namespace btd::test
