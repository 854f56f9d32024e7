// The benchmarks of nvm_malloc (Schwalb, Berning, Faust, Dreseler, Plattner, "nvm_malloc: Memory
// Allocation for NVRAM", ADMS 2015) over any heap: the same loops, arguments and output as theirs,
// so that their scripts can read it.
//
//   fastalloc|alloc_free|alloc_free_alloc|linkedlist THREADS MIN_SIZE [MAX_SIZE] [--variant V]
//   recovery ITERATIONS [--variant V]
//
// Output: one integer, the mean over threads of the microseconds that a worker took; of `recovery`
// the microseconds until the heap is open again and its first root found.  Sizes below 64 are
// raised to 64; the first 64 bytes of a block are written.
//
// A block is reserved (it is ours, but a crash takes it back), filled, and activated: from then on
// it is live, and the links that are named with it hold its address, all or nothing.
//
// Backend has, all static:
//   kind        kIsPersistent; Reserved: {void* address; whatever activate() needs}
//   set-up      choose_variant(name, argv); create(options); open(options); close(options)
//   blocks      Reserved reserve(bytes); activate(reserved); release(address)
//   links       activate(reserved, uint64_t* link); to_link(address); from_link(link);
//               persist(address, bytes): what was written into a reserved block is durable
//   roots       activate_root(reserved, name); void* find_root(name)
// Links are words in blocks; only to_link() and from_link() know what they mean.
//
// Variants: `full`, `no-flush`, `no-drain`, `neither`, as far as the backend can leave them out.

#pragma once

#include <spawn.h>

#include <csignal>

#include "support.hpp"

extern char** environ;

namespace bench {

inline constexpr uint64_t kNvmBlocks = 100'000;
inline constexpr uint64_t kNvmLineBytes = 64;
inline constexpr uint64_t kNvmListNodes = 1000;  // of a root of `recovery`
inline constexpr uint64_t kNvmPayloadBytes = 256;
inline constexpr uint64_t kNvmRootsMax = 1000;

struct NvmOptions {
  uint64_t threads;
  uint64_t size_min;
  uint64_t size_max;
};

// Theirs, to the byte.  Links are 0 where nothing hangs.
struct NvmNode {
  uint64_t next;  // towards the first node
  uint64_t prev;  // towards the last one; set by the activation of the node it leads to
  uint64_t data;  // set by the activation of the payload
  uint64_t serial;
  char padding[32];
};
static_assert(sizeof(NvmNode) == kNvmLineBytes);

// Flushed at once: memtier on a file takes the buffer away before stdio's own exit.
inline void print_microseconds(uint64_t elapsed_ns) {
  std::printf("%llu\n", static_cast<unsigned long long>(elapsed_ns / 1000));
  std::fflush(stdout);
}

// The mean over workers of the time each took for itself, in microseconds.
template <typename Body>
void print_worker_mean(uint64_t threads, Body body) {
  static uint64_t times_ns[kThreadsMax];
  run_threads(threads, [&](uint64_t index) {
    const uint64_t start = now_ns();
    body(index);
    times_ns[index] = now_ns() - start;
  });
  uint64_t total_ns = 0;
  for (uint64_t i = 0; i < threads; i++) total_ns += times_ns[i];
  print_microseconds(total_ns / threads);
}

template <typename Backend>
class NvmBenchmark {
 public:
  using Reserved = typename Backend::Reserved;

  static void allocate(void** blocks, const NvmOptions& o, Random& random) {
    for (uint64_t i = 0; i < kNvmBlocks; i++) {
      Reserved reserved = reserve(random.between(o.size_min, o.size_max));
      std::memset(reserved.address, 5, kNvmLineBytes);
      Backend::activate(reserved);
      blocks[i] = reserved.address;
    }
  }

  // `passes`: 1 fastalloc, 2 alloc_free, 3 alloc_free_alloc.
  static void run_allocation(const NvmOptions& o, int passes) {
    void** table = own_table<void*>(kNvmBlocks * o.threads);
    print_worker_mean(o.threads, [&](uint64_t index) {
      void** blocks = table + index * kNvmBlocks;
      Random random(index + 1);
      allocate(blocks, o, random);
      for (uint64_t i = 0; passes > 1 && i < kNvmBlocks; i++) Backend::release(blocks[i]);
      if (passes > 2) allocate(blocks, o, random);
    });
  }

  static void run_linkedlist(const NvmOptions& o) {
    print_worker_mean(o.threads, [&](uint64_t index) {
      Random random(index + 1);
      NvmNode* root = nullptr;
      for (uint64_t i = 0; i < kNvmBlocks; i++) {
        root = add_node(root, nullptr, i, random.between(o.size_min, o.size_max));
      }
    });
  }

  // A process of its own fills the heap and dies by SIGKILL; then it is opened here.
  static void run_recovery(uint64_t iterations, int argc, char** argv) {
    fill_and_die(argc, argv);
    const Options options(argc, argv);
    const uint64_t start = now_ns();
    Backend::open(options);
    const void* first = find_root(0);
    const uint64_t elapsed_ns = now_ns() - start;
    if (first == nullptr) fail("the first root is lost");
    for (uint64_t i = 0; i < iterations; i++) verify(i);
    print_microseconds(elapsed_ns);
  }

  static void fill(uint64_t iterations) {
    for (uint64_t i = 0; i < iterations; i++) {
      char name[32];
      root_name(name, i);
      NvmNode* node = nullptr;
      for (uint64_t n = 0; n < kNvmListNodes; n++) {
        node = add_node(node, name, serial_of(i, n), kNvmPayloadBytes);
      }
    }
    kill(getpid(), SIGKILL);
  }

 private:
  static Reserved reserve(uint64_t size_bytes) {
    Reserved reserved = Backend::reserve(size_bytes);
    if (reserved.address == nullptr) fail("out of memory");
    return reserved;
  }

  static uint64_t serial_of(uint64_t iteration, uint64_t node) {
    return iteration * kNvmListNodes + node + 1;
  }

  static void root_name(char (&name)[32], uint64_t iteration) {
    std::snprintf(name, sizeof(name), "list%llu", static_cast<unsigned long long>(iteration));
  }

  static void* find_root(uint64_t iteration) {
    char name[32];
    root_name(name, iteration);
    return Backend::find_root(name);
  }

  // Hangs a node before `root` and a payload on it; a list's first node, where `name` is given,
  // becomes that root.
  static NvmNode* add_node(NvmNode* root, const char* name, uint64_t serial,
                           uint64_t payload_bytes) {
    Reserved reserved = reserve(sizeof(NvmNode));
    auto* node = static_cast<NvmNode*>(reserved.address);
    *node = {root == nullptr ? 0 : Backend::to_link(root), 0, 0, serial, {}};
    Backend::persist(node, sizeof(*node));
    if (root != nullptr) {
      Backend::activate(reserved, &root->prev);
    } else if (name != nullptr) {
      Backend::activate_root(reserved, name);
    } else {
      Backend::activate(reserved);
    }
    Reserved payload = reserve(payload_bytes);
    // Theirs writes 64 bytes of it; what `recovery` verifies is written whole.
    const uint64_t written_bytes = name == nullptr ? kNvmLineBytes : payload_bytes;
    std::memset(payload.address, static_cast<int>(serial & 0x7F), written_bytes);
    Backend::persist(payload.address, written_bytes);
    Backend::activate(payload, &node->data);
    return node;
  }

  static void fill_and_die(int argc, char** argv) {
    char program[] = "/proc/self/exe";
    char word[] = "recovery-fill";
    if (argc > 30) fail("too many arguments");
    char* arguments[32] = {argv[0], word};
    for (int i = 2; i < argc; i++) arguments[i] = argv[i];
    pid_t child = 0;
    int status = 0;
    if (posix_spawn(&child, program, nullptr, nullptr, arguments, environ) != 0) fail("spawn");
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) ||
        WTERMSIG(status) != SIGKILL) {
      fail("the process that fills the heap did not get to its SIGKILL");
    }
  }

  // Every node of the list in order, and every byte of every payload.
  static void verify(uint64_t iteration) {
    auto* node = static_cast<NvmNode*>(find_root(iteration));
    uint64_t older = 0;
    for (uint64_t n = 0; n < kNvmListNodes; n++) {
      if (node == nullptr) fail("a node is lost");
      const uint64_t serial = serial_of(iteration, n);
      if (node->serial != serial || node->next != older) fail("a node is not what was written");
      auto* payload = static_cast<const char*>(Backend::from_link(node->data));
      if (payload == nullptr) fail("a payload is lost");
      for (uint64_t i = 0; i < kNvmPayloadBytes; i++) {
        if (payload[i] != static_cast<char>(serial & 0x7F)) fail("a payload is damaged");
      }
      older = Backend::to_link(node);
      node = static_cast<NvmNode*>(Backend::from_link(node->prev));
    }
    if (node != nullptr) fail("a list is too long");
  }
};

inline uint64_t nvm_number(int argc, char** argv, int index, uint64_t otherwise) {
  if (argc <= index || argv[index][0] == '-') return otherwise;
  return std::strtoull(argv[index], nullptr, 0);
}

inline NvmOptions nvm_options(int argc, char** argv) {
  NvmOptions o;
  o.threads = nvm_number(argc, argv, 2, 0);
  o.size_min = nvm_number(argc, argv, 3, 0);
  o.size_max = nvm_number(argc, argv, 4, o.size_min);
  if (o.size_min < kNvmLineBytes) o.size_min = kNvmLineBytes;
  if (o.size_max < o.size_min) o.size_max = o.size_min;
  if (o.threads == 0 || o.threads > kThreadsMax) fail("THREADS (1..256) MIN_SIZE [MAX_SIZE]");
  return o;
}

template <typename Backend>
int nvm_main(int argc, char** argv) {
  using Benchmark = NvmBenchmark<Backend>;
  const Options options(argc, argv);
  const char* name = options.word("");
  Backend::choose_variant(options.text("--variant", "full"), argv);
  auto is = [name](const char* word) { return std::strcmp(name, word) == 0; };
  if (is("recovery") || is("recovery-fill")) {
    if constexpr (Backend::kIsPersistent) {
      const uint64_t iterations = nvm_number(argc, argv, 2, 0);
      if (iterations == 0 || iterations > kNvmRootsMax) fail("ITERATIONS: 1..1000");
      if (is("recovery")) {
        Benchmark::run_recovery(iterations, argc, argv);
      } else {
        Backend::create(options);
        Benchmark::fill(iterations);
      }
      Backend::close(options);
      return 0;
    } else {
      fail("recovery needs a heap with roots; malloc has none");
    }
  }
  const NvmOptions o = nvm_options(argc, argv);
  Backend::create(options);
  if (is("fastalloc")) {
    Benchmark::run_allocation(o, 1);
  } else if (is("alloc_free")) {
    Benchmark::run_allocation(o, 2);
  } else if (is("alloc_free_alloc")) {
    Benchmark::run_allocation(o, 3);
  } else if (is("linkedlist")) {
    Benchmark::run_linkedlist(o);
  } else {
    fail("the first word must be fastalloc, alloc_free, alloc_free_alloc, linkedlist or recovery");
  }
  Backend::close(options);
  return 0;
}

}  // namespace bench
