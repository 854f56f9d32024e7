// Does the allocator put blocks of two threads into one cache line?  Hoard's cache-thrash and
// cache-scratch (Berger et al., ASPLOS 2000): false sharing shows as a time that grows with
// threads.
//
//   sharing thrash|scratch [--threads N] [--size BYTES] [--operations PAIRS] [--writes N]
//
// thrash: each thread allocates, writes often, frees: does it give one line to two threads
// (active)? scratch: one thread first gives each other a block of its own to free, all from
// neighbouring addresses: does it hand those out again to the thread that freed them (passive)?

#include "support.hpp"

namespace {

void write_often(void* block, uint64_t writes) {
  volatile char* byte = static_cast<volatile char*>(block);
  for (uint64_t i = 0; i < writes; i++) *byte = static_cast<char>(*byte + 1);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* workload = options.word("thrash");
  const uint64_t threads = options.number("--threads", 2);
  const uint64_t size_bytes = options.number("--size", 8);
  const uint64_t operations = options.number("--operations", 20'000);
  const uint64_t writes = options.number("--writes", 1000);
  void** gifts = bench::own_table<void*>(threads);
  const bool scratch = std::strcmp(workload, "scratch") == 0;
  if (scratch) {
    for (uint64_t i = 0; i < threads; i++) bench::touch(gifts[i] = std::malloc(size_bytes));
  }
  const uint64_t elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
    if (scratch) {
      write_often(gifts[index], writes);
      std::free(gifts[index]);
    }
    for (uint64_t i = 0; i < operations; i++) {
      void* block = std::malloc(size_bytes);
      bench::touch(block);
      write_often(block, writes);
      std::free(block);
    }
  });
  // By thread, not in all: without false sharing it does not depend on the number of threads.
  bench::Result(scratch ? "scratch" : "thrash")
      .number("threads", static_cast<double>(threads))
      .number("size_bytes", static_cast<double>(size_bytes))
      .number("operations", static_cast<double>(operations))
      .number("ns_per_operation",
              static_cast<double>(elapsed_ns) / static_cast<double>(operations));
}
