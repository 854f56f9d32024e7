// Two places where the compiler spends an instruction on a value that nobody asks for.  A pair may
// take 54; these are three of them.
#pragma once

#include <cstddef>

#include "core/base/attributes.hpp"

namespace btd {

// Moves a pointer in memory by one instruction, where the compiler would take two to have the new
// value in a register too.
template <typename T>
BTD_ALWAYS_INLINE void add_in_place(T*& pointer, ptrdiff_t count) noexcept {
#if defined(__x86_64__)
  asm("addq %1, %0" : "+m"(pointer) : "er"(count * static_cast<ptrdiff_t>(sizeof(T))) : "cc");
#else
  pointer += count;
#endif
}

// The compiler forgets how the value came about.
template <typename T>
BTD_ALWAYS_INLINE void hide_origin(T& value) noexcept {
  asm("" : "+r"(value));
}

}  // namespace btd
