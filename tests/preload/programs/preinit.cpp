// Allocates before any constructor of any library has run (.preinit_array), and in constructors and
// destructors.
#include <malloc.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kLargeBytes = 300000;
void* small_block;
void* large_block;
void* zeroed_block;
int preinit_calls = 0;

void before_everything(int, char**, char**) {
  preinit_calls++;
  small_block = malloc(100);
  large_block = malloc(kLargeBytes);
  zeroed_block = calloc(1000, 1);
  compat::fill(small_block, 100, 1);
  compat::fill(large_block, kLargeBytes, 2);
  free(malloc(50));
  void* grown = realloc(malloc(10), 5000);
  free(grown);
  dlsym(RTLD_DEFAULT, "no_such_symbol");  // dlerror's text is allocated
}

__attribute__((section(".preinit_array"), used)) void (*entry)(int, char**,
                                                               char**) = before_everything;

void* constructor_block;
__attribute__((constructor)) void construct() {
  constructor_block = malloc(70000);
  compat::fill(constructor_block, 70000, 3);
}

__attribute__((destructor)) void destruct() {
  bool good = compat::holds(constructor_block, 70000, 3);
  free(constructor_block);
  void* late = malloc(80000);
  memset(late, 1, 80000);
  free(late);
  if (!good) _exit(98);
}

}  // namespace

int main() {
  check(preinit_calls == 1, "the preinit function ran");
  check(compat::holds(small_block, 100, 1), "an early small block");
  check(compat::holds(large_block, kLargeBytes, 2), "an early large block");
  check(compat::all_zero(zeroed_block, 1000), "an early zeroed block");
  check(malloc_usable_size(small_block) >= 100, "usable size of an early block");
  small_block = realloc(small_block, 60000);
  check(compat::holds(small_block, 100, 1), "an early block after realloc");
  free(small_block);
  free(large_block);
  free(zeroed_block);
  return compat::finish();
}
