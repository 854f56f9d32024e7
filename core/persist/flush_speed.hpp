// Which flush instruction is the fastest on this machine: measured, once a process.
//
// What the manuals promise and what a machine does differ: clwb drops the line on some, clflush
// waits on others, and some of them pay double for a line flushed twice running (Dang et al.,
// "NVAlloc", ASPLOS 2022, call it reflush).  So each is timed as malloc and free will use it:
// store, flush, fence, on lines that come round again after kScratchLines others.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include <cstdint>

#include "core/base/cpu.hpp"

namespace btd {

struct FlushSpeed {
  bool is_there;
  uint32_t fresh_ns;  // a store, a flush and a fence, each on another line; 0: not there
};

struct FlushSpeeds {
  FlushSpeed of[cpu::kFlushInstructionCount];  // by cpu::FlushInstruction
  bool is_any;                                 // the machine has one at all
  cpu::FlushInstruction fastest;               // if is_any
};

// Measured by the first call, which takes some 60 us; no memory but its own is touched.
const FlushSpeeds& flush_speeds() noexcept;

// The same for one line, flushed again and again.  For reports; 0: not there.
uint32_t reflush_ns(cpu::FlushInstruction instruction) noexcept;

// The decision: the fastest, but an earlier one (cpu::FlushInstruction) unless a later one is
// faster by an eighth, so that noise does not decide.  A clock that stood still or leapt decides
// nothing: then it is the first that is there.  REQUIRES: one is there.
cpu::FlushInstruction fastest_of(const FlushSpeed (&speeds)[cpu::kFlushInstructionCount]) noexcept;

}  // namespace btd
