// Several threads fork at once, while others churn; the child of a thread goes on with its blocks.
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

void* fork_often(void* argument) {
  auto seed = reinterpret_cast<uintptr_t>(argument);
  for (int i = 0; i < 25; i++) {
    compat::Churn churn(seed * 1000 + static_cast<uint64_t>(i));
    for (int j = 0; j < 200; j++) churn.step();
    void* mine = malloc(50000);
    compat::fill(mine, 50000, seed);
    pid_t pid = fork();
    if (pid == 0) {
      compat::failure_count = 0;
      for (int j = 0; j < 200; j++) churn.step();
      check(compat::holds(mine, 50000, seed), "the forking thread's block");
      free(mine);
      _exit(compat::failure_count == 0 ? 0 : 1);
    }
    check(pid > 0, "fork");
    if (pid > 0) compat::check_child(pid, 0, "the child of a thread");
    check(compat::holds(mine, 50000, seed), "the block in the parent");
    free(mine);
  }
  return nullptr;
}

}  // namespace

int main() {
  pthread_t threads[3];
  for (size_t i = 0; i < 3; i++) {
    check(pthread_create(&threads[i], nullptr, fork_often, reinterpret_cast<void*>(i + 1)) == 0,
          "pthread_create");
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  return compat::finish();
}
