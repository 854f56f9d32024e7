#include "core/spill/follower.hpp"

#include <cstring>

#include "core/base/path_builder.hpp"
#include "core/base/sys.hpp"

namespace btd {

int32_t processor_of(int32_t thread) noexcept {
  char path[64];
  char text[1024];
  PathBuilder builder(path, sizeof(path));
  builder.text("/proc/self/task/").number(static_cast<unsigned>(thread)).text("/stat");
  if (!builder.finish() || sys::read_file(path, text, sizeof(text)) <= 0) return -1;
  // proc(5): the name, in brackets, may hold anything; behind it come the 3rd field and the others,
  // of which the 39th is the processor and the 40th the real-time priority.
  const char* at = std::strrchr(text, ')');
  for (int field = 2; at != nullptr && field < 39; field++) at = std::strchr(at + 1, ' ');
  if (at == nullptr) return -1;
  int32_t processor = 0;
  for (at++; *at >= '0' && *at <= '9'; at++) processor = processor * 10 + (*at - '0');
  return at[0] == ' ' && at[1] == '0' ? processor : -1;
}

void Follower::start() noexcept {
  can_move_ = ::sched_getaffinity(0, sizeof(anywhere_), &anywhere_) == 0;
  processor_ = -1;
  seen_ = lead_ = 0;
}

bool Follower::saw(int32_t thread) noexcept {
  if (lead_ == 0) candidate_ = thread;
  lead_ = candidate_ == thread ? lead_ + 1 : lead_ - 1;
  if (++seen_ < kFaults) return false;
  keep_on(lead_ >= kFaults / 2 ? processor_of(candidate_) : -1);
  seen_ = lead_ = 0;
  return true;
}

void Follower::keep_on(int32_t processor) noexcept {
  if (processor == processor_ || !can_move_) return;
  cpu_set_t wanted = anywhere_;
  if (processor >= 0 && processor < CPU_SETSIZE) {
    CPU_ZERO(&wanted);
    CPU_SET(static_cast<size_t>(processor), &wanted);
  }
  if (::sched_setaffinity(0, sizeof(wanted), &wanted) == 0) processor_ = processor;
}

}  // namespace btd
