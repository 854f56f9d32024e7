#include "tools/node/media.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <libpmem.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "tools/failure.hpp"

namespace btd::tools {

const char* backend_text(Backend backend) {
  switch (backend) {
    case Backend::kFile:
      return "file";
    case Backend::kTmpfs:
      return "tmpfs";
    case Backend::kFsdax:
      return "fsdax";
    case Backend::kDevdax:
      return "devdax";
  }
  return "unknown";
}

MappedMedia::MappedMedia(const std::string& path, uint64_t bytes_wanted) : path_(path) {
  int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (bytes_wanted != 0 ? O_CREAT : 0);
  descriptor_ = ::open(path.c_str(), flags, 0600);
  if (descriptor_ < 0) fail("cannot be opened", "see --store");
  if (flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    throw Failure{kExitRefused, fmt::format("{} is in use by another daemon; nothing was changed; "
                                            "stop that one or give another --store",
                                            path)};
  }
  struct stat status {};
  if (fstat(descriptor_, &status) != 0) fail("cannot be looked at", "see --store");
  if (S_ISREG(status.st_mode)) {
    size_bytes_ = static_cast<uint64_t>(status.st_size);
    open_file(bytes_wanted);
  } else if (S_ISCHR(status.st_mode)) {
    open_device();
  } else {
    throw Failure{kExitRefused,
                  fmt::format("{} is neither a file nor a devdax device; nothing was changed; give "
                              "another --store",
                              path)};
  }
  map();
}

MappedMedia::~MappedMedia() {
  if (base_ != nullptr) munmap(base_, size_bytes_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

void MappedMedia::fail(const char* what, const char* advice) const {
  throw Failure{kExitFailed, fmt::format("{} {}: {}; no extent was changed; {}", path_, what,
                                         std::strerror(errno), advice)};
}

void MappedMedia::open_file(uint64_t bytes_wanted) {
  struct statfs system {};
  if (fstatfs(descriptor_, &system) != 0) fail("cannot be looked at", "see --store");
  backend_ = system.f_type == TMPFS_MAGIC ? Backend::kTmpfs : Backend::kFile;
  if (size_bytes_ != 0) return;
  is_new_ = true;
  size_bytes_ = bytes_wanted;
  int error = bytes_wanted == 0 ? EINVAL
                                : posix_fallocate(descriptor_, 0, static_cast<off_t>(bytes_wanted));
  if (error != 0) {
    if (bytes_wanted != 0) ::unlink(path_.c_str());
    errno = error;
    fail("cannot get all of its space", "give a smaller --capacity");
  }
  // Its name must survive a power cut too.
  std::string directory =
      path_.find('/') == std::string::npos ? "." : path_.substr(0, path_.find_last_of('/') + 1);
  int parent = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  bool is_synced = parent >= 0 && fsync(descriptor_) == 0 && fsync(parent) == 0;
  if (parent >= 0) ::close(parent);
  if (!is_synced) fail("cannot be made durable", "see --store");
}

void MappedMedia::open_device() {
  struct stat status {};
  fstat(descriptor_, &status);
  std::string folder =
      fmt::format("/sys/dev/char/{}:{}/", major(status.st_rdev), minor(status.st_rdev));
  char target[512];
  ssize_t length = readlink((folder + "subsystem").c_str(), target, sizeof(target) - 1);
  std::string subsystem(target, length < 0 ? 0 : static_cast<size_t>(length));
  if (!subsystem.ends_with("/dax") || !(std::ifstream(folder + "size") >> size_bytes_)) {
    throw Failure{kExitRefused, fmt::format("{} is no devdax device; nothing was changed; give "
                                            "another --store",
                                            path_)};
  }
  backend_ = Backend::kDevdax;
}

void MappedMedia::map() {
  void* mapped = MAP_FAILED;
  if (backend_ == Backend::kFile) {
    // Only a DAX file system grants this.
    mapped = mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED_VALIDATE | MAP_SYNC,
                  descriptor_, 0);
    if (mapped != MAP_FAILED) backend_ = Backend::kFsdax;
  }
  if (mapped == MAP_FAILED) {
    mapped = mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor_, 0);
  }
  if (mapped == MAP_FAILED) fail("cannot be mapped", "see --store and --capacity");
  base_ = static_cast<char*>(mapped);
}

void MappedMedia::flush(const void* address, size_t size_bytes) {
  if (backend_ == Backend::kFsdax || backend_ == Backend::kDevdax) {
    pmem_flush(address, size_bytes);
  }
  is_dirty_ = true;
}

void MappedMedia::drain() {
  if (!is_dirty_) return;
  is_dirty_ = false;
  switch (backend_) {
    case Backend::kTmpfs:
      return;
    case Backend::kFsdax:
    case Backend::kDevdax:
      pmem_drain();
      return;
    case Backend::kFile:
      // Writes back what was stored through the mapping too.  After a failure the kernel has
      // forgotten which pages were bad: going on could acknowledge what is not there.
      if (fdatasync(descriptor_) != 0) {
        throw Failure{kExitFailed,
                      fmt::format("{} could not be written: {}; what was not acknowledged may be "
                                  "lost; look after the disk, then start again",
                                  path_, std::strerror(errno))};
      }
  }
}

}  // namespace btd::tools
