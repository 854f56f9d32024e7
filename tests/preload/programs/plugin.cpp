// A shared module that allocates and frees on its own and across its border, and whose own libc
// calls allocate.
#include <malloc.h>

#include "check.hpp"

extern "C" {

void* plugin_take(size_t size_bytes) {
  void* block = malloc(size_bytes);
  if (block != nullptr) memset(block, 0x11, size_bytes);
  return block;
}

void plugin_give_back(void* block) { free(block); }

void* plugin_grow(void* block, size_t size_bytes) { return realloc(block, size_bytes); }

char* plugin_copy(const char* text) { return strdup(text); }

void plugin_give_back_getline(char** line, size_t* line_bytes) {
  FILE* file = fopen("/proc/self/status", "r");
  if (file == nullptr) return;
  while (getline(line, line_bytes, file) > 0) continue;
  fclose(file);
}

int plugin_works_alone() {
  for (size_t i = 0; i < 2000; i++) {
    void* blocks[3] = {malloc(i * 20), calloc(i + 1, 10), nullptr};
    if (posix_memalign(&blocks[2], 64, i * 15 + 1) != 0) return 1;
    blocks[0] = realloc(blocks[0], i * 31 + 1);
    for (void* block : blocks) {
      if (block == nullptr || malloc_usable_size(block) == 0) return 2;
      memset(block, 1, malloc_usable_size(block));
      free(block);
    }
  }
  return 0;
}

}  // extern "C"
