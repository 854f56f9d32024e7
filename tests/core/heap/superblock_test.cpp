// A superblock's free slots.  Invariants checked, for every class:
//  1. The bits set are exactly the slots whose state is 0 after scan(), and all slots after
//  mark_all_free().
//  2. take() hands each free slot out once, with the address and the state that belong together.
//  3. mark_free() of blocks sets the bits of the leading ones that are the superblock's, no others.
//  4. A list holds what was pushed and not removed.
#define BOOST_TEST_MODULE superblock
#include "core/heap/superblock.hpp"

#include <algorithm>
#include <set>

#include "core/persist/layout.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

// A superblock over memory of the test's own.
struct Fixture {
  explicit Fixture(size_t size_class)
      : states(kSizeClasses[size_class].frame_count * size_t{kFineStatesPerFrame}),
        data(kSizeClasses[size_class].frame_count * kFrameBytes) {
    superblock.size_class = static_cast<uint8_t>(size_class);
    superblock.data = data.data();
    superblock.states = states.data();
  }
  std::vector<uint8_t> states;
  std::vector<char> data;
  Superblock superblock{};
};

BOOST_AUTO_TEST_CASE(take_hands_out_each_slot_of_a_carved_superblock_once) {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    Fixture fixture(size_class);
    const SizeClassInfo& info = kSizeClasses[size_class];
    fixture.superblock.mark_all_free();
    BOOST_TEST(fixture.superblock.is_empty());
    std::set<void*> blocks;
    CachedBlock out[7];
    uint32_t total = 0;
    while (uint32_t taken = fixture.superblock.take(out, 7)) {
      total += taken;
      for (uint32_t i = 0; i < taken; i++) {
        uint32_t slot = fixture.superblock.slot_of(out[i].block);
        BOOST_REQUIRE(slot < info.slot_count);
        BOOST_REQUIRE(out[i].block == fixture.superblock.block(slot));
        BOOST_REQUIRE(out[i].state == fixture.superblock.state(slot));
        BOOST_REQUIRE(out[i].state < fixture.states.data() + fixture.states.size());
        BOOST_REQUIRE(blocks.insert(out[i].block).second);
        if (i > 0) BOOST_REQUIRE(out[i].block < out[i - 1].block);
      }
    }
    BOOST_TEST(total == info.slot_count);
    BOOST_TEST(fixture.superblock.is_full());
  }
}

BOOST_AUTO_TEST_CASE(scan_finds_exactly_the_slots_with_state_0) {
  std::mt19937_64 random(test::seed());
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    for (uint64_t density : {0, 1, 2, 50}) {
      Fixture fixture(size_class);
      std::set<uint32_t> free_slots;
      for (uint32_t slot = 0; slot < kSizeClasses[size_class].slot_count; slot++) {
        bool is_live = density == 0 || (density < 50 && random() % density == 0);
        if (density == 2) is_live = random() % 2 == 0;
        *fixture.superblock.state(slot) = is_live ? static_cast<uint8_t>(1 + random() % 255) : 0;
        if (!is_live) free_slots.insert(slot);
      }
      for (uint64_t& word : fixture.superblock.free_bits) word = random();  // of an earlier use
      fixture.superblock.scan();
      BOOST_REQUIRE(fixture.superblock.free_count == free_slots.size());
      std::vector<CachedBlock> out(kSlotsMax);
      uint32_t taken = fixture.superblock.take(out.data(), kSlotsMax);
      BOOST_REQUIRE(taken == free_slots.size());
      for (uint32_t i = 0; i < taken; i++)
        BOOST_REQUIRE(free_slots.erase(fixture.superblock.slot_of(out[i].block)) == 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(slot_given_back_is_the_one_taken_next) {
  Fixture fixture(size_class_of(64));
  fixture.superblock.mark_all_free();
  std::vector<CachedBlock> out(kSlotsMax);
  fixture.superblock.take(out.data(), kSlotsMax);
  fixture.superblock.mark_free(77);
  BOOST_TEST(fixture.superblock.free_count == 1u);
  BOOST_TEST(fixture.superblock.take(out.data(), 5) == 1u);
  BOOST_TEST(out[0].block == fixture.superblock.block(77));
}

BOOST_AUTO_TEST_CASE(blocks_given_back_together_are_free_up_to_the_first_of_another_superblock) {
  std::mt19937_64 random(test::seed());
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    for (int round = 0; round < 20; round++) {
      Fixture fixture(size_class), other(size_class);
      fixture.superblock.mark_all_free();
      uint32_t slot_count = kSizeClasses[size_class].slot_count;
      std::vector<CachedBlock> all(slot_count);
      fixture.superblock.take(all.data(), slot_count);
      if (round % 2 == 0) std::shuffle(all.begin(), all.end(), random);
      auto own = static_cast<uint32_t>(1 + random() % slot_count);
      std::vector<CachedBlock> blocks(all.begin(), all.begin() + own);
      blocks.push_back({other.superblock.block(0), other.superblock.state(0)});
      blocks.insert(blocks.end(), all.begin() + own, all.end());
      auto count = static_cast<uint32_t>(blocks.size());
      BOOST_REQUIRE(fixture.superblock.mark_free(blocks.data(), count) == own);
      BOOST_REQUIRE(fixture.superblock.free_count == own);
      std::set<void*> expected, found;
      for (uint32_t i = 0; i < own; i++) expected.insert(blocks[i].block);
      // A few at a time, so that runs of free slots are cut.
      CachedBlock out[5];
      while (uint32_t taken = fixture.superblock.take(out, 5)) {
        for (uint32_t i = 0; i < taken; i++) {
          BOOST_REQUIRE(found.insert(out[i].block).second);
          BOOST_REQUIRE(out[i].state ==
                        fixture.superblock.state(fixture.superblock.slot_of(out[i].block)));
        }
      }
      BOOST_REQUIRE(found == expected);
    }
  }
}

BOOST_AUTO_TEST_CASE(any_byte_of_a_slot_is_in_that_slot) {
  std::mt19937_64 random(test::seed());
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    Fixture fixture(size_class);
    const SizeClassInfo& info = kSizeClasses[size_class];
    for (uint32_t slot = 0; slot < info.slot_count; slot++) {
      for (size_t offset :
           {size_t{0}, size_t{info.slot_bytes - 1}, size_t(random() % info.slot_bytes)}) {
        BOOST_REQUIRE(fixture.superblock.slot_of(fixture.superblock.block(slot) + offset) == slot);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(list_keeps_what_was_pushed_and_not_removed) {
  Superblock a{}, b{}, c{};
  SuperblockList list;
  for (Superblock* superblock : {&a, &b, &c}) list.push(*superblock);
  list.remove(b);
  BOOST_TEST(list.front() == &c);
  BOOST_TEST(c.next == &a);
  BOOST_TEST(a.previous == &c);
  list.remove(c);
  list.remove(a);
  BOOST_TEST(list.front() == nullptr);
}

}  // namespace
}  // namespace btd
