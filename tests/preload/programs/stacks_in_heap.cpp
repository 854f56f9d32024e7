// Threads and coroutines run on stacks that malloc returned, and signal handlers too.
#include <pthread.h>
#include <signal.h>
#include <ucontext.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kStackBytes = 256 * 1024;
ucontext_t main_context, other_context;
std::atomic<int> marks{0};

void work() {
  volatile char local[20000];
  for (size_t i = 0; i < sizeof(local); i += 100) local[i] = 1;
  compat::Churn churn(9);
  for (int i = 0; i < 2000; i++) churn.step();
  marks++;
}

void coroutine() {
  work();
  swapcontext(&other_context, &main_context);
}

void on_signal(int) {
  volatile char local[10000];
  for (size_t i = 0; i < sizeof(local); i += 100) local[i] = 1;
  marks++;
}

}  // namespace

int main() {
  void* stack = aligned_alloc(4096, kStackBytes);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  check(pthread_attr_setstack(&attributes, stack, kStackBytes) == 0, "pthread_attr_setstack");
  pthread_t thread;
  auto run = [](void*) -> void* {
    work();
    return nullptr;
  };
  check(pthread_create(&thread, &attributes, run, nullptr) == 0, "pthread_create");
  pthread_join(thread, nullptr);

  getcontext(&other_context);
  other_context.uc_stack.ss_sp = stack;
  other_context.uc_stack.ss_size = kStackBytes;
  makecontext(&other_context, coroutine, 0);
  swapcontext(&main_context, &other_context);

  stack_t alternative = {};
  alternative.ss_sp = malloc(65536);
  alternative.ss_size = 65536;
  check(sigaltstack(&alternative, nullptr) == 0, "sigaltstack");
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  sigaction(SIGUSR1, &action, nullptr);
  raise(SIGUSR1);
  check(marks == 3, "all three ran");
  free(stack);
  return compat::finish();
}
