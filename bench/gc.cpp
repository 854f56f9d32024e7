// What does the Boehm collector ask for the same loops, with explicit frees?  It is the peer of
// those who leave freeing to a collector; small.cpp's options, without "larson" and its short-lived
// threads.

#define GC_THREADS
#include <gc.h>

#include "loops.hpp"

namespace {

struct Collected {
  static void* allocate(size_t size_bytes) { return GC_MALLOC_UNCOLLECTABLE(size_bytes); }
  static void release(void* block) { GC_FREE(block); }
};

}  // namespace

int main(int argc, char** argv) {
  GC_INIT();
  bench::run_loop<Collected>(bench::Options(argc, argv));
}
