// The free extents of a zone against a model that holds one word a frame.  Invariants checked:
//  1. Whatever is taken was free, is of the asked length and alignment, and tells the truth about
//  backing and zeros.
//  2. No free frame is lost: the map counts as many as the model; everything given back in any
//  order joins to one extent.
//  3. Neighbours that differ in backing do not join.
#define BOOST_TEST_MODULE extent_map
#include "core/heap/extent_map.hpp"

#include <vector>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

// Frame by frame: in use, or free with these flags.
struct Model {
  struct Frame {
    bool is_free = false, is_backed = false, is_zero = false;
  };
  std::vector<Frame> frames;
  uint32_t first;

  Model(uint32_t first_frame, uint32_t count) : frames(count), first(first_frame) {}
  Frame& at(uint32_t frame) { return frames[frame - first]; }
  uint32_t free_count() const {
    uint32_t count = 0;
    for (const Frame& frame : frames) count += frame.is_free;
    return count;
  }
  // The longest run of free frames alike in backing.
  uint32_t longest() const {
    uint32_t best = 0, run = 0;
    for (size_t i = 0; i < frames.size(); i++) {
      bool goes_on = run > 0 && frames[i].is_backed == frames[i - 1].is_backed;
      run = !frames[i].is_free ? 0 : goes_on ? run + 1 : 1;
      best = std::max(best, run);
    }
    return best;
  }
};

struct Fixture {
  static constexpr uint32_t kFirst = 1000;
  static constexpr uint32_t kCount = 3000;
  std::vector<ExtentNode> nodes = std::vector<ExtentNode>(kFirst + kCount);
  ExtentMap map;
  Model model{kFirst, kCount};

  Fixture() {
    map.init(nodes.data(), kFirst);
    map.extend(kCount);
  }
  void give(FreeExtent extent, uint32_t now_s = 0) {
    for (uint32_t i = 0; i < extent.frame_count; i++) {
      auto& frame = model.at(extent.first_frame + i);
      BOOST_REQUIRE(!frame.is_free);
      frame = {true, extent.is_backed, extent.is_zero};
    }
    map.give(extent, now_s);
  }
  void check_taken(const FreeExtent& extent) {
    BOOST_REQUIRE(extent.first_frame >= kFirst);
    BOOST_REQUIRE(extent.first_frame + extent.frame_count <= kFirst + kCount);
    for (uint32_t i = 0; i < extent.frame_count; i++) {
      auto& frame = model.at(extent.first_frame + i);
      BOOST_REQUIRE_MESSAGE(frame.is_free, "frame " << extent.first_frame + i << " had an owner");
      BOOST_REQUIRE(frame.is_backed == extent.is_backed);
      if (extent.is_zero) BOOST_REQUIRE(frame.is_zero);
      frame = {};
    }
  }
};

BOOST_AUTO_TEST_CASE(random_take_and_give_agree_with_the_model) {
  test::limit_time(100);
  for (uint64_t round = 0; round < 20; round++) {
    std::mt19937_64 random(test::seed() + round);
    auto below = [&](uint64_t bound) { return static_cast<uint32_t>(random() % bound); };
    Fixture fixture;
    std::vector<FreeExtent> mine;
    fixture.give({Fixture::kFirst, Fixture::kCount, true, true});
    for (int step = 0; step < 20000; step++) {
      switch (below(8)) {
        case 0:
        case 1:
        case 2: {
          uint32_t count = 1 + below(below(8) == 0 ? 500 : 20);
          uint32_t alignment = below(4) == 0 ? 1u << below(9) : 1;
          uint32_t origin = below(alignment);
          uint32_t longest = fixture.model.longest();
          FreeExtent extent = fixture.map.take(count, alignment, origin);
          if (!extent.exists()) {
            BOOST_REQUIRE_MESSAGE(
                longest < count + alignment - 1,
                "refused " << count << " frames, " << longest << " were free in a run");
            break;
          }
          BOOST_REQUIRE(extent.frame_count == count);
          BOOST_REQUIRE((extent.first_frame - origin) % alignment == 0);
          fixture.check_taken(extent);
          mine.push_back(extent);
          break;
        }
        case 3: {  // growth in place: right behind an extent of ours
          if (mine.empty()) break;
          FreeExtent& owner = mine[below(mine.size())];
          uint32_t at = owner.first_frame + owner.frame_count;
          uint32_t count = 1 + below(10);
          bool is_possible = at + count <= Fixture::kFirst + Fixture::kCount;
          for (uint32_t i = 0; is_possible && i < count; i++) {
            is_possible = fixture.model.at(at + i).is_free &&
                          fixture.model.at(at + i).is_backed == fixture.model.at(at).is_backed;
          }
          FreeExtent more = fixture.map.take_at(at, count);
          BOOST_REQUIRE(more.exists() == is_possible);
          if (!more.exists()) break;
          BOOST_REQUIRE(more.first_frame == at && more.frame_count == count);
          fixture.check_taken(more);
          mine.push_back(more);
          break;
        }
        case 4: {  // give-back of one stale extent, or of a piece of one
          FreeExtent stale = below(2) == 0 ? fixture.map.take_dirty(1 + below(64)) : FreeExtent{};
          if (!stale.exists()) stale = fixture.map.take_stale(static_cast<uint32_t>(step));
          if (!stale.exists()) {
            BOOST_REQUIRE(fixture.map.dirty_frames() == 0);
            break;
          }
          fixture.check_taken(stale);
          stale.is_backed = false;
          stale.is_zero = true;
          fixture.give(stale, static_cast<uint32_t>(step));
          break;
        }
        default: {
          if (mine.empty()) break;
          std::swap(mine[below(mine.size())], mine.back());
          FreeExtent extent = mine.back();
          mine.pop_back();
          if (extent.frame_count > 1 && below(3) == 0) {  // only its end, as a shrinking block does
            uint32_t kept = 1 + below(extent.frame_count - 1);
            mine.push_back({extent.first_frame, kept, true, false});
            extent = {extent.first_frame + kept, extent.frame_count - kept, true, false};
          }
          extent.is_zero = below(4) == 0;
          extent.is_backed = extent.is_backed || below(2) == 0;
          fixture.give(extent, static_cast<uint32_t>(step));
        }
      }
      BOOST_REQUIRE(fixture.map.free_frames() == fixture.model.free_count());
      if (step % 64 == 0) BOOST_REQUIRE(fixture.map.largest_free() == fixture.model.longest());
    }
    for (FreeExtent extent : mine)
      fixture.give({extent.first_frame, extent.frame_count, true, false});
    // Give back everything that is still backed: then all is alike, and one extent.
    for (FreeExtent stale; (stale = fixture.map.take_stale(~0u)).exists();) {
      fixture.check_taken(stale);
      fixture.give({stale.first_frame, stale.frame_count, false, true});
    }
    BOOST_TEST(fixture.map.free_frames() == Fixture::kCount);
    BOOST_TEST(fixture.map.dirty_frames() == 0u);
  }
}

BOOST_AUTO_TEST_CASE(frames_given_back_in_any_order_join_to_one_extent) {
  std::mt19937_64 random(test::seed());
  Fixture fixture;
  std::vector<uint32_t> order(Fixture::kCount);
  for (uint32_t i = 0; i < Fixture::kCount; i++) order[i] = Fixture::kFirst + i;
  std::shuffle(order.begin(), order.end(), random);
  for (uint32_t frame : order) fixture.give({frame, 1, true, false});
  BOOST_TEST(fixture.map.largest_free() == Fixture::kCount);
  BOOST_TEST(fixture.map.free_tail() == Fixture::kCount);
  BOOST_TEST(fixture.map.take(Fixture::kCount).exists());
  BOOST_TEST(!fixture.map.take(1).exists());
}

BOOST_AUTO_TEST_CASE(neighbours_that_differ_in_backing_do_not_join) {
  Fixture fixture;
  fixture.give({Fixture::kFirst, 10, true, false});
  fixture.give({Fixture::kFirst + 10, 10, false, true});
  BOOST_TEST(!fixture.map.take(11).exists());
  BOOST_TEST(!fixture.map.take_at(Fixture::kFirst, 11).exists());
  FreeExtent tail = fixture.map.take_at(Fixture::kFirst + 10, 10);
  BOOST_REQUIRE(tail.exists());
  BOOST_TEST(!tail.is_backed);
  BOOST_TEST(tail.is_zero);
}

BOOST_AUTO_TEST_CASE(extent_whose_backing_is_forgotten_joins_neighbours_without) {
  Fixture fixture;
  fixture.give({Fixture::kFirst, 10, true, true});
  fixture.give({Fixture::kFirst + 10, 10, false, true});
  fixture.map.forget_backing(Fixture::kFirst + 1, 0);   // no free extent starts there
  fixture.map.forget_backing(Fixture::kFirst + 10, 0);  // it is not backed anyway
  BOOST_TEST(!fixture.map.take(11).exists());
  fixture.map.forget_backing(Fixture::kFirst, 0);
  FreeExtent both = fixture.map.take_at(Fixture::kFirst, 20);
  BOOST_REQUIRE(both.exists());
  BOOST_TEST(!both.is_backed);
  BOOST_TEST(both.is_zero);
  fixture.map.forget_backing(Fixture::kFirst, 0);                    // in use
  fixture.map.forget_backing(Fixture::kFirst + Fixture::kCount, 0);  // past the end
  BOOST_TEST(fixture.map.free_frames() == 0u);
}

BOOST_AUTO_TEST_CASE(joined_zero_and_dirty_extents_are_dirty) {
  Fixture fixture;
  fixture.give({Fixture::kFirst, 10, true, true});
  BOOST_TEST(fixture.map.dirty_frames() == 0u);
  fixture.give({Fixture::kFirst + 10, 10, true, false});
  BOOST_TEST(fixture.map.dirty_frames() == 20u);
  BOOST_TEST(!fixture.map.take(15).is_zero);
}

BOOST_AUTO_TEST_CASE(stale_extents_are_only_those_freed_long_enough_ago) {
  Fixture fixture;
  fixture.give({Fixture::kFirst, 10, true, false}, 100);
  BOOST_TEST(!fixture.map.take_stale(99).exists());
  FreeExtent extent = fixture.map.take_stale(100);
  BOOST_TEST(extent.frame_count == 10u);
  BOOST_TEST(fixture.map.free_frames() == 0u);
}

BOOST_AUTO_TEST_CASE(dirty_frames_are_taken_by_pieces_from_the_end_of_the_largest_extent) {
  Fixture fixture;
  fixture.give({Fixture::kFirst, 10, true, false});
  fixture.give({Fixture::kFirst + 20, 30, true, false});
  fixture.give({Fixture::kFirst + 60, 60, false, true});
  FreeExtent piece = fixture.map.take_dirty(8);
  BOOST_TEST(piece.first_frame == Fixture::kFirst + 42);
  BOOST_TEST(piece.frame_count == 8u);
  BOOST_TEST(piece.is_backed);
  BOOST_TEST(fixture.map.take_dirty(100).frame_count == 22u);
  BOOST_TEST(fixture.map.take_dirty(100).frame_count == 10u);
  BOOST_TEST(fixture.map.dirty_frames() == 0u);
  BOOST_TEST(!fixture.map.take_dirty(100).exists());
  BOOST_TEST(fixture.map.free_frames() == 60u);
}

BOOST_AUTO_TEST_CASE(empty_map_gives_nothing) {
  Fixture fixture;
  BOOST_TEST(!fixture.map.take(1).exists());
  BOOST_TEST(!fixture.map.take_at(Fixture::kFirst, 1).exists());
  BOOST_TEST(!fixture.map.take_at(Fixture::kFirst + Fixture::kCount, 1).exists());
  BOOST_TEST(fixture.map.largest_free() == 0u);
  BOOST_TEST(fixture.map.free_tail() == 0u);
}

}  // namespace
}  // namespace btd
