// A full arena with survivors in it.  Invariants checked:
//  1. Survivors stay untouched while there is other room; under pressure they go, the oldest epoch
//  first, and no more epochs than needed.
//  2. Blocks of this epoch are never given up.
//  3. With OnRestart::kKeep survivors are never given up.
//  4. An arena reopened any number of times keeps its survivors apart by epoch, also when tags come
//  round; kept ones stay for ever.
#define BOOST_TEST_MODULE pressure
#include <algorithm>
#include <map>

#include "core/recovery/view.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

constexpr uint64_t kCapacity = 16 * kMiB;

struct Fixture {
  Fixture() { test::limit_time(100); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");

  // Live blocks by epoch, as a tool sees them; 0: kept.
  std::map<uint64_t, uint64_t> live_by_epoch() {
    std::map<uint64_t, uint64_t> count;
    static ArenaView view;
    BOOST_REQUIRE(ArenaView::open(path.c_str(), view) == Error::kNone);
    view.for_each_block([&](const Block& block) { count[block.epoch]++; });
    view.close();
    return count;
  }
};

struct Silence {
  Silence() { log_level = LogLevel::kOff; }
  ~Silence() { log_level = LogLevel::kError; }
};

// Each of four lives leaves 2 MiB of blocks of `size_bytes`.
void leave_survivors(const std::string& path, size_t size_bytes,
                     std::vector<std::pair<char*, uint64_t>>* blocks = nullptr) {
  for (uint64_t epoch = 1; epoch <= 4; epoch++) {
    Life life(path, kCapacity);
    BOOST_REQUIRE(life.is_open());
    BOOST_REQUIRE(life.arena().header().epoch == epoch);
    for (size_t total = 0; total < 2 * kMiB; total += size_bytes) {
      char* block = life.allocate(size_bytes);
      BOOST_REQUIRE(block != nullptr);
      test::fill(block, size_bytes, epoch);
      if (blocks != nullptr) blocks->emplace_back(block, epoch);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(survivors_stay_while_there_is_room, Fixture) {
  leave_survivors(path, 64);
  auto before = live_by_epoch();
  BOOST_TEST(before.size() == 4u);
  {
    Life life(path, kCapacity);
    for (int i = 0; i < 50; i++) BOOST_REQUIRE(life.allocate(64 * kKiB) != nullptr);
  }
  auto after = live_by_epoch();
  BOOST_TEST(after[5] == 50u);
  after.erase(5);
  BOOST_TEST((before == after));
}

BOOST_FIXTURE_TEST_CASE(survivors_stay_while_this_threads_own_free_memory_will_do, Fixture) {
  leave_survivors(path, 64);
  auto before = live_by_epoch();
  Life life(path, kCapacity);
  std::vector<char*> mine;
  // 8 MiB are the survivors'.  What follows fits beside them, but only in the place of what is
  // freed.
  for (int i = 0; i < 7; i++) {
    mine.push_back(life.allocate(kMiB));
    BOOST_REQUIRE(mine.back() != nullptr);
  }
  BOOST_TEST((live_by_epoch()[1] == before[1]));
  for (int i = 0; i < 4; i++)
    BOOST_REQUIRE(life.free(mine[static_cast<size_t>(i)]) == Verdict::kGood);
  BOOST_TEST(life.allocate(3 * kMiB) != nullptr);
  auto after = live_by_epoch();
  for (auto [epoch, count] : before) BOOST_TEST(after[epoch] == count);
}

BOOST_FIXTURE_TEST_CASE(oldest_survivors_go_first_and_only_as_many_epochs_as_needed, Fixture) {
  Silence silence;
  for (size_t size_bytes : {size_t{48}, size_t{64}, size_t{3072}, 32 * kKiB, 100 * kKiB}) {
    BOOST_TEST_CONTEXT("survivors of " << size_bytes << " bytes") {
      path = scratch.file(std::to_string(size_bytes));
      leave_survivors(path, size_bytes);
      Life life(path, kCapacity);
      BOOST_REQUIRE(life.is_open());
      std::vector<uint64_t> oldest_seen;
      std::vector<char*> mine;
      for (;;) {
        char* block = life.allocate(100 * kKiB);
        if (block == nullptr) break;
        std::memset(block, 0x55, 100 * kKiB);
        mine.push_back(block);
        uint64_t oldest = live_by_epoch().begin()->first;
        if (oldest_seen.empty() || oldest_seen.back() != oldest) oldest_seen.push_back(oldest);
      }
      // 1, then 2, ... then only our own: each step gave up one epoch more.  None is skipped, but
      // where survivors lie in the fine zone, whose frames cannot serve a large block.
      BOOST_TEST(std::is_sorted(oldest_seen.begin(), oldest_seen.end()));
      BOOST_TEST(oldest_seen.front() == 1u);
      BOOST_TEST(oldest_seen.back() == 5u);
      if (size_bytes % 64 == 0) BOOST_TEST(oldest_seen.size() == 5u);
      BOOST_TEST(mine.size() * 100 * kKiB >= 10 * kMiB);
      for (char* block : mine) {
        BOOST_REQUIRE(block[0] == 0x55 && block[100 * kKiB - 1] == 0x55);
        BOOST_REQUIRE(life.free(block) == Verdict::kGood);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(pressure_by_small_blocks_never_touches_blocks_of_this_epoch, Fixture) {
  Silence silence;
  leave_survivors(path, 64);
  Life life(path, kCapacity);
  std::vector<char*> mine;
  for (;;) {
    size_t size_bytes = 16 + 16 * (mine.size() % 60);
    char* block = life.allocate(size_bytes);
    if (block == nullptr) break;
    test::fill(block, size_bytes, mine.size());
    mine.push_back(block);
  }
  for (size_t i = 0; i < mine.size(); i++) {
    BOOST_REQUIRE(test::is_filled(mine[i], 16 + 16 * (i % 60), i));
    BOOST_REQUIRE(life.free(mine[i]) == Verdict::kGood);
  }
}

BOOST_FIXTURE_TEST_CASE(kept_survivors_are_never_given_up, Fixture) {
  Silence silence;
  std::vector<std::pair<char*, uint64_t>> survivors;
  leave_survivors(path, 1000, &survivors);
  auto before = live_by_epoch();
  Life life(path, kCapacity, OnRestart::kKeep);
  size_t mine = 0;
  while (life.allocate(16 * kKiB) != nullptr) mine++;
  while (life.allocate(1000) != nullptr) {
  }
  BOOST_TEST(mine > 100u);
  auto after = live_by_epoch();
  for (auto [epoch, count] : before) BOOST_TEST(after[epoch] == count);
  for (auto [block, epoch] : survivors) BOOST_REQUIRE(test::is_filled(block, 1000, epoch));
}

BOOST_FIXTURE_TEST_CASE(empty_superblocks_of_an_earlier_life_serve_large_blocks, Fixture) {
  {
    Life life(path, kCapacity);
    std::vector<char*> mine;
    while (char* block = life.allocate(64)) mine.push_back(block);
    for (char* block : mine) life.free(block);
    // Die with blocks in the cache: their superblocks are empty, and have descriptors.
  }
  Life life(path, kCapacity);
  BOOST_TEST(life.allocate(12 * kMiB) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(survivors_stay_apart_over_260_reopens, Fixture) {
  Silence silence;
  for (OnRestart on_restart : {OnRestart::kSalvage, OnRestart::kKeep}) {
    BOOST_TEST_CONTEXT((on_restart == OnRestart::kKeep ? "keep" : "salvage")) {
      path = scratch.file(on_restart == OnRestart::kKeep ? "keep" : "salvage");
      struct Left {
        char* small;
        char* large;
      };
      std::vector<Left> left(1);  // by epoch
      for (uint64_t epoch = 1; epoch <= 260; epoch++) {
        Life life(path, 64 * kMiB, on_restart);
        BOOST_REQUIRE(life.is_open());
        BOOST_REQUIRE(life.arena().header().epoch == epoch);
        BOOST_REQUIRE(life.arena().tag() == tag_of_epoch(epoch));
        left.push_back({life.allocate(500), life.allocate(40 * kKiB)});
        test::fill(left.back().small, 500, epoch);
        test::fill(left.back().large, 40 * kKiB, epoch);
      }
      auto live = live_by_epoch();
      uint64_t total = 0;
      for (auto [epoch, count] : live) {
        total += count;
        if (epoch != 0)
          BOOST_TEST(count ==
                     2u);  // a small and a large one: never those of two epochs under one name
      }
      BOOST_TEST(live[260] == 2u);
      BOOST_TEST(live[141] == 2u);  // within the span that is always kept
      if (on_restart == OnRestart::kKeep) {
        BOOST_TEST(total == 520u);
        Life life(path, 64 * kMiB, on_restart);
        for (uint64_t epoch = 1; epoch <= 260; epoch++) {
          BOOST_REQUIRE(test::is_filled(left[epoch].small, 500, epoch));
          BOOST_REQUIRE(test::is_filled(left[epoch].large, 40 * kKiB, epoch));
        }
      } else {
        BOOST_TEST(total >= 240u);
      }
    }
  }
}

BOOST_FIXTURE_TEST_CASE(discard_removes_the_file_of_an_arena_without_survivors, Fixture) {
  Life life(path, kCapacity);
  BOOST_REQUIRE(life.allocate(100) != nullptr);
  life.arena().discard();
  BOOST_TEST(!std::filesystem::exists(path));
}

BOOST_FIXTURE_TEST_CASE(discard_keeps_survivors_and_gives_up_the_blocks_of_this_epoch, Fixture) {
  leave_survivors(path, 64);
  auto before = live_by_epoch();
  {
    Life life(path, kCapacity);
    for (int i = 0; i < 100; i++) life.allocate(64), life.allocate(50 * kKiB);
    life.arena().discard();
    BOOST_TEST(life.arena().header().state == static_cast<uint32_t>(ArenaState::kClean));
  }
  BOOST_TEST((live_by_epoch() == before));
}

BOOST_FIXTURE_TEST_CASE(usage_counts_what_is_live, Fixture) {
  Life life(path, kCapacity);
  uint64_t bytes = 0;
  for (size_t size_bytes :
       {size_t{16}, size_t{48}, size_t{64}, size_t{1000}, 32 * kKiB, 33 * kKiB, 200 * kKiB}) {
    bytes += life.arena().usable_size(life.allocate(size_bytes));
  }
  Usage usage = life.arena().usage();
  BOOST_TEST(usage.live_blocks == 7u);
  BOOST_TEST(usage.live_large_blocks == 2u);
  BOOST_TEST(usage.live_bytes == bytes);
  BOOST_TEST(usage.live_bytes + usage.free_bytes <= usage.grown_bytes);
}

}  // namespace
}  // namespace btd
