// How many instructions does an operation take?  Run under callgrind with two lengths: the
// difference, divided by the difference in length, is exact and the same on every machine.
//
//   instructions pair|thread-pair|calloc|fifo|lifo|remote SIZE COUNT
//
//   pair          malloc(SIZE), a store into the block, free(); COUNT times
//   thread-pair   the same after a second thread has allocated, freed and ended
//   calloc        calloc(1, SIZE), the store, free
//   fifo, lifo    COUNT pairs in batches of 1,000, freed in order or reversed
//   remote        the same, freed in order by another thread
//
// A pair of zero length warms nothing up: both lengths must be past the first refill.

#include "support.hpp"

namespace {

constexpr uint64_t kBatchBlocks = 1000;

// One store.  With it the caller's share of a pair is 9 instructions, as in the numbers that the
// field is compared by: size, call, its jump, store, pointer, call, its jump, count, branch.
[[gnu::always_inline]] inline void use(void* block) { *static_cast<volatile char*>(block) = 1; }

// noinline: one copy of each loop, whatever the compiler thinks of COUNT.
[[gnu::noinline]] void pairs(size_t size_bytes, uint64_t count) {
  do {
    void* block = std::malloc(size_bytes);
    use(block);
    std::free(block);
  } while (--count != 0);
}

[[gnu::noinline]] void calloc_pairs(size_t size_bytes, uint64_t count) {
  do {
    void* block = std::calloc(1, size_bytes);
    use(block);
    std::free(block);
  } while (--count != 0);
}

[[gnu::noinline]] void batches(size_t size_bytes, uint64_t count, bool reversed) {
  static void* blocks[kBatchBlocks];
  for (uint64_t batch = 0; batch < count / kBatchBlocks; batch++) {
    for (void** slot = blocks; slot != blocks + kBatchBlocks; slot++) {
      *slot = std::malloc(size_bytes);
    }
    if (reversed) {
      for (void** slot = blocks + kBatchBlocks; slot != blocks;) std::free(*--slot);
    } else {
      for (void** slot = blocks; slot != blocks + kBatchBlocks; slot++) std::free(*slot);
    }
  }
}

struct Relay {
  void* blocks[kBatchBlocks];
  uint64_t batches;
  pthread_barrier_t turn;
};

[[gnu::noinline]] void* free_batches(void* argument) {
  auto& relay = *static_cast<Relay*>(argument);
  for (uint64_t batch = 0; batch < relay.batches; batch++) {
    pthread_barrier_wait(&relay.turn);
    for (void*& block : relay.blocks) std::free(block);
    pthread_barrier_wait(&relay.turn);
  }
  return nullptr;
}

[[gnu::noinline]] void remote_batches(size_t size_bytes, uint64_t count) {
  static Relay relay;
  relay.batches = count / kBatchBlocks;
  pthread_barrier_init(&relay.turn, nullptr, 2);
  pthread_t thread;
  if (pthread_create(&thread, nullptr, free_batches, &relay) != 0) bench::fail("no thread");
  for (uint64_t batch = 0; batch < relay.batches; batch++) {
    for (void*& block : relay.blocks) block = std::malloc(size_bytes);
    pthread_barrier_wait(&relay.turn);
    pthread_barrier_wait(&relay.turn);
  }
  pthread_join(thread, nullptr);
}

void* other_thread(void* size_bytes) {
  pairs(*static_cast<size_t*>(size_bytes), 100);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) bench::fail("instructions pair|thread-pair|calloc|fifo|lifo|remote SIZE COUNT");
  const char* kind = argv[1];
  size_t size_bytes = std::strtoull(argv[2], nullptr, 0);
  const uint64_t count = std::strtoull(argv[3], nullptr, 0);
  if (count == 0) bench::fail("COUNT must be at least 1");
  if (std::strcmp(kind, "pair") == 0) {
    pairs(size_bytes, count);
  } else if (std::strcmp(kind, "thread-pair") == 0) {
    pthread_t thread;
    if (pthread_create(&thread, nullptr, other_thread, &size_bytes) != 0) bench::fail("no thread");
    pthread_join(thread, nullptr);
    pairs(size_bytes, count);
  } else if (std::strcmp(kind, "calloc") == 0) {
    calloc_pairs(size_bytes, count);
  } else if (std::strcmp(kind, "fifo") == 0 || std::strcmp(kind, "lifo") == 0) {
    batches(size_bytes, count, kind[0] == 'l');
  } else if (std::strcmp(kind, "remote") == 0) {
    remote_batches(size_bytes, count);
  } else {
    bench::fail("unknown kind");
  }
}
