// Dies by SIGSEGV: a plain null dereference must not be caught by anybody.
#include "check.hpp"

int main() {
  memset(malloc(100000), 1, 100000);
  if (compat::finish() != 0) return 1;
  *compat::opaque(static_cast<volatile int*>(nullptr)) = 1;
  return 2;
}
