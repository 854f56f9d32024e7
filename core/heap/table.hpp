// DRAM tables that are reserved whole and backed as they are used, so that mlockall() locks only
// what is used.
#pragma once

#include <sys/mman.h>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {

// Makes table[first, first + count) accessible.
template <typename T>
bool back_table(T* table, uint64_t first, uint64_t count, uint64_t page_bytes) {
  uint64_t from = round_down(reinterpret_cast<uintptr_t>(table + first), page_bytes);
  uint64_t to = round_up(reinterpret_cast<uintptr_t>(table + first + count), page_bytes);
  return sys::protect(reinterpret_cast<void*>(from), to - from, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace btd
