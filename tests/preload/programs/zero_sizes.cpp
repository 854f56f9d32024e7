// Zero-sized requests give unique pointers that can be freed; free(NULL) does nothing.
#include "check.hpp"

using compat::check;
using compat::opaque;

int main() {
  constexpr int kCount = 200;
  static void* blocks[3 * kCount];
  for (int i = 0; i < kCount; i++) {
    blocks[3 * i] = malloc(opaque(size_t{0}));
    blocks[3 * i + 1] = calloc(opaque(size_t{0}), opaque(size_t{i % 2 == 0 ? 0u : 8u}));
    blocks[3 * i + 2] = realloc(opaque(static_cast<void*>(nullptr)), opaque(size_t{0}));
  }
  for (int i = 0; i < 3 * kCount; i++) {
    check(blocks[i] != nullptr, "a zero-sized request gives a pointer");
    for (int j = 0; j < i; j++) check(blocks[i] != blocks[j], "zero-sized blocks are unique");
  }
  for (void* block : blocks) free(block);
  free(opaque(static_cast<void*>(nullptr)));
  void* other = calloc(opaque(size_t{8}), opaque(size_t{0}));
  check(other != nullptr, "calloc(8, 0)");
  free(other);
  void* aligned = nullptr;
  check(posix_memalign(&aligned, 64, opaque(size_t{0})) == 0, "posix_memalign of 0 bytes");
  free(aligned);
  void* large = malloc(opaque(size_t{100000}));
  void* gone = realloc(large, opaque(size_t{0}));  // glibc frees and returns NULL; so do we
  check(gone == nullptr, "realloc(p, 0) frees, as glibc's");
  void* use = malloc(opaque(size_t{50000}));
  check(use != nullptr, "malloc");
  int status = compat::finish();
  free(use);
  return status;
}
