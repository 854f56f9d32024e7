// Requests over PTRDIFF_MAX and products that overflow give NULL with errno = ENOMEM; the old block
// stays as it was.
#include <malloc.h>

#include "check.hpp"

using compat::check;
using compat::opaque;

namespace {

void expect_enomem(void* block, const char* what) {
  int error = errno;
  check(block == nullptr, what);
  errno = error;
  check(error == ENOMEM, what);
  errno = 0;
}

}  // namespace

int main() {
  const size_t kTooLarge[] = {
      size_t{PTRDIFF_MAX} + 1, SIZE_MAX,         SIZE_MAX - 15,   SIZE_MAX - 4096,
      SIZE_MAX - 16383,        SIZE_MAX / 2 + 2, size_t{1} << 62, size_t{PTRDIFF_MAX} - 64};
  for (size_t old_bytes : {size_t{100}, size_t{20000}, size_t{3000000}}) {
    void* old = malloc(opaque(old_bytes));
    compat::fill(old, old_bytes, 7);
    for (size_t size_bytes : kTooLarge) {
      errno = 0;
      expect_enomem(malloc(opaque(size_bytes)), "malloc too large");
      expect_enomem(calloc(opaque(size_bytes), opaque(size_t{1})), "calloc too large");
      expect_enomem(calloc(opaque(size_t{1}), opaque(size_bytes)), "calloc too large");
      expect_enomem(realloc(old, opaque(size_bytes)), "realloc too large");
      expect_enomem(realloc(nullptr, opaque(size_bytes)), "realloc of NULL too large");
      expect_enomem(memalign(64, opaque(size_bytes)), "memalign too large");
      expect_enomem(memalign(1 << 20, opaque(size_bytes)), "memalign too large");
      expect_enomem(aligned_alloc(64, opaque(size_bytes & ~size_t{63})), "aligned_alloc too large");
      expect_enomem(valloc(opaque(size_bytes)), "valloc too large");
      expect_enomem(pvalloc(opaque(size_bytes)), "pvalloc too large");
      void* kept = opaque(static_cast<void*>(&old));
      check(posix_memalign(&kept, 64, opaque(size_bytes)) == ENOMEM,
            "posix_memalign returns ENOMEM");
      check(kept == &old, "posix_memalign leaves its argument");
      errno = 0;
    }
    const size_t kFactors[][2] = {
        {SIZE_MAX, 2},     {2, SIZE_MAX},        {size_t{1} << 32, size_t{1} << 32},
        {SIZE_MAX / 3, 4}, {size_t{1} << 63, 2}, {SIZE_MAX, SIZE_MAX}};
    for (auto [count, size_bytes] : kFactors) {
      errno = 0;
      expect_enomem(calloc(opaque(count), opaque(size_bytes)), "calloc overflow");
      expect_enomem(reallocarray(old, opaque(count), opaque(size_bytes)), "reallocarray overflow");
      expect_enomem(reallocarray(nullptr, opaque(count), opaque(size_bytes)),
                    "reallocarray overflow");
    }
    check(compat::holds(old, old_bytes, 7), "a refused realloc leaves the old block untouched");
    check(malloc_usable_size(old) >= old_bytes, "and its size");
    free(old);
  }
  return compat::finish();
}
