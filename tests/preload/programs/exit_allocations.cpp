// atexit handlers allocate, and detached threads go on allocating, while the process exits.
#include <pthread.h>

#include "check.hpp"

namespace {

void* old_block;
std::atomic<long> steps{0};

void* churn_for_ever(void* argument) {
  auto* churn = new compat::Churn(reinterpret_cast<uintptr_t>(argument));
  for (;;) {
    churn->step();
    steps++;
  }
  return nullptr;
}

void at_exit_handler() {
  bool good = compat::holds(old_block, 50000, 8);
  free(old_block);
  old_block = malloc(50000);  // for the next handler
  compat::fill(old_block, 50000, 8);
  for (int i = 0; i < 200; i++) {
    compat::Churn churn(static_cast<uint64_t>(i));
    for (int j = 0; j < 10; j++) churn.step();
  }
  // Allocates while stdio and the destructors come after us.
  char* text = nullptr;
  if (asprintf(&text, "%030000d", 1) != 30000) good = false;
  free(text);
  const char line[] = "handler done\n";
  if (write(1, line, sizeof(line) - 1) < 0 || !good || compat::failure_count != 0) _exit(93);
}

}  // namespace

int main() {
  old_block = malloc(50000);
  compat::fill(old_block, 50000, 8);
  for (int i = 0; i < 8; i++) atexit(at_exit_handler);
  on_exit(
      [](int status, void*) {
        if (status != 0) return;
        free(malloc(123456));
      },
      nullptr);
  for (size_t i = 1; i <= 3; i++) {
    pthread_t thread;
    compat::check(pthread_create(&thread, nullptr, churn_for_ever, reinterpret_cast<void*>(i)) == 0,
                  "pthread_create");
    pthread_detach(thread);
  }
  while (steps < 1000) sched_yield();
  exit(compat::finish());
}
