// realloc keeps the contents up and down, across size classes, across the threshold, beside
// neighbours.
#include <malloc.h>

#include "check.hpp"

using compat::check;

int main() {
  for (size_t from : compat::kSizes) {
    for (size_t to : compat::kSizes) {
      void* block = malloc(from);
      void* neighbour = malloc(from);
      compat::fill(block, from, from);
      compat::fill(neighbour, from, from + 1);
      block = realloc(block, to);
      check(block != nullptr && malloc_usable_size(block) >= to, "realloc");
      size_t common_bytes = from < to ? from : to;
      check(compat::holds(block, common_bytes, from), "contents after realloc");
      compat::fill(block, to, 99);
      check(compat::holds(neighbour, from, from + 1), "the neighbour is untouched");
      free(block);
      free(neighbour);
    }
  }
  // A block that grows little by little, as vectors and buffers do.
  char* growing = nullptr;
  for (size_t size_bytes = 1; size_bytes < 6000000; size_bytes += size_bytes / 3 + 1) {
    growing = static_cast<char*>(realloc(growing, size_bytes));
    check(growing != nullptr, "a growing block");
    growing[size_bytes - 1] = 'x';
    growing[size_bytes / 2] = 'y';
    check(growing[size_bytes / 2] == 'y', "a growing block's contents");
  }
  int status = compat::finish();
  free(growing);
  return status;
}
