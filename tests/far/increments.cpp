// A program that knows nothing of far memory: three writers count in words of their own, one in
// each page of memory that all of them share, and at the end each count must be what it was told.
//
//   far_increments INCREMENTS MIB SEED
//
// It says "ready" when the memory is there, then one line of JSON: increments, lost, seconds.
#include <pthread.h>

#include <algorithm>
#include <atomic>

#include "support.hpp"

namespace {

using namespace far_test;

constexpr uint64_t kWriters = 3;
constexpr uint64_t kBurstPages = 16;
constexpr uint64_t kBurstsPerPage = 64;  // increments of a page, before the next one is taken
constexpr uint64_t kBurst = kBurstPages * kBurstsPerPage;

volatile uint64_t* words;
uint64_t page_count;
uint64_t increments_each;
uint64_t seed;
uint32_t* expected[kWriters];
std::atomic<uint64_t> done{0};

void* count(void* index) {
  const auto writer = reinterpret_cast<uint64_t>(index);
  uint64_t random = seed + writer;
  for (uint64_t made = 0; made < increments_each; made += kBurst) {
    const uint64_t first = next_random(random) % (page_count / kBurstPages) * kBurstPages;
    for (uint64_t i = 0; i < kBurst; i++) {
      const uint64_t page = first + i % kBurstPages;  // all of an extent's pages again and again
      words[page * kWordsPerPage + writer] = words[page * kWordsPerPage + writer] + 1;
      expected[writer][page]++;
    }
    done.fetch_add(kBurst, std::memory_order_relaxed);
  }
  return nullptr;
}

// A line every ten seconds, of what is left.
void tell(uint64_t start_ns, bool& is_told, uint64_t& told_ns) {
  const uint64_t now = now_ns();
  if (now - told_ns < 10'000'000'000) return;
  told_ns = now;
  is_told = true;
  const uint64_t all = kWriters * increments_each;
  const uint64_t so_far = std::max<uint64_t>(done.load(), 1);
  const double left_s = 1e-9 * static_cast<double>(now - start_ns) *
                        static_cast<double>(all - std::min(all, so_far)) /
                        static_cast<double>(so_far);
  std::fprintf(stderr, "increments: %llu of %llu millions, %.0f s left\n",
               static_cast<unsigned long long>(so_far / 1'000'000),
               static_cast<unsigned long long>(all / 1'000'000), left_s);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) fail("far_increments INCREMENTS MIB SEED");
  die_with_parent();
  increments_each = std::strtoull(argv[1], nullptr, 10) / kWriters + 1;
  page_count = std::strtoull(argv[2], nullptr, 10) * 256;
  seed = std::strtoull(argv[3], nullptr, 10);
  if (page_count < kBurstPages) fail("at least 1 MiB");
  words = static_cast<volatile uint64_t*>(std::calloc(page_count, kPageBytes));
  if (words == nullptr) fail("no memory");
  for (auto& table : expected) table = near_table<uint32_t>(page_count);
  std::printf("ready\n");
  std::fflush(stdout);

  const uint64_t start = now_ns();
  pthread_t threads[kWriters];
  for (uint64_t i = 0; i < kWriters; i++)
    if (pthread_create(&threads[i], nullptr, count, reinterpret_cast<void*>(i)) != 0)
      fail("no thread");
  bool is_told = false;
  uint64_t told_ns = start;
  for (auto& thread : threads) {
    timespec until;
    do {
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_sec++;
      tell(start, is_told, told_ns);
    } while (pthread_timedjoin_np(thread, nullptr, &until) != 0);
  }
  const double seconds = 1e-9 * static_cast<double>(now_ns() - start);

  uint64_t total = 0;
  uint64_t lost = 0;
  for (uint64_t writer = 0; writer < kWriters; writer++)
    for (uint64_t page = 0; page < page_count; page++) {
      const uint64_t found = words[page * kWordsPerPage + writer];
      total += expected[writer][page];
      // A count that is too high is as wrong as one that is too low.
      lost += found < expected[writer][page] ? expected[writer][page] - found
                                             : found - expected[writer][page];
    }
  std::printf("{\"increments\": %llu, \"lost\": %llu, \"seconds\": %.2f}\n",
              static_cast<unsigned long long>(total), static_cast<unsigned long long>(lost),
              seconds);
  return 0;
}
