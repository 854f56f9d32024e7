// The checker against good and damaged files.  Invariants checked:
//   1. Whatever byte of frame headers, states, roots and regions without use is changed: it is
//   named
//      by its offset.
//   2. What a kill may leave is no fault: a name without a value, states before a replay.
#define BOOST_TEST_MODULE check
#include "core/recovery/check.hpp"

#include <stdlib.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "tests/support/image.hpp"

namespace btd {
namespace {

using test::ArenaImage;

constexpr uint8_t kTag3 = tag_of_epoch(3);
constexpr uint8_t kTag5 = tag_of_epoch(5);
constexpr uint64_t kFine = ArenaImage::kCoarseFrames;  // the first frame of the fine zone

struct Directory {
  Directory() {
    char name[] = "/tmp/bartender-view-XXXXXX";
    BOOST_REQUIRE(mkdtemp(name) != nullptr);
    path = name;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::string file(const char* name) const { return path + "/" + name; }
  std::string path;
};

// What most cases look at: three superblocks, two large blocks, one retired extent.
struct Fixture {
  Directory directory;
  ArenaImage image{directory.file("a.arena")};
  size_t class_64 = size_class_of(64), class_48 = size_class_of(48),
         class_32k = size_class_of(32768);
  uint64_t after_64 = kSizeClasses[class_64].frame_count;

  Fixture() {
    image.superblock(0, class_64, 3);
    image.slot(0, 0, kTag3);
    image.slot(0, 7, kTag5);
    image.slot(0, kSizeClasses[class_64].slot_count - 1u, kStateKept);
    image.superblock(after_64, class_32k, 5);
    image.slot(after_64, 1, kTag5);
    image.superblock(kFine, class_48, 4);
    image.slot(kFine, 2, kTag5);
    image.large(100, 8, 3, kTag5);
    image.large(200, 2, 0, 0);
    image.data(100 * kFrameBytes + 10, "survivor");
  }

  std::vector<Finding> findings() {
    ArenaView view;
    BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
    std::vector<Finding> all;
    check_arena(view, [&](const Finding& finding) { all.push_back(finding); });
    return all;
  }

  // Walks all there is; true if every extent and block lies inside the data.
  bool walk(ArenaView& view) {
    bool is_inside = true;
    uint64_t data_bytes = view.frame_count() * kFrameBytes;
    view.for_each_extent([&](const Extent& extent) {
      is_inside = is_inside && extent.first_frame + extent.frame_count <= view.frame_count();
    });
    view.for_each_block([&](const Block& block) {
      is_inside =
          is_inside && block.size_bytes > 0 && block.offset + block.size_bytes <= data_bytes;
    });
    check_arena(view, [](const Finding&) {});
    return is_inside;
  }
};

BOOST_FIXTURE_TEST_CASE(reserved_regions_with_any_byte_are_reported, Fixture) {
  uint64_t regions[][2] = {{image.header.root_table_offset, kRootTableBytes},
                           {image.header.lane_table_offset, kLaneTableBytes},
                           {image.header.site_table_offset, kModulesAt}};
  for (auto [begin, size_bytes] : regions) {
    for (uint64_t at :
         {uint64_t{0}, uint64_t{1}, uint64_t{4095}, uint64_t{12345}, size_bytes - 1}) {
      image.set_byte(begin + at, 0x40);
      std::vector<Finding> found = findings();
      BOOST_REQUIRE_EQUAL(found.size(), 1u);
      BOOST_TEST((found[0].fault == Fault::kReservedRegion));
      BOOST_TEST(found[0].offset == begin + at);
      image.set_byte(begin + at, 0);
    }
  }
  BOOST_TEST(findings().empty());
}

BOOST_FIXTURE_TEST_CASE(every_byte_of_a_module_changed_is_reported, Fixture) {
  ModuleRecord record{0x7000, 0x8000, 1, 20, {1, 2, 3}, "/usr/bin/made", 0};
  record.checksum = checksum_of(record);
  uint64_t begin = image.header.site_table_offset + kModulesAt;
  auto* bytes = reinterpret_cast<const uint8_t*>(&record);
  for (size_t at = 0; at < sizeof(record); at++) image.set_byte(begin + at, bytes[at]);
  BOOST_TEST(findings().empty());
  for (size_t at = 0; at < sizeof(record); at++) {
    image.set_byte(begin + at, bytes[at] ^ 0x40);
    std::vector<Finding> found = findings();
    BOOST_REQUIRE_EQUAL(found.size(), 1u);
    BOOST_TEST(found[0].offset == begin);
    image.set_byte(begin + at, bytes[at]);
  }
  // Cut short before its last word: not in use.
  for (size_t at = sizeof(record) - 8; at < sizeof(record); at++) image.set_byte(begin + at, 0);
  BOOST_TEST(findings().empty());
  // What follows a place that is not in use was never written.
  for (uint64_t at = sizeof(record); at < kModuleCount * sizeof(record); at += 83) {
    image.set_byte(begin + at, 0x40);
    std::vector<Finding> found = findings();
    BOOST_REQUIRE_EQUAL(found.size(), 1u);
    BOOST_TEST(found[0].offset == begin + at);
    image.set_byte(begin + at, 0);
  }
}

BOOST_FIXTURE_TEST_CASE(every_byte_of_frame_headers_changed_is_reported, Fixture) {
  struct Sample {
    uint64_t frame;
    bool is_head;
  } samples[] = {{0, true},    {1, false},  {after_64, true}, {100, true},
                 {101, false}, {200, true}, {150, false},     {kFine, true}};
  for (Sample sample : samples) {
    for (uint64_t at = 0; at < sizeof(FrameHeader); at++) {
      // The body of a frame that heads nothing is left over from earlier and read by nobody.
      if (!sample.is_head && at >= offsetof(FrameHeader, epoch)) continue;
      uint64_t offset = image.frame_header_offset(sample.frame) + at;
      uint8_t before = image.byte(offset);
      for (uint8_t value :
           {uint8_t{0}, static_cast<uint8_t>(~before), static_cast<uint8_t>(before ^ 0x10)}) {
        if (value == before) continue;
        image.set_byte(offset, value);
        bool is_named = false;
        for (const Finding& finding : findings()) {
          is_named |= finding.frame == sample.frame && finding.offset <= offset &&
                      offset < finding.offset + finding.size_bytes;
        }
        BOOST_REQUIRE_MESSAGE(
            is_named, "frame " << sample.frame << " byte " << at << " value " << int{value});
        ArenaView view;
        BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
        BOOST_REQUIRE(walk(view));
      }
      image.set_byte(offset, before);
    }
  }
  BOOST_TEST(findings().empty());
}

BOOST_FIXTURE_TEST_CASE(sealed_but_impossible_extents_are_reported, Fixture) {
  auto reported = [&](uint64_t frame, Descriptor descriptor) {
    FrameHeader before = image.frame_header(frame);
    FrameHeader head = before;
    head.descriptor = descriptor;
    head.descriptor.check = descriptor_check(descriptor);
    head.epoch = 3;
    head.checksum = checksum_of(head);
    image.write_frame_header(frame, head);
    bool is_reported = false;
    for (const Finding& finding : findings()) is_reported |= finding.frame == frame;
    image.write_frame_header(frame, before);
    return is_reported;
  };
  auto c64 = static_cast<uint8_t>(class_64), c48 = static_cast<uint8_t>(class_48);
  auto frames_64 = kSizeClasses[class_64].frame_count,
       frames_48 = kSizeClasses[class_48].frame_count;
  BOOST_TEST(!reported(50, {1, c64, 0, frames_64}));
  BOOST_TEST(reported(50, {1, c64, 0, frames_64 + 1u}));     // not the class's size
  BOOST_TEST(reported(50, {1, c48, 0, frames_48}));          // a fine class in the coarse zone
  BOOST_TEST(reported(kFine + 30, {1, c64, 0, frames_64}));  // and the reverse
  BOOST_TEST(reported(50, {1, kSizeClassCount, 0, 4}));      // no such class
  BOOST_TEST(reported(50, {3, 0, 0, 1}));                    // no such kind
  BOOST_TEST(reported(50, {2, 0, 0, 0}));                    // no frames
  BOOST_TEST(reported(50, {2, 4, 0, 1}));                    // no bytes left
  BOOST_TEST(reported(255, {2, 0, 0, 2}));                   // over the zone's end
  BOOST_TEST(reported(50, {2, 0, 0, ~0u}));
  BOOST_TEST(reported(103, {2, 0, 0, 1}));  // inside another
}

BOOST_FIXTURE_TEST_CASE(states_out_of_place_are_reported, Fixture) {
  auto fault_of = [&](uint64_t offset, uint8_t value) {
    uint8_t before = image.byte(offset);
    image.set_byte(offset, value);
    std::vector<Finding> found = findings();
    image.set_byte(offset, before);
    BOOST_REQUIRE_EQUAL(found.size(), 1u);
    BOOST_TEST(found[0].offset == offset);
    return found[0].fault;
  };
  uint64_t large_slots = image.state_offset(after_64);
  BOOST_TEST((fault_of(large_slots + 1, kTag5) == Fault::kStrayState));  // inside a 32 KiB slot
  BOOST_TEST((fault_of(image.state_offset(kFine) + 1, kTag5) == Fault::kStrayState));
  BOOST_TEST(
      (fault_of(image.state_offset(101) + 3, kTag5) == Fault::kStrayState));     // in a large block
  BOOST_TEST((fault_of(image.state_offset(150), kTag5) == Fault::kStrayState));  // in a free frame
  BOOST_TEST((fault_of(image.state_offset(0) + 20, kStateReserved) == Fault::kStateValue));
  BOOST_TEST((fault_of(image.state_offset(0) + 20, tag_of_epoch(1)) ==
              Fault::kStateValue));  // before the oldest
  BOOST_TEST((fault_of(image.state_offset(0) + 20, tag_of_epoch(6)) ==
              Fault::kStateValue));  // after the newest
  image.set_byte(image.state_offset(0) + 20, kTag5);
  BOOST_TEST(findings().empty());
}

// Backs the first roots, the first of them set to a live slot.
struct RootFixture : Fixture {
  Root root{};

  RootFixture() {
    image.header.roots_grown = kRootsPerPage;
    image.header.state = static_cast<uint32_t>(ArenaState::kClean);
    image.write_headers();
    std::strcpy(root.name, "first");
    root.head = root_head(root.name);
    root.value = image.header.data_offset + 7 * 64;
    put_root();
  }
  void put_root() {
    for (size_t at = 0; at < sizeof(root); at++) {
      image.set_byte(image.header.root_table_offset + 3 * sizeof(Root) + at,
                     reinterpret_cast<const uint8_t*>(&root)[at]);
    }
  }
  // Empty: nothing was found.
  std::string found() {
    put_root();
    std::vector<Finding> all = findings();
    if (all.empty()) return "";
    BOOST_TEST(all.size() == 1u);
    BOOST_TEST((all[0].fault == Fault::kRoot));
    BOOST_TEST(all[0].offset == image.header.root_table_offset + 3 * sizeof(Root));
    return all[0].what;
  }
};

BOOST_FIXTURE_TEST_CASE(roots_must_have_their_name_and_a_live_block, RootFixture) {
  const Root good = root;
  uint64_t data = image.header.data_offset;
  BOOST_TEST(found() == "");
  for (uint64_t inside : {7 * 64 + 63, 100 * 16384 + 12345}) {
    root.value = data + inside;
    BOOST_TEST(found() == "");
  }
  for (uint64_t free : {uint64_t{8 * 64}, 150 * kFrameBytes, 200 * kFrameBytes,
                        108 * kFrameBytes - 1, kFine * kFrameBytes}) {
    root.value = data + free;
    BOOST_TEST(found() == "a root points to no live block");
  }
  for (uint64_t outside : {uint64_t{1}, data - 1, data + 320 * kFrameBytes, ~uint64_t{0}}) {
    root.value = outside;
    BOOST_TEST(found() == "a root points outside of the arena's data");
  }
  root = good;
  root.name[2] ^= 1;
  BOOST_TEST(found() == "a root is set whose name fails its check");
  root.value = 0;  // not set: its making was cut short, or its place is being used again
  BOOST_TEST(found() == "");
  root = good;
  root.reserved[47] = 1;
  BOOST_TEST(found() == "reserved bytes of a root are not zero");
}

BOOST_FIXTURE_TEST_CASE(a_killed_owner_may_leave_a_root_before_its_block, RootFixture) {
  root.value = image.header.data_offset + 8 * 64;
  BOOST_TEST(found() != "");
  image.header.state = static_cast<uint32_t>(ArenaState::kOpen);
  image.write_headers();
  BOOST_TEST(found() == "");
}

BOOST_FIXTURE_TEST_CASE(lanes_are_checked_as_far_as_they_are_grown, Fixture) {
  image.header.lanes_grown = 2;
  image.write_headers();
  uint64_t lanes = image.header.lane_table_offset;
  image.set_byte(lanes + kLaneBytes, 77);       // finished
  image.set_byte(lanes + kLaneBytes + 64, 77);  // an old record
  BOOST_TEST(findings().empty());
  image.set_byte(lanes + kLaneBytes + 8, 1);
  BOOST_REQUIRE(findings().size() == 1u);
  BOOST_TEST((findings()[0].fault == Fault::kLane));
  image.set_byte(lanes + kLaneBytes + 8, 0);
  image.set_byte(lanes + 2 * kLaneBytes + 64, 1);
  BOOST_REQUIRE(findings().size() == 1u);
  BOOST_TEST((findings()[0].fault == Fault::kReservedRegion));
}

}  // namespace
}  // namespace btd
