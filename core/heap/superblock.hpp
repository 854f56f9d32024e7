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
    auto granule = static_cast<uint32_t>((static_cast<const char*>(block) - data) >>
                                         (info().is_fine ? kFineShift : kCoarseShift));
    return slot_of_granule(info(), granule);
  }

  bool is_full() const { return free_count == 0; }
  bool is_empty() const { return free_count == info().slot_count; }

  void mark_free(uint32_t slot) {
    free_bits[slot / 64] |= uint64_t{1} << (slot % 64);
    free_count++;
  }

  // Sets all bits: a superblock just carved.
  void mark_all_free() noexcept;

  // Sets the bits from the states on media.
  void scan() noexcept;

  // Moves up to `count` free slots to `out`, lowest address last (a stack's top).  Returns how
  // many.
  uint32_t take(CachedBlock* out, uint32_t count) noexcept;
};

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
