// The arena as a whole.  Invariant checked: a full arena says so with nullptr, loses no block, and
// has room again after a free.
#define BOOST_TEST_MODULE arena
#include "core/heap/arena.hpp"

#include <map>
#include <set>

#include "core/base/sys.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(120); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
};

BOOST_FIXTURE_TEST_CASE(full_arena_gives_nullptr_and_has_room_after_a_free, Fixture) {
  for (size_t size_bytes : {size_t{16}, size_t{48}, size_t{64}, size_t{1000}, 16 * kKiB, 32 * kKiB,
                            40 * kKiB, 300 * kKiB}) {
    BOOST_TEST_CONTEXT(size_bytes << " bytes") {
      Life life(scratch.file(std::to_string(size_bytes)), 8 * kMiB);
      BOOST_REQUIRE(life.is_open());
      std::vector<char*> mine;
      size_t total = 0;  // of slots: where the fine zone is full, the next coarse class serves
      while (char* block = life.allocate(size_bytes)) {
        mine.push_back(block);
        total += life.arena().usable_size(block);
      }
      BOOST_TEST(total <= 8 * kMiB);
      BOOST_TEST(total >= 6 * kMiB);
      BOOST_TEST(life.allocate(size_bytes) == nullptr);
      for (size_t i = 0; i < mine.size() / 2; i++)
        BOOST_REQUIRE(life.free(mine[i]) == Verdict::kGood);
      for (size_t i = 0; i < mine.size() / 2; i++) {
        mine[i] = life.allocate(size_bytes);
        BOOST_REQUIRE_MESSAGE(mine[i] != nullptr, i << " of " << mine.size() / 2 << " came back");
      }
      for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
      BOOST_TEST(life.arena().usage().live_blocks == 0u);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(arena_full_of_small_blocks_serves_a_large_one_once_they_are_free, Fixture) {
  Life life(path, 8 * kMiB);
  std::vector<char*> mine;
  while (char* block = life.allocate(1024)) mine.push_back(block);
  BOOST_TEST(life.allocate(100 * kKiB) == nullptr);
  for (char* block : mine) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  BOOST_TEST(life.allocate(4 * kMiB) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(request_larger_than_the_arena_gives_nullptr, Fixture) {
  Life life(path, 8 * kMiB);
  for (size_t size_bytes : {9 * kMiB, kGiB, size_t{1} << 47, ~size_t{0} >> 1})
    BOOST_TEST(life.allocate(size_bytes) == nullptr);
  for (unsigned bits = 24; bits < 64; bits++)
    BOOST_TEST(life.allocate(100, size_t{1} << bits) == nullptr);
  BOOST_TEST(life.allocate(100) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(refused_growth_of_the_file_is_nullptr_and_no_block_is_lost, Fixture) {
  Life life(path, 64 * kMiB);
  char* first = life.allocate(100 * kKiB);
  test::fill(first, 100 * kKiB, 7);
  std::vector<char*> mine;
  while (char* block = life.allocate(kMiB)) mine.push_back(block);
  BOOST_TEST(mine.size() >= 60u);
  for (char* block : mine)
    std::memset(block, 1, kMiB);  // SIGBUS here would mean space was not allocated first
  BOOST_TEST(test::is_filled(first, 100 * kKiB, 7));
}

}  // namespace
}  // namespace btd
