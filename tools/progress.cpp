#include "tools/progress.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

namespace btd::tools {

using std::chrono::duration;
using std::chrono::milliseconds;
using std::chrono::seconds;

Progress::Progress(std::string what)
    : what_(std::move(what)), is_terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (is_shown_) fmt::print(stderr, "\r\033[K");
}

void Progress::update(uint64_t done, uint64_t total) {
  if (!is_terminal_ || total == 0 || done == 0) return;
  Clock::time_point now = Clock::now();
  if (now - started_ < seconds(1) || (is_shown_ && now - shown_ < milliseconds(200))) return;
  double share = static_cast<double>(done) / static_cast<double>(total);
  double left_s = duration<double>(now - started_).count() * (1 - share) / share;
  fmt::print(stderr, "\r{}: {:.0f} %, {:.0f} s left\033[K", what_, share * 100, left_s);
  std::fflush(stderr);
  is_shown_ = true;
  shown_ = now;
}

}  // namespace btd::tools
