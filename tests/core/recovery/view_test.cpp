// ArenaView against good, damaged and foreign files.
//
// Invariants checked:
//   1. Whatever byte of the metadata is changed: open() falls back to the good header copy or
//   refuses, check() names the damage, and
//      nothing crashes, hangs or hands out a block outside the data.
//   2. Each kind of file that is no usable arena has its own OpenFault.
//   3. Looking at an arena allocates none of its holes.
#define BOOST_TEST_MODULE view
#include "core/recovery/view.hpp"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <random>

#include "core/recovery/check.hpp"
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

Error open_error(const std::string& path, OpenFault* fault = nullptr) {
  ArenaView view;
  Error error = ArenaView::open(path.c_str(), view);
  if (fault != nullptr) *fault = view.fault();
  return error;
}

void put(const std::string& path, const std::string& bytes) {
  FILE* file = fopen(path.c_str(), "w");
  BOOST_REQUIRE(file != nullptr);
  fwrite(bytes.data(), 1, bytes.size(), file);
  fclose(file);
}

BOOST_FIXTURE_TEST_CASE(good_image_lists_its_blocks_and_checks_clean, Fixture) {
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  BOOST_TEST(view.damaged_copy() == -1);
  BOOST_TEST(!view.is_live());
  std::vector<Extent> extents;
  view.for_each_extent([&](const Extent& extent) { extents.push_back(extent); });
  BOOST_REQUIRE(extents.size() == 5);
  BOOST_TEST(extents[0].epoch == 3);
  BOOST_TEST(extents[4].is_fine);
  std::vector<Block> blocks;
  view.for_each_block([&](const Block& block) { blocks.push_back(block); });
  BOOST_REQUIRE(blocks.size() == 6);
  BOOST_TEST(blocks[0].offset == 0);
  BOOST_TEST(blocks[0].epoch == 3);
  BOOST_TEST(blocks[1].offset == 7 * 64);
  BOOST_TEST(blocks[2].tag == kStateKept);
  BOOST_TEST(blocks[3].offset == after_64 * kFrameBytes + 32768);
  BOOST_TEST(blocks[4].is_large);
  BOOST_TEST(blocks[4].size_bytes == 8 * kFrameBytes - 3 * image.header.page_bytes);
  BOOST_TEST(blocks[4].address ==
             image.header.base_address + image.header.data_offset + 100 * kFrameBytes);
  BOOST_TEST(blocks[5].offset == kFine * kFrameBytes + 2 * 48);
  Block found;
  BOOST_REQUIRE(view.find_block(blocks[5].id, found));
  BOOST_TEST(found.size_bytes == 48);
  BOOST_TEST(!view.find_block(blocks[5].id + 1, found));
  BOOST_TEST(!view.find_block(~uint64_t{0}, found));
  char text[8];
  BOOST_REQUIRE(view.read_data(100 * kFrameBytes + 10, text, sizeof(text)));
  BOOST_TEST(std::string(text, 8) == "survivor");
  BOOST_TEST(!view.read_data(view.frame_count() * kFrameBytes - 1, text, 2));
  BOOST_TEST(findings().empty());
}

BOOST_FIXTURE_TEST_CASE(data_of_the_far_zone_is_the_readers_or_nobodys, Fixture) {
  constexpr uint64_t kFar = 192;
  image.large(kFar - 1, 1, 0, kTag5);
  image.large(kFar, 4, 0, kTag5);
  image.data((kFar - 1) * kFrameBytes, "near");
  image.data(kFar * kFrameBytes, "what lies in the file there is not the block");
  image.header.far_first_frame = kFar;
  image.header.coarse_frames_grown = kFar;
  image.header.far_frames_grown = ArenaImage::kCoarseFrames - kFar;
  image.write_headers();
  struct Reader final : FarReader {
    bool read(uint64_t offset, void* buffer, size_t size_bytes) noexcept override {
      std::memset(buffer, 'f', size_bytes);
      asked.push_back({offset, size_bytes});
      return is_there;
    }
    bool is_there = true;
    std::vector<std::pair<uint64_t, size_t>> asked;
  } reader;
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  std::vector<char> data(3 * kFrameBytes);
  const uint64_t begin = (kFar - 1) * kFrameBytes;
  BOOST_TEST(view.read_data(begin, data.data(), kFrameBytes));
  BOOST_TEST(!view.read_data(begin, data.data(), data.size()));
  BOOST_TEST(std::string(data.data()) == "near");
  view.set_far(&reader);
  BOOST_TEST(view.read_data(begin, data.data(), data.size()));
  BOOST_TEST(std::string(data.data()) == "near");
  BOOST_TEST(std::string(data.data() + kFrameBytes, 4) == "ffff");
  BOOST_REQUIRE(reader.asked.size() == 1);
  BOOST_TEST(reader.asked[0].first == 0);
  BOOST_TEST(reader.asked[0].second == 2 * kFrameBytes);
  // And what follows the zone is the file's again.
  std::vector<char> rest(2 * kFrameBytes);
  BOOST_TEST(view.read_data((kFine - 1) * kFrameBytes, rest.data(), rest.size()));
  BOOST_TEST(rest[kFrameBytes - 1] == 'f');
  BOOST_TEST(rest[kFrameBytes] == 0);
  reader.is_there = false;
  BOOST_TEST(!view.read_data(begin, data.data(), data.size()));
  BOOST_TEST(data[kFrameBytes] == 0);
}

BOOST_FIXTURE_TEST_CASE(blocks_of_damaged_or_racing_heads_are_left_out, Fixture) {
  FrameHeader head = image.frame_header(100);
  head.descriptor.frame_count = 9;  // without its check
  image.write_frame_header(100, head);
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  size_t count = 0;
  view.for_each_block([&](const Block& block) {
    count++;
    BOOST_TEST(!block.is_large);
  });
  BOOST_TEST(count == 5);
}

BOOST_FIXTURE_TEST_CASE(every_byte_of_one_header_copy_changed_falls_back_to_the_other, Fixture) {
  for (int copy = 0; copy < 2; copy++) {
    for (uint64_t at = 0; at < kArenaHeaderBytes; at++) {
      uint64_t offset = static_cast<uint64_t>(copy) * kArenaHeaderBytes + at;
      uint8_t before = image.byte(offset);
      for (uint8_t value :
           {uint8_t{0}, static_cast<uint8_t>(~before), static_cast<uint8_t>(before ^ 1)}) {
        if (value == before) continue;
        image.set_byte(offset, value);
        ArenaView view;
        BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
        BOOST_REQUIRE_EQUAL(view.damaged_copy(), copy);
        BOOST_REQUIRE(std::memcmp(&view.header(), &image.header, sizeof(ArenaHeader)) == 0);
        bool is_reported = false;
        if (at % 64 == 0) {
          check_arena(view, [&](const Finding& finding) {
            is_reported |= finding.fault == Fault::kHeaderCopy;
          });
          BOOST_REQUIRE(is_reported);
        }
      }
      image.set_byte(offset, before);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(every_byte_of_both_header_copies_changed_is_refused, Fixture) {
  for (uint64_t at = 0; at < kArenaHeaderBytes; at++) {
    uint8_t before = image.byte(at);
    for (uint8_t value : {uint8_t{0}, static_cast<uint8_t>(~before)}) {
      if (value == before) continue;
      image.set_byte(at, value);
      image.set_byte(kArenaHeaderBytes + at, value);
      Error error = open_error(image.path());
      BOOST_REQUIRE(error == Error::kCorrupt || error == Error::kForeign || error == Error::kNewer);
    }
    image.set_byte(at, before);
    image.set_byte(kArenaHeaderBytes + at, before);
  }
}

BOOST_FIXTURE_TEST_CASE(older_copy_is_stale_but_no_damage, Fixture) {
  image.header.sequence++;
  image.header.oldest_epoch = 3;
  image.write_header_copy(1);
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  BOOST_TEST(view.header().oldest_epoch == 3);
  BOOST_TEST(view.damaged_copy() == 0);
  BOOST_TEST((view.copy_state(0) == ArenaView::CopyState::kStale));
  BOOST_TEST(findings().empty());
}

// A kill between the making of an arena and its first open leaves a header without an epoch.
BOOST_AUTO_TEST_CASE(arena_that_was_never_opened_is_empty_and_clean) {
  Directory directory;
  ArenaImage image(directory.file("new"));
  image.header.epoch = 0;
  image.header.oldest_epoch = 1;
  image.header.state = 0;
  image.header.coarse_frames_grown = image.header.fine_frames_grown = 0;
  image.write_headers();
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  size_t count = 0;
  view.for_each_block([&](const Block&) { count++; });
  check_arena(view, [&](const Finding&) { count++; });
  BOOST_TEST(count == 0);
}

BOOST_FIXTURE_TEST_CASE(header_that_contradicts_itself_is_refused, Fixture) {
  const ArenaHeader good = image.header;
  auto refused = [&](auto change) {
    image.header = good;
    change(image.header);
    image.write_headers();
    OpenFault fault;
    return open_error(image.path(), &fault) == Error::kCorrupt &&
           (fault == OpenFault::kGeometry || fault == OpenFault::kTruncated);
  };
  BOOST_TEST(refused([](ArenaHeader& h) { h.data_offset = ~uint64_t{0} - 100; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.data_offset = h.fine_state_offset; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.coarse_frame_count = ~0u; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.coarse_frame_count = h.fine_frame_count = 0; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.coarse_frames_grown = h.coarse_frame_count + 1; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.fine_frames_grown = ~0u; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.frame_header_offset = 0; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.root_table_offset = 4096; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.file_bytes *= 2; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.file_bytes = ~uint64_t{0}; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.epoch = 0; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.oldest_epoch = h.epoch + 1; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.state = 9; }));
  BOOST_TEST(refused([](ArenaHeader& h) { h.base_address = ~uint64_t{0} << 20; }));
  BOOST_TEST(!refused([](ArenaHeader&) {}));
}

BOOST_FIXTURE_TEST_CASE(each_unusable_file_has_its_own_fault, Fixture) {
  auto is_fault = [](const std::string& path, Error error, OpenFault fault) {
    OpenFault got;
    Error got_error = open_error(path, &got);
    return got == fault && got_error == error && std::strlen(fault_text(got)) > 5;
  };
  std::string other = directory.file("other");
  BOOST_TEST(is_fault(directory.file("none"), Error::kNotFound, OpenFault::kNotFound));
  BOOST_TEST(is_fault(directory.path, Error::kUnsupported, OpenFault::kDirectory));
  BOOST_REQUIRE(mkfifo(directory.file("fifo").c_str(), 0600) == 0);
  BOOST_TEST(is_fault(directory.file("fifo"), Error::kUnsupported, OpenFault::kSpecialFile));
  BOOST_TEST(is_fault("/dev/null", Error::kUnsupported, OpenFault::kSpecialFile));
  BOOST_REQUIRE(symlink(image.path().c_str(), directory.file("link").c_str()) == 0);
  BOOST_TEST(is_fault(directory.file("link"), Error::kUnsupported, OpenFault::kSymlink));
  put(other, "");
  BOOST_TEST(is_fault(other, Error::kForeign, OpenFault::kEmpty));
  for (size_t size_bytes : {1, 7, 8, 4095, 8192, 100000}) {
    put(other, std::string(size_bytes, 'x'));
    BOOST_TEST(is_fault(other, Error::kForeign, OpenFault::kForeign));
  }
  std::filesystem::copy_file(image.path(), other,
                             std::filesystem::copy_options::overwrite_existing);
  for (uint64_t size_bytes : {image.header.file_bytes - 1, image.header.data_offset, uint64_t{8192},
                              uint64_t{4096}, uint64_t{4095}, uint64_t{8}}) {
    BOOST_REQUIRE(truncate(other.c_str(), static_cast<off_t>(size_bytes)) == 0);
    BOOST_TEST(is_fault(other, Error::kCorrupt, OpenFault::kTruncated));
  }
  std::filesystem::permissions(image.path(), std::filesystem::perms::owner_read);
  BOOST_TEST((open_error(image.path()) == Error::kNone));

  image.header.format_version++;
  image.write_headers();
  BOOST_TEST(is_fault(image.path(), Error::kNewer, OpenFault::kNewer));
  image.set_byte(4095, 0xEE);  // a newer format may keep its checksum elsewhere
  image.set_byte(8191, 0xEE);
  BOOST_TEST(is_fault(image.path(), Error::kNewer, OpenFault::kNewer));
  image.header.format_version--;
  image.header.page_bytes *= 16;
  image.write_headers();
  BOOST_TEST(is_fault(image.path(), Error::kMismatch, OpenFault::kPageSize));
  image.header.page_bytes /= 16;
  image.header.frame_bytes *= 2;
  image.write_headers();
  BOOST_TEST(is_fault(image.path(), Error::kMismatch, OpenFault::kPageSize));
  image.header.frame_bytes /= 2;
  image.write_headers();
  image.set_byte(100, 0xEE);
  image.set_byte(4096 + 200, 0xEE);
  BOOST_TEST(is_fault(image.path(), Error::kCorrupt, OpenFault::kHeaders));
}

BOOST_FIXTURE_TEST_CASE(lock_of_another_description_makes_it_live, Fixture) {
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  struct flock lock {};
  lock.l_type = F_WRLCK;
  BOOST_REQUIRE(fcntl(image.file(), F_OFD_SETLK, &lock) == 0);
  BOOST_TEST(view.is_live());
  lock.l_type = F_UNLCK;
  BOOST_REQUIRE(fcntl(image.file(), F_OFD_SETLK, &lock) == 0);
  BOOST_TEST(!view.is_live());
}

BOOST_FIXTURE_TEST_CASE(looking_allocates_no_hole, Fixture) {
  uint64_t before = image.allocated_bytes();
  ArenaView view;
  BOOST_REQUIRE(ArenaView::open(image.path().c_str(), view) == Error::kNone);
  BOOST_TEST(walk(view));
  std::vector<char> data(view.frame_count() * kFrameBytes);
  BOOST_TEST(view.read_data(0, data.data(), data.size()));
  BOOST_TEST(image.allocated_bytes() == before);
}

// Metadata full of noise, under headers whose checksums are right: every branch that trusts a
// number must have bounded it.
BOOST_FIXTURE_TEST_CASE(random_metadata_never_leads_outside, Fixture,
                        *boost::unit_test::timeout(120)) {
  unsigned seed = 20240607;
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 300; round++) {
    ArenaImage noise(directory.file("noise"));
    for (int i = 0; i < 200; i++) {
      uint64_t frame = random() % (ArenaImage::kCoarseFrames + ArenaImage::kFineFrames);
      FrameHeader head;
      for (auto* at = reinterpret_cast<uint8_t*>(&head); at < reinterpret_cast<uint8_t*>(&head + 1);
           at++) {
        *at = static_cast<uint8_t>(random());
      }
      if (random() % 2) head.descriptor.kind = static_cast<uint8_t>(random() % 4);
      if (random() % 2) head.descriptor.frame_count %= 300;
      if (random() % 2) head.descriptor.detail %= 48;
      if (random() % 2) head.file_frame %= 330;
      if (random() % 2) head.epoch = random() % 7;
      if (random() % 2) std::memset(head.reserved_b, 0, sizeof(head.reserved_b));
      if (random() % 8) head.descriptor.check = descriptor_check(head.descriptor);
      if (random() % 8) head.checksum = checksum_of(head);
      noise.write_frame_header(frame, head);
    }
    for (int i = 0; i < 500; i++) {
      noise.set_byte(noise.header.coarse_state_offset +
                         random() % (ArenaImage::kCoarseFrames * kCoarseStatesPerFrame),
                     static_cast<uint8_t>(random()));
      noise.set_byte(noise.header.fine_state_offset +
                         random() % (ArenaImage::kFineFrames * kFineStatesPerFrame),
                     static_cast<uint8_t>(random()));
    }
    if (round % 3 == 0) {  // the arena header too, with a right checksum
      auto* bytes = reinterpret_cast<uint8_t*>(&noise.header);
      bytes[16 + random() % 200] ^= static_cast<uint8_t>(1u << random() % 8);
      noise.write_headers();
    }
    ArenaView view;
    if (ArenaView::open(noise.path().c_str(), view) != Error::kNone) continue;
    BOOST_REQUIRE_MESSAGE(walk(view), "seed " << seed << " round " << round);
    std::vector<char> data(100000);
    (void)view.read_data(random() % (view.frame_count() * kFrameBytes), data.data(), data.size());
    Block block;
    (void)view.find_block(random() % (view.frame_count() * 1024), block);
  }
}

}  // namespace
}  // namespace btd
