#include "core/persist/mapping.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/check.hpp"
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"


namespace btd {
namespace {

constexpr uint64_t kAddressAlignment = 2 * kMiB;
// Above what ASan shadows and below where the kernel puts libraries and stacks.
constexpr uint64_t kQuietFrom = 0x200000000000;
constexpr uint64_t kQuietTo = 0x600000000000;
constexpr int kReserveTries = 8;
// The descriptor moves out of the way of programs that count on low numbers.
constexpr int kDescriptorLeast = 400;

Error error_of(long result) {
  switch (-result) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return Error::kNoSpace;
    case ENOMEM:
    case EAGAIN:
      return Error::kNoMemory;
    case EACCES:
    case EPERM:
    case EROFS:
      return Error::kPermission;
    case ENOENT:
    case ENOTDIR:
      return Error::kNotFound;
    case ELOOP:
    case EISDIR:
    case ENXIO:
    case ENODEV:
      return Error::kUnsupported;
    default:
      return Error::kIo;
  }
}

// The size of a DAX character device, from sysfs; 0: it is something else.
uint64_t dax_device_bytes(dev_t device) {
  char text[64];
  Line path;
  path.text("/sys/dev/char/").number(major(device)).text(":").number(minor(device)).text("/size");
  if (sys::read_file(path.c_str() + std::strlen("bartender: "), text, sizeof(text)) <= 0) return 0;
  uint64_t size_bytes = 0;
  for (const char* at = text; *at >= '0' && *at <= '9'; at++) size_bytes = size_bytes * 10 + static_cast<uint64_t>(*at - '0');
  return size_bytes;
}

}  // namespace

Error Mapping::open(const char* path, bool may_create) {
  if (std::strlen(path) >= sizeof(path_)) return Error::kUnsupported;
  std::strcpy(path_, path);
  page_bytes_ = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // The owner of a finished arena unlinks it: what we locked may be gone from its name by then, so look again.
  for (;;) {
    int flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | (may_create ? O_CREAT : 0);
    int opened = sys::open(path, flags, 0600);
    if (opened < 0) return error_of(opened);
    descriptor_ = opened;
    struct stat status {};
    if (sys::stat_of(opened, &status) < 0) return close(), Error::kIo;
    device_ = status.st_dev;
    inode_ = status.st_ino;
    length_bytes_ = static_cast<uint64_t>(status.st_size);
    if (S_ISCHR(status.st_mode)) {
      backend_ = Backend::kDevdax;
      length_bytes_ = dax_device_bytes(status.st_rdev);
      if (length_bytes_ == 0) return close(), Error::kUnsupported;
    } else if (!S_ISREG(status.st_mode)) {
      return close(), Error::kUnsupported;
    }
    if (Error error = lock(); error != Error::kNone) return close(), error;
    struct stat named {};
    if (::lstat(path, &named) == 0 && named.st_ino == inode_ && named.st_dev == device_) break;
    if (!may_create) return close(), Error::kNotFound;
    close();
  }
  if (backend_ != Backend::kDevdax) {
    struct statfs file_system {};
    bool is_known = ::fstatfs(descriptor_, &file_system) == 0;
    backend_ = is_known && file_system.f_type == TMPFS_MAGIC ? Backend::kTmpfs : Backend::kFile;
    if (backend_ == Backend::kFile) {
      // MAP_SYNC is granted on DAX alone; asking is the only way to know.
      intptr_t probe = sys::map(nullptr, page_bytes_, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, descriptor_, 0);
      if (probe >= 0) {
        sys::unmap(reinterpret_cast<void*>(probe), page_bytes_);
        backend_ = Backend::kFsdax;
      }
    }
  }
  int moved = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, kDescriptorLeast);
  if (moved >= 0) {
    sys::close(descriptor_);
    descriptor_ = moved;
  }
  return Error::kNone;
}

Error Mapping::lock() {
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(descriptor_, F_OFD_SETLK, &whole) == 0) return Error::kNone;
  return errno == EAGAIN || errno == EACCES ? Error::kInUse : Error::kIo;
}

Error Mapping::set_length(uint64_t length_bytes) {
  if (backend_ == Backend::kDevdax) return length_bytes <= length_bytes_ ? Error::kNone : Error::kNoSpace;
  // Past the limit the kernel would not only refuse, but send SIGXFSZ.
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && length_bytes > limit.rlim_cur) {
    return Error::kNoSpace;
  }
  if (int result = sys::truncate(descriptor_, length_bytes); result < 0) return error_of(result);
  length_bytes_ = length_bytes;
  return Error::kNone;
}

bool Mapping::is_hole_from(uint64_t offset) const {
  if (offset >= length_bytes_) return true;
  return ::lseek(descriptor_, static_cast<off_t>(offset), SEEK_DATA) == -1 && errno == ENXIO;
}

bool Mapping::read(uint64_t offset, void* data, size_t size_bytes) const {
  return sys::pread(descriptor_, data, size_bytes, offset) == static_cast<long>(size_bytes);
}

Error Mapping::reserve(uint64_t base, uint64_t seed) {
  uint64_t reserved_bytes = round_up(length_bytes_, kAddressAlignment);
  constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  Error error = Error::kAddressTaken;
  int tries = base != 0 ? 1 : kReserveTries;
  for (int i = 0; i < tries; i++, seed = seed * 6364136223846793005 + 1442695040888963407) {
    uint64_t address =
        base != 0 ? base : kQuietFrom + round_down(seed % (kQuietTo - kQuietFrom), kAddressAlignment);
    auto* wanted = reinterpret_cast<void*>(address);
    intptr_t got = sys::map(wanted, reserved_bytes, PROT_NONE, kFlags | MAP_FIXED_NOREPLACE, -1, 0);
    if (got == static_cast<intptr_t>(address)) {
      base_ = static_cast<char*>(wanted);
      return Error::kNone;
    }
    if (got >= 0) sys::unmap(reinterpret_cast<void*>(got), reserved_bytes);  // kernels before 4.17 take it as a hint
    if (got == -ENOMEM || got == -EAGAIN) error = Error::kNoMemory;
  }
  if (base != 0) return error;
  // Under tools that own the address space (valgrind), any place is as good.
  intptr_t got = sys::map(nullptr, reserved_bytes + kAddressAlignment, PROT_NONE, kFlags, -1, 0);
  if (got < 0) return Error::kNoMemory;
  base_ = reinterpret_cast<char*>(round_up(static_cast<uint64_t>(got), kAddressAlignment));
  return Error::kNone;
}

Error Mapping::grow(uint64_t offset, size_t size_bytes) {
  if (Error error = allocate(offset, size_bytes); error != Error::kNone) return error;
  return map(offset, size_bytes);
}

Error Mapping::allocate(uint64_t offset, size_t size_bytes) {
  if (backend_ == Backend::kDevdax) return Error::kNone;
  int file = descriptor();
  if (file < 0) return Error::kIo;
  int result;
  do {
    result = sys::allocate(file, offset, size_bytes);
  } while (result == -EINTR);  // a signal; tmpfs has undone its part and starts again
  return result < 0 ? error_of(result) : Error::kNone;
}

Error Mapping::map(uint64_t offset, size_t size_bytes) {
  if (backend_ == Backend::kDevdax) {
    uint64_t end = round_up(offset + size_bytes, kAddressAlignment);
    offset = round_down(offset, kAddressAlignment);
    size_bytes = end - offset;
  }
  int file = descriptor();
  if (file < 0) return Error::kIo;
  bool is_dax = backend_ == Backend::kFsdax || backend_ == Backend::kDevdax;
  int flags = MAP_FIXED | (is_dax ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED);
  intptr_t got = sys::map(base_ + offset, size_bytes, PROT_READ | PROT_WRITE, flags, file, offset);
  if (got < 0) return error_of(got);
  if (is_kept_from_children_) sys::advise(base_ + offset, size_bytes, MADV_DONTFORK);
  return Error::kNone;
}

bool Mapping::give_back(uint64_t offset, size_t size_bytes) {
  if (backend_ == Backend::kDevdax) return false;
  return sys::advise(base_ + offset, size_bytes, MADV_REMOVE) == 0;
}

void* Mapping::map_private(uint64_t offset, size_t size_bytes) const {
  char proc_path[48];
  Line text;
  text.text("/proc/self/fd/").number(static_cast<uint64_t>(descriptor_));
  std::strncpy(proc_path, text.c_str() + std::strlen("bartender: "), sizeof(proc_path) - 1);
  proc_path[sizeof(proc_path) - 1] = '\0';
  int file = is_ours(descriptor_) ? sys::open(proc_path, O_RDONLY) : sys::open(path_, O_RDONLY | O_NOFOLLOW);
  if (file < 0) return nullptr;
  intptr_t got = -EBADF;
  if (is_ours(file)) got = sys::map(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, offset);
  sys::close(file);
  return got < 0 ? nullptr : reinterpret_cast<void*>(got);
}

void Mapping::forget_descriptor() {
  if (descriptor_ >= 0 && is_ours(descriptor_)) sys::close(descriptor_);
  descriptor_ = -1;
}

bool Mapping::is_ours(int descriptor) const {
  struct stat status {};
  return descriptor >= 0 && sys::stat_of(descriptor, &status) == 0 && status.st_dev == device_ && status.st_ino == inode_;
}

int Mapping::descriptor() {
  if (is_ours(descriptor_)) return descriptor_;
  descriptor_ = -1;  // not ours any more: not ours to close
  int opened = sys::open(path_, O_RDWR | O_NOFOLLOW | O_NONBLOCK);
  if (opened < 0) return opened;
  if (!is_ours(opened)) {
    sys::close(opened);
    return -ENOENT;
  }
  int moved = ::fcntl(opened, F_DUPFD_CLOEXEC, kDescriptorLeast);
  if (moved >= 0) {
    sys::close(opened);
    opened = moved;
  }
  descriptor_ = opened;
  return opened;
}

void Mapping::unlink() {
  struct stat named {};
  if (backend_ != Backend::kDevdax && ::lstat(path_, &named) == 0 && named.st_ino == inode_ && named.st_dev == device_) {
    sys::unlink(path_);
  }
}

void Mapping::unreserve() {
  if (base_ != nullptr) sys::unmap(base_, round_up(length_bytes_, kAddressAlignment));
  base_ = nullptr;
}

void Mapping::close() {
  unreserve();
  if (is_ours(descriptor_)) sys::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace btd
