// What the programs of this directory share: numbers that look random, a clock, tables outside the
// heap that is tested, and an end with a message.
#pragma once

#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace far_test {

inline constexpr uint64_t kPageBytes = 4096;
inline constexpr uint64_t kWordsPerPage = kPageBytes / sizeof(uint64_t);

inline uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

inline uint64_t next_random(uint64_t& state) { return mix(state += 0x9E3779B97F4A7C15); }

inline uint64_t now_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "far test: %s\n", what);
  _exit(3);  // not exit(): other threads still run
}

// Some of the programs have no end of their own.
inline void die_with_parent() {
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) fail("prctl");
}

// Zero, and never far: what is expected must not lie in the memory that is tested.
template <typename T>
T* near_table(uint64_t count) {
  void* memory =
      mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("no memory for a table");
  return static_cast<T*>(memory);
}

}  // namespace far_test
