// malloc_usable_size is at least what was asked for, stable, and every byte of it may be written.
#include <malloc.h>

#include "check.hpp"

using compat::check;
using compat::opaque;

int main() {
  constexpr size_t kCount = 1200;
  static void* blocks[kCount];
  static size_t usable_bytes[kCount];
  for (size_t i = 0; i < kCount; i++) {
    size_t size_bytes = i < 600 ? i * 3 : (i - 599) * 611;
    blocks[i] = i % 5 == 0 ? calloc(1, size_bytes) : malloc(size_bytes);
    usable_bytes[i] = malloc_usable_size(opaque(blocks[i]));
    check(usable_bytes[i] >= size_bytes, "usable size covers the request");
    compat::fill(opaque(blocks[i]), usable_bytes[i], i);  // systemd does this
  }
  for (size_t i = 0; i < kCount; i++) {
    check(malloc_usable_size(opaque(blocks[i])) == usable_bytes[i], "usable size is stable");
    check(compat::holds(opaque(blocks[i]), usable_bytes[i], i), "every usable byte is ours");
  }
  for (size_t i = 0; i < kCount; i += 2) free(blocks[i]);
  for (size_t i = 1; i < kCount; i += 2) {
    check(compat::holds(opaque(blocks[i]), usable_bytes[i], i), "also after the neighbours went");
    // A realloc to the usable size keeps all of it.
    blocks[i] = realloc(blocks[i], usable_bytes[i] + 1000);
    check(compat::holds(blocks[i], usable_bytes[i], i),
          "realloc copies every usable byte that is asked for");
    free(blocks[i]);
  }
  check(malloc_usable_size(nullptr) == 0, "usable size of NULL is 0");
  return compat::finish();
}
