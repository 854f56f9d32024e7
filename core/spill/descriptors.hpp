// What keeps the pager's threads apart from the program: descriptors of their own, no signals.
#pragma once

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/base/sys.hpp"

namespace btd {

// A table of descriptors that only the pager's threads have.  The program may close all of its own
// (daemons do), and sees none of ours.
inline bool own_descriptors() noexcept {
  if (::unshare(CLONE_FILES) != 0) return false;
  // Ours is a copy: without this, pipes and sockets that the program closes would stay open.
  // Standard error stays, for log lines.
  sys::close(0);
  sys::close(1);
  return ::syscall(SYS_close_range, 3U, ~0U, 0U) == 0;
}

// Signals are the program's: none of its handlers may run on our threads, where one that touches
// the window would wait for itself.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

}  // namespace btd
