// A thread's cache over a real arena.  Invariants checked:
//  1. A block in a cache has state 0; malloc makes it the epoch's tag, free makes it 0 again:
//  nothing else of it changes on media.
//  2. A cache holds at most its capacity, however many blocks are freed.
//  3. free() does nothing to what is not a live block of this thread and this epoch.
//  4. A block freed by another thread comes home: the owner can allocate it again.
#define BOOST_TEST_MODULE thread_cache
#include "core/heap/thread_cache.hpp"

#include <set>
#include <thread>

#include "core/persist/layout.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(100); }
  test::Scratch scratch;
  Life life{scratch.file("a.arena"), 256 * kMiB};

  uint8_t state_of(void* block) {
    Superblock* superblock = life.arena().superblock_of(block);
    BOOST_REQUIRE(superblock != nullptr);
    return *superblock->state(superblock->slot_of(block));
  }
};

BOOST_FIXTURE_TEST_CASE(state_is_the_epochs_tag_while_live_and_0_when_free, Fixture) {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    char* block = life.allocate(kSizeClasses[size_class].slot_bytes);
    BOOST_TEST(state_of(block) == life.arena().tag());
    BOOST_TEST(life.free(block) == Verdict::kGood);
    BOOST_TEST(state_of(block) == kStateFree);
  }
}

BOOST_FIXTURE_TEST_CASE(pair_of_malloc_and_free_gives_the_same_block_again, Fixture) {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    char* first = life.allocate(kSizeClasses[size_class].slot_bytes);
    life.free(first);
    char* second = life.allocate(kSizeClasses[size_class].slot_bytes);
    BOOST_TEST((first == second));
  }
}

BOOST_FIXTURE_TEST_CASE(nothing_is_written_into_a_free_block, Fixture) {
  std::vector<char*> mine;
  for (int i = 0; i < 5000; i++) {
    mine.push_back(life.allocate(96));
    test::fill(mine.back(), 96, static_cast<uint64_t>(i));
  }
  char* keeper = life.allocate(96);
  for (char* block : mine) life.free(block);
  life.cache().flush_all();
  // The frames are still there: nothing has been given back to the file system.
  for (size_t i = 0; i < mine.size(); i++) BOOST_REQUIRE(test::is_filled(mine[i], 96, i));
  BOOST_TEST(life.free(keeper) == Verdict::kGood);
}

BOOST_FIXTURE_TEST_CASE(cache_never_holds_more_than_its_capacity, Fixture) {
  for (size_t size_bytes : {size_t{16}, size_t{64}, size_t{1024}, 32 * kKiB}) {
    size_t size_class = size_class_of(size_bytes);
    std::vector<char*> mine;
    for (uint32_t i = 0; i < 4 * bin_capacity(size_class); i++)
      mine.push_back(life.allocate(size_bytes));
    for (char* block : mine) {
      BOOST_REQUIRE(life.free(block) == Verdict::kGood);
      BOOST_REQUIRE(life.cache().cached_count(size_class) <= bin_capacity(size_class));
    }
    BOOST_TEST(life.cache().cached_count(size_class) > 0u);
    life.cache().flush_all();
    BOOST_TEST(life.cache().cached_count(size_class) == 0u);
  }
}

BOOST_FIXTURE_TEST_CASE(fast_free_refuses_what_is_not_a_live_block_of_this_thread, Fixture) {
  auto is_freed = [&](ThreadCache& cache, void* pointer) {
    ThreadCache* mine = &cache;
    return ThreadCache::free(pointer, life.arena().geometry(), mine, [] { return false; });
  };
  Heap* other = life.arena().acquire_heap();
  char* block = life.allocate(256);
  char* large = life.allocate(100 * kKiB);
  BOOST_TEST(!is_freed(other->cache(), block));
  BOOST_TEST(!is_freed(life.cache(), block + 1));
  BOOST_TEST(!is_freed(life.cache(), block + 64));
  BOOST_TEST(!is_freed(life.cache(), large));
  BOOST_TEST(!is_freed(life.cache(), nullptr));
  BOOST_TEST(!is_freed(life.cache(), &life));
  BOOST_TEST(!is_freed(life.cache(), reinterpret_cast<void*>(~uintptr_t{0})));
  BOOST_TEST(
      !is_freed(life.cache(), reinterpret_cast<char*>(life.arena().geometry().coarse_base) - 64));
  BOOST_TEST(state_of(block) == life.arena().tag());
  BOOST_TEST(is_freed(life.cache(), block));
  BOOST_TEST(!is_freed(life.cache(), block));
}

BOOST_FIXTURE_TEST_CASE(blocks_freed_by_another_thread_come_home, Fixture) {
  std::set<char*> mine;
  for (int i = 0; i < 20000; i++) mine.insert(life.allocate(128));
  std::thread([&] {
    Heap* heap = life.arena().acquire_heap();
    for (char* block : mine) BOOST_REQUIRE(life.free_by(heap->cache(), block) == Verdict::kGood);
    life.arena().release_heap(*heap);
  }).join();
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
  uint64_t grown = life.arena().usage().grown_bytes;
  std::set<char*> again;
  for (int i = 0; i < 20000; i++) BOOST_REQUIRE(again.insert(life.allocate(128)).second);
  BOOST_TEST(life.arena().usage().grown_bytes == grown);
}

// The short way: the state is freed at once, the block goes home with the batch.
BOOST_FIXTURE_TEST_CASE(block_of_another_heap_is_given_away_unless_the_heap_is_no_threads,
                        Fixture) {
  Heap* other = life.arena().acquire_heap();
  ThreadCache* mine = &life.cache();
  char* block = static_cast<char*>(life.arena().allocate(other->cache(), 256, 16, nullptr));
  char* kept = static_cast<char*>(life.arena().allocate(other->cache(), 256, 16, nullptr));
  auto give_away = [&](char* pointer) {
    return ThreadCache::free(
        pointer, life.arena().geometry(), mine, [] { return false; },
        [&](uint8_t* state, const Bin* bin) { return mine->give_away(pointer, state, bin); });
  };
  BOOST_TEST(give_away(block));
  BOOST_TEST(state_of(block) == kStateFree);
  BOOST_TEST(!give_away(block));
  life.arena().release_heap(*other);  // its superblock is an orphan
  BOOST_TEST(!give_away(kept));
  BOOST_TEST(state_of(kept) == life.arena().tag());
  BOOST_TEST(life.free(kept) == Verdict::kGood);
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
}

BOOST_FIXTURE_TEST_CASE(producer_and_consumer_do_not_grow_the_arena_beyond_what_is_in_flight,
                        Fixture) {
  // Hoard's blowup: the consumer's memory must return to the producer.
  Heap* consumer = life.arena().acquire_heap();
  std::vector<char*> batch;
  uint64_t grown_early = 0;
  for (int round = 0; round < 400; round++) {
    for (int i = 0; i < 1000; i++) {
      batch.push_back(life.allocate(512));
      BOOST_REQUIRE(batch.back() != nullptr);
    }
    std::thread([&] {
      for (char* block : batch)
        BOOST_REQUIRE(life.free_by(consumer->cache(), block) == Verdict::kGood);
    }).join();
    batch.clear();
    if (round == 20) grown_early = life.arena().usage().grown_bytes;
  }
  BOOST_TEST(life.arena().usage().grown_bytes <= grown_early + kMiB);
}

BOOST_FIXTURE_TEST_CASE(idle_bin_goes_home_while_another_class_is_busy, Fixture) {
  size_t idle = size_class_of(240);
  std::vector<char*> mine;
  for (int i = 0; i < 100; i++) mine.push_back(life.allocate(240));
  for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(life.cache().cached_count(idle) > 0u);
  std::vector<char*> busy;
  while (life.cache().cached_count(idle) > 0 && busy.size() < 200 * 1024)
    busy.push_back(life.allocate(64));
  BOOST_TEST(life.cache().cached_count(idle) == 0u);
  std::set<char*> again;
  for (int i = 0; i < 100; i++) BOOST_REQUIRE(again.insert(life.allocate(240)).second);
}

BOOST_FIXTURE_TEST_CASE(refill_of_a_full_arena_says_so, Fixture) {
  Life small(scratch.file("small.arena"), 4 * kMiB);
  while (small.allocate(32 * kKiB) != nullptr) {
  }
  BOOST_TEST(!small.cache().refill(size_class_of(32 * kKiB)));
}

// Many threads allocate, pass on and free; every block has one owner at a time.
BOOST_FIXTURE_TEST_CASE(threads_that_free_each_others_blocks_never_share_one, Fixture) {
  constexpr int kThreads = 4;
  struct Slot {
    std::atomic<char*> block{nullptr};
  };
  std::vector<Slot> shared(512);
  std::atomic<uint64_t> faults{0};
  uint64_t seed = test::seed();
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; t++) {
    threads.emplace_back([&, t] {
      Heap* heap = life.arena().acquire_heap();
      std::mt19937_64 random(seed + static_cast<uint64_t>(t));
      for (int i = 0; i < 100000; i++) {
        size_t size_bytes = 16 + random() % (random() % 64 == 0 ? 60000 : 600);
        auto* block =
            static_cast<char*>(life.arena().allocate(heap->cache(), size_bytes, 16, nullptr));
        if (block == nullptr) {
          faults++;
          break;
        }
        // The first words say the size and the check; two owners would disagree.
        uint64_t mark = random();
        std::memcpy(block, &size_bytes, 8);
        std::memcpy(block + 8, &mark, 8);
        if (size_bytes >= 24) std::memcpy(block + size_bytes - 8, &mark, 8);
        char* other = shared[random() % shared.size()].block.exchange(block);
        if (other == nullptr) continue;
        size_t other_bytes;
        uint64_t head, tail;
        std::memcpy(&other_bytes, other, 8);
        std::memcpy(&head, other + 8, 8);
        if (other_bytes >= 24 && other_bytes < 70000) {
          std::memcpy(&tail, other + other_bytes - 8, 8);
          if (head != tail) faults++;
        }
        if (life.free_by(heap->cache(), other) != Verdict::kGood) faults++;
        if (i % 20000 == 19999) {  // this thread ends, another begins
          life.arena().release_heap(*heap);
          heap = life.arena().acquire_heap();
        }
      }
      life.arena().release_heap(*heap);
    });
  }
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(faults == 0u);
  for (Slot& slot : shared) {
    if (char* block = slot.block) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  }
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
}

}  // namespace
}  // namespace btd
