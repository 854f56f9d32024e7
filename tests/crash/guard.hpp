// Runs a piece of code that may crash or hang because it reads a damaged or half-written arena, and
// says so instead of dying with it.
//
// What the code held (mappings, locks of its own) is lost; the caller gives each piece objects of
// its own.
//
// Thread safety: one guarded piece at a time in a process.
#pragma once

#include <unistd.h>

#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <string>

namespace btd::test {

class Guard {
 public:
  // "" when `run` came to its end; else how it failed.
  template <typename Run>
  static std::string run(unsigned seconds_max, Run run) {
    install();
    volatile int signal_number = sigsetjmp(return_point(), 1);
    if (signal_number == 0) {
      alarm(seconds_max);
      run();
      alarm(0);
      return "";
    }
    alarm(0);
    if (signal_number == SIGALRM) return "it hangs";
    return std::string("it dies by ") +
           (signal_number == SIGABRT ? "abort()" : strsignal_name(signal_number));
  }

 private:
  static sigjmp_buf& return_point() {
    static sigjmp_buf point;
    return point;
  }
  static const char* strsignal_name(int number) {
    return number == SIGSEGV ? "SIGSEGV" : number == SIGBUS ? "SIGBUS" : "a signal";
  }
  static void on_signal(int number) { siglongjmp(return_point(), number); }
  static void install() {
    static bool is_installed = false;
    if (is_installed) return;
    is_installed = true;
    for (int number : {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGALRM}) {
      struct sigaction action {};
      action.sa_handler = on_signal;
      action.sa_flags = SA_NODEFER;
      sigaction(number, &action, nullptr);
    }
  }
};

}  // namespace btd::test
