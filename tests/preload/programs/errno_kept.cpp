// free keeps errno, whatever it has to do: caches that flush, extents that are given back, blocks
// of other threads.
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kCount = 3000;
void* blocks[kCount];

void* free_all(void*) {
  for (size_t i = 0; i < kCount; i++) {
    errno = 4242;
    free(blocks[i]);
    check(errno == 4242, "free keeps errno");
  }
  errno = 4242;
  free(nullptr);
  check(errno == 4242, "free(NULL) keeps errno");
  return nullptr;
}

}  // namespace

int main() {
  for (int round = 0; round < 4; round++) {
    for (size_t i = 0; i < kCount; i++) {
      size_t size_bytes = i % 50 == 0 ? 3000000 : compat::kSizes[i % (compat::kSizeCount - 3)];
      errno = 77;
      blocks[i] = malloc(size_bytes);
      check(blocks[i] != nullptr && errno == 77, "a good malloc leaves errno");
    }
    if (round % 2 == 0) {
      free_all(nullptr);
    } else {
      pthread_t thread;
      check(pthread_create(&thread, nullptr, free_all, nullptr) == 0, "pthread_create");
      pthread_join(thread, nullptr);
    }
  }
  return compat::finish();
}
