// calloc gives zeros where dirty memory was freed, and touches nothing where the memory is fresh.
#include "check.hpp"

using compat::check;

int main() {
  // Fresh memory first: 256 MiB, of which nothing may become resident.
  void* warm = malloc(100000);
  memset(warm, 1, 100000);
  long before_kb = compat::process_status("VmRSS");
  constexpr size_t kFreshBytes = size_t{256} << 20;
  auto* fresh = static_cast<char*>(calloc(kFreshBytes / 64, 64));
  check(fresh != nullptr, "calloc of 256 MiB");
  long grown_kb = compat::process_status("VmRSS") - before_kb;
  if (grown_kb > 40000) fprintf(stderr, "calloc of 256 MiB made %ld KiB resident\n", grown_kb);
  check(grown_kb <= 40000, "calloc of fresh memory touches (nearly) nothing");
  for (size_t i = 0; i < kFreshBytes; i += 4096 * 16) check(fresh[i] == 0, "fresh memory is zero");
  free(fresh);
  for (int round = 0; round < 40; round++) {
    void* blocks[compat::kSizeCount][8];
    for (size_t i = 0; i < compat::kSizeCount; i++) {
      for (void*& block : blocks[i]) {
        block = malloc(compat::kSizes[i]);
        memset(block, 0xFF, compat::kSizes[i]);
      }
    }
    for (auto& row : blocks) {
      for (void* block : row) free(block);
    }
    for (size_t i = 0; i < compat::kSizeCount; i++) {
      for (void*& block : blocks[i]) {
        block = calloc(1, compat::kSizes[i]);
        check(block != nullptr && compat::all_zero(block, compat::kSizes[i]), "calloc gives zeros");
        memset(block, 0xFF, compat::kSizes[i]);
      }
    }
    for (auto& row : blocks) {
      for (void* block : row) free(block);
    }
  }
  int status = compat::finish();
  free(warm);
  return status;
}
