// Which system calls of core fail.  Thread safety: none; tests with faults have one thread.
#pragma once

#include <cstdint>

namespace btd::test {

enum class FaultFamily { kMap, kProtect, kAdvise, kTruncate, kAny };

struct Faults {
  FaultFamily family = FaultFamily::kAny;
  uint64_t first = ~uint64_t{0};  // the n-th call of the family from reset() on; from 1
  uint64_t count = 0;             // so many in a row fail
  int error = 0;                  // errno they fail with
  uint64_t calls = 0;
  uint64_t failed = 0;
  uint64_t clock_ahead_s = 0;  // what core takes for the time is so much later

  void arm(FaultFamily of, uint64_t from, uint64_t in_a_row, int error_number) {
    family = of;
    first = from;
    count = in_a_row;
    error = error_number;
    calls = failed = 0;
  }
  void stop() { count = 0; }
  bool is_in(long number) const;
};

extern Faults faults;

}  // namespace btd::test
