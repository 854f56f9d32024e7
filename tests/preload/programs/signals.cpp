// Signals interrupt malloc all the time; the library installs no handler and leaves the signal mask
// alone.
#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

#include "check.hpp"

using compat::check;

namespace {

std::atomic<long> alarm_count{0};
void on_alarm(int) {
  int saved = errno;
  alarm_count++;
  errno = saved;
}

}  // namespace

int main() {
  {
    compat::Churn churn(1);
    for (int i = 0; i < 2000; i++) churn.step();
  }
  for (int number = 1; number < NSIG; number++) {
    struct sigaction action;
    if (sigaction(number, nullptr, &action) != 0) continue;
    if (number == SIGPIPE || number == SIGINT || number == SIGQUIT || number == SIGHUP)
      continue;  // may be inherited as ignored
    if (action.sa_handler != SIG_DFL) fprintf(stderr, "signal %d has a handler\n", number);
    check(action.sa_handler == SIG_DFL, "no handler is installed");
  }
  sigset_t mask, mask_after;
  sigemptyset(&mask);
  sigaddset(&mask, SIGUSR2);
  sigprocmask(SIG_SETMASK, &mask, nullptr);
  struct sigaction action = {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  sigaction(SIGPROF, &action, nullptr);
  itimerval interval = {{0, 200}, {0, 200}};
  check(setitimer(ITIMER_PROF, &interval, nullptr) == 0, "setitimer");
  auto run = [](void*) -> void* {
    compat::Churn churn(2);
    for (int i = 0; i < 60000; i++) churn.step();
    return nullptr;
  };
  pthread_t threads[2];
  for (pthread_t& thread : threads)
    check(pthread_create(&thread, nullptr, run, nullptr) == 0, "pthread_create");
  for (int i = 0; i < 40; i++) {
    pid_t pid = fork();  // signals interrupt fork's handlers too
    if (pid == 0) {
      compat::Churn churn(3);
      for (int j = 0; j < 50; j++) churn.step();
      _exit(compat::failure_count == 0 ? 0 : 1);
    }
    check(pid > 0, "fork");
    if (pid > 0) compat::check_child(pid, 0, "a child under signals");
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  interval = {};
  setitimer(ITIMER_PROF, &interval, nullptr);
  check(alarm_count > 20, "signals really came");
  sigprocmask(SIG_SETMASK, nullptr, &mask_after);
  check(sigismember(&mask_after, SIGUSR2) == 1 && sigismember(&mask_after, SIGUSR1) == 0 &&
            sigismember(&mask_after, SIGSEGV) == 0 && sigismember(&mask_after, SIGALRM) == 0,
        "the signal mask is what it was");
  return compat::finish();
}
