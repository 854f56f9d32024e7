// The small-block loops, over any allocator: malloc itself (small.cpp), libpmemobj (pmemobj.cpp)
// and the collector (gc.cpp), which cannot be preloaded.
//
// Heap must have static `void* allocate(size_t)` and `void release(void*)`.  Each loop returns the
// wall time in ns and sets `operations` to how many malloc+free pairs all threads made.

#pragma once

#include <atomic>

#include "support.hpp"

namespace bench {

struct LoopOptions {
  uint64_t threads;
  uint64_t operations;  // pairs a thread, about
  uint64_t size_min;
  uint64_t size_max;
  uint64_t count;    // blocks live at once a thread
  uint64_t warm_up;  // pairs a thread before the clock starts
  bool reversed;     // batch: free the last block first
};

// malloc, touch, free.
template <typename Heap>
uint64_t pair_loop(const LoopOptions& o, uint64_t& operations) {
  operations = o.operations * o.threads;
  auto pairs = [&](uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
      void* block = Heap::allocate(o.size_min);
      touch(block);
      use(block);
      Heap::release(block);
    }
  };
  std::atomic<uint64_t> start{0};
  pthread_barrier_t warm;
  pthread_barrier_init(&warm, nullptr, static_cast<unsigned>(o.threads));
  const uint64_t elapsed = run_threads(o.threads, [&](uint64_t) {
    if (o.warm_up > 0) {
      pairs(o.warm_up);
      pthread_barrier_wait(&warm);
      start.store(now_ns(), std::memory_order_relaxed);  // the last one's counts
    }
    pairs(o.operations);
  });
  return o.warm_up > 0 ? now_ns() - start : elapsed;
}

// `count` blocks, then all freed in order or reversed.
template <typename Heap>
uint64_t batch_loop(const LoopOptions& o, uint64_t& operations) {
  void** table = own_table<void*>(o.count * o.threads);
  const uint64_t rounds = o.operations / o.count + 1;
  operations = rounds * o.count * o.threads;
  return run_threads(o.threads, [&](uint64_t index) {
    void** blocks = table + index * o.count;
    for (uint64_t round = 0; round < rounds; round++) {
      for (uint64_t i = 0; i < o.count; i++) touch(blocks[i] = Heap::allocate(o.size_min));
      if (o.reversed) {
        for (uint64_t i = o.count; i-- > 0;) Heap::release(blocks[i]);
      } else {
        for (uint64_t i = 0; i < o.count; i++) Heap::release(blocks[i]);
      }
    }
  });
}

// A random one of `count` blocks is replaced by one of another size.
template <typename Heap>
uint64_t mixed_loop(const LoopOptions& o, uint64_t& operations) {
  void** table = own_table<void*>(o.count * o.threads);
  operations = o.operations * o.threads;
  return run_threads(o.threads, [&](uint64_t index) {
    void** blocks = table + index * o.count;
    Random random(index + 1);
    for (uint64_t i = 0; i < o.operations; i++) {
      void*& slot = blocks[random.between(0, o.count - 1)];
      if (slot != nullptr) Heap::release(slot);
      touch(slot = Heap::allocate(random.between(o.size_min, o.size_max)));
    }
    for (uint64_t i = 0; i < o.count; i++) {
      if (blocks[i] != nullptr) Heap::release(blocks[i]);
    }
  });
}

// Larson and Krishnan, "Memory Allocation for Long-Running Server Applications", ISMM 1998: blocks
// outlive the thread that allocated them.  Each of `threads` chains replaces random blocks of its
// table; now and then a thread ends and a new one goes on with the same table.
template <typename Heap>
class Larson {
 public:
  static uint64_t run(const LoopOptions& o, uint64_t& operations) {
    static Chain chains[kThreadsMax];
    void** table = own_table<void*>(o.count * o.threads);
    operations = o.operations / kGenerations * kGenerations * o.threads;
    Random random(7);
    for (uint64_t i = 0; i < o.count * o.threads; i++) {
      touch(table[i] = Heap::allocate(random.between(o.size_min, o.size_max)));
    }
    for (uint64_t i = 0; i < o.threads; i++) chains[i] = {&o, table + i * o.count, 0, i + 1};
    const uint64_t start = now_ns();
    pthread_t first[kThreadsMax];
    for (uint64_t i = 0; i < o.threads; i++) start_thread(first[i], chains[i]);
    for (uint64_t i = 0; i < o.threads; i++) {
      // Each thread returns the next of its chain; the chain's last returns nothing.
      void* next = nullptr;
      pthread_join(first[i], &next);
      while (next != nullptr) {
        const auto thread = reinterpret_cast<pthread_t>(next);
        pthread_join(thread, &next);
      }
    }
    const uint64_t elapsed = now_ns() - start;
    for (uint64_t i = 0; i < o.count * o.threads; i++) Heap::release(table[i]);
    return elapsed;
  }

 private:
  static constexpr uint64_t kGenerations = 20;  // threads a chain, one after another

  struct Chain {
    const LoopOptions* options;
    void** blocks;
    uint64_t generation;
    uint64_t seed;
  };

  static void start_thread(pthread_t& thread, Chain& chain) {
    if (pthread_create(&thread, nullptr, work, &chain) != 0) fail("no thread");
  }

  static void* work(void* argument) {
    Chain& chain = *static_cast<Chain*>(argument);
    const LoopOptions& o = *chain.options;
    Random random(chain.seed + 100 * chain.generation);
    for (uint64_t i = 0; i < o.operations / kGenerations; i++) {
      void*& slot = chain.blocks[random.between(0, o.count - 1)];
      Heap::release(slot);
      touch(slot = Heap::allocate(random.between(o.size_min, o.size_max)));
    }
    if (++chain.generation == kGenerations) return nullptr;
    pthread_t next;
    start_thread(next, chain);
    return reinterpret_cast<void*>(next);
  }
};

inline LoopOptions loop_options(const Options& options) {
  LoopOptions o;
  o.threads = options.number("--threads", 1);
  o.operations = options.number("--operations", 1'000'000);
  o.size_min = options.number("--size", 64);
  o.size_max = options.number("--size-max", o.size_min);
  o.count = options.number("--count", 1000);
  o.warm_up = options.number("--warm-up", 0);
  o.reversed = std::strcmp(options.text("--order", "fifo"), "lifo") == 0;
  if (o.threads == 0 || o.threads > kThreadsMax || o.size_min == 0 || o.count == 0) {
    fail("--threads 1..256, --size and --count at least 1");
  }
  return o;
}

// Runs the loop that the first word names and prints its line.
template <typename Heap>
void run_loop(const Options& options) {
  const LoopOptions o = loop_options(options);
  const char* name = options.word("pair");
  uint64_t operations = 0;
  uint64_t elapsed_ns = 0;
  if (std::strcmp(name, "pair") == 0) {
    elapsed_ns = pair_loop<Heap>(o, operations);
  } else if (std::strcmp(name, "batch") == 0 || std::strcmp(name, "threadtest") == 0) {
    // threadtest (Hoard, ASPLOS 2000) is the batch of 100,000 on every thread.
    elapsed_ns = batch_loop<Heap>(o, operations);
  } else if (std::strcmp(name, "mixed") == 0) {
    elapsed_ns = mixed_loop<Heap>(o, operations);
  } else if (std::strcmp(name, "larson") == 0) {
    elapsed_ns = Larson<Heap>::run(o, operations);
  } else {
    fail("the first word must be pair, batch, threadtest, mixed or larson");
  }
  Result(name)
      .number("threads", static_cast<double>(o.threads))
      .number("size_bytes", static_cast<double>(o.size_min))
      .number("operations", static_cast<double>(operations))
      .number("ns_per_operation",
              static_cast<double>(elapsed_ns) / static_cast<double>(operations));
}

}  // namespace bench
