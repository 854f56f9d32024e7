// What the processor offers for moving stores out of its caches.
//
// The instructions are written out as bytes or by their old names: the compiler is not asked to
// assume a newer machine than the program may run on.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd::cpu {

// From the one to prefer to the one to avoid, all else being equal.
enum class FlushInstruction : uint8_t {
  kClwb = 0,        // writes the line back, and may keep it in the cache
  kClflushopt = 1,  // writes it back and drops it
  kClflush = 2,     // the same, one after the other
};
inline constexpr size_t kFlushInstructionCount = 3;

// "clwb", ...
const char* name_of(FlushInstruction instruction) noexcept;

// By CPUID.  None on a processor that this file does not know.
bool has(FlushInstruction instruction) noexcept;

#if defined(__x86_64__)

// REQUIRES: has(kInstruction).
template <FlushInstruction kInstruction>
inline void flush_line(const void* address) noexcept {
  auto& line = *static_cast<volatile char*>(const_cast<void*>(address));
  if constexpr (kInstruction == FlushInstruction::kClwb) {
    asm volatile(".byte 0x66; xsaveopt %0" : "+m"(line)::"memory");
  } else if constexpr (kInstruction == FlushInstruction::kClflushopt) {
    asm volatile(".byte 0x66; clflush %0" : "+m"(line)::"memory");
  } else {
    asm volatile("clflush %0" : "+m"(line)::"memory");
  }
}

// Returns once every flush before it has been taken over by the memory, and every store is visible.
inline void store_fence() noexcept { asm volatile("sfence" ::: "memory"); }

#else

template <FlushInstruction>
inline void flush_line(const void*) noexcept {}
inline void store_fence() noexcept { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

#endif

}  // namespace btd::cpu
