// Blocks, small and large.  Invariants checked:
//  1. Live blocks never overlap, are aligned as asked, lie in the arena, and keep their bytes.
//  2. A block said to be zero is zero.
//  3. Every free of what is not the start of a live block is found out, and changes nothing.
//  4. A resize in place keeps the block's start and bytes; what it gives up can be used again.
#define BOOST_TEST_MODULE blocks
#include <map>
#include <set>

#include "core/base/sys.hpp"
#include "core/heap/arena.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(120); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
};

// Live blocks by address, so that an overlap with the neighbours is seen.
class Blocks {
 public:
  explicit Blocks(Arena& arena) : arena_(arena) {}
  void add(char* block, size_t size_bytes) {
    BOOST_REQUIRE(arena_.contains(block) &&
                  arena_.contains(block + max<size_t>(size_bytes, 1) - 1));
    auto next = blocks_.lower_bound(block);
    if (next != blocks_.end())
      BOOST_REQUIRE_MESSAGE(block + size_bytes <= next->first, "overlaps the block behind it");
    if (next != blocks_.begin())
      BOOST_REQUIRE_MESSAGE(std::prev(next)->first + std::prev(next)->second <= block,
                            "overlaps the block before it");
    blocks_[block] = size_bytes;
  }
  void remove(char* block) { BOOST_REQUIRE(blocks_.erase(block) == 1); }

 private:
  Arena& arena_;
  std::map<char*, size_t> blocks_;
};

BOOST_FIXTURE_TEST_CASE(blocks_of_all_sizes_and_alignments_do_not_overlap_and_keep_their_bytes,
                        Fixture) {
  Life life(path, 512 * kMiB);
  BOOST_REQUIRE(life.is_open());
  Blocks blocks(life.arena());
  std::mt19937_64 random(test::seed());
  struct Live {
    char* block;
    size_t size_bytes;
    uint64_t mark;
  };
  std::vector<Live> mine;
  auto add = [&](size_t size_bytes, size_t alignment) {
    char* block = life.allocate(size_bytes, alignment);
    BOOST_REQUIRE_MESSAGE(block != nullptr, size_bytes << " bytes aligned to " << alignment);
    BOOST_REQUIRE(reinterpret_cast<uintptr_t>(block) % alignment == 0);
    BOOST_REQUIRE(life.arena().usable_size(block) >= size_bytes);
    blocks.add(block, life.arena().usable_size(block));
    mine.push_back({block, size_bytes, random()});
    test::fill(block, size_bytes, mine.back().mark);
  };
  auto drop = [&](size_t index) {
    std::swap(mine[index], mine.back());
    Live live = mine.back();
    mine.pop_back();
    BOOST_REQUIRE(test::is_filled(live.block, live.size_bytes, live.mark));
    blocks.remove(live.block);
    BOOST_REQUIRE(life.free(live.block) == Verdict::kGood);
  };
  for (size_t alignment = 1; alignment <= 4 * kMiB; alignment *= 2) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{15}, size_t{48}, size_t{100}, size_t{4096},
                        16 * kKiB + 1, 32 * kKiB, 32 * kKiB + 1, 100 * kKiB, 4 * kMiB}) {
      add(size, alignment);
      if (mine.size() > 20) drop(random() % mine.size());
    }
  }
  for (size_t step = 0; step < 30000; step++) {
    if (mine.size() > 2000 || (!mine.empty() && random() % 2 == 0)) {
      drop(random() % mine.size());
    } else {
      size_t bits = random() % 100 < 98 ? 1 + random() % 14 : 14 + random() % 6;
      add(random() % (size_t{1} << bits), random() % 8 == 0 ? size_t{1} << random() % 15 : 16);
    }
  }
  while (!mine.empty()) drop(mine.size() - 1);
  Usage usage = life.arena().usage();
  BOOST_TEST(usage.live_blocks == 0u);
  BOOST_TEST(usage.live_bytes == 0u);
}

BOOST_FIXTURE_TEST_CASE(block_said_to_be_zero_is_zero_after_any_reuse, Fixture) {
  Life life(path, 64 * kMiB);
  std::mt19937_64 random(test::seed());
  std::vector<std::pair<char*, size_t>> mine;
  size_t said_zero = 0;
  for (int step = 0; step < 4000; step++) {
    if (mine.size() > 30 || (!mine.empty() && random() % 2 == 0)) {
      size_t index = random() % mine.size();
      std::swap(mine[index], mine.back());
      auto [block, size_bytes] = mine.back();
      mine.pop_back();
      if (size_bytes > 64 * kKiB && random() % 2 == 0) {  // part of it by shrinking
        BOOST_REQUIRE(life.arena().resize_in_place(block, 40 * kKiB));
      }
      BOOST_REQUIRE(life.free(block) == Verdict::kGood);
    } else {
      size_t size_bytes = kSmallBytesMax + 1 + random() % (800 * kKiB);
      bool is_zero = true;
      char* block = life.allocate(size_bytes, 16, &is_zero);
      BOOST_REQUIRE(block != nullptr);
      if (is_zero) BOOST_REQUIRE(test::is_all_zero(block, size_bytes));
      said_zero += is_zero;
      std::memset(block, 0xEE, life.arena().usable_size(block));
      mine.emplace_back(block, size_bytes);
    }
    if (step % 100 == 99) life.arena().give_back(0);
  }
  BOOST_TEST(said_zero > 20u);  // or the flag saves nothing
}

BOOST_FIXTURE_TEST_CASE(small_block_is_never_said_to_be_zero, Fixture) {
  Life life(path);
  for (size_t size_bytes : {size_t{1}, size_t{64}, 16 * kKiB, 32 * kKiB}) {
    bool is_zero = true;
    BOOST_REQUIRE(life.allocate(size_bytes, 16, &is_zero) != nullptr);
    BOOST_TEST(!is_zero);
  }
}

BOOST_FIXTURE_TEST_CASE(double_free_is_found_out_for_every_class, Fixture) {
  Life life(path);
  Heap* other = life.arena().acquire_heap();
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    size_t size_bytes = kSizeClasses[size_class].slot_bytes;
    char* keeper = life.allocate(size_bytes);  // the superblock stays
    char* block = life.allocate(size_bytes);
    BOOST_TEST(life.free(block) == Verdict::kGood);
    BOOST_TEST(life.free(block) == Verdict::kNotLive);
    BOOST_TEST(life.free_by(other->cache(), block) == Verdict::kNotLive);
    BOOST_TEST(life.arena().usable_size(block) == 0u);
    char* again = life.allocate(size_bytes);
    BOOST_TEST(life.free_by(other->cache(), again) == Verdict::kGood);
    BOOST_TEST(life.free_by(other->cache(), again) == Verdict::kNotLive);
    BOOST_TEST(life.free(again) == Verdict::kNotLive);
    BOOST_TEST(life.free(keeper) == Verdict::kGood);
  }
}

BOOST_FIXTURE_TEST_CASE(every_pointer_into_a_blocks_middle_is_found_out_for_every_class, Fixture) {
  Life life(path);
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    size_t size_bytes = kSizeClasses[size_class].slot_bytes;
    char* block = life.allocate(size_bytes);
    for (size_t offset = 1; offset<size_bytes; offset += size_bytes> 512 ? 61 : 1) {
      BOOST_REQUIRE_MESSAGE(life.free(block + offset) == Verdict::kMiddle,
                            size_bytes << " B, offset " << offset);
      BOOST_REQUIRE(life.arena().usable_size(block + offset) == 0);
    }
    BOOST_TEST(life.arena().usable_size(block) == size_bytes);
    BOOST_TEST(life.free(block) == Verdict::kGood);
  }
}

BOOST_FIXTURE_TEST_CASE(slot_that_was_never_allocated_is_not_live, Fixture) {
  Life life(path);
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    char* block = life.allocate(kSizeClasses[size_class].slot_bytes);
    Superblock* superblock = life.arena().superblock_of(block);
    BOOST_REQUIRE(superblock != nullptr);
    for (uint32_t slot = 0; slot < superblock->info().slot_count; slot++) {
      if (superblock->block(slot) == block) continue;
      BOOST_REQUIRE(life.free(superblock->block(slot)) == Verdict::kNotLive);
    }
    // Behind the last slot.
    size_t used = size_t{superblock->info().slot_count} * superblock->info().slot_bytes;
    if (used < superblock->info().frame_count * kFrameBytes)
      BOOST_TEST(life.free(superblock->data + used) != Verdict::kGood);
  }
}

BOOST_FIXTURE_TEST_CASE(invalid_free_of_a_large_block_is_found_out, Fixture) {
  Life life(path);
  size_t size_bytes = 200 * kKiB;
  char* block = life.allocate(size_bytes);
  char* behind = life.allocate(size_bytes);
  for (size_t offset = 1; offset < life.arena().usable_size(block); offset += 4093) {
    BOOST_REQUIRE_MESSAGE(life.free(block + offset) == Verdict::kMiddle, "offset " << offset);
  }
  for (size_t frame = 1; frame < size_bytes / kFrameBytes; frame++)
    BOOST_TEST(life.free(block + frame * kFrameBytes) == Verdict::kMiddle);
  BOOST_TEST(life.free(block) == Verdict::kGood);
  BOOST_TEST(life.free(block) == Verdict::kNotLive);
  BOOST_TEST(life.arena().usable_size(block) == 0u);
  BOOST_TEST(life.free(behind) == Verdict::kGood);
}

BOOST_FIXTURE_TEST_CASE(pointer_where_no_block_is_has_no_block, Fixture) {
  Life life(path, 256 * kMiB);
  char* block = life.allocate(100 * kKiB);
  BOOST_TEST(life.free(block + 128 * kMiB) == Verdict::kNoBlock);  // never grown
  BOOST_TEST(life.free(reinterpret_cast<char*>(life.arena().geometry().coarse_base) + 256 * kMiB +
                       16) == Verdict::kNoBlock);  // fine zone
  BOOST_TEST(life.arena().usable_size(block + 128 * kMiB) == 0u);
  BOOST_TEST(!life.arena().contains(&life));
}

BOOST_FIXTURE_TEST_CASE(wrong_frees_change_nothing_for_the_blocks_around, Fixture) {
  Life life(path, 256 * kMiB);
  std::mt19937_64 random(test::seed());
  std::vector<std::pair<char*, size_t>> mine;
  for (int i = 0; i < 500; i++) {
    size_t size_bytes = random() % 10 == 0 ? random() % (256 * kKiB) : random() % 2000;
    mine.emplace_back(life.allocate(size_bytes), size_bytes);
    test::fill(mine.back().first, size_bytes, static_cast<uint64_t>(i));
  }
  auto base = reinterpret_cast<char*>(life.arena().geometry().coarse_base);
  std::set<char*> starts;
  for (auto [block, size] : mine) starts.insert(block);
  for (int i = 0; i < 200000; i++) {
    char* stray = i % 2 == 0 ? base + random() % life.arena().data_bytes()
                             : mine[random() % mine.size()].first + 1 + random() % 100;
    if (starts.count(stray) == 0) BOOST_REQUIRE(life.free(stray) != Verdict::kGood);
  }
  for (size_t i = 0; i < mine.size(); i++) {
    BOOST_REQUIRE(test::is_filled(mine[i].first, mine[i].second, i));
    BOOST_REQUIRE(life.free(mine[i].first) == Verdict::kGood);
  }
  BOOST_TEST(life.arena().usage().live_blocks == 0u);
}

BOOST_FIXTURE_TEST_CASE(large_block_grows_into_free_frames_and_keeps_its_bytes, Fixture) {
  Life life(path);
  char* block = life.allocate(100 * kKiB);
  test::fill(block, 100 * kKiB, 1);
  BOOST_REQUIRE(life.arena().resize_in_place(block, 700 * kKiB));
  BOOST_TEST(life.arena().usable_size(block) == 700 * kKiB);
  BOOST_TEST(test::is_filled(block, 100 * kKiB, 1));
  std::memset(block, 1, 700 * kKiB);
  BOOST_TEST(life.arena().usage().live_bytes == 700 * kKiB);
  BOOST_TEST(life.free(block) == Verdict::kGood);
}

BOOST_FIXTURE_TEST_CASE(large_block_does_not_grow_into_its_neighbour, Fixture) {
  Life life(path);
  char* block = life.allocate(64 * kKiB);
  char* neighbour = life.allocate(64 * kKiB);
  BOOST_REQUIRE(neighbour == block + 64 * kKiB);
  BOOST_TEST(!life.arena().resize_in_place(block, 80 * kKiB));
  BOOST_TEST(life.arena().usable_size(block) == 64 * kKiB);
  BOOST_TEST(life.free(neighbour) == Verdict::kGood);
  life.cache().release_warm();
  BOOST_TEST(life.arena().resize_in_place(block, 128 * kKiB));
}

BOOST_FIXTURE_TEST_CASE(large_block_shrinks_and_its_end_is_used_again, Fixture) {
  Life life(path);
  char* block = life.allocate(kMiB);
  test::fill(block, kMiB, 2);
  BOOST_REQUIRE(life.arena().resize_in_place(block, 100 * kKiB));
  BOOST_TEST(life.arena().usable_size(block) == 100 * kKiB);
  BOOST_TEST(test::is_filled(block, 100 * kKiB, 2));
  BOOST_TEST(life.free(block + 512 * kKiB) != Verdict::kGood);
  char* other = life.allocate(800 * kKiB);
  BOOST_TEST((other > block));
  BOOST_TEST((other < block + kMiB));
  std::memset(other, 0, 800 * kKiB);
  BOOST_TEST(test::is_filled(block, 100 * kKiB, 2));
}

BOOST_FIXTURE_TEST_CASE(large_block_kept_warm_is_free_until_it_is_allocated_again, Fixture) {
  Life life(path);
  char* block = life.allocate(64 * kKiB);
  for (size_t size_bytes : {64 * kKiB, 64 * kKiB - 5000, 64 * kKiB}) {
    BOOST_TEST(life.free(block) == Verdict::kGood);
    BOOST_TEST(life.free(block) == Verdict::kNotLive);
    BOOST_TEST(life.arena().usable_size(block) == 0u);
    BOOST_TEST(life.arena().usage().live_blocks == 0u);
    bool is_zero = true;
    BOOST_TEST((life.allocate(size_bytes, 16, &is_zero) == block));
    BOOST_TEST(!is_zero);
    BOOST_TEST(life.arena().usable_size(block) == round_up(size_bytes, 4096));
  }
}

BOOST_FIXTURE_TEST_CASE(short_way_of_large_blocks_takes_warm_ones_of_this_epoch_and_nothing_else,
                        Fixture) {
  char* old_block;
  {
    Life life(path);
    old_block = life.allocate(64 * kKiB);
  }
  Life life(path);
  Arena& arena = life.arena();
  BOOST_TEST(!arena.free_warm(life.cache(), old_block));  // no room before the first free
  BOOST_TEST(arena.allocate_warm(life.cache(), 64 * kKiB) == nullptr);
  char* small = life.allocate(64);
  char* first = life.allocate(64 * kKiB);
  BOOST_TEST(arena.free(life.cache(), first) == Verdict::kGood);
  BOOST_TEST(!arena.free_warm(life.cache(), first));  // twice
  BOOST_TEST(arena.allocate_warm(life.cache(), 80 * kKiB) == nullptr);
  BOOST_TEST(arena.allocate_warm(life.cache(), ~size_t{0}) == nullptr);
  for (size_t size_bytes : {64 * kKiB, 64 * kKiB - 5000, 64 * kKiB}) {
    BOOST_REQUIRE(arena.allocate_warm(life.cache(), size_bytes) == first);
    BOOST_TEST(arena.usable_size(first) == round_up(size_bytes, 4096));
    BOOST_TEST(arena.usage().live_large_blocks == 2u);
    BOOST_TEST(arena.allocate_warm(life.cache(), size_bytes) == nullptr);
    BOOST_TEST(!arena.free_warm(life.cache(), first + 16));
    BOOST_TEST(!arena.free_warm(life.cache(), first + kFrameBytes));
    BOOST_TEST(!arena.free_warm(life.cache(), first - kFrameBytes));
    BOOST_TEST(!arena.free_warm(life.cache(), small));
    BOOST_TEST(!arena.free_warm(life.cache(), old_block));  // another epoch's
    BOOST_TEST(!arena.free_warm(life.cache(), nullptr));
    BOOST_TEST(!arena.free_warm(life.cache(), reinterpret_cast<void*>(~uintptr_t{0})));
    BOOST_REQUIRE(arena.free_warm(life.cache(), first));
    BOOST_TEST(arena.usage().live_large_blocks == 1u);
  }
}

BOOST_FIXTURE_TEST_CASE(frames_kept_warm_serve_a_small_block_when_nothing_else_is_left, Fixture) {
  Life life(path, 4 * kMiB);
  std::vector<char*> mine;
  while (char* block = life.allocate(512 * kKiB)) mine.push_back(block);
  while (char* block = life.allocate(33 * kKiB)) mine.push_back(block);
  BOOST_TEST(life.allocate(64) == nullptr);
  for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(life.allocate(64) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(random_resizes_keep_bytes_and_never_overlap, Fixture) {
  Life life(path, 256 * kMiB);
  std::mt19937_64 random(test::seed());
  struct Live {
    char* block;
    size_t size_bytes;
    uint64_t mark;
  };
  std::vector<Live> mine;
  size_t grown = 0, shrunk = 0;
  for (int step = 0; step < 6000; step++) {
    if (mine.size() < 40) {
      size_t size_bytes = kSmallBytesMax + 1 + random() % (300 * kKiB);
      mine.push_back({life.allocate(size_bytes), size_bytes, random()});
      BOOST_REQUIRE(mine.back().block != nullptr);
      test::fill(mine.back().block, size_bytes, mine.back().mark);
      continue;
    }
    size_t index = random() % mine.size();
    Live& live = mine[index];
    if (random() % 3 == 0) {
      BOOST_REQUIRE(test::is_filled(live.block, live.size_bytes, live.mark));
      BOOST_REQUIRE(life.free(live.block) == Verdict::kGood);
      live = mine.back();
      mine.pop_back();
      continue;
    }
    size_t wanted = kSmallBytesMax + 1 + random() % (300 * kKiB);
    bool is_resized = life.arena().resize_in_place(live.block, wanted);
    size_t kept = is_resized ? std::min(wanted, live.size_bytes) : live.size_bytes;
    BOOST_REQUIRE(test::is_filled(live.block, kept, live.mark));
    if (!is_resized) {
      BOOST_REQUIRE(life.arena().usable_size(live.block) >= live.size_bytes);
      continue;
    }
    BOOST_REQUIRE(life.arena().usable_size(live.block) == round_up(wanted, 4096));
    (wanted > live.size_bytes ? grown : shrunk)++;
    live.size_bytes = wanted;
    test::fill(live.block, wanted, live.mark);
  }
  BOOST_TEST(grown > 50u);
  BOOST_TEST(shrunk > 50u);
}

BOOST_FIXTURE_TEST_CASE(small_block_resizes_within_its_slot_only, Fixture) {
  Life life(path);
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    size_t slot_bytes = kSizeClasses[size_class].slot_bytes;
    char* block = life.allocate(slot_bytes);
    BOOST_TEST(life.arena().resize_in_place(block, slot_bytes));
    BOOST_TEST(!life.arena().resize_in_place(block, slot_bytes + 1));
    if (slot_bytes > 128) BOOST_TEST(!life.arena().resize_in_place(block, 1));
    BOOST_TEST(life.arena().usable_size(block) == slot_bytes);
  }
}

// A tmpfs would have to find all the memory at once; survivors and metadata are left alone.
BOOST_FIXTURE_TEST_CASE(a_block_of_most_of_memory_is_refused_at_once, Fixture) {
  Life life(path, uint64_t{64} << 40);
  BOOST_REQUIRE(life.is_open());
  uint64_t most_bytes = life.arena().mapping().at_once_bytes_max();
  if (most_bytes == UINT64_MAX) {
    BOOST_TEST_MESSAGE("skipped: the arena is not in a tmpfs");
    return;
  }
  uint32_t grown = life.arena().header().coarse_frames_grown;
  BOOST_TEST(life.allocate(most_bytes + 1, 16) == nullptr);
  BOOST_TEST(life.arena().header().coarse_frames_grown == grown);
  char* block = life.allocate(kMiB, 16);
  BOOST_REQUIRE(block != nullptr);
  // What it would grow by is too much.
  BOOST_TEST(!life.arena().resize_in_place(block, most_bytes + 2 * kMiB));
  BOOST_TEST(life.arena().header().coarse_frames_grown < grown + 1024);
}

}  // namespace
}  // namespace btd
