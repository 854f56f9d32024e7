// Every name by which a program can reach malloc gives memory that every name of free takes.
//
// A name left out would be glibc's: its pointers would meet our free.  So each is called, not only
// looked up.
#include <malloc.h>

#include "check.hpp"

using compat::check;

namespace {

// Looks a name up as the dynamic linker would; names of later glibc versions may be missing without
// a preload.
template <typename F>
F* name(const char* symbol, bool is_needed) {
  void* address = dlsym(RTLD_DEFAULT, symbol);
  bool preloaded = compat::library_state() >= 0;
  if (address == nullptr && (is_needed || preloaded)) {
    fprintf(stderr, "missing: %s\n", symbol);
    check(false, "a name of the malloc family is missing");
  }
  return reinterpret_cast<F*>(address);
}

using Free = void(void*);

void use(void* block, size_t size_bytes, Free* release) {
  check(block != nullptr, "a block");
  check(malloc_usable_size(block) >= size_bytes, "its usable size");
  memset(block, 0x5A, size_bytes);
  release(block);
}

}  // namespace

int main() {
  auto* libc_malloc = name<void*(size_t)>("__libc_malloc", true);
  auto* libc_calloc = name<void*(size_t, size_t)>("__libc_calloc", true);
  auto* libc_realloc = name<void*(void*, size_t)>("__libc_realloc", true);
  auto* libc_memalign = name<void*(size_t, size_t)>("__libc_memalign", true);
  auto* libc_valloc = name<void*(size_t)>("__libc_valloc", true);
  auto* libc_pvalloc = name<void*(size_t)>("__libc_pvalloc", true);
  auto* libc_free = name<Free>("__libc_free", true);
  auto* cfree = name<Free>("cfree", false);
  auto* posix = name<int(void**, size_t, size_t)>("__posix_memalign", false);
  auto* free_sized = name<void(void*, size_t)>("free_sized", false);
  auto* free_aligned_sized = name<void(void*, size_t, size_t)>("free_aligned_sized", false);
  Free* releases[] = {&free, libc_free, cfree == nullptr ? &free : cfree};
  for (size_t size_bytes : compat::kSizes) {
    for (Free* release : releases) {
      use(malloc(size_bytes), size_bytes, release);
      use(libc_malloc(size_bytes), size_bytes, release);
      use(calloc(size_bytes, 1), size_bytes, release);
      use(libc_calloc(1, size_bytes), size_bytes, release);
      use(realloc(nullptr, size_bytes), size_bytes, release);
      use(libc_realloc(nullptr, size_bytes), size_bytes, release);
      use(libc_realloc(malloc(10), size_bytes), size_bytes, release);
      use(realloc(libc_malloc(10), size_bytes), size_bytes, release);
      use(reallocarray(nullptr, size_bytes, 1), size_bytes, release);
      use(memalign(64, size_bytes), size_bytes, release);
      use(libc_memalign(64, size_bytes), size_bytes, release);
      use(aligned_alloc(16, (size_bytes + 15) & ~size_t{15}), size_bytes, release);
      use(valloc(size_bytes), size_bytes, release);
      use(libc_valloc(size_bytes), size_bytes, release);
      use(pvalloc(size_bytes), size_bytes, release);
      use(libc_pvalloc(size_bytes), size_bytes, release);
      void* block = nullptr;
      if (posix != nullptr) {
        check(posix(&block, 128, size_bytes) == 0, "__posix_memalign");
        use(block, size_bytes, release);
      }
      // What libc allocates for the program.
      release(strdup("a string"));
      char* text = nullptr;
      check(asprintf(&text, "%0*d", static_cast<int>(size_bytes % 20000 + 1), 7) > 0, "asprintf");
      release(text);
    }
    if (free_sized != nullptr) free_sized(malloc(size_bytes), size_bytes);
    if (free_aligned_sized != nullptr) {
      size_t rounded_bytes = (size_bytes + 63) & ~size_t{63};
      free_aligned_sized(aligned_alloc(64, rounded_bytes), 64, rounded_bytes);
    }
  }
  void* kept = malloc(100000);
  malloc_trim(0);
  check(mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1, "mallopt of a good value");
  void* again = malloc(2000000);
  check(again != nullptr, "malloc after mallopt");
  free(again);
  int status = compat::finish();
  free(kept);
  return status;
}
