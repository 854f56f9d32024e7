// What does a small block cost?  The loops of loops.hpp on malloc and free.
//
//   small pair|batch|threadtest|mixed|larson [--threads N] [--size BYTES] [--size-max BYTES]
//         [--count BLOCKS] [--operations PAIRS] [--order fifo|lifo] [--warm-up PAIRS]

#include "loops.hpp"

namespace {

struct Malloc {
  static void* allocate(size_t size_bytes) { return std::malloc(size_bytes); }
  static void release(void* block) { std::free(block); }
};

}  // namespace

int main(int argc, char** argv) { bench::run_loop<Malloc>(bench::Options(argc, argv)); }
