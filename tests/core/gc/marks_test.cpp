// The tables of the collector.  Invariants checked:
//  1. For each address of each kind of extent: the block that it is in, or none.
//  2. Each block has a bit of its own.
//  3. A postponed block comes back once.  4. Damaged heads are no blocks.
#define BOOST_TEST_MODULE marks
#include "core/gc/marks.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include "tests/core/gc/support.hpp"
#include "tests/support/image.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() { test::limit_time(50); }
  ~Fixture() {
    marks.close();
    if (bytes != nullptr) ::munmap(bytes, image.header.file_bytes);
  }
  void look(bool trusts_states, bool is_raw = false) {
    marks.close();
    if (bytes == nullptr)
      bytes = ::mmap(nullptr, image.header.file_bytes, PROT_READ, MAP_SHARED, image.file(), 0);
    BOOST_REQUIRE(bytes != MAP_FAILED);
    GcImage gc{&image.header, static_cast<const char*>(bytes), trusts_states, is_raw};
    BOOST_REQUIRE(marks.open(gc) == Error::kNone);
  }
  bool finds(uint64_t offset) { return marks.find(offset, found) && Marks::is_block(found); }

  test::Scratch scratch;
  test::ArenaImage image{scratch.file("a.arena")};
  void* bytes = nullptr;
  Marks marks;
  GcBlock found{};
};

BOOST_FIXTURE_TEST_CASE(each_slot_of_each_class_is_found_from_anywhere_in_it, Fixture) {
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    const SizeClassInfo& info = kSizeClasses[size_class];
    uint64_t frame = info.is_fine ? test::ArenaImage::kCoarseFrames + 8 : 8;
    image.superblock(frame, size_class, 3);
    look(false);
    std::set<uint64_t> bits;
    uint64_t start = frame * kFrameBytes, end = start + info.frame_count * kFrameBytes;
    for (uint64_t offset = start; offset < end; offset += 8) {
      uint64_t slot = (offset - start) / info.slot_bytes;
      bool is_slot = slot < info.slot_count;
      BOOST_REQUIRE(finds(offset) == is_slot);
      if (!is_slot) continue;
      BOOST_REQUIRE(found.offset == start + slot * info.slot_bytes);
      BOOST_REQUIRE(found.size_bytes == info.slot_bytes);
      bits.insert(found.bit);
    }
    BOOST_TEST(bits.size() == info.slot_count);
    BOOST_TEST(!finds(start - 8));
    BOOST_TEST(!finds(end));
    FrameHeader none{};
    image.write_frame_header(frame, none);
  }
}

BOOST_FIXTURE_TEST_CASE(states_are_asked_where_they_are_trusted, Fixture) {
  image.superblock(0, size_class_of(64), 3);
  image.slot(0, 5, tag_of_epoch(3));
  image.slot(0, 6, kStateReserved);
  image.slot(0, 7, kStateKept);
  image.large(100, 4, 1, tag_of_epoch(3));
  image.large(110, 4, 1, 0);
  look(true);
  BOOST_TEST((finds(5 * 64) && finds(7 * 64)));
  BOOST_TEST((!finds(4 * 64) && !finds(6 * 64)));
  uint64_t page = image.header.page_bytes;
  BOOST_TEST((finds(100 * kFrameBytes) && finds(104 * kFrameBytes - page - 1)));
  BOOST_TEST(found.offset == 100 * kFrameBytes);
  BOOST_TEST(found.size_bytes == 4 * kFrameBytes - page);
  BOOST_TEST((!finds(104 * kFrameBytes - page) && !finds(104 * kFrameBytes)));
  BOOST_TEST(!finds(110 * kFrameBytes));
  look(false);
  BOOST_TEST((finds(4 * 64) && finds(6 * 64) && finds(110 * kFrameBytes)));
}

BOOST_FIXTURE_TEST_CASE(damaged_heads_and_what_is_not_grown_hold_no_block, Fixture) {
  image.superblock(0, size_class_of(64), 3);
  image.slot(0, 5, tag_of_epoch(3));
  image.superblock(200, size_class_of(64), 3);
  FrameHeader head = image.frame_header(0);
  head.descriptor.frame_count ^= 1;
  image.write_frame_header(0, head);
  image.header.coarse_frames_grown = 192;
  look(false);
  BOOST_TEST((!finds(5 * 64) && !finds(200 * kFrameBytes)));
  BOOST_TEST(!finds(~uint64_t{0}));
}

BOOST_FIXTURE_TEST_CASE(postponed_blocks_come_back_once, Fixture) {
  image.superblock(0, size_class_of(64), 3);
  image.superblock(test::ArenaImage::kCoarseFrames, size_class_of(48), 3);
  look(false);
  BOOST_TEST(!marks.has_postponed());
  for (uint64_t offset :
       {uint64_t{64}, uint64_t{640}, test::ArenaImage::kCoarseFrames * kFrameBytes}) {
    BOOST_REQUIRE(finds(offset));
    BOOST_TEST(marks.mark(found.bit, false));
    BOOST_TEST(!marks.mark(found.bit, true));
    marks.postpone(found.bit, offset == 64);
  }
  BOOST_TEST(marks.has_postponed());
  uint64_t cursor = 0, count = 0;
  while (marks.take_postponed(&cursor, found)) count++;
  BOOST_TEST(count == 3u);
  BOOST_TEST(found.offset == test::ArenaImage::kCoarseFrames * kFrameBytes);
  cursor = 0;
  BOOST_TEST(!marks.take_postponed(&cursor, found));
}

BOOST_FIXTURE_TEST_CASE(a_raw_image_reads_a_frame_where_its_header_says, Fixture) {
  image.large(100, 2, 0, tag_of_epoch(3));
  FrameHeader head = image.frame_header(100);
  head.file_frame = 151;  // frame 150
  head.checksum = checksum_of(head);
  image.write_frame_header(100, head);
  image.data(150 * kFrameBytes + 8, "moved");
  look(true, true);
  BOOST_TEST(std::string(marks.data(100 * kFrameBytes + 8)) == "moved");
  BOOST_TEST(marks.data(101 * kFrameBytes) == marks.data() + 101 * kFrameBytes);
}

}  // namespace
}  // namespace btd
