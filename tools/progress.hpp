// One line on stderr that tells how far long work is, and how long it will still take: after a
// second, and on a terminal only.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace btd::tools {

class Progress {
 public:
  explicit Progress(std::string what);
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  ~Progress();  // removes the line

  // `done` of `total`, in any unit.  Cheap enough for every megabyte.
  void update(uint64_t done, uint64_t total);

 private:
  using Clock = std::chrono::steady_clock;

  std::string what_;
  bool is_terminal_;
  bool is_shown_ = false;
  Clock::time_point started_ = Clock::now();
  Clock::time_point shown_ = started_;
};

}  // namespace btd::tools
