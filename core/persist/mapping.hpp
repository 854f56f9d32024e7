// One arena file or device at one fixed address.
//
// The whole address range is reserved when the arena is opened (PROT_NONE, no memory), and pieces of the file are mapped over it as
// they are grown.  So a stray access past the grown part dies by SIGSEGV, mlockall() locks only what is used, and space is always
// allocated in the file before it can be touched: a full file system is an error value, never SIGBUS.
//
// The lock is an open-file-description lock.  The kernel drops it with the last reference to the description, and the mappings hold such
// references: so the lock outlives a host program that closes all descriptors, and goes away with the process, however it dies.  The descriptor
// itself is only needed to grow; when the host has closed it or made another file of it, the file is opened anew by its path.
//
// Thread safety: the caller holds the arena's extent lock, except for address(), which is constant after open.
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

class Mapping {
 public:
  // Opens or creates `path` (never through a symbolic link in its last part) and takes the lock.
  // ERRORS: kInUse another process holds the lock; kUnsupported not a regular file and not a DAX device; kPermission; kNotFound the
  // directory does not exist; kNoSpace; kIo.
  Error open(const char* path, bool may_create);

  uint64_t length_bytes() const { return length_bytes_; }    // of the file or device when opened or set
  Error set_length(uint64_t length_bytes);                   // ERRORS: kNoSpace: refused (file size limits)

  // True if the file holds no byte past `offset` (it may still have a length).
  bool is_hole_from(uint64_t offset) const;

  // Reads without mapping.
  bool read(uint64_t offset, void* data, size_t size_bytes) const;

  // Reserves the address range for the whole file.  `base` 0: anywhere quiet, a multiple of 2 MiB.
  // ERRORS: kAddressTaken; kNoMemory the kernel refuses that much (ulimit -v).
  Error reserve(uint64_t base, uint64_t seed);
  void unreserve();

  // Makes [offset, offset + size_bytes) of the file allocated and accessible.  REQUIRES: page aligned.
  // ERRORS: kNoSpace, kNoMemory.
  Error grow(uint64_t offset, size_t size_bytes);
  // The first half alone, for a range that is mapped, but whose space was given back.
  Error allocate(uint64_t offset, size_t size_bytes);
  // The second half alone, for ranges that are allocated.
  Error map(uint64_t offset, size_t size_bytes);
  // Returns the space to the file system; the range stays mapped and reads as zeros.  False: the file system cannot.
  bool give_back(uint64_t offset, size_t size_bytes);

  // A private, copy-on-write view of a range, of which the caller makes copies by MADV_POPULATE_WRITE.  It holds no reference to the lock.
  // Returns nullptr when the kernel refuses.
  void* map_private(uint64_t offset, size_t size_bytes) const;

  // In a forked child: drops the inherited descriptor, and with it the share in the parent's lock.
  void forget_descriptor();

  // Keeps the child of a fork from inheriting the mapped parts (madvise MADV_DONTFORK), also those grown later.
  void keep_from_children() { is_kept_from_children_ = true; }

  void unlink();
  void close();  // unmaps all, drops the lock

  char* address(uint64_t offset = 0) const { return base_ + offset; }
  Backend backend() const { return backend_; }
  const char* path() const { return path_; }

 private:
  int descriptor();  // the descriptor, opened anew if the host closed it; negative errno
  bool is_ours(int descriptor) const;
  Error lock();

  // Constant after open and reserve.
  char* base_ = nullptr;
  uint64_t length_bytes_ = 0;
  uint64_t page_bytes_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  Backend backend_ = Backend::kTmpfs;
  bool is_kept_from_children_ = false;
  char path_[512] = {};
  // Protected by the extent lock.
  int descriptor_ = -1;
};

}  // namespace btd
