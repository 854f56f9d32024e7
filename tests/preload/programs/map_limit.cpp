// vm.max_map_count is reached by the program's own mappings: malloc degrades, it does not abort.
#include <sys/mman.h>

#include "check.hpp"

using compat::check;

int main() {
  memset(malloc(100000), 1, 100000);
  int status = compat::finish();
  printf(" \n");
  fflush(stdout);
  size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  // Every second page differs in protection, so each page is a mapping of its own.
  constexpr size_t kPageCount = 300000;
  auto* region = static_cast<char*>(mmap(nullptr, kPageCount * page_bytes, PROT_NONE,
                                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  check(region != MAP_FAILED, "mmap");
  bool is_met = false;
  for (size_t i = 0; i < kPageCount && !is_met; i += 2) {
    is_met = mprotect(region + i * page_bytes, page_bytes, PROT_READ) != 0 && errno == ENOMEM;
  }
  if (!is_met) {
    printf("vm.max_map_count is larger than %zu\n", kPageCount);
    return 77;
  }
  size_t refused_count = 0;
  for (int round = 0; round < 2; round++) {
    static void* blocks[2000];
    for (size_t i = 0; i < 2000; i++) {
      size_t size_bytes = i % 10 == 0 ? 300000 : 100 + i;
      blocks[i] = malloc(size_bytes);
      if (blocks[i] == nullptr) {
        check(errno == ENOMEM, "a refused block says ENOMEM");
        refused_count++;
        continue;
      }
      compat::fill(blocks[i], size_bytes, i);
    }
    for (size_t i = 0; i < 2000; i++) {
      size_t size_bytes = i % 10 == 0 ? 300000 : 100 + i;
      if (blocks[i] != nullptr)
        check(compat::holds(blocks[i], size_bytes, i), "contents at the limit");
      free(blocks[i]);
    }
  }
  munmap(region, kPageCount * page_bytes);
  void* after = malloc(5000000);
  check(after != nullptr, "all is well again when the limit is far");
  free(after);
  return status != 0 || compat::failure_count != 0 ? 1 : 0;
}
