// The library can also be loaded with dlopen, late and without a preload: its thread-local storage
// must be small enough.
//
// Argument: path of the library.
#include <pthread.h>

#include "check.hpp"

using compat::check;

int main(int argc, char** argv) {
  if (argc < 2) return 4;
  void* before = malloc(100000);
  auto idle = [](void* library) -> void* {
    free(malloc(50000));
    return library;
  };
  void* library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) fprintf(stderr, "%s\n", dlerror());
  check(library != nullptr, "dlopen of the library");
  auto active = reinterpret_cast<int (*)()>(dlsym(library, "btd_active"));
  check(active != nullptr && active() == 1,
        "btd_active is exported and says 1: an arena can be opened");
  pthread_t thread;
  check(pthread_create(&thread, nullptr, idle, nullptr) == 0, "pthread_create");
  pthread_join(thread, nullptr);
  // Its malloc can be called by name; its blocks and glibc's meet in its free.
  auto take = reinterpret_cast<void* (*)(size_t)>(dlsym(library, "malloc"));
  auto give_back = reinterpret_cast<void (*)(void*)>(dlsym(library, "free"));
  void* block = take(100000);
  check(block != nullptr, "malloc by name");
  memset(block, 1, 100000);
  give_back(block);
  give_back(before);
  dlclose(library);
  free(malloc(100000));
  return compat::failure_count == 0 ? 0 : 1;
}
