// One arena file or device at one fixed address.
//
// The whole file is mapped when the arena is opened, without access, and made accessible piece by
// piece as it grows.  A piece is allocated in the file before it is handed out, by
// MADV_POPULATE_WRITE, which faults it in at once and answers ENOSPC with an error where a touch
// would be SIGBUS.  So a stray access past the grown part dies by SIGSEGV, mlockall() locks only
// what is used, a full file system is an error value, and growth takes no system calls but mprotect
// and madvise.
//
// No descriptor is kept: the host program may close them all.  The lock is an open-file-description
// lock, which the kernel drops with the last reference to the description; the mapping is such a
// reference.  So the lock goes away with the process, however it dies.
//
// Thread safety: the caller holds the arena's extent lock, except for address(), which is constant
// after open, and for allocate() and allocate_resident() of a range that is nobody else's.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

#include "core/base/result.hpp"

namespace btd {

enum class Backend : uint8_t {
  kTmpfs,   // survives the process, not the machine
  kFile,    // survives the machine after msync
  kFsdax,   // a file on a DAX file system, mapped with MAP_SYNC
  kDevdax,  // a DAX character device: no truncate, no allocate, 2 MiB units
};

// The size of a DAX character device, from sysfs (fstat tells none); 0: it is something else.
uint64_t dax_device_bytes(dev_t device);

// What this process may still take, as far as the kernel tells; UINT64_MAX: it does not.
uint64_t available_memory_bytes();

// What an open regular file or DAX device is.
Backend backend_of(int descriptor);

class Mapping {
 public:
  // Opens or creates `path` (never through a symbolic link in its last part) and takes the lock.
  // ERRORS: kInUse another process holds the lock; kUnsupported not a regular file and not a DAX
  // device; kPermission; kNotFound the directory does not exist; kNoSpace; kIo.
  Error open(const char* path, bool may_create);

  uint64_t length_bytes() const {
    return length_bytes_;
  }                                         // of the file or device when opened or set
  Error set_length(uint64_t length_bytes);  // ERRORS: kNoSpace: refused (file size limits)

  // True if the file holds no byte past `offset` (it may still have a length).
  bool is_hole_from(uint64_t offset) const;

  // Reads without mapping.
  bool read(uint64_t offset, void* data, size_t size_bytes) const;

  // Before map(): the arena is to lie beside the process's own.
  void stand_beside() { is_beside_ = true; }
  // Maps the whole file, without access.  `base` 0: anywhere quiet, a multiple of 2 MiB.
  // ERRORS: kAddressTaken; kNoMemory the kernel refuses that much (ulimit -v).
  Error map(uint64_t base, uint64_t seed, bool keep_from_children);

  // Makes [offset, offset + size_bytes) of the file accessible, and allocated.  Whole pages are
  // taken. ERRORS: kNoSpace, kNoMemory, kUnsupported a kernel before 5.14.
  Error grow(uint64_t offset, size_t size_bytes);
  // The first half alone, for a range that is allocated.
  Error open_access(uint64_t offset, size_t size_bytes);
  // The second half alone, for a range that is accessible, but whose space was given back.
  Error allocate(uint64_t offset, size_t size_bytes);
  // The same, but what is past `resident_bytes` is not left mapped: it takes no part of the
  // process's resident memory until it is touched; and after an error nothing stays allocated.
  // REQUIRES: the range holds nothing.
  Error allocate_resident(uint64_t offset, size_t size_bytes, size_t resident_bytes);
  // More than this should not be allocated by one call: half of the memory that was available at
  // open(), for a tmpfs.  A program that asks for so much seldom means to use it all, and taking it
  // at once could wake the OOM killer.
  uint64_t at_once_bytes_max() const { return at_once_bytes_max_; }
  // Returns the space to the file system; the range stays mapped and reads as zeros.  False: the
  // file system cannot.
  bool give_back(uint64_t offset, size_t size_bytes);

  // The file and its name in its directory, over power loss.  ERRORS: kIo.  REQUIRES: open.
  Error make_name_durable();

  void unmap();
  // Once the arena is open the mapping is all that is needed.
  void close_descriptor();
  void unlink();
  void close();  // unmaps all, drops the lock
  // In a forked child: the parent's file is out of reach, and so is a share in its lock.
  void forget();

  char* address(uint64_t offset = 0) const { return base_ + offset; }
  Backend backend() const { return backend_; }
  const char* path() const { return path_; }

 private:
  Error lock();

  // Constant after open and map.
  char* base_ = nullptr;
  uint64_t length_bytes_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  int descriptor_ = -1;  // while the arena is being opened
  uint64_t page_bytes_ = 0;
  uint64_t at_once_bytes_max_ = UINT64_MAX;
  Backend backend_ = Backend::kTmpfs;
  bool is_beside_ = false;
  char path_[512] = {};
};

}  // namespace btd
