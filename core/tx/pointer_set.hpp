// A set of pointers with an owner each, in DRAM: what open transactions are about to free.
//
// Open addressing with linear probing; a removal moves the entries after it back, so there are no
// tombstones.
//
// Thread safety: none; the caller has a lock.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

class PointerSet {
 public:
  static constexpr uint32_t kNobody = ~0u;

  // False: the kernel refuses DRAM.  REQUIRES: it is not in the set.
  [[nodiscard]] bool insert(const void* pointer, uint32_t owner);
  // kNobody: it is not in the set.
  uint32_t owner_of(const void* pointer) const;
  void remove(const void* pointer);
  bool is_empty() const { return count_ == 0; }

 private:
  struct Entry {
    const void* pointer;  // nullptr: free
    uint32_t owner;
  };

  size_t place_of(const void* pointer) const {
    return (reinterpret_cast<uintptr_t>(pointer) >> 4) * 0x9E3779B97F4A7C15 >> 20 & (size_ - 1);
  }
  bool grow();

  Entry* entries_ = nullptr;
  size_t size_ = 0;  // a power of two
  size_t count_ = 0;
};

}  // namespace btd
