// userfaultfd(2) as the pager uses it: full mode only, on shared memory, with the parts of the
// kernel's interface that are younger than the headers of the oldest system we are built on.
//
// Thread safety: constant after open() and watch(); all calls may run concurrently.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/log.hpp"
#include "core/base/result.hpp"

namespace btd {

inline constexpr size_t kPageBytes = 4096;

struct PageFault {
  uint64_t address;
  bool is_write;
  int32_t thread;     // whose fault it is, a gettid() number
  bool is_protected;  // a write to a write-protected page, when writes are tracked synchronously
};

// What the running kernel can do beyond what we insist on.
struct UserfaultFeatures {
  bool can_track_async;  // WP_ASYNC and PAGEMAP_SCAN (6.7): the kernel notes first writes by itself
  bool can_poison;       // UFFDIO_POISON (6.6)
};

class Userfault {
 public:
  static constexpr uint32_t kBatch = 16;

  Userfault() = default;
  Userfault(const Userfault&) = delete;
  Userfault& operator=(const Userfault&) = delete;

  // Opens a descriptor that serves faults of system calls too.  A descriptor for faults of user
  // mode alone would make read(2) into a far block fail with EFAULT, so it is not accepted.
  // ERRORS: kPermission neither the system call nor /dev/userfaultfd is allowed to us, kUnsupported
  // the kernel lacks write protection or minor faults of shared memory (before 5.19); `why` says
  // what to do.
  Error open(bool want_async, Line& why) noexcept;
  void close() noexcept;

  // From now on faults in the range come to read().  ERRORS: kUnsupported not shared memory, kInUse
  // another userfaultfd has it.
  Error watch(void* start, size_t size_bytes, bool with_writes) noexcept;
  void unwatch(void* start, size_t size_bytes) noexcept;

  const UserfaultFeatures& features() const { return features_; }

  // Waits for faults (`may_wait`) or takes what is there; returns how many.
  uint32_t read(PageFault* out, bool may_wait) noexcept;

  // The next fill missing pages and wake who waits for them.  A page that is there already is left
  // as it is.  ERRORS: kNoMemory no frame to be had, kIo anything else.
  Error copy(uint64_t to, const void* from, size_t size_bytes, bool is_protected) noexcept;
  Error zero(uint64_t to, size_t size_bytes) noexcept;
  // Maps pages whose frames are in the file.  ERRORS: kIo it cannot protect them.
  Error map_frames(uint64_t start, size_t size_bytes, bool is_protected) noexcept;

  Error unprotect(uint64_t start, size_t size_bytes) noexcept;
  void wake(uint64_t start, size_t size_bytes) noexcept;
  // Whoever touches the range from now on gets SIGBUS, and system calls EFAULT.  REQUIRES: no frame
  // of the range is in the file.
  Error poison(uint64_t start, size_t size_bytes) noexcept;

  // After the range was unmapped: whether each of its pages was mapped write-protected until then,
  // and so was not written to.  REQUIRES: can_track_async.
  bool was_clean(uint64_t start, size_t size_bytes) noexcept;

  // Whether map_frames() can protect (6.4), tried on one page as below.
  bool can_map_protected(char* page) noexcept;
  // Tries was_clean() on one page of the watched range, which it leaves without a frame: a kernel
  // that says "clean" of a written page would lose data, so believe none.  REQUIRES: nobody else
  // uses the page.
  bool proves_tracking(char* page) noexcept;

 private:
  long control(unsigned long request, void* argument) noexcept;

  int descriptor_ = -1;
  int pagemap_ = -1;
  bool can_read_both_ways_ = false;
  UserfaultFeatures features_{};
};

}  // namespace btd
