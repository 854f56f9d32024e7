// What does the allocator ask of a process as a whole?
//
//   process start [--operations N]                spawn /bin/true (the preload is inherited)
//   process fork [--heap-mib N] [--operations N]  fork with that much live, child leaves at once
//   process fill [--count N] [--size BYTES]       allocate, then die by SIGKILL: an arena to reopen
//   process open [--size BYTES]                   time of the first malloc, which opens the arena

#include <spawn.h>

#include <csignal>

#include "support.hpp"

extern char** environ;

namespace {

int by_value(const void* a, const void* b) {
  const auto x = *static_cast<const uint64_t*>(a);
  const auto y = *static_cast<const uint64_t*>(b);
  return x < y ? -1 : x > y;
}

void wait_for(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child || status != 0) bench::fail("the child failed");
}

// The median: one child that was scheduled late must not count.
void print_median(const char* workload, uint64_t* times_ns, uint64_t count) {
  qsort(times_ns, count, sizeof(*times_ns), by_value);
  bench::Result(workload).number("ns_per_operation", static_cast<double>(times_ns[count / 2]));
}

void start_true(const bench::Options& options) {
  const uint64_t operations = options.number("--operations", 25);
  uint64_t* times_ns = bench::own_table<uint64_t>(operations);
  char name[] = "/bin/true";
  char* const arguments[] = {name, nullptr};
  for (uint64_t i = 0; i < operations; i++) {
    pid_t child = 0;
    const uint64_t start = bench::now_ns();
    if (posix_spawn(&child, name, nullptr, nullptr, arguments, environ) != 0) {
      bench::fail("posix_spawn");
    }
    wait_for(child);
    times_ns[i] = bench::now_ns() - start;
  }
  print_median("start", times_ns, operations);
}

// What the parent waits for (fork returns) is the cost to it; the child's end is not counted.
void fork_with_heap(const bench::Options& options) {
  const uint64_t operations = options.number("--operations", 9);
  const uint64_t block_bytes = 64 * bench::kKiB;
  const uint64_t count = options.number("--heap-mib", 64) * bench::kMiB / block_bytes;
  uint64_t* times_ns = bench::own_table<uint64_t>(operations);
  for (uint64_t i = 0; i < count; i++) {
    void* block = std::malloc(block_bytes);
    bench::touch(block);
    std::memset(block, 1, block_bytes);
  }
  for (uint64_t i = 0; i < operations; i++) {
    const uint64_t start = bench::now_ns();
    const pid_t child = fork();
    if (child < 0) bench::fail("fork");
    if (child == 0) _exit(0);
    times_ns[i] = bench::now_ns() - start;
    wait_for(child);
  }
  print_median("fork", times_ns, operations);
}

void fill(const bench::Options& options) {
  const uint64_t count = options.number("--count", 1'000'000);
  const uint64_t size_bytes = options.number("--size", 64);
  for (uint64_t i = 0; i < count; i++) bench::touch(std::malloc(size_bytes));
  kill(getpid(), SIGKILL);
}

void open_heap(const bench::Options& options) {
  const uint64_t start = bench::now_ns();
  void* block = std::malloc(options.number("--size", 64));
  bench::touch(block);
  const uint64_t elapsed_ns = bench::now_ns() - start;
  bench::Result("open").number("ns_per_operation", static_cast<double>(elapsed_ns));
  std::free(block);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* workload = options.word("start");
  if (std::strcmp(workload, "fork") == 0) {
    fork_with_heap(options);
  } else if (std::strcmp(workload, "fill") == 0) {
    fill(options);
  } else if (std::strcmp(workload, "open") == 0) {
    open_heap(options);
  } else {
    start_true(options);
  }
}
