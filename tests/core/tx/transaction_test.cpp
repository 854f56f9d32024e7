// Transactions.  Invariants checked:
//   1. After a commit all changes are there, also in the next life; after an abort, or a death
//   before the commit, none is.
//   2. A block allocated in a transaction is live from the commit on; one freed in it is free from
//   then on.
//   3. A log of any size works, and leaves no extent behind.
//   4. Misuse is an error and changes nothing.
//   5. Three drains when something is changed in place, two otherwise, none in `process`.
#define BOOST_TEST_MODULE transaction
#include "core/tx/transaction.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <thread>
#include <vector>

#include "core/tx/roots.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() { limit_time(110); }

  void open() {
    life = std::make_unique<Life>(path);
    BOOST_REQUIRE(life->is_open());
    transactions = std::make_unique<Transactions>();
    transactions->open(life->arena());
    roots = std::make_unique<Roots>();
    roots->open(life->arena());
  }
  // Dies, and lives again.
  void reopen() {
    life->end();
    open();
  }
  Arena& arena() { return life->arena(); }
  ThreadCache& cache() { return life->cache(); }
  Transaction& begin() {
    Transaction* transaction = transactions->begin();
    BOOST_REQUIRE(transaction != nullptr);
    return *transaction;
  }
  char* allocate_in(Transaction& transaction, size_t size_bytes) {
    Error error;
    auto* block =
        static_cast<char*>(transaction.allocate(cache(), size_bytes, 16, nullptr, &error));
    BOOST_REQUIRE(block != nullptr);
    return block;
  }
  bool is_live(const void* block) { return arena().look_up(block) == Verdict::kGood; }

  Scratch scratch;
  std::string path = scratch.file("arena");
  std::unique_ptr<Life> life;
  std::unique_ptr<Transactions> transactions;
  std::unique_ptr<Roots> roots;
};

BOOST_FIXTURE_TEST_CASE(commit_keeps_all_changes, Fixture) {
  open();
  char* range = life->allocate(200);
  char* old = life->allocate(300);
  char* large = life->allocate(100000);
  fill(range, 200, 1);
  Transaction& tx = begin();
  char* block = allocate_in(tx, 64);
  char* big = allocate_in(tx, 200000);
  BOOST_TEST(!is_live(block));
  fill(block, 64, 2);
  BOOST_TEST(tx.add(range, 200) == Error::kNone);
  fill(range, 200, 3);
  BOOST_TEST(tx.free(old) == Error::kNone);
  BOOST_TEST(tx.free(large) == Error::kNone);
  BOOST_TEST(roots->set("list", block, &tx) == Error::kNone);
  BOOST_TEST(roots->get("list", &tx) == block);
  BOOST_TEST(roots->get("list", nullptr) == nullptr);
  BOOST_TEST(is_live(old));
  BOOST_TEST(tx.commit(cache()) == Error::kNone);
  BOOST_TEST(is_live(block));
  BOOST_TEST(is_live(big));
  BOOST_TEST(!is_live(old));
  BOOST_TEST(!is_live(large));
  reopen();
  BOOST_TEST(roots->get("list", nullptr) == block);
  BOOST_TEST(is_filled(block, 64, 2));
  BOOST_TEST(is_filled(range, 200, 3));
  BOOST_TEST(is_live(big));
  BOOST_TEST(!is_live(old));
  BOOST_TEST(!is_live(large));
}

BOOST_FIXTURE_TEST_CASE(abort_and_death_undo_everything, Fixture) {
  for (bool dies : {false, true}) {
    open();
    char* range = life->allocate(5000);
    char* old = life->allocate(300);
    fill(range, 5000, 1);
    BOOST_TEST(roots->set("kept", range, nullptr) == Error::kNone);
    Transaction& tx = begin();
    char* block = allocate_in(tx, 64);
    char* big = allocate_in(tx, 200000);
    BOOST_TEST(tx.add(range, 3000) == Error::kNone);
    fill(range, 3000, 2);
    BOOST_TEST(tx.add(range + 1000, 4000) == Error::kNone);  // overlaps, and is changed already
    fill(range, 5000, 3);
    BOOST_TEST(tx.free(old) == Error::kNone);
    BOOST_TEST(roots->set("list", block, &tx) == Error::kNone);
    BOOST_TEST(roots->set("kept", nullptr, &tx) == Error::kNone);
    if (dies) {
      reopen();
    } else {
      tx.abort(cache());
    }
    BOOST_TEST(is_filled(range, 5000, 1));
    BOOST_TEST(is_live(old));
    BOOST_TEST(!is_live(block));
    BOOST_TEST(!is_live(big));
    BOOST_TEST(roots->get("list", nullptr) == nullptr);
    BOOST_TEST(roots->get("kept", nullptr) == range);
    life->end();
    std::filesystem::remove(path);
  }
}

BOOST_FIXTURE_TEST_CASE(log_of_any_size_works_and_leaves_nothing, Fixture) {
  open();
  constexpr size_t kBytes = 10 * kMiB + 1000;
  char* range = life->allocate(kBytes);
  fill(range, kBytes, 1);
  uint64_t used = arena().usage().grown_bytes - arena().usage().free_bytes;
  {
    Transaction& tx = begin();
    for (size_t at = 0; at < 4000; at += 8)
      BOOST_REQUIRE(tx.add(range + 2 * at, 8) == Error::kNone);
    BOOST_TEST(tx.add(range, kBytes) == Error::kNone);
    fill(range, kBytes, 2);
    tx.abort(cache());
    BOOST_TEST(is_filled(range, kBytes, 1));
  }
  {
    Transaction& tx = begin();
    BOOST_TEST(tx.add(range, kBytes) == Error::kNone);
    fill(range, kBytes, 3);
    BOOST_TEST(tx.commit(cache()) == Error::kNone);
  }
  BOOST_TEST(arena().usage().grown_bytes - arena().usage().free_bytes == used);
  {
    Transaction& tx = begin();
    BOOST_TEST(tx.add(range, kBytes) == Error::kNone);
    fill(range, kBytes, 4);
  }
  reopen();
  BOOST_TEST(is_filled(range, kBytes, 3));
  BOOST_TEST(arena().usage().grown_bytes - arena().usage().free_bytes == used);
}

BOOST_FIXTURE_TEST_CASE(many_allocations_and_frees_in_one_transaction, Fixture) {
  open();
  std::vector<char*> old, fresh;
  for (int i = 0; i < 3000; i++) old.push_back(life->allocate(40 + i % 100));
  Transaction& tx = begin();
  for (char* block : old) BOOST_REQUIRE(tx.free(block) == Error::kNone);
  for (int i = 0; i < 3000; i++) {
    fresh.push_back(allocate_in(tx, 70));
    fill(fresh.back(), 70, static_cast<uint64_t>(i));
  }
  BOOST_TEST(tx.commit(cache()) == Error::kNone);
  reopen();
  for (char* block : old) BOOST_REQUIRE(!is_live(block));
  for (size_t i = 0; i < fresh.size(); i++) {
    BOOST_REQUIRE(is_live(fresh[i]));
    BOOST_REQUIRE(is_filled(fresh[i], 70, i));
  }
}

BOOST_FIXTURE_TEST_CASE(block_freed_where_it_was_allocated_is_free, Fixture) {
  open();
  Transaction& tx = begin();
  char* block = allocate_in(tx, 64);
  BOOST_TEST(tx.free(block) == Error::kNone);
  BOOST_TEST(tx.free(block) == Error::kInvalid);
  BOOST_TEST(tx.commit(cache()) == Error::kNone);
  BOOST_TEST(!is_live(block));
  std::vector<char*> blocks;
  for (int i = 0; i < 1000; i++) blocks.push_back(life->allocate(64));
  BOOST_TEST(std::count(blocks.begin(), blocks.end(), block) == 1);
}

BOOST_FIXTURE_TEST_CASE(misuse_is_an_error_and_changes_nothing, Fixture) {
  open();
  char* block = life->allocate(64);
  Transaction& one = begin();
  Transaction& two = begin();
  BOOST_REQUIRE(&one != &two);
  int local = 0;
  BOOST_TEST(one.add(&local, sizeof(local)) == Error::kInvalid);
  BOOST_TEST(one.add(arena().mapping().address(), 8) == Error::kInvalid);
  BOOST_TEST(one.write(arena().mapping().address(), &local, 4) == Error::kInvalid);
  BOOST_TEST(one.free(&local) == Error::kInvalid);
  BOOST_TEST(one.free(block + 16) == Error::kInvalid);
  BOOST_TEST(one.free(block) == Error::kNone);
  BOOST_TEST(two.free(block) == Error::kBusy);
  BOOST_TEST(transactions->frees(block));
  char* others = allocate_in(one, 64);
  BOOST_TEST(two.free(others) == Error::kInvalid);
  one.abort(cache());
  BOOST_TEST(!transactions->frees(block));
  BOOST_TEST(two.free(block) == Error::kNone);
  // Somebody is faster.
  BOOST_TEST(life->free(block) == Verdict::kGood);
  char* range = life->allocate(5000);
  fill(range, 5000, 1);
  BOOST_TEST(two.add(range, 5000) == Error::kNone);
  fill(range, 5000, 2);
  BOOST_TEST(two.commit(cache()) == Error::kInvalid);
  BOOST_TEST(is_filled(range, 5000, 1));
}

BOOST_FIXTURE_TEST_CASE(full_arena_aborts_cleanly, Fixture) {
  life = std::make_unique<Life>(path, 4 * kMiB);
  BOOST_REQUIRE(life->is_open());
  transactions = std::make_unique<Transactions>();
  transactions->open(arena());
  char* range = life->allocate(3 * kMiB);
  fill(range, 3 * kMiB, 1);
  Transaction& tx = begin();
  Error error = Error::kNone;
  std::vector<void*> blocks;
  while (void* block = tx.allocate(cache(), 20000, 16, nullptr, &error)) blocks.push_back(block);
  BOOST_TEST(error == Error::kNoSpace);
  BOOST_TEST(tx.add(range, 3 * kMiB) == Error::kNoSpace);
  BOOST_TEST(is_filled(range, 3 * kMiB, 1));
  tx.abort(cache());
  for (void* block : blocks) BOOST_REQUIRE(!is_live(block));
  BOOST_TEST(life->allocate(500000) != nullptr);
}

// More threads than lanes: some wait.
BOOST_FIXTURE_TEST_CASE(threads_do_not_disturb_each_other, Fixture) {
  open();
  constexpr int kThreads = 80;
  constexpr int kRounds = 200;
  struct Slot {
    char bytes[64];
  };
  std::vector<Slot*> slots;
  for (int i = 0; i < kThreads; i++) {
    slots.push_back(reinterpret_cast<Slot*>(life->allocate(64)));
    fill(slots.back(), 64, 0);
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&, i] {
      Heap* heap = arena().acquire_heap();
      void* last = nullptr;
      for (uint64_t round = 1; round <= kRounds; round++) {
        Transaction* tx = transactions->begin();
        Error error;
        void* block = tx->allocate(heap->cache(), 100, 16, nullptr, &error);
        tx->add(slots[i], 64);
        fill(slots[i], 64, round);
        if (last != nullptr) tx->free(last);
        if (round % 5 == 0) {
          tx->abort(heap->cache());
          fill(slots[i], 64, round);
        } else {
          tx->commit(heap->cache());
          last = block;
        }
      }
      arena().release_heap(*heap);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (Slot* slot : slots) BOOST_TEST(is_filled(slot, 64, kRounds));
  BOOST_TEST(arena().usage().live_blocks == 2u * kThreads);
  reopen();
  BOOST_TEST(arena().usage().live_blocks == 2u * kThreads);
}

// More records than the transaction keeps in DRAM: it reads its log.
BOOST_FIXTURE_TEST_CASE(many_records_commit_and_abort_as_few_do, Fixture) {
  constexpr size_t kMany = 40;
  open();
  for (size_t count : {size_t{3}, kMany}) {
    char* words = life->allocate(kMany * 16);
    std::memset(words, 0, kMany * 16);
    std::vector<char*> old;
    for (size_t i = 0; i < count; i++) old.push_back(life->allocate(100));
    uint64_t live = arena().usage().live_blocks;
    for (bool is_committed : {false, true}) {
      Transaction& tx = begin();
      std::vector<char*> fresh;
      for (size_t i = 0; i < count; i++) {
        fresh.push_back(allocate_in(tx, 64));
        BOOST_TEST(tx.add(words + i * 16, 8) == Error::kNone);
        fill(words + i * 16, 8, i + 1);
        auto pointer = reinterpret_cast<uint64_t>(fresh[i]);
        BOOST_TEST(tx.write(words + i * 16 + 8, &pointer, 8) == Error::kNone);
        BOOST_TEST(tx.read(reinterpret_cast<uint64_t*>(words + i * 16 + 8)) == pointer);
        BOOST_TEST(tx.free(old[i]) == Error::kNone);
        BOOST_TEST(tx.free(old[i]) == Error::kInvalid);
      }
      BOOST_TEST(tx.free(fresh[1]) == Error::kNone);
      if (is_committed) {
        BOOST_TEST(tx.commit(cache()) == Error::kNone);
      } else {
        tx.abort(cache());
      }
      for (size_t i = 0; i < count; i++) {
        BOOST_TEST(is_filled(words + i * 16, 8, is_committed ? i + 1 : 0));
        auto pointer = *reinterpret_cast<uint64_t*>(words + i * 16 + 8);
        BOOST_TEST(pointer == (is_committed ? reinterpret_cast<uint64_t>(fresh[i]) : 0));
        BOOST_TEST(is_live(fresh[i]) == (is_committed && i != 1));
        BOOST_TEST(is_live(old[i]) == !is_committed);
        BOOST_TEST(!transactions->frees(old[i]));
      }
      BOOST_TEST(arena().usage().live_blocks == live - (is_committed ? 1 : 0));
    }
  }
}

class CountingPersist final : public Persist {
 public:
  void flush(const void*, size_t) noexcept override { flushes_since_drain++; }
  void drain() noexcept override {
    drains++;
    flushes_since_drain = 0;
  }
  int flushes_since_drain = 0;
  int drains = 0;
};

BOOST_FIXTURE_TEST_CASE(drains_are_three_in_place_and_two_otherwise, Fixture) {
  open();
  CountingPersist persist;
  arena().set_persist(persist, persist);
  char* range = life->allocate(64);
  char* first = life->allocate(64);
  BOOST_TEST(roots->set("r", first, nullptr) == Error::kNone);
  for (int round = 0; round < 10; round++) {
    Transaction& warm = begin();
    char* block = allocate_in(warm, 64);
    persist.drains = 0;
    BOOST_TEST(warm.add(range, 64) == Error::kNone);
    BOOST_TEST(roots->set("r", block, &warm) == Error::kNone);
    BOOST_TEST(warm.commit(cache()) == Error::kNone);
    BOOST_TEST(persist.drains == 3);
    // Else the next locked instruction would wait for it.
    BOOST_TEST(persist.flushes_since_drain == 0);
  }
  for (int round = 0; round < 10; round++) {
    Transaction& tx = begin();
    persist.drains = 0;
    BOOST_TEST(tx.write(range, "12345678", 8) == Error::kNone);
    BOOST_TEST(tx.commit(cache()) == Error::kNone);
    BOOST_TEST(persist.drains == 2);
  }
  // Whoever changes a word that a log may name waits for the end of the transaction first.
  persist.drains = 0;
  BOOST_TEST(arena().free(cache(), first) == Verdict::kGood);
  BOOST_TEST(persist.drains == 2);
  persist.drains = 0;
  life->allocate(64);
  BOOST_TEST(persist.drains == 1);
}

}  // namespace
}  // namespace btd::test
