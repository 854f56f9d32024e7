// core/base/sys.cpp with system calls that fail when told to, and a clock that can be put forward.
//
// Linked ahead of core, whose own sys.cpp is then never taken from the archive.
#include "tests/crash/faulty_sys.hpp"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <initializer_list>

namespace btd::test {

Faults faults;

}  // namespace btd::test

template <typename... Arguments>
long faulty_syscall(long number, Arguments... arguments) {
  btd::test::Faults& faults = btd::test::faults;
  if (faults.is_in(number)) {
    uint64_t call = ++faults.calls;
    if (call >= faults.first && call - faults.first < faults.count) {
      faults.failed++;
      errno = faults.error;
      return -1;
    }
  }
  return ::syscall(number, arguments...);
}

static int moved_clock_gettime(clockid_t clock, timespec* now) {
  int result = ::clock_gettime(clock, now);
  now->tv_sec += static_cast<time_t>(btd::test::faults.clock_ahead_s);
  return result;
}

#define syscall faulty_syscall
#define clock_gettime moved_clock_gettime
#include "core/base/sys.cpp"
#undef syscall
#undef clock_gettime

namespace btd::test {

bool Faults::is_in(long number) const {
  switch (family) {
    case FaultFamily::kMap:
      return number == SYS_mmap;
    case FaultFamily::kProtect:
      return number == SYS_mprotect;
    case FaultFamily::kAdvise:
      return number == SYS_madvise;
    case FaultFamily::kTruncate:
      return number == SYS_ftruncate;
    case FaultFamily::kAny:
      return number == SYS_mmap || number == SYS_mprotect || number == SYS_madvise ||
             number == SYS_ftruncate;
  }
  return false;
}

}  // namespace btd::test
