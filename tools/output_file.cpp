#include "tools/output_file.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>

#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr size_t kHoleBytes = 64 * 1024;

[[noreturn]] void refuse_existing(const std::string& path) {
  throw Failure{kExitFailed,
                fmt::format("{} exists; it was not touched; name another file", printable(path))};
}

bool is_zero(const char* data, size_t size_bytes) {
  return data[0] == 0 && std::memcmp(data, data + 1, size_bytes - 1) == 0;
}

}  // namespace

OutputFile::OutputFile(std::string path, bool may_replace)
    : path_(std::move(path)), may_replace_(may_replace) {
  struct stat status {};
  bool exists = lstat(path_.c_str(), &status) == 0;
  if (exists && !may_replace_) refuse_existing(path_);
  if (exists && !S_ISREG(status.st_mode)) {
    throw Failure{
        kExitFailed,
        fmt::format("{} is no ordinary file; it was not touched; name another", printable(path_))};
  }
  std::string directory = std::filesystem::path(path_).parent_path();
  if (directory.empty()) directory = ".";
  descriptor_ = open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  for (unsigned attempt = 0; descriptor_ < 0 && attempt < 100; attempt++) {
    temporary_ = temporary_name(attempt);
    descriptor_ =
        open(temporary_.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (descriptor_ < 0 && errno != EEXIST) break;
  }
  if (descriptor_ < 0) {
    temporary_.clear();
    fail(errno);
  }
}

OutputFile::~OutputFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
  if (descriptor_ >= 0) close(descriptor_);
}

void OutputFile::fail(int error_number) const {
  throw Failure{
      kExitFailed,
      fmt::format("{} cannot be written: {}; the arena was not changed; name a file elsewhere",
                  printable(path_), std::strerror(error_number))};
}

std::string OutputFile::temporary_name(unsigned attempt) const {
  std::filesystem::path path(path_);
  return path.parent_path() /
         fmt::format(".{}.{}-{}.part", path.filename().string(), getpid(), attempt);
}

void OutputFile::write_at(uint64_t offset, const void* data, size_t size_bytes) {
  auto* from = static_cast<const char*>(data);
  while (size_bytes > 0) {
    ssize_t count = pwrite(descriptor_, from, size_bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail(count < 0 ? errno : EIO);
    from += count;
    offset += static_cast<uint64_t>(count);
    size_bytes -= static_cast<size_t>(count);
  }
}

void OutputFile::write(const void* data, size_t size_bytes) {
  auto* from = static_cast<const char*>(data);
  while (size_bytes > 0) {
    size_t part = std::min(size_bytes, kHoleBytes);
    if (part < kHoleBytes || !is_zero(from, part)) write_at(written_bytes_, from, part);
    written_bytes_ += part;
    from += part;
    size_bytes -= part;
  }
}

void OutputFile::set_length(uint64_t size_bytes) {
  if (ftruncate(descriptor_, static_cast<off_t>(size_bytes)) != 0) fail(errno);
  written_bytes_ = size_bytes;
}

void OutputFile::link_or_rename() {
  std::string anonymous = fmt::format("/proc/self/fd/{}", descriptor_);
  if (temporary_.empty()) {
    if (linkat(AT_FDCWD, anonymous.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) == 0)
      return;
    if (errno != EEXIST) fail(errno);
    if (!may_replace_) refuse_existing(path_);
    // No system call replaces a name by a nameless file: it takes a temporary one for a moment.
    std::string name;
    for (unsigned attempt = 0; attempt < 100; attempt++) {
      name = temporary_name(attempt);
      if (linkat(AT_FDCWD, anonymous.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0) {
        temporary_ = name;
        break;
      }
      if (errno != EEXIST) fail(errno);
    }
    if (temporary_.empty()) fail(EEXIST);
  }
  unsigned flags = may_replace_ ? 0 : RENAME_NOREPLACE;
  int result = renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), flags);
  if (result != 0 &&
      errno ==
          EINVAL) {  // a file system without RENAME_NOREPLACE; a hard link does not replace either
    result = link(temporary_.c_str(), path_.c_str());
    if (result == 0) unlink(temporary_.c_str());
  }
  if (result != 0 && errno == EEXIST) refuse_existing(path_);
  if (result != 0) fail(errno);
  temporary_.clear();
}

void OutputFile::publish() {
  if (ftruncate(descriptor_, static_cast<off_t>(written_bytes_)) != 0)
    fail(errno);  // the last run of zeros
  if (fsync(descriptor_) != 0) fail(errno);
  link_or_rename();
}

}  // namespace btd::tools
