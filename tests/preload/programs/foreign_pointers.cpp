// Blocks of the next allocator meet our free, realloc and malloc_usable_size, and are passed on.
#include <malloc.h>

#include "check.hpp"

using compat::check;

int main() {
  void* libc = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
  check(libc != nullptr, "libc is loaded");
  auto libc_malloc = reinterpret_cast<void* (*)(size_t)>(dlsym(libc, "malloc"));
  auto libc_memalign = reinterpret_cast<void* (*)(size_t, size_t)>(dlsym(libc, "memalign"));
  auto libc_free = reinterpret_cast<void (*)(void*)>(dlsym(libc, "free"));
  if (compat::library_state() >= 0) {
    check(reinterpret_cast<void*>(libc_malloc) != dlsym(RTLD_DEFAULT, "malloc"),
          "libc's own malloc was found");
  }
  for (int round = 0; round < 20; round++) {
    for (size_t size_bytes : compat::kSizes) {
      void* block = libc_malloc(size_bytes);
      compat::fill(block, size_bytes, 1);
      check(malloc_usable_size(block) >= size_bytes, "usable size of a foreign block");
      void* grown = realloc(block, size_bytes * 2 + 20000);
      check(compat::holds(grown, size_bytes, 1), "a foreign block after realloc");
      void* shrunk = realloc(grown, size_bytes);
      check(compat::holds(shrunk, size_bytes, 1), "and back");
      free(shrunk);
      free(libc_memalign(4096, size_bytes));
      // A block of ours that crosses the threshold both ways.
      void* ours = malloc(size_bytes);
      compat::fill(ours, size_bytes, 2);
      ours = realloc(ours, size_bytes + 16384);
      ours = realloc(ours, size_bytes);
      check(compat::holds(ours, size_bytes, 2), "our block after realloc across the threshold");
      free(ours);
    }
  }
  // What libc allocated before anybody could interpose, and with its own hands.
  char* name = realpath(".", nullptr);
  check(name != nullptr, "realpath");
  free(name);
  FILE* file = fopen("/proc/self/maps", "r");
  char* line = nullptr;
  size_t line_bytes = 0;
  while (getline(&line, &line_bytes, file) > 0) continue;
  free(line);
  fclose(file);
  libc_free(libc_malloc(50));
  return compat::finish();
}
