// A superblock's run-time half: which of its slots are free and in no thread cache, and whose it
// is.
//
// Media holds the frame header and the states; this lies in DRAM and is rebuilt from the states
// when a recovered superblock is first used (scan()).  A slot is free on media (state 0) also while
// it waits in a thread cache; it is free *here* only when its bit is set.
//
// Thread safety: all members but `owner` are protected by the lock of the owning heap.  `owner`
// changes only with the locks of both the old and the new heap held, and may be read without: so
// lock the heap it names, then look again.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/heap/size_class.hpp"

namespace btd {

// A block as a thread cache holds it: with its state's address, so that malloc commits with one
// store.
struct CachedBlock {
  void* block;
  uint8_t* state;
};

struct Superblock {
  Superblock* next;
  Superblock* previous;
  char* data;       // slot 0
  uint8_t* states;  // state of slot 0
  uint32_t first_frame;
  uint16_t free_count;  // bits set
  uint8_t size_class;
  bool is_scanned;              // the bits are valid
  std::atomic<uint16_t> owner;  // heap id; 0: not in use
  uint32_t next_spare;          // not in use: index + 1 of the next such one; 0: none
  uint64_t free_bits[kSlotsMax / 64];

  const SizeClassInfo& info() const { return kSizeClasses[size_class]; }
  char* block(uint32_t slot) const { return data + size_t{slot} * info().slot_bytes; }
  uint8_t* state(uint32_t slot) const { return states + size_t{slot} * info().granules; }

  // The slot that `block` is in.
  uint32_t slot_of(const void* block) const {
    auto offset_bytes = static_cast<size_t>(static_cast<const char*>(block) - data);
    return static_cast<uint32_t>(slot_at(info().reciprocal, offset_bytes));
  }

  bool contains(const void* address) const {
    return static_cast<size_t>(static_cast<const char*>(address) - data) <
           size_t{info().frame_count} * kFrameBytes;
  }

  bool is_full() const { return free_count == 0; }
  bool is_empty() const { return free_count == info().slot_count; }

  void mark_free(uint32_t slot) {
    free_bits[slot / 64] |= uint64_t{1} << (slot % 64);
    free_count++;
  }

  // Sets the bits of those leading ones of `blocks` that lie in this superblock; returns how many
  // they are.
  template <typename Block>
  uint32_t mark_free(const Block* blocks, uint32_t count) noexcept;

  // Sets all bits: a superblock just carved.
  void mark_all_free() noexcept;

  // Sets the bits from the states on media.
  void scan() noexcept;

  // Moves up to `count` free slots to `out`, lowest address last (a stack's top).  Returns how
  // many.
  uint32_t take(CachedBlock* out, uint32_t count) noexcept;
};

inline const char* address_of(const CachedBlock& block) {
  return static_cast<const char*>(block.block);
}
inline const char* address_of(const void* block) { return static_cast<const char*>(block); }

// Blocks that come home together are often neighbours, whose bits share a word: it is stored once.
template <typename Block>
uint32_t Superblock::mark_free(const Block* blocks, uint32_t count) noexcept {
  const size_t extent_bytes = size_t{info().frame_count} * kFrameBytes;
  const uint64_t reciprocal = info().reciprocal;
  const Block* const end = blocks + count;
  const Block* at = blocks;
  uint64_t word = 0;
  uint64_t bits = 0;
  for (; at != end; at++) {
    auto offset_bytes = static_cast<size_t>(address_of(*at) - data);
    if (offset_bytes >= extent_bytes) break;
    uint64_t slot = slot_at(reciprocal, offset_bytes);
    if (slot / 64 != word) [[unlikely]] {
      free_bits[word] |= bits;
      word = slot / 64;
      bits = 0;
    }
    bits |= uint64_t{1} << (slot % 64);
  }
  free_bits[word] |= bits;
  auto marked = static_cast<uint32_t>(at - blocks);
  free_count = static_cast<uint16_t>(free_count + marked);
  return marked;
}

class SuperblockList {
 public:
  Superblock* front() const { return head_; }

  void push(Superblock& superblock) {
    superblock.previous = nullptr;
    superblock.next = head_;
    if (head_ != nullptr) head_->previous = &superblock;
    head_ = &superblock;
  }

  void remove(Superblock& superblock) {
    if (superblock.previous != nullptr) {
      superblock.previous->next = superblock.next;
    } else {
      head_ = superblock.next;
    }
    if (superblock.next != nullptr) superblock.next->previous = superblock.previous;
  }

 private:
  Superblock* head_ = nullptr;
};

}  // namespace btd
