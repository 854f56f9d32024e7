// 1,500 threads alive at once, each with the smallest stack that POSIX allows, all allocating.
//
// Static thread-local storage is taken from the thread's stack: a large cache there leaves nothing
// of 16 KiB.
#include <limits.h>
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr int kThreadCount = 1500;
pthread_barrier_t all_alive;
void* exchanged[kThreadCount];

void* run(void* argument) {
  auto index = reinterpret_cast<size_t>(argument);
  void* blocks[24];
  for (int round = 0; round < 3; round++) {
    for (size_t i = 0; i < 24; i++) {
      size_t size_bytes = i == 7 ? 20000 : 16 + (index * 7 + i * 40) % 1500;
      blocks[i] = malloc(size_bytes);
      if (blocks[i] != nullptr) memset(blocks[i], static_cast<int>(index), size_bytes);
      if (blocks[i] == nullptr) compat::failure_count++;
    }
    if (round == 1) {
      exchanged[index] = malloc(100);
      memset(exchanged[index], static_cast<int>(index), 100);
      pthread_barrier_wait(&all_alive);
      // Everyone frees a block of its neighbour.
      auto* block = static_cast<unsigned char*>(exchanged[(index + 1) % kThreadCount]);
      if (block[99] != static_cast<unsigned char>(index + 1 == kThreadCount ? 0 : index + 1))
        compat::failure_count++;
      free(block);
    }
    for (void* block : blocks) free(block);
  }
  return nullptr;
}

}  // namespace

int main() {
  static pthread_t threads[kThreadCount];
  check(pthread_barrier_init(&all_alive, nullptr, kThreadCount) == 0, "pthread_barrier_init");
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  long smallest_bytes = sysconf(_SC_THREAD_STACK_MIN);
  if (smallest_bytes < 16384) smallest_bytes = 16384;
  int error = pthread_attr_setstacksize(&attributes, static_cast<size_t>(smallest_bytes));
  check(error == 0, "pthread_attr_setstacksize");
  for (size_t i = 0; i < kThreadCount; i++) {
    error = pthread_create(&threads[i], &attributes, run, reinterpret_cast<void*>(i));
    if (error != 0) {
      // The others wait for ever at the barrier; say why and end here.
      fprintf(stderr, "pthread_create %zu: %s\n", i, strerror(error));
      _exit(1);
    }
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  return compat::finish();
}
