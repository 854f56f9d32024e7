// A second preload whose constructor allocates before ours has run and whose destructor frees after
// ours.
#include "check.hpp"

namespace {

char* block;

__attribute__((constructor(101))) void construct() {
  block = static_cast<char*>(malloc(200000));
  compat::fill(block, 200000, 11);
  free(calloc(3, 7));
}

__attribute__((destructor(101))) void destruct() {
  bool good = block != nullptr && compat::holds(block, 200000, 11);
  free(block);
  free(malloc(100000));
  const char line[] = "early module: contents lost\n";
  if (!good && write(2, line, sizeof(line) - 1) > 0) _exit(97);
}

}  // namespace

extern "C" bool early_block_is_good() {
  return block != nullptr && compat::holds(block, 200000, 11);
}
