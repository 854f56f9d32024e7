// Under ulimit -v: blocks are given until the limit, then NULL with ENOMEM; what was given stays
// whole.
#include <sys/resource.h>

#include "check.hpp"

using compat::check;

int main() {
  rlimit limit;
  getrlimit(RLIMIT_AS, &limit);
  check(limit.rlim_cur != RLIM_INFINITY, "the driver sets ulimit -v");
  constexpr size_t kBlockBytes = 1 << 20;
  static void* blocks[4096];
  size_t count = 0;
  for (; count < 100; count++) {  // 100 MiB fit in any case
    blocks[count] = malloc(kBlockBytes);
    check(blocks[count] != nullptr, "100 MiB fit");
    if (blocks[count] == nullptr) break;
    compat::fill(blocks[count], kBlockBytes, count);
  }
  int status = compat::finish();
  errno = 0;
  for (; count < 4096; count++) {
    blocks[count] = malloc(kBlockBytes);
    if (blocks[count] == nullptr) break;
    compat::fill(blocks[count], kBlockBytes, count);
  }
  printf("%zu MiB\n", count);
  check(count < 4096, "the limit is met");
  check(errno == ENOMEM, "with ENOMEM");
  for (size_t i = 0; i < count; i++)
    check(compat::holds(blocks[i], kBlockBytes, i), "contents at the limit");
  for (size_t i = 0; i < count; i++) free(blocks[i]);
  void* again = malloc(50 * kBlockBytes);
  check(again != nullptr, "freed memory can be had again");
  free(again);
  return status != 0 || compat::failure_count != 0 ? 1 : 0;
}
