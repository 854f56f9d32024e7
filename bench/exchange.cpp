// What does it cost to free a block that another thread allocated?
//
//   exchange producer [--threads N] [--size BYTES] [--size-max BYTES] [--operations PAIRS]
//     half the threads allocate, the other half frees, over a ring a pair of threads
//   exchange xmalloc ...
//     after Lever and Boreham's xmalloc: every thread allocates bags of 120 blocks, hangs its bag
//     into a shared place and empties the bag that it finds there

#include <sched.h>

#include <atomic>

#include "support.hpp"

namespace {

constexpr uint64_t kRingSlots = 1024;
constexpr uint64_t kBagBlocks = 120;

struct alignas(128) Ring {
  std::atomic<void*> slots[kRingSlots];
};

struct Bag {
  void* blocks[kBagBlocks];
};

struct Sizes {
  uint64_t min;
  uint64_t max;
};

void* allocate(bench::Random& random, Sizes sizes) {
  void* block = std::malloc(random.between(sizes.min, sizes.max));
  bench::touch(block);
  return block;
}

void produce(Ring& ring, uint64_t operations, Sizes sizes, uint64_t seed) {
  bench::Random random(seed);
  for (uint64_t i = 0; i < operations; i++) {
    void* block = allocate(random, sizes);
    std::atomic<void*>& slot = ring.slots[i % kRingSlots];
    while (slot.load(std::memory_order_acquire) != nullptr) sched_yield();
    slot.store(block, std::memory_order_release);
  }
}

void consume(Ring& ring, uint64_t operations) {
  for (uint64_t i = 0; i < operations; i++) {
    std::atomic<void*>& slot = ring.slots[i % kRingSlots];
    void* block = slot.load(std::memory_order_acquire);
    while (block == nullptr) {
      sched_yield();
      block = slot.load(std::memory_order_acquire);
    }
    slot.store(nullptr, std::memory_order_release);
    std::free(block);
  }
}

// A thread has two bags' worth of memory for each place: the one hung up and the one it fills.
void exchange_bags(std::atomic<Bag*>* places, uint64_t place_count, Bag* bag, uint64_t bags,
                   Sizes sizes, uint64_t seed) {
  bench::Random random(seed);
  for (uint64_t round = 0; round < bags; round++) {
    for (void*& block : bag->blocks) block = allocate(random, sizes);
    bag = places[random.between(0, place_count - 1)].exchange(bag, std::memory_order_acq_rel);
    for (void*& block : bag->blocks) {
      std::free(block);
      block = nullptr;
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* workload = options.word("producer");
  const uint64_t threads = options.number("--threads", 2);
  const Sizes sizes = {options.number("--size", 64),
                       options.number("--size-max", options.number("--size", 64))};
  uint64_t operations = options.number("--operations", 1'000'000);
  uint64_t elapsed_ns = 0;
  if (std::strcmp(workload, "producer") == 0) {
    if (threads % 2 != 0) bench::fail("producer needs an even number of threads");
    Ring* rings = bench::own_table<Ring>(threads / 2);
    elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
      if (index % 2 == 0) {
        produce(rings[index / 2], operations, sizes, index + 1);
      } else {
        consume(rings[index / 2], operations);
      }
    });
    operations *= threads / 2;
  } else {
    auto* places = bench::own_table<std::atomic<Bag*>>(threads);
    Bag* bags = bench::own_table<Bag>(2 * threads);
    for (uint64_t i = 0; i < threads; i++) places[i].store(&bags[threads + i]);
    const uint64_t rounds = operations / kBagBlocks + 1;
    elapsed_ns = bench::run_threads(threads, [&](uint64_t index) {
      exchange_bags(places, threads, &bags[index], rounds, sizes, index + 1);
    });
    operations = rounds * kBagBlocks * threads;
  }
  bench::Result(workload)
      .number("threads", static_cast<double>(threads))
      .number("size_bytes", static_cast<double>(sizes.min))
      .number("operations", static_cast<double>(operations))
      .number("ns_per_operation",
              static_cast<double>(elapsed_ns) / static_cast<double>(operations));
}
