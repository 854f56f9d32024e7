// Heaps and what passes between them.  Invariants checked:
//  1. A superblock has one owner; two heaps never get slots of one superblock at the same time.
//  2. A heap that is released gives its superblocks, full ones too, to the next in need; no block
//  is lost and none is given out twice.
//  3. Empty superblocks go back to the arena, but for one a class.
//  4. Many threads that are hardly busy keep nothing; one that is gets superblocks of its own.
#define BOOST_TEST_MODULE heap
#include "core/heap/heap.hpp"

#include <set>
#include <thread>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(100); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
  Life life{path, 128 * kMiB};

  char* allocate_by(Heap* heap, size_t size_bytes) {
    return static_cast<char*>(life.arena().allocate(heap->cache(), size_bytes, 16, nullptr));
  }
};

BOOST_FIXTURE_TEST_CASE(heaps_get_slots_of_different_superblocks, Fixture) {
  Heap* other = life.arena().acquire_heap();
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    std::set<Superblock*> mine, theirs;
    for (int i = 0; i < 20; i++) {
      mine.insert(life.arena().superblock_of(life.allocate(kSizeClasses[size_class].slot_bytes)));
      theirs.insert(
          life.arena().superblock_of(allocate_by(other, kSizeClasses[size_class].slot_bytes)));
    }
    for (Superblock* superblock : mine) {
      BOOST_TEST(theirs.count(superblock) == 0u);
      BOOST_TEST(superblock->owner == life.heap().id());
    }
  }
}

BOOST_FIXTURE_TEST_CASE(released_heaps_superblocks_serve_the_next_heap, Fixture) {
  Heap* first = life.arena().acquire_heap();
  std::vector<char*> mine;
  for (int i = 0; i < 10000; i++) {
    mine.push_back(allocate_by(first, 200));
    test::fill(mine.back(), 200, static_cast<uint64_t>(i));
  }
  for (size_t i = 0; i < mine.size(); i += 2) life.free_by(first->cache(), mine[i]);
  life.arena().release_heap(*first);
  uint64_t grown = life.arena().usage().grown_bytes;
  std::set<char*> live;
  for (size_t i = 1; i < mine.size(); i += 2) live.insert(mine[i]);
  Heap* second = life.arena().acquire_heap();
  for (int i = 0; i < 5000; i++) {
    char* block = allocate_by(second, 200);
    BOOST_REQUIRE_MESSAGE(live.insert(block).second, "a block got a second owner");
    std::memset(block, 0xFF, 200);
  }
  BOOST_TEST(life.arena().usage().grown_bytes == grown);
  for (size_t i = 1; i < mine.size(); i += 2) {
    BOOST_REQUIRE(test::is_filled(mine[i], 200, i));
    BOOST_REQUIRE(life.free_by(second->cache(), mine[i]) == Verdict::kGood);
  }
}

BOOST_FIXTURE_TEST_CASE(blocks_of_a_released_heap_are_freed_by_whoever_holds_them, Fixture) {
  Heap* first = life.arena().acquire_heap();
  std::vector<char*> mine;
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    for (int i = 0; i < 50; i++)
      mine.push_back(allocate_by(first, kSizeClasses[size_class].slot_bytes));
  }
  life.arena().release_heap(*first);
  for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  for (char* block : mine) BOOST_REQUIRE(life.free(block) != Verdict::kGood);
  life.cache().flush_all();
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
}

BOOST_FIXTURE_TEST_CASE(released_heap_is_used_again, Fixture) {
  Heap* first = life.arena().acquire_heap();
  life.arena().release_heap(*first);
  BOOST_TEST(life.arena().acquire_heap() == first);
}

BOOST_FIXTURE_TEST_CASE(ten_thousand_short_threads_leave_no_memory_behind, Fixture) {
  uint64_t grown_early = 0;
  for (int i = 0; i < 10000; i++) {
    Heap* heap = life.arena().acquire_heap();
    BOOST_REQUIRE(heap != nullptr);
    char* kept[20];
    for (char*& block : kept) block = allocate_by(heap, 500);
    for (char* block : kept) BOOST_REQUIRE(life.free_by(heap->cache(), block) == Verdict::kGood);
    life.arena().release_heap(*heap);
    if (i == 10) grown_early = life.arena().usage().grown_bytes;
  }
  BOOST_TEST(life.arena().usage().grown_bytes == grown_early);
}

BOOST_FIXTURE_TEST_CASE(heaps_of_a_crowd_share_superblocks_and_keep_none, Fixture) {
  std::vector<Heap*> crowd;
  for (int i = 0; i < 500; i++) crowd.push_back(life.arena().acquire_heap());
  BOOST_TEST(life.arena().is_crowded());
  std::set<char*> live;
  uint64_t in_use_max = 0;
  for (Heap* heap : crowd) {
    char* mine[2 * kSizeClassCount];
    for (size_t i = 0; i < std::size(mine); i++) {
      mine[i] = allocate_by(heap, kSizeClasses[i / 2].slot_bytes);
      BOOST_REQUIRE_MESSAGE(live.insert(mine[i]).second, "a block got a second owner");
      BOOST_REQUIRE(life.arena().superblock_of(mine[i])->owner == kOrphanHeap);
    }
    Usage usage = life.arena().usage();
    in_use_max = std::max(in_use_max, usage.grown_bytes - usage.free_bytes);
    for (char* block : mine) {
      BOOST_REQUIRE(life.free_by(heap->cache(), block) == Verdict::kGood);
      BOOST_REQUIRE(life.free_by(heap->cache(), block) == Verdict::kNotLive);
      live.erase(block);
    }
    for (size_t size_class = 0; size_class < kSizeClassCount; size_class++)
      BOOST_REQUIRE(heap->cache().cached_count(size_class) == 0u);
  }
  BOOST_TEST(in_use_max <= kSizeClassCount * 24 * kFrameBytes);  // as one heap
  for (Heap* heap : crowd) life.arena().release_heap(*heap);
  BOOST_TEST(!life.arena().is_crowded());
}

BOOST_FIXTURE_TEST_CASE(busy_heap_of_a_crowd_earns_a_superblock_of_its_own, Fixture) {
  for (int i = 0; i < 70; i++) life.arena().acquire_heap();
  for (size_t size_class : {size_class_of(16), size_class_of(500), size_class_of(32 * kKiB)}) {
    const SizeClassInfo& info = kSizeClasses[size_class];
    Superblock* last = nullptr;
    for (size_t i = 0; i < shared_count_max(size_class); i++) {
      last = life.arena().superblock_of(life.allocate(info.slot_bytes));
      BOOST_REQUIRE(last->owner == kOrphanHeap);
    }
    last = life.arena().superblock_of(life.allocate(info.slot_bytes));
    BOOST_TEST(last->owner == life.heap().id());
  }
}

BOOST_FIXTURE_TEST_CASE(empty_superblocks_go_back_to_the_arena, Fixture) {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    uint64_t free_before = life.arena().usage().free_bytes;
    size_t slots = 10 * size_t{kSizeClasses[size_class].slot_count};
    std::vector<char*> mine;
    for (size_t i = 0; i < slots; i++)
      mine.push_back(life.allocate(kSizeClasses[size_class].slot_bytes));
    uint64_t grown = life.arena().usage().grown_bytes;
    for (char* block : mine) life.free(block);
    life.cache().flush_all();
    Usage usage = life.arena().usage();
    BOOST_TEST(usage.grown_bytes == grown);
    // One stays warm in the heap.
    BOOST_TEST(usage.free_bytes + kSizeClasses[size_class].frame_count * kFrameBytes >=
               free_before);
    uint64_t in_use = usage.grown_bytes - usage.free_bytes;
    BOOST_TEST(in_use <= (size_class + 1) * 24 * kFrameBytes);
  }
}

// A heap without an arena, over superblocks without memory: only their lists count here.
struct Lists {
  static constexpr size_t kClass = kSizeClassCount - 1;
  Heap heap{};
  std::vector<char> data = std::vector<char>(3 * 24 * kFrameBytes);
  Superblock superblocks[3] = {};
  uint32_t slot_count = kSizeClasses[kClass].slot_count;
  std::vector<CachedBlock> blocks = std::vector<CachedBlock>(3 * kSlotsMax);

  Lists() {
    for (int i = 0; i < 3; i++) {
      superblocks[i].size_class = kClass;
      superblocks[i].data = data.data() + size_t(i) * 24 * kFrameBytes;
      superblocks[i].mark_all_free();
      heap.add(superblocks[i]);
    }
    BOOST_REQUIRE(heap.take(kClass, blocks.data(), 3 * slot_count) == 3 * slot_count);
    BOOST_REQUIRE(heap.partial(kClass) == nullptr);
  }
  Superblock& superblock_of(uint32_t block) {
    return superblocks[static_cast<size_t>(static_cast<char*>(blocks[block].block) - data.data()) /
                       (24 * kFrameBytes)];
  }
  Heap::Given give(uint32_t first, uint32_t count) {
    return heap.give(superblock_of(first), blocks.data() + first, count);
  }
};

BOOST_AUTO_TEST_CASE(full_superblock_emptied_at_once_stays_only_if_no_other_has_free_slots) {
  Lists lists;
  Heap::Given given = lists.give(0, 3 * lists.slot_count);
  BOOST_TEST(given.count == lists.slot_count);  // the next block is another superblock's
  BOOST_TEST(!given.is_spare);
  BOOST_TEST(lists.heap.partial(Lists::kClass) == &lists.superblock_of(0));
  given = lists.give(lists.slot_count, 2 * lists.slot_count);
  BOOST_TEST(given.count == lists.slot_count);
  BOOST_TEST(given.is_spare);
  BOOST_TEST(lists.heap.partial(Lists::kClass) == &lists.superblock_of(0));
  BOOST_TEST(lists.heap.partial(Lists::kClass)->next == nullptr);
  BOOST_TEST(lists.heap.full(Lists::kClass) == &lists.superblock_of(2 * lists.slot_count));
  BOOST_TEST(lists.heap.full(Lists::kClass)->next == nullptr);
}

BOOST_AUTO_TEST_CASE(superblock_emptied_in_two_gifts_is_spare_after_the_second) {
  Lists lists;
  BOOST_TEST(!lists.give(0, 1).is_spare);
  BOOST_TEST(!lists.give(lists.slot_count, 3).is_spare);
  BOOST_TEST(!lists.give(lists.slot_count + 3, 1).is_spare);
  Heap::Given rest = lists.give(lists.slot_count + 4, lists.slot_count - 4);
  BOOST_TEST(rest.count == lists.slot_count - 4);
  BOOST_TEST(rest.is_spare);
  BOOST_TEST(lists.heap.partial(Lists::kClass) == &lists.superblock_of(0));
  BOOST_TEST(lists.heap.partial(Lists::kClass)->next == nullptr);
}

BOOST_FIXTURE_TEST_CASE(blowup_stays_bounded_when_all_but_a_few_blocks_are_freed_in_waves,
                        Fixture) {
  std::mt19937_64 random(test::seed());
  std::vector<char*> kept;
  for (int wave = 0; wave < 20; wave++) {
    std::vector<char*> mine;
    for (size_t total = 0; total < 8 * kMiB;) {
      size_t size_bytes = 64 * (1 + random() % 60);
      mine.push_back(life.allocate(size_bytes));
      BOOST_REQUIRE(mine.back() != nullptr);
      total += size_bytes;
    }
    for (size_t i = 0; i < mine.size(); i++) {
      if (i % 1000 == 0) {
        kept.push_back(mine[i]);
      } else {
        BOOST_REQUIRE(life.free(mine[i]) == Verdict::kGood);
      }
    }
  }
  // At most 8 MiB were live at a time, and slots are slack by a fifth at most.
  BOOST_TEST(life.arena().usage().grown_bytes <= 32 * kMiB);
}

// A survivor is freed by one thread, whose batch has not gone home yet, while another looks at the
// superblock for the first time.
BOOST_FIXTURE_TEST_CASE(survivor_freed_before_its_superblock_is_scanned_is_given_out_once,
                        Fixture) {
  std::vector<char*> survivors;
  Superblock* superblock = nullptr;
  for (;;) {
    char* block = life.allocate(1024);
    if (superblock == nullptr) superblock = life.arena().superblock_of(block);
    if (life.arena().superblock_of(block) != superblock) break;
    survivors.push_back(block);
  }
  life.end();
  Life next(path, 128 * kMiB);
  BOOST_REQUIRE(next.is_open());
  Heap* other = next.arena().acquire_heap();
  for (size_t i = 0; i < 10; i++)
    BOOST_REQUIRE(next.free_by(other->cache(), survivors[i]) == Verdict::kGood);
  std::set<char*> live(survivors.begin() + 10, survivors.end());
  auto take = [&](Heap& heap, int count) {
    for (int i = 0; i < count; i++) {
      char* block = static_cast<char*>(next.arena().allocate(heap.cache(), 1024, 16, nullptr));
      BOOST_REQUIRE_MESSAGE(live.insert(block).second, "a block got a second owner");
    }
  };
  take(next.heap(), 80);  // scans the superblock: the ten are free there, and go to new owners
  other->cache().flush_remote();  // now they come home a second time
  take(next.heap(), 500);
  take(*other, 500);
}

// The same, with the superblock gone by the time the batch comes home.
BOOST_FIXTURE_TEST_CASE(survivor_freed_before_its_superblock_is_retired_does_no_harm, Fixture) {
  std::vector<char*> survivors;
  for (int i = 0; i < 5; i++) survivors.push_back(life.allocate(1024));
  life.end();
  Life next(path, 8 * kMiB);
  BOOST_REQUIRE(next.is_open());
  Heap* other = next.arena().acquire_heap();
  for (char* block : survivors)
    BOOST_REQUIRE(next.free_by(other->cache(), block) == Verdict::kGood);
  while (next.allocate(8 * kMiB) !=
         nullptr) {  // pressure: the superblock is scanned, found empty, and retired
  }
  other->cache().flush_remote();
  BOOST_TEST(next.arena().usage().live_blocks == next.arena().usage().live_large_blocks);
}

}  // namespace
}  // namespace btd
