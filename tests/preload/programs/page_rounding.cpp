// Large sizes are rounded to pages, not to the next of four classes a doubling: 540 MB must not
// become 671 MB.
#include <malloc.h>

#include "check.hpp"

using compat::check;

int main() {
  size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t size_bytes = 40000; size_bytes < size_t{600} << 20;
       size_bytes += size_bytes / 3 + 12345) {
    void* block = malloc(size_bytes);
    check(block != nullptr, "a large block");
    size_t usable_bytes = malloc_usable_size(block);
    if (usable_bytes < size_bytes || usable_bytes - size_bytes > 2 * page_bytes) {
      fprintf(stderr, "%zu bytes asked, %zu usable\n", size_bytes, usable_bytes);
      check(false, "a large size is rounded to pages");
    }
    static_cast<char*>(block)[0] = 1;
    static_cast<char*>(block)[usable_bytes - 1] = 1;
    free(block);
  }
  return compat::finish();
}
