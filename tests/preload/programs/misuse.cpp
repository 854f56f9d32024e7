// Every wrong free must be reported.  Argument: which one; the driver reads the reports and the way
// we end.
//
// "every-size" repeats a double free for many sizes and expects one report each (ON_MISUSE=ignore);
// it prints the count that the driver must find.
#include <malloc.h>
#include <pthread.h>

#include "check.hpp"

using compat::check;
using compat::opaque;

namespace {

void* free_in_thread(void* block) {
  free(block);
  return nullptr;
}

void free_elsewhere(void* block) {
  pthread_t thread;
  pthread_create(&thread, nullptr, free_in_thread, block);
  pthread_join(thread, nullptr);
}

// After ignored misuse nobody may own a block twice.
void check_no_two_owners(size_t size_bytes) {
  constexpr size_t kCount = 3000;
  static unsigned char* blocks[kCount];
  for (size_t i = 0; i < kCount; i++) {
    blocks[i] = static_cast<unsigned char*>(malloc(size_bytes));
    memcpy(blocks[i], &i, sizeof(i));
  }
  for (size_t i = 0; i < kCount; i++) {
    check(memcmp(blocks[i], &i, sizeof(i)) == 0, "no block has two owners");
    free(blocks[i]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 2 ? argv[1] : "";
  size_t size_bytes = argc > 2 ? strtoul(argv[2], nullptr, 10) : 100;
  auto* block = static_cast<char*>(malloc(size_bytes));
  auto* neighbour = static_cast<char*>(malloc(size_bytes));
  memset(block, 1, size_bytes);
  printf("%p\n", static_cast<void*>(block));  // the report must name it
  fflush(stdout);
  if (compat::finish() != 0) return 3;
  if (strcmp(mode, "double") == 0) {
    free(block);
    free(opaque(block));
  } else if (strcmp(mode, "double-later") == 0) {
    free(block);
    for (int i = 0; i < 100; i++) free(malloc(size_bytes + 5000));
    free(neighbour);
    neighbour = nullptr;
    free(opaque(block));
  } else if (strcmp(mode, "double-by-thread") == 0) {
    free_elsewhere(block);
    free_elsewhere(opaque(block));
  } else if (strcmp(mode, "double-across-threads") == 0) {
    free_elsewhere(block);
    free(opaque(block));
  } else if (strcmp(mode, "interior") == 0) {
    free(opaque(block) + 16);
  } else if (strcmp(mode, "interior-aligned") == 0) {
    free(opaque(block) + size_bytes / 2 / 64 * 64);
  } else if (strcmp(mode, "unaligned") == 0) {
    free(opaque(block) + 1);
  } else if (strcmp(mode, "realloc-freed") == 0) {
    free(block);
    void* grown = realloc(opaque(block), size_bytes * 2);
    if (grown != nullptr && grown != block) free(grown);
  } else if (strcmp(mode, "realloc-interior") == 0) {
    void* grown = realloc(opaque(block) + 32, size_bytes * 2);
    (void)grown;
  } else if (strcmp(mode, "delete-twice") == 0) {
    ::operator delete(block);
    ::operator delete(opaque(block));
  } else if (strcmp(mode, "never-given") == 0) {
    // Inside the arena, but far beyond what was ever handed out.
    free(opaque(block) + (size_t{256} << 20));
  } else if (strcmp(mode, "every-size") == 0) {
    int count = 0;
    for (size_t i = 1; i < 3000000; i += i / 7 + 1) {
      auto* twice = static_cast<char*>(malloc(i));
      free(twice);
      free(opaque(twice));
      count++;
      if (i >= 64) {
        twice = static_cast<char*>(malloc(i));
        free(opaque(twice) + i / 2);
        free(twice);
        count++;
      }
    }
    check_no_two_owners(64);
    check_no_two_owners(300);
    check_no_two_owners(20000);
    printf("misuses %d\n", count);
  } else {
    return 4;
  }
  // Reached with ON_MISUSE=ignore only.
  check_no_two_owners(size_bytes < 20000 ? size_bytes : 20000);
  free(neighbour);
  printf("survived\n");
  return compat::failure_count == 0 ? 0 : 1;
}
