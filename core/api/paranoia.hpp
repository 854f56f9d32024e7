// Pointers that will dangle: words in the arena that point to memory which ends with the process.
//
// Such a word is a bug that shows only after the restart (Coburn et al., NV-Heaps, ASPLOS 2011,
// make it impossible by types; a C program can only be watched).  Any word that is an address in a
// mapping of this process that is no arena's is one: stack, heap, or a module (vtables, functions,
// static variables, which lie elsewhere when it is loaded again).  A number that looks like an
// address is reported too, which is rare: mappings are a speck in 2^47.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"

namespace btd {

struct VolatilePointer {
  const void* where;  // the word
  uintptr_t value;
  bool is_code;   // it points to instructions
  char into[64];  // "[heap]", "libx.so", "" (a mapping without a name)
};

class VolatileMap {
 public:
  using IsPersistent = bool (*)(uintptr_t address);

  // Looks at each aligned word of the range.  Stores up to `found_max` of those that point to
  // volatile memory, and returns how many there are.  The mappings are read again when a word may
  // lie in one that is new.
  uint64_t find(const void* address, size_t size_bytes, IsPersistent is_persistent,
                VolatilePointer* found, uint32_t found_max);

  void reset_after_fork() { lock_.reset(); }

 private:
  struct Entry {
    uintptr_t first, end;
    bool is_code;
    char name[55];
  };

  const Entry* look_up(uintptr_t address) const;
  void read();
  void add(const char* line, size_t length);
  bool make_room();

  // Protected by lock_.
  Lock lock_;
  Entry* entries_ = nullptr;  // in the order of addresses
  uint32_t count_ = 0;
  uint32_t capacity_ = 0;
};

}  // namespace btd
