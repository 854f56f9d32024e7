// 200 forks while three threads churn; every child allocates, frees what it inherited and starts a
// thread of its own.
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr int kForkCount = 200;
constexpr size_t kInheritedCount = 64;
void* inherited[kInheritedCount];
std::atomic<bool> is_over{false};
std::atomic<long> steps{0};

size_t inherited_bytes(size_t i) { return i % 8 == 0 ? 30000 + i * 100 : 20 + i * 30; }

void* churn(void* argument) {
  compat::Churn work(reinterpret_cast<uintptr_t>(argument));
  while (!is_over) {
    work.step();
    steps++;
  }
  return nullptr;
}

void* churn_a_little(void*) {
  compat::Churn work(77);
  for (int i = 0; i < 300; i++) work.step();
  return nullptr;
}

[[noreturn]] void child(int round) {
  compat::failure_count = 0;
  for (size_t i = 0; i < kInheritedCount; i++) {
    check(compat::holds(inherited[i], inherited_bytes(i), i), "an inherited block");
  }
  churn_a_little(nullptr);
  for (size_t i = 0; i < kInheritedCount; i += 2) free(inherited[i]);
  if (round % 4 == 0) {
    pthread_t thread;
    check(pthread_create(&thread, nullptr, churn_a_little, nullptr) == 0,
          "pthread_create in the child");
    pthread_join(thread, nullptr);
  }
  int status = compat::failure_count == 0 ? 0 : 1;
  if (round % 2 == 0) exit(status);
  _exit(status);
}

}  // namespace

int main() {
  for (size_t i = 0; i < kInheritedCount; i++) {
    inherited[i] = malloc(inherited_bytes(i));
    compat::fill(inherited[i], inherited_bytes(i), i);
  }
  pthread_t threads[3];
  for (size_t i = 0; i < 3; i++) {
    check(pthread_create(&threads[i], nullptr, churn, reinterpret_cast<void*>(i + 1)) == 0,
          "pthread_create");
  }
  for (int round = 0; round < kForkCount; round++) {
    long seen = steps;
    while (steps < seen + 20) sched_yield();  // the threads are really at work
    fflush(nullptr);
    pid_t pid = fork();
    check(pid >= 0, "fork");
    if (pid == 0) child(round);
    if (pid > 0) compat::check_child(pid, 0, "a child's checks");
  }
  is_over = true;
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  for (size_t i = 0; i < kInheritedCount; i++) {
    check(compat::holds(inherited[i], inherited_bytes(i), i),
          "the parent's block after all children");
    free(inherited[i]);
  }
  return compat::finish();
}
