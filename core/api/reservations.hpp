// Blocks that the program reserved and has not activated yet.
//
// On media such a block is free, and only its address comes back from the program: so where its
// state is, and that it was reserved at all, is kept here, in DRAM.  After a crash the table is
// gone and the blocks are free, which is what they are on media.
//
// A hash table with open addressing (linear probing, no tombstones: Knuth, TAOCP 3, section 6.4,
// algorithm R), never more than half full.
//
// Thread safety: all functions may run concurrently, but close().
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/gc/mark.hpp"
#include "core/heap/arena.hpp"

namespace btd {

class Reservations final : public GcRanges {
 public:
  // False: the kernel refuses DRAM; nothing was kept.
  [[nodiscard]] bool keep(const Reservation& reservation, size_t size_bytes);

  // Takes the block out of the table.  False: it is not reserved.
  bool take(const void* block, Reservation& reservation, size_t& size_bytes);

  // What the program has put into them already keeps what it points to: the collector asks.
  void for_each(void (*visit)(void* context, const void* begin, size_t size_bytes),
                void* context) noexcept override;

  uint32_t count() const { return count_; }

  void reset_after_fork() { lock_.reset(); }
  void close();

 private:
  struct Entry {
    Reservation reservation;  // block nullptr: unused
    size_t size_bytes;
  };

  uint32_t home_of(const void* block) const {
    return static_cast<uint32_t>((reinterpret_cast<uintptr_t>(block) >> 4) * 0x9E3779B97F4A7C15 >>
                                 32) &
           (capacity_ - 1);
  }
  void insert(const Entry& entry);
  void erase(uint32_t index);
  bool grow();

  // Protected by lock_.
  Lock lock_;
  Entry* entries_ = nullptr;
  uint32_t capacity_ = 0;  // a power of two, or 0
  uint32_t count_ = 0;
};

}  // namespace btd
