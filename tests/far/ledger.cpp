// Keeps blocks under a root through many lives, each ended by SIGKILL, and a ledger outside the
// arena that says what was stored, so that the next life knows what it must find.
//
//   far_ledger LEDGER COUNT | checks all blocks of the last life (or makes them), says so in one
//                             line of JSON, and works on them until it is killed
//   far_ledger LEDGER COUNT end | checks them, forgets them and ends well
//
// A thread notes the round that it begins, stores the block in ascending order, and notes that it
// is done.  So a block is of the round that was done, or of the next one up to some word and of the
// done one behind it; whatever else it is, is a lost or an old extent.
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

#include <atomic>

#include "core/api/bartender.h"
#include "support.hpp"

namespace {

using namespace far_test;

constexpr uint64_t kWordsPerBlock = 12'800;  // 100 KiB
constexpr uint64_t kCountMax = 4096;
constexpr uint64_t kThreads = 2;

struct Table {
  uint64_t count;
  uint64_t* blocks[kCountMax];
};

struct Entry {
  std::atomic<uint64_t> begun;
  std::atomic<uint64_t> done;
};

Entry* ledger;
Table* table;
uint64_t seed;

uint64_t expected(uint64_t block, uint64_t round, uint64_t word) {
  return mix(block << 44 ^ round << 20 ^ word);
}

// Plain stores, in order: what a kill cuts is the end.
void store(uint64_t block, uint64_t round) {
  auto* words = static_cast<volatile uint64_t*>(table->blocks[block]);
  ledger[block].begun.store(round);
  for (uint64_t i = 0; i < kWordsPerBlock; i++) words[i] = expected(block, round, i);
  ledger[block].done.store(round);
}

// Bytes that are not what the ledger says.
uint64_t wrong_bytes(uint64_t block) {
  const uint64_t* words = table->blocks[block];
  const uint64_t begun = ledger[block].begun.load();
  const uint64_t done = ledger[block].done.load();
  uint64_t wrong = 0;
  uint64_t i = 0;
  while (i < kWordsPerBlock && words[i] == expected(block, begun, i)) i++;
  for (; i < kWordsPerBlock; i++)
    if (begun == done || words[i] != expected(block, done, i)) wrong += sizeof(uint64_t);
  return wrong;
}

void* work(void* index) {
  uint64_t random = seed + reinterpret_cast<uint64_t>(index);
  while (true) {
    const uint64_t block = next_random(random) % (table->count / kThreads) * kThreads +
                           reinterpret_cast<uint64_t>(index);
    store(block, ledger[block].begun.load() + 1);
  }
  return nullptr;
}

Table* make(btd_cluster* cluster, uint64_t count) {
  auto* made = static_cast<Table*>(btd_calloc(cluster, 1, sizeof(Table)));
  if (made == nullptr) fail("no memory");
  table = made;
  for (uint64_t i = 0; i < count; i++) {
    made->blocks[i] =
        static_cast<uint64_t*>(btd_malloc(cluster, kWordsPerBlock * sizeof(uint64_t)));
    if (made->blocks[i] == nullptr) fail("no memory");
    store(i, 1);
  }
  made->count = count;
  if (btd_root_set(cluster, "ledger", made) != 0) fail("no root");
  return made;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) fail("far_ledger LEDGER COUNT [end]");
  die_with_parent();
  const uint64_t count = std::strtoull(argv[2], nullptr, 10) / kThreads * kThreads;
  if (count == 0 || count > kCountMax) fail("too few blocks, or too many");
  const int file = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, static_cast<off_t>(kCountMax * sizeof(Entry))) != 0)
    fail("no ledger");
  void* memory =
      mmap(nullptr, kCountMax * sizeof(Entry), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) fail("no ledger");
  ledger = static_cast<Entry*>(memory);
  seed = now_ns();

  const uint64_t start = now_ns();
  btd_config config;
  config.single_node = 0;
  btd_cluster* cluster = btd_cluster_create(&config);
  if (cluster == nullptr) fail("no cluster");
  table = static_cast<Table*>(btd_root_get(cluster, "ledger"));
  const double reattach_ms = 1e-6 * static_cast<double>(now_ns() - start);
  const bool is_old = table != nullptr;
  if (!is_old) table = make(cluster, count);
  uint64_t wrong = 0;
  uint64_t torn = 0;
  for (uint64_t i = 0; is_old && i < table->count; i++) {
    wrong += wrong_bytes(i);
    if (ledger[i].begun.load() == ledger[i].done.load()) continue;
    torn++;
    store(i, ledger[i].begun.load());  // whole again, before the next round begins
  }
  std::printf(
      "{\"old\": %s, \"blocks\": %llu, \"torn\": %llu, \"wrong_bytes\": %llu, \"reattach_ms\": "
      "%.2f}\n",
      is_old ? "true" : "false", static_cast<unsigned long long>(table->count),
      static_cast<unsigned long long>(torn), static_cast<unsigned long long>(wrong), reattach_ms);
  std::fflush(stdout);
  if (argc > 3) {
    btd_root_remove(cluster, "ledger");
    return wrong == 0 ? 0 : 1;
  }
  pthread_t threads[kThreads];
  for (uint64_t i = 0; i < kThreads; i++)
    if (pthread_create(&threads[i], nullptr, work, reinterpret_cast<void*>(i)) != 0)
      fail("no thread");
  for (auto& thread : threads) pthread_join(thread, nullptr);
  return 0;
}
