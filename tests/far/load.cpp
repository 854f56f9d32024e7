// A program that knows nothing of far memory: threads that read and write pages of their blocks, by
// loads and stores and by system calls, and time each operation, while memory nodes are killed.
//
//   far_load BLOCKS THREADS SEED
//
// It says "ready", then answers each line of its input with one line of JSON: what was done since
// it started, and the slowest operation since the last answer.  At the end of the input it checks
// all blocks and answers once more.  Only the driver calls an operation too slow.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "support.hpp"

namespace {

using namespace far_test;

constexpr uint64_t kPagesPerBlock = 20;  // 80 KiB: blocks and extents never agree
constexpr uint64_t kThreadsMax = 16;

uint64_t block_count;
uint64_t thread_count;
uint64_t** blocks;
uint32_t* versions;  // of each page; in near memory

std::atomic<uint64_t> operations{0};
std::atomic<uint64_t> slowest_ns{0};
std::atomic<uint64_t> lost_bytes{0};
std::atomic<uint64_t> failed_calls{0};
std::atomic<bool> is_stopping{false};

uint64_t expected(uint64_t page, uint32_t version, uint64_t word) {
  return mix(page << 40 ^ uint64_t{version} << 10 ^ word);
}

uint64_t* address_of(uint64_t page) {
  return blocks[page / kPagesPerBlock] + page % kPagesPerBlock * kWordsPerPage;
}

void compare(const uint64_t* words, uint64_t page) {
  for (uint64_t i = 0; i < kWordsPerPage; i++)
    if (words[i] != expected(page, versions[page], i)) lost_bytes += sizeof(uint64_t);
}

void write_page(uint64_t* words, uint64_t page) {
  for (uint64_t i = 0; i < kWordsPerPage; i++) words[i] = expected(page, versions[page], i);
}

// The slowest of all threads, since it was taken last.
void note(uint64_t spent_ns) {
  uint64_t known = slowest_ns.load(std::memory_order_relaxed);
  while (spent_ns > known && !slowest_ns.compare_exchange_weak(known, spent_ns)) {
  }
}

// One thread's operations on its own blocks.
class Worker {
 public:
  explicit Worker(uint64_t index, uint64_t seed) : index_(index), random_(seed + index) {
    if (pipe(pipe_) != 0) fail("no pipe");
  }

  void step() {
    const uint64_t random = next_random(random_);
    const uint64_t own = (block_count - index_ + thread_count - 1) / thread_count;
    const uint64_t block = (random >> 8) % own * thread_count + index_;
    const uint64_t page = block * kPagesPerBlock + (random >> 40) % kPagesPerBlock;
    uint64_t* words = address_of(page);
    alignas(kPageBytes) uint64_t copy[kWordsPerPage];
    const uint64_t start = now_ns();
    switch (random % 4) {
      case 0:
        compare(words, page);
        break;
      case 1:
        versions[page]++;
        write_page(words, page);
        break;
      case 2:  // the kernel reads the page
        must_be_page(write(pipe_[1], words, kPageBytes));
        must_be_page(read(pipe_[0], copy, kPageBytes));
        compare(copy, page);
        break;
      default:  // the kernel writes it
        versions[page]++;
        write_page(copy, page);
        must_be_page(write(pipe_[1], copy, kPageBytes));
        must_be_page(read(pipe_[0], words, kPageBytes));
    }
    note(now_ns() - start);
    operations.fetch_add(1, std::memory_order_relaxed);
  }

 private:
  static void must_be_page(ssize_t length) {
    if (length != static_cast<ssize_t>(kPageBytes)) failed_calls++;
  }

  uint64_t index_;
  uint64_t random_;
  int pipe_[2];
};

uint64_t seed;

void* work(void* index) {
  Worker worker(reinterpret_cast<uint64_t>(index), seed);
  while (!is_stopping.load(std::memory_order_relaxed)) worker.step();
  return nullptr;
}

void answer() {
  std::printf(
      "{\"operations\": %llu, \"slowest_us\": %llu, \"failed_calls\": %llu, \"lost_bytes\": "
      "%llu}\n",
      static_cast<unsigned long long>(operations.load()),
      static_cast<unsigned long long>(slowest_ns.exchange(0) / 1000),
      static_cast<unsigned long long>(failed_calls.load()),
      static_cast<unsigned long long>(lost_bytes.load()));
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) fail("far_load BLOCKS THREADS SEED");
  block_count = std::strtoull(argv[1], nullptr, 10);
  thread_count = std::strtoull(argv[2], nullptr, 10);
  seed = std::strtoull(argv[3], nullptr, 10);
  if (thread_count == 0 || thread_count > kThreadsMax || block_count < thread_count)
    fail("more blocks than threads, at most 16 threads");
  const uint64_t pages = block_count * kPagesPerBlock;
  blocks = near_table<uint64_t*>(block_count);
  versions = near_table<uint32_t>(pages);
  for (uint64_t i = 0; i < block_count; i++) {
    blocks[i] = static_cast<uint64_t*>(std::malloc(kPagesPerBlock * kPageBytes));
    if (blocks[i] == nullptr) fail("no memory");
    for (uint64_t page = i * kPagesPerBlock; page < (i + 1) * kPagesPerBlock; page++)
      write_page(address_of(page), page);
  }
  pthread_t threads[kThreadsMax];
  for (uint64_t i = 0; i < thread_count; i++)
    if (pthread_create(&threads[i], nullptr, work, reinterpret_cast<void*>(i)) != 0)
      fail("no thread");
  std::printf("ready\n");
  std::fflush(stdout);
  char line[64];
  while (std::fgets(line, sizeof(line), stdin) != nullptr) answer();
  is_stopping = true;
  for (uint64_t i = 0; i < thread_count; i++) pthread_join(threads[i], nullptr);
  for (uint64_t page = 0; page < pages; page++) compare(address_of(page), page);
  answer();
  return 0;
}
