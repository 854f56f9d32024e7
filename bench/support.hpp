// What every benchmark program shares: a clock, threads that start together, its own memory, and
// the one JSON line it prints.
//
// The programs use nothing of the C++ library that lives in libstdc++.so: linked "as needed" they
// load libc alone, so the first malloc of the process is the one the benchmark makes, and no
// start-up block of 72 KB hides in the resident memory.  For the same reason tables come from mmap,
// not from the malloc that is being measured.

#pragma once

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bench {

inline constexpr uint64_t kKiB = 1024;
inline constexpr uint64_t kMiB = 1024 * kKiB;
inline constexpr uint64_t kPageBytes = 4096;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "bench: %s\n", what);
  _exit(2);  // not exit(): other threads may still run
}

inline uint64_t now_ns() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// Lets the compiler neither drop the block nor guess what became of it.
inline void use(void* block) { asm volatile("" : : "r"(block) : "memory"); }

// A block counts as used once its first byte was written: malloc(0) is never asked for here.
inline void touch(void* block) {
  if (block == nullptr) fail("out of memory");
  *static_cast<volatile char*>(block) = 1;
}

// A table of the benchmark's own, zero, outside the heap that is measured.
template <typename T>
T* own_table(uint64_t count) {
  void* memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (memory == MAP_FAILED) fail("no memory for a table");
  return static_cast<T*>(memory);
}

// xorshift64*: two or three cycles a number, so that it does not hide the allocator.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return (state_ * 0x2545F4914F6CDD1Du) >> 16;
  }

  // Uniform in [low, high]; no division.
  uint64_t between(uint64_t low, uint64_t high) {
    return low + (((next() & 0xFFFFFFFFu) * (high - low + 1)) >> 32);
  }

 private:
  uint64_t state_;
};

// Command line: "--name value" pairs after an optional leading word.
class Options {
 public:
  Options(int argc, char** argv) : count_(argc), words_(argv) {}

  const char* word(const char* otherwise) const {
    return count_ > 1 && words_[1][0] != '-' ? words_[1] : otherwise;
  }

  const char* text(const char* name, const char* otherwise) const {
    for (int i = 1; i + 1 < count_; i++) {
      if (std::strcmp(words_[i], name) == 0) return words_[i + 1];
    }
    return otherwise;
  }

  uint64_t number(const char* name, uint64_t otherwise) const {
    const char* found = text(name, nullptr);
    return found == nullptr ? otherwise : std::strtoull(found, nullptr, 0);
  }

 private:
  int count_;
  char** words_;
};

inline constexpr uint64_t kThreadsMax = 256;

// Runs body(index) on `count` threads that start together; returns the wall time in ns from the
// start to the end of the last one.  One thread means the calling one, without a second ever
// existing.
template <typename Body>
uint64_t run_threads(uint64_t count, Body body) {
  if (count == 1) {
    const uint64_t start = now_ns();
    body(uint64_t{0});
    return now_ns() - start;
  }
  if (count > kThreadsMax) fail("too many threads");
  struct Worker {
    Body* body;
    pthread_barrier_t* start;
    uint64_t index;
    pthread_t thread;
  };
  static Worker workers[kThreadsMax];
  pthread_barrier_t start_line;
  pthread_barrier_init(&start_line, nullptr, static_cast<unsigned>(count + 1));
  for (uint64_t i = 0; i < count; i++) {
    workers[i] = {&body, &start_line, i, {}};
    auto entry = [](void* argument) -> void* {
      auto* worker = static_cast<Worker*>(argument);
      pthread_barrier_wait(worker->start);
      (*worker->body)(worker->index);
      return nullptr;
    };
    if (pthread_create(&workers[i].thread, nullptr, entry, &workers[i]) != 0) fail("no thread");
  }
  const uint64_t start = now_ns();
  pthread_barrier_wait(&start_line);
  for (uint64_t i = 0; i < count; i++) pthread_join(workers[i].thread, nullptr);
  const uint64_t elapsed = now_ns() - start;
  pthread_barrier_destroy(&start_line);
  return elapsed;
}

// The "Name: N kB" line of a file of /proc/self, in bytes.
inline uint64_t proc_bytes(const char* path, const char* name) {
  static char text[8192];
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) fail("no /proc");
  const ssize_t length = read(file, text, sizeof(text) - 1);
  close(file);
  text[length > 0 ? length : 0] = 0;
  const char* line = std::strstr(text, name);
  return line == nullptr ? 0 : std::strtoull(line + std::strlen(name) + 1, nullptr, 10) * kKiB;
}

// VmHWM rather than ru_maxrss, which also remembers the process that we were before exec.
inline uint64_t status_bytes(const char* name) { return proc_bytes("/proc/self/status", name); }

// Exact: the kernel walks the page tables.  VmRSS is off by up to 64 pages a thread and core.
inline uint64_t resident_bytes() { return proc_bytes("/proc/self/smaps_rollup", "Rss:"); }

// The result: what was run, then named numbers, then what the process cost in all.
class Result {
 public:
  explicit Result(const char* workload) {
    peak_bytes_ = status_bytes("VmHWM:");
    getrusage(RUSAGE_SELF, &usage_);
    std::printf("{\"workload\": \"%s\"", workload);
  }

  Result& number(const char* name, double value) {
    std::printf(", \"%s\": %.6g", name, value);
    return *this;
  }

  ~Result() {
    const double cpu_seconds =
        static_cast<double>(usage_.ru_utime.tv_sec + usage_.ru_stime.tv_sec) +
        1e-6 * static_cast<double>(usage_.ru_utime.tv_usec + usage_.ru_stime.tv_usec);
    std::printf(", \"cpu_seconds\": %.6g, \"page_faults\": %ld, \"peak_rss_bytes\": %llu}\n",
                cpu_seconds, usage_.ru_minflt + usage_.ru_majflt,
                static_cast<unsigned long long>(peak_bytes_));
    std::fflush(stdout);
  }

 private:
  uint64_t peak_bytes_;
  rusage usage_;
};

}  // namespace bench
