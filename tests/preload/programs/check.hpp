// What the programs of this directory share: checks that print what failed, block patterns, and a
// way to ask whether the library under test is really in.  Every program exits with 0 when its idea
// holds, with or without a preload; plain glibc passes them all.
#pragma once

#include <dlfcn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>

namespace compat {

inline std::atomic<int> failure_count{0};

// Prints through write(2): a check may run in a destructor, a signal handler or a forked child.
inline void check(bool holds, const char* what,
                  std::source_location where = std::source_location::current()) {
  if (holds) return;
  if (failure_count.fetch_add(1) >= 20) return;  // the first failures tell the story
  char line[256];
  int length =
      snprintf(line, sizeof(line), "FAILED line %u: %s (errno %d)\n", where.line(), what, errno);
  if (write(2, line, static_cast<size_t>(length)) < 0) _exit(99);
}

// Hides a value from the optimizer and from the compiler's warnings about misuse, which these
// programs do on purpose.
template <typename T>
T opaque(T value) {
  asm volatile("" : "+r"(value) : : "memory");
  return value;
}

// 1: an arena is open, or will be when it is needed; 0: the library is in, without an arena; -1: no
// library.
inline int library_state() {
  auto active = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "btd_active"));
  return active == nullptr ? -1 : active();
}

// Both sides of every threshold, of the 64-byte granule, of the page and of the frame.
inline constexpr size_t kSizes[] = {1,     8,     16,    24,    48,     64,     100,
                                    256,   1000,  1024,  4096,  10000,  16383,  16384,
                                    16385, 32768, 40000, 65536, 100000, 262144, 1048576};
inline constexpr size_t kSizeCount = sizeof(kSizes) / sizeof(kSizes[0]);

inline uint64_t mix(uint64_t value) {
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// A prefix of a pattern is the pattern of the prefix, so that realloc can be checked.
inline void fill(void* block, size_t size_bytes, uint64_t seed) {
  auto* bytes = static_cast<unsigned char*>(block);
  size_t offset = 0;
  for (; offset + 8 <= size_bytes; offset += 8) {
    uint64_t word = mix(seed + offset);
    memcpy(bytes + offset, &word, 8);
  }
  uint64_t word = mix(seed + offset);
  memcpy(bytes + offset, &word, size_bytes - offset);
}

inline bool holds(const void* block, size_t size_bytes, uint64_t seed) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  size_t offset = 0;
  for (; offset + 8 <= size_bytes; offset += 8) {
    uint64_t word = mix(seed + offset);
    if (memcmp(bytes + offset, &word, 8) != 0) return false;
  }
  uint64_t word = mix(seed + offset);
  return memcmp(bytes + offset, &word, size_bytes - offset) == 0;
}

inline bool all_zero(const void* block, size_t size_bytes) {
  const auto* bytes = static_cast<const unsigned char*>(block);
  for (size_t i = 0; i < size_bytes; i++) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

inline uint64_t next_random(uint64_t& state) { return mix(state += 0x9E3779B97F4A7C15); }

// Allocates, fills, verifies and frees at random; the work that a thread does in the background of
// other tests.
class Churn {
 public:
  explicit Churn(uint64_t seed) : random_(seed) {}
  Churn(const Churn&) = delete;
  Churn& operator=(const Churn&) = delete;
  ~Churn() {
    for (size_t i = 0; i < kSlotCount; i++) drop(i);
  }

  void step() {
    uint64_t random = next_random(random_);
    size_t slot = random % kSlotCount;
    drop(slot);
    // Mostly small, one in eight across the default threshold.
    size_t size_bytes =
        (random >> 8) % 8 == 0 ? 16384 + (random >> 16) % 50000 : 1 + (random >> 16) % 600;
    void* block = malloc(size_bytes);
    check(block != nullptr, "malloc in churn");
    if (block == nullptr) return;
    fill(block, size_bytes, random);
    blocks_[slot] = {block, size_bytes, random};
  }

 private:
  struct Block {
    void* address;
    size_t size_bytes;
    uint64_t seed;
  };
  static constexpr size_t kSlotCount = 64;

  void drop(size_t slot) {
    Block& block = blocks_[slot];
    if (block.address == nullptr) return;
    check(holds(block.address, block.size_bytes, block.seed), "a block's contents in churn");
    free(block.address);
    block.address = nullptr;
  }

  uint64_t random_;
  Block blocks_[kSlotCount] = {};
};

// Waits for a child and checks that it ended with `status`.
inline void check_child(pid_t child, int status, const char* what,
                        std::source_location where = std::source_location::current()) {
  int got = -1;
  pid_t waited;
  do {
    waited = waitpid(child, &got, 0);
  } while (waited < 0 && errno == EINTR);
  bool good = waited == child && WIFEXITED(got) && WEXITSTATUS(got) == status;
  if (!good) {
    char line[128];
    int length = snprintf(line, sizeof(line), "child %d: wait status 0x%x\n", child,
                          static_cast<unsigned>(got));
    if (write(2, line, static_cast<size_t>(length)) < 0) _exit(99);
  }
  check(good, what, where);
}

// The exit status of a program: checks that the arena was really used when the driver expects it.
inline int finish() {
  const char* expected = getenv("COMPAT_EXPECT_ARENA");
  if (expected != nullptr) {
    check(library_state() == atoi(expected), "btd_active() says what the driver expects");
  }
  return failure_count.load() == 0 ? 0 : 1;
}

// First number after `name` in /proc/self/status, in KiB for memory fields.
inline long process_status(const char* name) {
  FILE* file = fopen("/proc/self/status", "r");
  if (file == nullptr) return -1;
  char line[256];
  long value = -1;
  size_t length = strlen(name);
  while (fgets(line, sizeof(line), file) != nullptr) {
    if (strncmp(line, name, length) == 0 && line[length] == ':') {
      value = atol(line + length + 1);
      break;
    }
  }
  fclose(file);
  return value;
}

}  // namespace compat
