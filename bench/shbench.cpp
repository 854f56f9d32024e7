// What does a mix of sizes and lifetimes cost?  After MicroQuill's SmartHeap benchmark (sh6bench
// and sh8bench), whose source is not free: mostly small sizes, a few large; most blocks die young,
// some live through many rounds; freed in order, reversed, and, with several threads, by another
// thread.
//
//   shbench [--threads N] [--operations PAIRS]

#include <atomic>

#include "support.hpp"

namespace {

constexpr uint64_t kYoung = 512;  // blocks that live one round
constexpr uint64_t kOld = 4096;   // blocks that live until their place comes up again

uint64_t any_size(bench::Random& random) {
  const uint64_t dice = random.between(0, 99);
  if (dice < 70) return random.between(1, 128);
  if (dice < 95) return random.between(129, 1024);
  return random.between(1025, 8192);
}

struct Table {
  void* young[kYoung];
  std::atomic<void*> old[kOld];
};

void* allocate(bench::Random& random) {
  void* block = std::malloc(any_size(random));
  bench::touch(block);
  return block;
}

// One round: kYoung short-lived blocks, every eighth of which is replaced by a long-lived one.
void round_of(Table& mine, Table& other, bench::Random& random, uint64_t round) {
  for (uint64_t i = 0; i < kYoung; i++) {
    mine.young[i] = allocate(random);
    if (i % 8 != 0) continue;
    // The old block of the next thread's table was often allocated there: a remote free.
    Table& home = i % 16 == 0 ? mine : other;
    void* old = home.old[random.between(0, kOld - 1)].exchange(mine.young[i]);
    mine.young[i] = nullptr;
    if (old != nullptr) std::free(old);
  }
  for (uint64_t i = 0; i < kYoung; i++) {
    const uint64_t place = round % 2 == 0 ? i : kYoung - 1 - i;
    if (mine.young[place] != nullptr) std::free(mine.young[place]);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const uint64_t threads = options.number("--threads", 1);
  const uint64_t rounds = options.number("--operations", 1'000'000) / kYoung + 1;
  Table* tables = bench::own_table<Table>(threads);
  const uint64_t elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
    bench::Random random(index + 1);
    for (uint64_t round = 0; round < rounds; round++) {
      round_of(tables[index], tables[(index + 1) % threads], random, round);
    }
  });
  const double operations = static_cast<double>(rounds * kYoung * threads);
  bench::Result("shbench")
      .number("threads", static_cast<double>(threads))
      .number("operations", operations)
      .number("ns_per_operation", static_cast<double>(elapsed_ns) / operations);
}
