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
#include "core/base/path_builder.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr uint64_t kAddressAlignment = 2 * kMiB;
// Above what ASan shadows; below where the kernel puts executables (0x55...), libraries and stacks.
// Half of it is for arenas that programs open beside the process's own: that one is there first, at
// another address each time it is made, and would now and then lie where such an arena must.
constexpr uint64_t kQuietFrom = 0x200000000000;
constexpr uint64_t kQuietBytes = 0x180000000000;
constexpr int kMapTries = 8;
constexpr size_t kPieceBytes = 2 * kMiB;

Error error_of(long result) {
  switch (-result) {
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EFAULT:  // MADV_POPULATE_WRITE, where a touch would raise SIGBUS
      return Error::kNoSpace;
    case ENOMEM:
    case EAGAIN:
      return Error::kNoMemory;
    case EACCES:
    case EPERM:
    case EROFS:
      return Error::kPermission;
    case ENOSYS:
      return Error::kSandboxed;
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

// The number after `name` in a small file, UINT64_MAX if there is none.
uint64_t number_in_file(const char* path, const char* name) {
  char text[1024];
  if (sys::read_file(path, text, sizeof(text)) <= 0) return UINT64_MAX;
  const char* at = std::strstr(text, name);
  at = at == nullptr ? "" : at + std::strlen(name);
  while (*at == ' ') at++;
  if (*at < '0' || *at > '9') return UINT64_MAX;
  uint64_t number = 0;
  for (; *at >= '0' && *at <= '9'; at++) number = number * 10 + static_cast<uint64_t>(*at - '0');
  return number;
}

}  // namespace

uint64_t dax_device_bytes(dev_t device) {
  char path[64];
  PathBuilder builder(path, sizeof(path));
  builder.text("/sys/dev/char/").number(major(device)).put(':').number(minor(device)).text("/size");
  if (!builder.finish()) return 0;
  uint64_t size_bytes = number_in_file(path, "");
  return size_bytes == UINT64_MAX ? 0 : size_bytes;
}

uint64_t available_memory_bytes() {
  uint64_t available_kib = number_in_file("/proc/meminfo", "MemAvailable:");
  uint64_t group_bytes = number_in_file("/sys/fs/cgroup/memory.max", "");
  return min(group_bytes, available_kib > UINT64_MAX / kKiB ? UINT64_MAX : available_kib * kKiB);
}

Backend backend_of(int descriptor) {
  struct stat status {};
  if (sys::stat_of(descriptor, &status) == 0 && S_ISCHR(status.st_mode)) return Backend::kDevdax;
  struct statfs file_system {};
  if (::fstatfs(descriptor, &file_system) == 0 && file_system.f_type == TMPFS_MAGIC)
    return Backend::kTmpfs;
  // MAP_SYNC is granted on DAX alone; asking is the only way to know.
  auto page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  intptr_t probe =
      sys::map(nullptr, page_bytes, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, descriptor, 0);
  if (probe < 0) return Backend::kFile;
  sys::unmap(reinterpret_cast<void*>(probe), page_bytes);
  return Backend::kFsdax;
}

Error Mapping::open(const char* path, bool may_create) {
  if (std::strlen(path) >= sizeof(path_)) return Error::kUnsupported;
  std::strcpy(path_, path);
  page_bytes_ = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  // The owner of a finished arena unlinks it: what we locked may be gone from its name by then, so
  // look again.
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
  backend_ = backend_of(descriptor_);
  if (backend_ == Backend::kTmpfs) at_once_bytes_max_ = available_memory_bytes() / 2;
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
  if (backend_ == Backend::kDevdax)
    return length_bytes <= length_bytes_ ? Error::kNone : Error::kNoSpace;
  // Past the limit the kernel would not only refuse, but send SIGXFSZ.
  rlimit limit{};
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY &&
      length_bytes > limit.rlim_cur) {
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
  if (backend_ != Backend::kDevdax)
    return sys::pread(descriptor_, data, size_bytes, offset) == static_cast<long>(size_bytes);
  // A device knows no pread, and no unit smaller than its alignment.
  uint64_t first = round_down(offset, kAddressAlignment);
  uint64_t map_bytes = round_up(offset + size_bytes, kAddressAlignment) - first;
  intptr_t got = sys::map(nullptr, map_bytes, PROT_READ, MAP_SHARED, descriptor_, first);
  if (got < 0) return false;
  std::memcpy(data, reinterpret_cast<char*>(got) + (offset - first), size_bytes);
  sys::unmap(reinterpret_cast<void*>(got), map_bytes);
  return true;
}

Error Mapping::map(uint64_t base, uint64_t seed, bool keep_from_children) {
  bool is_dax = backend_ == Backend::kFsdax || backend_ == Backend::kDevdax;
  int flags = MAP_NORESERVE | (is_dax ? MAP_SHARED_VALIDATE | MAP_SYNC : MAP_SHARED);
  auto map_at = [&](uint64_t address) -> intptr_t {
    auto* where = reinterpret_cast<void*>(address);
    if (!is_dax) {
      return sys::map(where, length_bytes_, PROT_NONE, flags | MAP_FIXED_NOREPLACE, descriptor_, 0);
    }
    // MAP_SHARED_VALIDATE refuses MAP_FIXED_NOREPLACE (EOPNOTSUPP): take the addresses first, then
    // put the file in their place.
    intptr_t taken =
        sys::map(where, length_bytes_, PROT_NONE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
    if (taken < 0) return taken;
    if (taken != static_cast<intptr_t>(address)) {  // a kernel before 4.17
      sys::unmap(reinterpret_cast<void*>(taken), length_bytes_);
      return -EEXIST;
    }
    intptr_t got = sys::map(where, length_bytes_, PROT_NONE, flags | MAP_FIXED, descriptor_, 0);
    if (got < 0) sys::unmap(where, length_bytes_);
    return got;
  };
  Error error = Error::kAddressTaken;
  int tries = base != 0 ? 1 : kMapTries;
  for (int i = 0; i < tries && base_ == nullptr;
       i++, seed = seed * 6364136223846793005 + 1442695040888963407) {
    uint64_t address = base != 0 ? base
                                 : kQuietFrom + (is_beside_ ? kQuietBytes : 0) +
                                       round_down(seed % kQuietBytes, kAddressAlignment);
    intptr_t got = map_at(address);
    if (got == static_cast<intptr_t>(address)) base_ = reinterpret_cast<char*>(got);
    if (got >= 0 && base_ == nullptr) sys::unmap(reinterpret_cast<void*>(got), length_bytes_);
    if (got < 0 && got != -EEXIST) error = Error::kNoMemory;
  }
  if (base_ == nullptr && base == 0) {
    // Under tools that own the address space (valgrind) any place is as good, if it is aligned:
    // find one that is large enough, then take it.
    uint64_t room_bytes = length_bytes_ + kAddressAlignment;
    intptr_t room = sys::map(nullptr, room_bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room >= 0) {
      sys::unmap(reinterpret_cast<void*>(room), room_bytes);
      intptr_t got = map_at(round_up(static_cast<uint64_t>(room), kAddressAlignment));
      if (got >= 0) base_ = reinterpret_cast<char*>(got);
    }
    error = Error::kNoMemory;
  }
  if (base_ == nullptr) return error;
  if (keep_from_children) sys::advise(base_, length_bytes_, MADV_DONTFORK);
  return Error::kNone;
}

Error Mapping::grow(uint64_t offset, size_t size_bytes) {
  if (Error error = open_access(offset, size_bytes); error != Error::kNone) return error;
  return allocate(offset, size_bytes);
}

Error Mapping::open_access(uint64_t offset, size_t size_bytes) {
  uint64_t unit_bytes = backend_ == Backend::kDevdax ? kAddressAlignment : page_bytes_;
  uint64_t first = round_down(offset, unit_bytes);
  int result = sys::protect(base_ + first, round_up(offset + size_bytes, unit_bytes) - first,
                            PROT_READ | PROT_WRITE);
  return result < 0 ? Error::kNoMemory : Error::kNone;
}

Error Mapping::allocate(uint64_t offset, size_t size_bytes) {
  uint64_t first = round_down(offset, page_bytes_);
  int result;
  do {
    result = sys::advise(base_ + first, round_up(offset + size_bytes, page_bytes_) - first,
                         MADV_POPULATE_WRITE);
  } while (result == -EINTR || result == -EAGAIN);
  if (result == -EINVAL) return Error::kUnsupported;
  return result < 0 ? error_of(result) : Error::kNone;
}

Error Mapping::allocate_resident(uint64_t offset, size_t size_bytes, size_t resident_bytes) {
  resident_bytes = min(resident_bytes, size_bytes);
  Error error = allocate(offset, resident_bytes);
  // By pieces, so that the peak of resident memory does not show them either.
  for (size_t done = resident_bytes; error == Error::kNone && done < size_bytes;
       done += kPieceBytes) {
    size_t piece_bytes = min(kPieceBytes, size_bytes - done);
    error = allocate(offset + done, piece_bytes);
    sys::advise(base_ + offset + done, piece_bytes, MADV_DONTNEED);
  }
  // A request that the file system cannot meet must not eat up what others could still have.
  if (error != Error::kNone) give_back(offset, size_bytes);
  return error;
}

bool Mapping::give_back(uint64_t offset, size_t size_bytes) {
  if (backend_ == Backend::kDevdax) return false;
  return sys::remove(base_ + offset, size_bytes) == 0;
}

void Mapping::forget() {
  base_ = nullptr;
  descriptor_ = -1;
  path_[0] = '\0';
}

void Mapping::close_descriptor() {
  if (descriptor_ >= 0) sys::close(descriptor_);
  descriptor_ = -1;
}

void Mapping::unlink() {
  struct stat named {};
  if (backend_ != Backend::kDevdax && ::lstat(path_, &named) == 0 && named.st_ino == inode_ &&
      named.st_dev == device_) {
    sys::unlink(path_);
  }
}

Error Mapping::make_name_durable() {
  if (backend_ == Backend::kDevdax) return Error::kNone;
  if (sys::sync_file(descriptor_) < 0) return Error::kIo;
  char directory[sizeof(path_)];
  std::strcpy(directory, path_);
  char* slash = std::strrchr(directory, '/');
  if (slash != nullptr) slash[slash == directory ? 1 : 0] = '\0';
  int opened = sys::open(slash != nullptr ? directory : ".", O_RDONLY | O_DIRECTORY);
  // A directory that may be written but not read: what the file system does by itself must do.
  if (opened < 0) return opened == -EACCES ? Error::kNone : Error::kIo;
  int result = sys::sync_file(opened);
  sys::close(opened);
  return result < 0 ? Error::kIo : Error::kNone;
}

void Mapping::unmap() {
  if (base_ != nullptr) sys::unmap(base_, length_bytes_);
  base_ = nullptr;
}

void Mapping::close() {
  unmap();
  close_descriptor();
}

}  // namespace btd
