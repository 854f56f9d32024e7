// Bad luck as a value.  Bugs are not values: see core/base/check.hpp.
#pragma once

#include <cstdint>

namespace btd {

enum class Error : uint8_t {
  kNone = 0,
  kNoSpace,       // the file system or the arena's capacity is exhausted
  kNoMemory,      // the kernel refused DRAM or address space
  kInUse,         // another process holds the arena
  kNotFound,      // no such file
  kForeign,       // a file, but no arena
  kNewer,         // an arena of a newer format
  kCorrupt,       // an arena whose header or frame headers fail their checks
  kMismatch,      // an arena of another page size or machine
  kAddressTaken,  // the arena's fixed address is occupied in this process
  kPermission,    // access refused
  kUnsupported,   // this kind of file cannot hold an arena (directory, FIFO, socket, ...)
  kSandboxed,  // a system call filter of the host program's makes believe the call does not exist
  kInvalid,    // an argument that cannot be right: outside the arena, not a live block
  kTooLong,    // a name longer than media has room for
  kBusy,       // another open transaction uses it
  kCanceled,   // the transaction was aborted before
  kIo,         // anything else the kernel said; see errno
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(value) {}
  Result(Error error) : error_(error) {}

  Error error() const { return error_; }
  explicit operator bool() const { return error_ == Error::kNone; }
  const T& operator*() const { return value_; }
  const T* operator->() const { return &value_; }

 private:
  T value_{};
  Error error_ = Error::kNone;
};

}  // namespace btd
