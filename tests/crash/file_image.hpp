// What a file holds now: the bytes of its allocated parts, read without touching the holes.
//
// On tmpfs a page becomes data when it is first written or mapped, so an image of an arena that has
// just begun is a few pages, whatever its capacity, and two images taken one instruction apart are
// cheap to compare.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace btd::test {

class FileImage {
 public:
  struct Range {
    uint64_t offset;
    uint64_t size_bytes;
    bool operator==(const Range&) const = default;
  };

  // Reads [0, limit) of the file, or all of it.  False: the file is not there.
  bool read(int descriptor, uint64_t limit = ~uint64_t{0});
  bool read(const std::string& path);

  // Makes or overwrites `path` with this image: same length, same holes.
  bool write(const std::string& path) const;

  // Whether the same ranges of a file hold these bytes still.  REQUIRES: `mapped` is the file from
  // its start, as far as was read.
  bool holds_in(const uint8_t* mapped) const;

  bool operator==(const FileImage&) const = default;
  uint64_t length_bytes() const { return length_bytes_; }
  uint64_t data_bytes() const { return bytes_.size(); }

  // The byte at `offset`; nullptr in a hole.
  uint8_t* at(uint64_t offset);

  // Where this image and another differ in content (a hole is zeros); kSame: nowhere.
  static constexpr uint64_t kSame = ~uint64_t{0};
  uint64_t first_difference(FileImage& other);

 private:
  uint64_t length_bytes_ = 0;
  std::vector<Range> ranges_;
  std::vector<uint8_t> bytes_;
};

}  // namespace btd::test
