// Every way of asking for aligned memory, from sizeof(void*) to 4 MiB; EINVAL for what is no
// alignment.
#include <malloc.h>

#include "check.hpp"

using compat::check;
using compat::opaque;

namespace {

bool is_aligned(const void* block, size_t alignment) {
  return reinterpret_cast<uintptr_t>(block) % alignment == 0;
}

void take_and_verify(size_t alignment) {
  constexpr size_t kCount = compat::kSizeCount;
  void* blocks[3][kCount] = {};
  for (size_t i = 0; i < kCount; i++) {
    size_t size_bytes = compat::kSizes[i];
    check(posix_memalign(&blocks[0][i], alignment, size_bytes) == 0, "posix_memalign");
    blocks[1][i] =
        aligned_alloc(alignment, opaque((size_bytes + alignment - 1) & ~(alignment - 1)));
    blocks[2][i] = memalign(alignment, size_bytes);
    for (auto& kind : blocks) {
      check(kind[i] != nullptr, "an aligned block");
      check(is_aligned(kind[i], alignment), "its alignment");
      if (kind[i] != nullptr) compat::fill(kind[i], size_bytes, i);
    }
  }
  for (size_t i = 0; i < kCount; i++) {
    for (auto& kind : blocks) {
      check(malloc_usable_size(kind[i]) >= compat::kSizes[i], "usable size of an aligned block");
      check(compat::holds(kind[i], compat::kSizes[i], i), "contents of an aligned block");
      // realloc keeps the contents, whatever the alignment was.
      if (i % 3 == 1) {
        kind[i] = realloc(kind[i], compat::kSizes[i] + 5000);
        check(compat::holds(kind[i], compat::kSizes[i], i), "contents after realloc");
      }
      free(kind[i]);
    }
  }
}

}  // namespace

int main() {
  for (size_t alignment = sizeof(void*); alignment <= size_t{4} << 20; alignment *= 2)
    take_and_verify(alignment);
  for (size_t size_bytes : compat::kSizes) {
    void* block = malloc(opaque(size_bytes));
    check(is_aligned(block, size_bytes >= 16 ? 16 : 8), "malloc aligns to 16, as glibc's");
    free(block);
  }
  void* kept = opaque(static_cast<void*>(&kept));
  for (size_t alignment : {size_t{0}, size_t{1}, size_t{2}, size_t{3}, size_t{4}, size_t{7},
                           size_t{24}, size_t{96}, size_t{4097}, SIZE_MAX}) {
    for (size_t size_bytes : {size_t{10}, size_t{100000}}) {
      check(posix_memalign(&kept, opaque(alignment), size_bytes) == EINVAL,
            "posix_memalign refuses with EINVAL");
      check(kept == &kept, "and leaves its argument");
    }
  }
  size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t size_bytes : {size_t{1}, size_t{5000}, size_t{70001}}) {
    void* block = valloc(size_bytes);
    check(block != nullptr && is_aligned(block, page_bytes), "valloc");
    free(block);
    block = pvalloc(size_bytes);
    check(block != nullptr && is_aligned(block, page_bytes), "pvalloc");
    size_t rounded_bytes = (size_bytes + page_bytes - 1) & ~(page_bytes - 1);
    check(malloc_usable_size(block) >= rounded_bytes, "pvalloc rounds up to pages");
    compat::fill(block, rounded_bytes, 1);
    free(block);
  }
  return compat::finish();
}
