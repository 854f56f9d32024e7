#include "core/base/cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace btd::cpu {

const char* name_of(FlushInstruction instruction) noexcept {
  switch (instruction) {
    case FlushInstruction::kClwb:
      return "clwb";
    case FlushInstruction::kClflushopt:
      return "clflushopt";
    default:
      return "clflush";
  }
}

#if defined(__x86_64__)

// Intel's manual, volume 2A, CPUID: leaf 1 EDX bit 19; leaf 7 EBX bits 23 and 24.
bool has(FlushInstruction instruction) noexcept {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (instruction == FlushInstruction::kClflush)
    return __get_cpuid(1, &a, &b, &c, &d) != 0 && (d >> 19 & 1) != 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (b >> (instruction == FlushInstruction::kClwb ? 24 : 23) & 1) != 0;
}

#else

bool has(FlushInstruction) noexcept { return false; }

#endif

}  // namespace btd::cpu
