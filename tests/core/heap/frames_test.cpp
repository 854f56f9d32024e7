// Frames.  Invariants checked:
//  1. Memory given back leaves the file, and can be used again.
//  2. Free frames serve any request that they are enough for, whatever they were before.
//  3. Threads that take frames and fault them in at the same time share none.
//  4. What free frames and threads' warm extents hold is bounded, whatever was freed.
#define BOOST_TEST_MODULE frames
#include <map>
#include <set>
#include <thread>

#include "core/base/sys.hpp"
#include "core/heap/arena.hpp"
#include "tests/core/support/counting_persist.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(120); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
};

BOOST_FIXTURE_TEST_CASE(give_back_returns_memory_to_the_file_system_and_it_is_used_again, Fixture) {
  Life life(path, 256 * kMiB);
  std::vector<char*> mine;
  for (int i = 0; i < 100; i++) {
    mine.push_back(life.allocate(kMiB));
    std::memset(mine.back(), 0xAB, kMiB);
  }
  uint64_t before = test::file_blocks(path);
  BOOST_TEST(before * 512 >= 100 * kMiB);
  for (int i = 0; i < 99; i++)
    BOOST_REQUIRE(life.free(mine[static_cast<size_t>(i)]) == Verdict::kGood);
  BOOST_TEST(life.arena().give_back(0));
  uint64_t after = test::file_blocks(path);
  BOOST_TEST((before - after) * 512 >= 95 * kMiB);
  BOOST_TEST(!life.arena().give_back(0));  // nothing is left to give
  char* again = life.allocate(90 * kMiB);
  BOOST_REQUIRE(again != nullptr);
  BOOST_TEST(test::is_all_zero(again, 90 * kMiB));
  std::memset(again, 0xCD, 90 * kMiB);
  BOOST_TEST((test::file_blocks(path) - after) * 512 >= 85 * kMiB);
  BOOST_TEST(mine[99][kMiB - 1] == char(0xAB));
}

BOOST_FIXTURE_TEST_CASE(free_frames_given_back_and_fresh_ones_behind_them_serve_one_block,
                        Fixture) {
  Life life(path, 16 * kMiB);
  char* block = life.allocate(8 * kMiB);
  std::memset(block, 1, 8 * kMiB);
  BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_REQUIRE(life.arena().give_back(0));
  BOOST_TEST(life.allocate(12 * kMiB) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(grown_frames_take_space_in_the_file_only_when_a_block_takes_them, Fixture) {
  Life life(path, 256 * kMiB);
  BOOST_REQUIRE(life.allocate(128 * kMiB) != nullptr);  // from here on growth is by 8 MiB
  BOOST_REQUIRE(life.allocate(kMiB) != nullptr);
  uint64_t before = test::file_blocks(path);
  uint64_t grown = life.arena().usage().grown_bytes;
  BOOST_TEST(life.arena().usage().free_bytes >= 6 * kMiB);
  BOOST_TEST(before * 512 <= 132 * kMiB);
  BOOST_REQUIRE(life.allocate(kMiB) != nullptr);
  BOOST_TEST(life.arena().usage().grown_bytes == grown);
  BOOST_TEST((test::file_blocks(path) - before) * 512 == kMiB);
}

BOOST_FIXTURE_TEST_CASE(block_grows_in_place_over_frames_freed_behind_it_and_fresh_ones, Fixture) {
  Life life(path, 64 * kMiB);
  char* block = life.allocate(4 * kMiB + 1);
  test::fill(block, 4 * kMiB, 1);
  char* behind = life.allocate(8 * kMiB);  // not kept warm: too long
  BOOST_REQUIRE(behind > block);
  std::memset(behind, 0xAB, 8 * kMiB);
  BOOST_REQUIRE(life.free(behind) == Verdict::kGood);
  BOOST_TEST(life.arena().resize_in_place(block, 40 * kMiB));
  std::memset(block + 4 * kMiB, 0xCD, 36 * kMiB);
  BOOST_TEST(test::is_filled(block, 4 * kMiB, 1));
  BOOST_TEST(life.free(block) == Verdict::kGood);
}

BOOST_FIXTURE_TEST_CASE(free_frames_hold_little_more_than_their_bound, Fixture) {
  Life life(path, 256 * kMiB);
  std::vector<char*> mine;
  for (int i = 0; i < 100; i++) mine.push_back(life.allocate(512 * kKiB));
  for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(test::file_blocks(path) * 512 <= 24 * kMiB);  // 16, 4 warm, metadata
  for (char*& block : mine) {
    block = life.allocate(512 * kKiB);
    std::memset(block, 1, 512 * kKiB);
  }
}

BOOST_FIXTURE_TEST_CASE(zone_that_grows_takes_the_memory_of_the_others_free_frames, Fixture) {
  Life life(path, 256 * kMiB);
  auto fill = [&](size_t size_bytes) {
    std::vector<char*> mine;
    for (size_t i = 0; i < 40 * kMiB / size_bytes; i++) mine.push_back(life.allocate(size_bytes));
    uint64_t file_bytes = test::file_blocks(path) * 512;
    for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
    life.cache().flush_all();
    return file_bytes;
  };
  uint64_t first = fill(1024);  // coarse
  for (int round = 0; round < 4; round++) {
    BOOST_TEST(fill(224) <= first + 16 * kMiB);  // fine
    BOOST_TEST(fill(1024) <= first + 16 * kMiB);
  }
}

BOOST_FIXTURE_TEST_CASE(warm_extents_of_all_threads_together_are_bounded, Fixture) {
  Life life(path, 256 * kMiB);
  std::vector<Heap*> heaps;
  for (int i = 0; i < 100; i++) {
    heaps.push_back(life.arena().acquire_heap());
    void* block = life.arena().allocate(heaps.back()->cache(), kMiB, 16, nullptr);
    BOOST_REQUIRE(life.free_by(heaps.back()->cache(), block) == Verdict::kGood);
  }
  auto kept_bytes = [&] {
    Usage usage = life.arena().usage();
    return usage.grown_bytes - usage.free_bytes;
  };
  BOOST_TEST(kept_bytes() == 24 * kMiB);
  for (Heap* heap : heaps) life.arena().release_heap(*heap);
  BOOST_TEST(kept_bytes() == 0u);
  // What was granted has come back.
  void* block = life.allocate(kMiB);
  BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(kept_bytes() == kMiB);
}

BOOST_FIXTURE_TEST_CASE(threads_that_take_frames_at_once_share_none, Fixture) {
  Life life(path, 256 * kMiB);
  std::atomic<uint64_t> faults{0};
  uint64_t seed = test::seed();
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; t++) {
    threads.emplace_back([&, t] {
      Heap* heap = life.arena().acquire_heap();
      std::mt19937_64 random(seed + t);
      struct Block {
        char* bytes;
        size_t size_bytes;
        uint64_t mark;
      };
      std::vector<Block> mine;
      for (uint64_t i = 0; i < 3000; i++) {
        if (mine.size() < 12) {
          // Large blocks, and small ones of classes with few slots: extents come and go.
          size_t size_bytes =
              random() % 2 == 0 ? 20 * kKiB : 40 * kKiB + random() % (random() % 8 == 0 ? kMiB : 1);
          auto* bytes =
              static_cast<char*>(life.arena().allocate(heap->cache(), size_bytes, 16, nullptr));
          if (bytes == nullptr) {
            faults++;
            break;
          }
          test::fill(bytes, size_bytes, t * 10000 + i);
          mine.push_back({bytes, size_bytes, t * 10000 + i});
          continue;
        }
        std::swap(mine[random() % mine.size()], mine.back());
        Block block = mine.back();
        mine.pop_back();
        if (!test::is_filled(block.bytes, block.size_bytes, block.mark)) faults++;
        if (life.free_by(heap->cache(), block.bytes) != Verdict::kGood) faults++;
        if (random() % 16 == 0) heap->cache().flush_all();
      }
      for (Block& block : mine) life.free_by(heap->cache(), block.bytes);
      life.arena().release_heap(*heap);
    });
  }
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(faults == 0u);
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
}

BOOST_FIXTURE_TEST_CASE(memory_freed_a_moment_ago_is_not_given_back, Fixture) {
  Life life(path, 64 * kMiB);
  char* block = life.allocate(kMiB);
  BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(!life.arena().give_back(1000));
}

BOOST_FIXTURE_TEST_CASE(freed_frames_of_small_blocks_serve_other_classes, Fixture) {
  Life life(path, 16 * kMiB);
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    if (kSizeClasses[size_class].is_fine) continue;
    size_t size_bytes = kSizeClasses[size_class].slot_bytes;
    std::vector<char*> mine;
    for (size_t total = 0; total + size_bytes <= 10 * kMiB; total += size_bytes) {
      mine.push_back(life.allocate(size_bytes));
      BOOST_REQUIRE_MESSAGE(mine.back() != nullptr, size_bytes << " B, " << total << " bytes in");
    }
    for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
    life.cache().flush_all();
  }
}

// From `process` to `strict`: nothing that an earlier life stored may stay in the caches.
BOOST_AUTO_TEST_CASE(persist_metadata_flushes_every_header_and_state_of_the_grown_part) {
  test::Scratch scratch;
  test::Life life(scratch.file("a.arena"));
  char* small = life.allocate(64);
  char* fine = life.allocate(48);
  char* large = life.allocate(100000);
  BOOST_REQUIRE((small != nullptr && fine != nullptr && large != nullptr));
  Arena& arena = life.arena();
  BOOST_REQUIRE(arena.grow_roots(1));
  BOOST_REQUIRE(arena.grow_lanes(2));
  test::CountingPersist persist;
  arena.set_persist(persist, persist);
  arena.persist_metadata();
  BOOST_TEST(persist.drains == 1u);
  std::set<uintptr_t> lines(persist.lines.begin(), persist.lines.end());
  auto is_flushed = [&](const void* address) {
    return lines.count(reinterpret_cast<uintptr_t>(address) / kCacheLineBytes) == 1;
  };
  for (char* block : {small, fine}) {
    Superblock& superblock = *arena.superblock_of(block);
    BOOST_TEST(is_flushed(superblock.state(superblock.slot_of(block))));
  }
  const ArenaHeader& header = arena.header();
  uint64_t frames = uint64_t{header.coarse_frames_grown} + header.fine_frames_grown;
  uint64_t state_lines = header.coarse_frames_grown * kCoarseStatesPerFrame / kCacheLineBytes +
                         header.fine_frames_grown * kFineStatesPerFrame / kCacheLineBytes;
  uint64_t root_lines = header.roots_grown * sizeof(Root) / kCacheLineBytes;
  uint64_t lane_lines = header.lanes_grown * kLaneBytes / kCacheLineBytes;
  BOOST_TEST(lines.size() == frames + state_lines + root_lines + lane_lines);
  BOOST_TEST(is_flushed(arena.root(0)));
  BOOST_TEST(is_flushed(arena.lane(1) + 100));

  persist.reset();
  arena.set_persist(persist, process_persist());
  arena.persist_metadata();
  BOOST_TEST(persist.lines.size() == frames + root_lines + lane_lines);
  arena.set_persist(process_persist(), process_persist());
}

}  // namespace
}  // namespace btd
