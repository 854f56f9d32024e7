#include "tests/crash/file_image.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

namespace btd::test {

bool FileImage::read(int descriptor, uint64_t limit) {
  length_bytes_ = 0;
  ranges_.clear();
  struct stat status {};
  if (fstat(descriptor, &status) != 0) return false;
  length_bytes_ = static_cast<uint64_t>(status.st_size);
  limit = std::min(limit, length_bytes_);
  uint64_t total = 0;
  for (uint64_t at = 0; at < limit;) {
    off_t data = lseek(descriptor, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 || static_cast<uint64_t>(data) >= limit) break;
    off_t hole = lseek(descriptor, data, SEEK_HOLE);
    uint64_t end = std::min(static_cast<uint64_t>(hole), limit);
    ranges_.push_back({static_cast<uint64_t>(data), end - static_cast<uint64_t>(data)});
    total += end - static_cast<uint64_t>(data);
    at = end;
  }
  bytes_.resize(total);
  uint64_t done = 0;
  for (const Range& range : ranges_) {
    ssize_t got =
        pread(descriptor, bytes_.data() + done, range.size_bytes, static_cast<off_t>(range.offset));
    if (got != static_cast<ssize_t>(range.size_bytes)) return false;
    done += range.size_bytes;
  }
  return true;
}

bool FileImage::holds_in(const uint8_t* mapped) const {
  uint64_t done = 0;
  for (const Range& range : ranges_) {
    if (std::memcmp(mapped + range.offset, bytes_.data() + done, range.size_bytes) != 0)
      return false;
    done += range.size_bytes;
  }
  return true;
}

bool FileImage::read(const std::string& path) {
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return false;
  bool is_read = read(descriptor);
  close(descriptor);
  return is_read;
}

bool FileImage::write(const std::string& path) const {
  unlink(path.c_str());
  int descriptor = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
  if (descriptor < 0) return false;
  bool is_written = ftruncate(descriptor, static_cast<off_t>(length_bytes_)) == 0;
  uint64_t done = 0;
  for (const Range& range : ranges_) {
    ssize_t put = pwrite(descriptor, bytes_.data() + done, range.size_bytes,
                         static_cast<off_t>(range.offset));
    is_written = is_written && put == static_cast<ssize_t>(range.size_bytes);
    done += range.size_bytes;
  }
  close(descriptor);
  return is_written;
}

uint8_t* FileImage::at(uint64_t offset) {
  uint64_t done = 0;
  for (const Range& range : ranges_) {
    if (offset >= range.offset && offset < range.offset + range.size_bytes)
      return bytes_.data() + done + (offset - range.offset);
    done += range.size_bytes;
  }
  return nullptr;
}

uint64_t FileImage::first_difference(FileImage& other) {
  constexpr uint64_t kPage = 4096;
  static const uint8_t zeros[kPage] = {};
  if (length_bytes_ != other.length_bytes_) return std::min(length_bytes_, other.length_bytes_);
  uint64_t first = kSame;
  auto compare = [&](FileImage& left, FileImage& right) {
    for (const Range& range : left.ranges_) {
      for (uint64_t at = range.offset; at < range.offset + range.size_bytes; at += kPage) {
        uint64_t size_bytes = std::min(kPage, range.offset + range.size_bytes - at);
        const uint8_t* mine = left.at(at);
        const uint8_t* theirs = right.at(at);
        if (theirs == nullptr) theirs = zeros;
        if (std::memcmp(mine, theirs, size_bytes) == 0) continue;
        auto differs = std::mismatch(mine, mine + size_bytes, theirs);
        first = std::min(first, at + static_cast<uint64_t>(differs.first - mine));
        break;
      }
    }
  };
  compare(*this, other);
  compare(other, *this);
  return first;
}

}  // namespace btd::test
