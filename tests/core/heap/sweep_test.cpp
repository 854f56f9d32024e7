// The sweep's half in the heap.  Invariants checked:
//  1. Blocks of this epoch are never asked about; of the others each is kept or freed as told.
//  2. What is freed is free for use at once, small and large; what is kept keeps its bytes.
//  3. Under pressure, with roots set, survivors go by the callback alone.
#define BOOST_TEST_MODULE sweep
#include <set>

#include "tests/core/gc/support.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(50); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
};

bool is_in(const void* context, const void* block) {
  return static_cast<const std::set<const void*>*>(context)->contains(block);
}

BOOST_FIXTURE_TEST_CASE(earlier_blocks_are_kept_or_freed_as_told, Fixture) {
  std::set<const void*> kept;
  std::vector<char*> all;
  {
    Life life(path);
    for (int i = 0; i < 5000; i++) {
      size_t size_bytes = i % 50 == 0 ? 100 * kKiB : 16 + i % 300;
      all.push_back(life.allocate(size_bytes));
      BOOST_REQUIRE(all.back() != nullptr);
      test::fill(all.back(), 16, i);
      if (i % 7 == 0) kept.insert(all.back());
    }
  }
  Life life(path);
  char *mine = life.allocate(64), *large = life.allocate(kMiB);
  Arena::Swept swept = life.arena().sweep(is_in, &kept);
  BOOST_TEST(swept.kept_blocks == kept.size());
  BOOST_TEST(swept.freed_blocks == all.size() - kept.size());
  for (size_t i = 0; i < all.size(); i++) {
    bool is_kept = kept.contains(all[i]);
    BOOST_REQUIRE((life.arena().look_up(all[i]) == Verdict::kGood) == is_kept);
    if (is_kept) BOOST_REQUIRE(test::is_filled(all[i], 16, i));
  }
  BOOST_TEST((life.arena().look_up(mine) == Verdict::kGood));
  BOOST_TEST((life.arena().look_up(large) == Verdict::kGood));
  BOOST_TEST(life.arena().usage().live_blocks == kept.size() + 2);
  // No block is handed out that is in use.
  for (int i = 0; i < 20000; i++) {
    char* block = life.allocate(16 + i % 300);
    if (block == nullptr) break;
    BOOST_REQUIRE(!kept.contains(block));
    BOOST_REQUIRE(block != mine);
  }
  // Kept ones are of no epoch: the next sweep decides over them again.
  std::set<const void*> none;
  BOOST_TEST(life.arena().sweep(is_in, &none).freed_blocks == kept.size());
}

uint32_t calls = 0;

BOOST_FIXTURE_TEST_CASE(with_roots_pressure_asks_the_callback, Fixture) {
  constexpr uint64_t kCapacity = 16 * kMiB;
  log_level = LogLevel::kOff;
  char* rooted;
  {
    Life life(path, kCapacity);
    rooted = life.allocate(kMiB);
    test::set_root(life.arena(), 0, "data", rooted);
    for (int i = 0; i < 60; i++) life.allocate(100 * kKiB);
  }
  {
    Life life(path, kCapacity);
    while (life.allocate(100 * kKiB) != nullptr) {
    }
    BOOST_TEST(life.arena().usage().live_blocks > 61u);  // none was dropped
    BOOST_TEST((life.arena().look_up(rooted) == Verdict::kGood));
  }
  Life life(path, kCapacity);
  calls = 0;
  life.arena().collect_callback = [](Arena& arena) {
    calls++;
    return collect_under_pressure(arena);
  };
  std::vector<char*> mine;
  while (char* block = life.allocate(100 * kKiB)) mine.push_back(block);
  BOOST_TEST(calls > 0u);
  BOOST_TEST(mine.size() > 100u);
  BOOST_TEST((life.arena().look_up(rooted) == Verdict::kGood));
  BOOST_TEST(life.arena().usage().live_blocks == mine.size() + 1);
}

}  // namespace
}  // namespace btd
