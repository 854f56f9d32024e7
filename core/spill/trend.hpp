// Which extents the program will touch next.
//
// Majority trend, after Hasan Al Maruf and Mosharaf Chowdhury, "Effectively Prefetching Remote
// Memory with Leap" (USENIX ATC 2020), section 4: the step between touches that more than half of
// the last 4 have, or else of the last 8, 16, 32; then up to 8 extents ahead with that step, more
// while they are used, fewer when they were not.  We differ in two things.  A touch is noticed only
// when it faults, so of a run fetched ahead the first extent is left unmapped, and its fault counts
// for the whole run.  And there are 8 histories, each for touches near each other, so that two
// threads that read different places do not hide each other's step.
//
// Thread safety: one thread at a time.
#pragma once

#include <cstdint>

namespace btd {

struct Run {
  uint64_t first;
  int64_t step;
  uint32_t count;  // 0: nothing to fetch
};

class Trend {
 public:
  static constexpr uint32_t kAheadMax = 8;

  // A fault on an extent that nobody expected.
  Run touch(uint64_t extent) noexcept;
  // A fault on the first extent of a run that touch() or this gave; or as touch().
  Run hit(uint64_t extent) noexcept;
  // Only so many of the run are fetched.
  void cut(const Run& run, uint32_t count) noexcept;
  // The first extent of a run was evicted untouched.
  void miss(uint64_t extent) noexcept;

 private:
  static constexpr uint32_t kHistories = 8;
  static constexpr uint32_t kSteps = 32;
  static constexpr int64_t kNear = 64;  // extents, so 4 MiB: touches of one history

  struct History {
    uint64_t last = 0;
    uint64_t used = 0;  // 0: empty
    Run run{};
    int64_t steps[kSteps] = {};
    uint32_t step_count = 0;
    uint32_t ahead = 1;
  };

  History& history_of(uint64_t extent) noexcept;
  History* history_with_run(uint64_t extent) noexcept;
  static int64_t majority(const History& history) noexcept;
  static Run next_run(History& history, int64_t step) noexcept;

  History histories_[kHistories];
  uint64_t clock_ = 0;
};

}  // namespace btd
