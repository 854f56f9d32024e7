// dlopen(RTLD_DEEPBIND): a module that would bind to glibc's malloc behind our back frees our
// blocks and gives us its own.
//
// Argument: path of the plugin.
#include <malloc.h>
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

void use_plugin(const char* path, int flags) {
  void* module = dlopen(path, flags);
  if (module == nullptr) fprintf(stderr, "%s\n", dlerror());
  check(module != nullptr, "dlopen");
  if (module == nullptr) return;
  auto take = reinterpret_cast<void* (*)(size_t)>(dlsym(module, "plugin_take"));
  auto give_back = reinterpret_cast<void (*)(void*)>(dlsym(module, "plugin_give_back"));
  auto grow = reinterpret_cast<void* (*)(void*, size_t)>(dlsym(module, "plugin_grow"));
  auto copy = reinterpret_cast<char* (*)(const char*)>(dlsym(module, "plugin_copy"));
  auto read_lines =
      reinterpret_cast<void (*)(char**, size_t*)>(dlsym(module, "plugin_give_back_getline"));
  auto works_alone = reinterpret_cast<int (*)()>(dlsym(module, "plugin_works_alone"));
  check(works_alone() == 0, "the plugin works alone");
  for (size_t size_bytes : compat::kSizes) {
    void* block = take(size_bytes);
    check(malloc_usable_size(block) >= size_bytes, "usable size of the plugin's block");
    compat::fill(block, size_bytes, 1);
    block = realloc(block, size_bytes + 20000);
    check(compat::holds(block, size_bytes, 1), "the plugin's block after our realloc");
    block = grow(block, size_bytes + 50000);
    check(compat::holds(block, size_bytes, 1), "our block after the plugin's realloc");
    free(block);
    give_back(malloc(size_bytes));
    give_back(calloc(1, size_bytes));
    give_back(memalign(4096, size_bytes));
    free(take(size_bytes));
  }
  char* text = copy("across the border");
  check(strcmp(text, "across the border") == 0, "strdup of the plugin");
  free(text);
  size_t line_bytes = 10;
  char* line =
      static_cast<char*>(malloc(line_bytes));  // getline of the plugin's libc grows our block
  read_lines(&line, &line_bytes);
  check(line != nullptr && line_bytes > 10, "getline of the plugin");
  free(line);
  dlclose(module);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return 4;
  use_plugin(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  use_plugin(argv[1], RTLD_LAZY | RTLD_LOCAL | RTLD_DEEPBIND);
  use_plugin(argv[1], RTLD_NOW | RTLD_GLOBAL);
  check(dlopen("/no/such/module.so", RTLD_NOW | RTLD_DEEPBIND) == nullptr, "a missing module");
  const char* error = dlerror();
  check(error != nullptr && strstr(error, "/no/such/module.so") != nullptr, "dlerror names it");
  void* self = dlopen(nullptr, RTLD_NOW);
  check(self != nullptr && dlsym(self, "free") != nullptr, "dlopen(NULL)");
  // dlopen storms from threads.
  auto storm = [](void* path) -> void* {
    for (int i = 0; i < 100; i++) {
      void* module =
          dlopen(static_cast<const char*>(path), RTLD_NOW | (i % 2 == 0 ? RTLD_DEEPBIND : 0));
      if (module == nullptr) continue;
      auto take = reinterpret_cast<void* (*)(size_t)>(dlsym(module, "plugin_take"));
      free(take(30000));
      dlclose(module);
    }
    return nullptr;
  };
  pthread_t threads[3];
  for (pthread_t& thread : threads)
    check(pthread_create(&thread, nullptr, storm, argv[1]) == 0, "pthread_create");
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  return compat::finish();
}
