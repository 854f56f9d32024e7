// What do large blocks cost?
//
//   large replace [--threads N] [--operations N]   a random one of 20 blocks of 5..25 MiB is
//                                                  replaced and filled (after mimalloc-bench's
//                                                  malloc-large)
//   large grow [--final-mib N]                     realloc from 64 KiB by a quarter each, pages
//                                                  touched
//   large first-touch [--block-kib N] [--total-mib N]
//                                                  fresh blocks, every page written once, against
//                                                  the same in fresh anonymous memory
//   large sparse [--block-kib N] [--total-mib N]   fresh blocks, of which one byte is written

#include "support.hpp"

namespace {

using bench::kKiB;
using bench::kMiB;
using bench::kPageBytes;

void replace(const bench::Options& options) {
  constexpr uint64_t kBlocks = 20;
  const uint64_t threads = options.number("--threads", 1);
  const uint64_t operations = options.number("--operations", 200);
  void** table = bench::own_table<void*>(kBlocks * threads);
  const uint64_t elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
    void** blocks = table + index * kBlocks;
    bench::Random random(index + 1);
    for (uint64_t i = 0; i < operations; i++) {
      void*& slot = blocks[random.between(0, kBlocks - 1)];
      std::free(slot);
      const uint64_t size_bytes = random.between(5 * kMiB, 25 * kMiB);
      slot = std::malloc(size_bytes);
      bench::touch(slot);
      std::memset(slot, 1, size_bytes);
    }
    for (uint64_t i = 0; i < kBlocks; i++) std::free(blocks[i]);
  });
  bench::Result("large-replace")
      .number("threads", static_cast<double>(threads))
      .number("ns_per_operation",
              static_cast<double>(elapsed_ns) / static_cast<double>(operations * threads));
}

void touch_pages(void* block, uint64_t from_bytes, uint64_t to_bytes) {
  volatile char* bytes = static_cast<volatile char*>(block);
  for (uint64_t at = from_bytes; at < to_bytes; at += kPageBytes) bytes[at] = 1;
}

void grow(const bench::Options& options) {
  const uint64_t final_bytes = options.number("--final-mib", 1024) * kMiB;
  const uint64_t start = bench::now_ns();
  uint64_t size_bytes = 64 * kKiB;
  void* block = std::malloc(size_bytes);
  bench::touch(block);
  uint64_t steps = 0;
  for (; size_bytes < final_bytes; steps++) {
    uint64_t next_bytes = size_bytes + size_bytes / 4 / kPageBytes * kPageBytes;
    if (next_bytes > final_bytes) next_bytes = final_bytes;
    block = std::realloc(block, next_bytes);
    bench::touch(block);
    touch_pages(block, size_bytes, next_bytes);
    size_bytes = next_bytes;
  }
  std::free(block);
  const double elapsed_ns = static_cast<double>(bench::now_ns() - start);
  bench::Result("large-grow")
      .number("final_bytes", static_cast<double>(final_bytes))
      .number("steps", static_cast<double>(steps))
      .number("ns_per_operation", elapsed_ns / static_cast<double>(steps));
}

// Both kinds in turn, block by block, so that the machine's mood meets both alike.
void first_touch(const bench::Options& options) {
  const uint64_t block_bytes = options.number("--block-kib", 1024) * kKiB;
  const uint64_t count = options.number("--total-mib", 256) * kMiB / block_bytes;
  void** blocks = bench::own_table<void*>(count);
  uint64_t heap_ns = 0;
  uint64_t anonymous_ns = 0;
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t start = bench::now_ns();
    blocks[i] = std::malloc(block_bytes);
    bench::touch(blocks[i]);
    touch_pages(blocks[i], 0, block_bytes);
    const uint64_t middle = bench::now_ns();
    void* memory =
        mmap(nullptr, block_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) bench::fail("no anonymous memory");
    touch_pages(memory, 0, block_bytes);
    anonymous_ns += bench::now_ns() - middle;
    heap_ns += middle - start;
  }
  const double pages = static_cast<double>(count * (block_bytes / kPageBytes));
  bench::Result("first-touch")
      .number("block_bytes", static_cast<double>(block_bytes))
      .number("anonymous_ns_per_page", static_cast<double>(anonymous_ns) / pages)
      .number("per_anonymous", static_cast<double>(heap_ns) / static_cast<double>(anonymous_ns))
      .number("ns_per_operation", static_cast<double>(heap_ns) / pages);
  for (uint64_t i = 0; i < count; i++) std::free(blocks[i]);
}

// What is paid for pages that nobody touches.
void sparse(const bench::Options& options) {
  const uint64_t block_bytes = options.number("--block-kib", 2048) * kKiB;
  const uint64_t count = options.number("--total-mib", 256) * kMiB / block_bytes;
  void** blocks = bench::own_table<void*>(count);
  const uint64_t start = bench::now_ns();
  for (uint64_t i = 0; i < count; i++) bench::touch(blocks[i] = std::malloc(block_bytes));
  const double elapsed_ns = static_cast<double>(bench::now_ns() - start);
  bench::Result("sparse")
      .number("block_bytes", static_cast<double>(block_bytes))
      .number("ns_per_operation", elapsed_ns / static_cast<double>(count));
  for (uint64_t i = 0; i < count; i++) std::free(blocks[i]);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* workload = options.word("replace");
  if (std::strcmp(workload, "grow") == 0) {
    grow(options);
  } else if (std::strcmp(workload, "first-touch") == 0) {
    first_touch(options);
  } else if (std::strcmp(workload, "sparse") == 0) {
    sparse(options);
  } else {
    replace(options);
  }
}
