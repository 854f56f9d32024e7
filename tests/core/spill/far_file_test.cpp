// The window's file.  Invariants checked: what one owner leaves the next finds, if arena, size and
// boot are the same; every byte of the header counts; what is foreign is left alone; frames are
// found page by page, and looking at a hole does not fill it.
#define BOOST_TEST_MODULE far_file
#include "core/spill/far_file.hpp"

#include <fcntl.h>

#include "core/base/crc32c.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

constexpr uint64_t kExtents = 100;
constexpr uint8_t kUuid[16] = {1, 2, 3};
constexpr uint8_t kOtherUuid[16] = {4};

struct Fixture {
  Fixture() { test::limit_time(30); }
  Error open(FarFile& file, uint64_t extents = kExtents) {
    Error error = file.open(path.c_str(), extents, kUuid, true, &is_found, why);
    return error == Error::kNone ? file.confirm() : error;
  }
  FarFileHeader header() {
    FarFileHeader header{};
    std::string all = test::read_all(path);
    std::memcpy(&header, all.data(), sizeof(header));
    return header;
  }
  void put(const FarFileHeader& header) {
    int file = ::open(path.c_str(), O_RDWR);
    BOOST_REQUIRE(::pwrite(file, &header, sizeof(header), 0) == long(sizeof(header)));
    ::close(file);
  }
  test::Scratch scratch;
  std::string path = scratch.file("far");
  bool is_found = false;
  Line why;
  std::vector<char> data = std::vector<char>(kFarExtentBytes, 'd');
  std::vector<char> back = std::vector<char>(kFarExtentBytes);
};

BOOST_FIXTURE_TEST_CASE(words_and_frames_are_found_by_the_next_owner, Fixture) {
  FarFile file;
  BOOST_REQUIRE(open(file) == Error::kNone);
  BOOST_TEST(!is_found);
  BOOST_TEST((file.table().load(7) == ExtentWord{}));
  ExtentWord word = ExtentWord{}.with(ExtentState::kIdle).with_generation(99).with_holders(5);
  file.table().store(7, word);
  BOOST_TEST(file.write(7, data.data()));
  FarFile second;
  BOOST_TEST(open(second) == Error::kInUse);
  file.close();
  BOOST_REQUIRE(open(file) == Error::kNone);
  BOOST_TEST(is_found);
  BOOST_TEST((file.table().load(7) == word));
  BOOST_TEST(file.read(7, back.data()));
  BOOST_TEST(back == data);
  file.close();
}

BOOST_FIXTURE_TEST_CASE(frames_are_told_by_page_and_reading_makes_none, Fixture) {
  FarFile file;
  BOOST_REQUIRE(open(file) == Error::kNone);
  BOOST_TEST(file.frames(3) == 0U);
  BOOST_TEST(file.read(3, back.data()));
  BOOST_TEST(file.frames(3) == 0U);
  for (uint32_t page : {0U, 5U, 6U, 15U}) BOOST_TEST(file.write_page(3, page, data.data()));
  BOOST_TEST(file.frames(3) == (1U | 3U << 5 | 1U << 15));
  BOOST_TEST(file.write(4, data.data()));
  BOOST_TEST(file.frames(4) == kAllPages);
  BOOST_TEST(file.frames(3) == (1U | 3U << 5 | 1U << 15));
  BOOST_TEST(file.frames(kExtents - 1) == 0U);
  BOOST_TEST(file.punch(3));
  BOOST_TEST(file.frames(3) == 0U);
  BOOST_TEST(file.frames(4) == kAllPages);
  file.close();
}

BOOST_FIXTURE_TEST_CASE(every_byte_of_the_header_counts, Fixture) {
  FarFile file;
  BOOST_REQUIRE(open(file) == Error::kNone);
  file.table().store(1, ExtentWord{}.with(ExtentState::kFar));
  file.close();
  const FarFileHeader good = header();
  for (size_t i = 0; i < sizeof(good); i++) {
    FarFileHeader bad = good;
    reinterpret_cast<uint8_t*>(&bad)[i] ^= 1;
    put(bad);
    // Made anew, or refused; never taken for what it is not.
    Error error = open(file);
    BOOST_TEST((error != Error::kNone || !is_found), "byte " << i);
    file.close();
    put(good);
  }
}

BOOST_FIXTURE_TEST_CASE(another_arena_size_or_boot_is_not_taken, Fixture) {
  FarFile file;
  BOOST_REQUIRE(open(file) == Error::kNone);
  file.table().store(1, ExtentWord{}.with(ExtentState::kFar));
  file.close();
  BOOST_TEST(open(file, kExtents + 1) == Error::kMismatch);
  BOOST_TEST(
      (file.open(path.c_str(), kExtents, kOtherUuid, true, &is_found, why) == Error::kMismatch));
  FarFileHeader old = header();
  old.boot_id[3] ^= 2;
  old.checksum = crc32c(&old, offsetof(FarFileHeader, checksum));
  put(old);
  BOOST_REQUIRE(open(file) == Error::kNone);
  BOOST_TEST(!is_found);
  BOOST_TEST((file.table().load(1) == ExtentWord{}));
  file.close();
}

BOOST_FIXTURE_TEST_CASE(a_newer_format_and_a_foreign_file_are_left_alone, Fixture) {
  std::ofstream(path) << "somebody's letters, which are long enough to be looked at";
  FarFile file;
  BOOST_TEST(open(file) == Error::kForeign);
  BOOST_TEST(test::read_all(path).starts_with("somebody's letters"));
  std::filesystem::remove(path);
  BOOST_REQUIRE(open(file) == Error::kNone);
  file.close();
  FarFileHeader newer = header();
  newer.format_version = kFarFileVersion + 1;
  newer.checksum = crc32c(&newer, offsetof(FarFileHeader, checksum));
  put(newer);
  BOOST_TEST(open(file) == Error::kNewer);
}

BOOST_FIXTURE_TEST_CASE(a_file_that_was_not_confirmed_has_no_data, Fixture) {
  {
    FarFile file;
    BOOST_REQUIRE((file.open(path.c_str(), kExtents, kUuid, true, &is_found, why) == Error::kNone));
    file.table().store(1, ExtentWord{}.with(ExtentState::kFar));
    file.close();  // as by a kill
  }
  FarFile again;
  BOOST_TEST(
      (again.open(path.c_str(), kExtents, kUuid, false, &is_found, why) == Error::kNotFound));
  BOOST_REQUIRE((again.open(path.c_str(), kExtents, kUuid, true, &is_found, why) == Error::kNone));
  BOOST_TEST(!is_found);
  BOOST_TEST((again.table().load(1) == ExtentWord{}));
  BOOST_REQUIRE((again.confirm() == Error::kNone));
  again.close();
  BOOST_TEST((again.open(path.c_str(), kExtents, kUuid, false, &is_found, why) == Error::kNone));
  BOOST_TEST(is_found);
  again.close();
}

BOOST_FIXTURE_TEST_CASE(a_file_that_must_be_there_is_not_made, Fixture) {
  FarFile file;
  BOOST_TEST((file.open(path.c_str(), kExtents, kUuid, false, &is_found, why) == Error::kNotFound));
  BOOST_TEST(!std::filesystem::exists(path));
}

}  // namespace
}  // namespace btd
