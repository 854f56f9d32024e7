#include "core/spill/userfault.hpp"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

// include/uapi/linux/userfaultfd.h and fs.h of Linux 6.8; the oldest headers we are built with are
// 6.1's.
constexpr uint64_t kFeatureFlagWp = 1 << 0;
constexpr uint64_t kFeatureMissingShmem = 1 << 5;
constexpr uint64_t kFeatureThreadId = 1 << 8;
constexpr uint64_t kFeatureMinorShmem = 1 << 10;
constexpr uint64_t kFeatureWpShmem = 1 << 12;
constexpr uint64_t kFeaturePoison = 1 << 14;
constexpr uint64_t kFeatureWpAsync = 1 << 15;
constexpr uint64_t kFeaturesNeeded =
    kFeatureFlagWp | kFeatureMissingShmem | kFeatureThreadId | kFeatureMinorShmem | kFeatureWpShmem;
constexpr uint64_t kContinueModeWp = 1 << 1;
constexpr unsigned long kNewDescriptor = _IO(0xAA, 0x00);

struct PoisonArgument {
  uffdio_range range;
  uint64_t mode;
  int64_t updated;
};
constexpr unsigned long kPoison = _IOWR(UFFDIO, 0x08, PoisonArgument);

struct ScanArgument {
  uint64_t size;
  uint64_t flags;
  uint64_t start;
  uint64_t end;
  uint64_t walk_end;
  uint64_t vector;
  uint64_t vector_length;
  uint64_t pages_max;
  uint64_t category_inverted;
  uint64_t category_mask;
  uint64_t category_any_mask;
  uint64_t return_mask;
};
static_assert(sizeof(ScanArgument) == 96);
struct ScanRange {
  uint64_t start;
  uint64_t end;
  uint64_t categories;
};
constexpr unsigned long kScan = _IOWR('f', 16, ScanArgument);
constexpr uint64_t kIsWritten = 1 << 1;
constexpr uint64_t kIsSwapped = 1 << 4;

int new_descriptor() noexcept {
  long descriptor = ::syscall(SYS_userfaultfd, O_CLOEXEC);
  if (descriptor >= 0) return static_cast<int>(descriptor);
  int device = sys::open("/dev/userfaultfd", O_RDWR);
  if (device < 0) return -1;
  descriptor = ::ioctl(device, kNewDescriptor, O_CLOEXEC);
  sys::close(device);
  return static_cast<int>(descriptor);
}

// The features may be asked for once per descriptor.
bool agree(int descriptor, uint64_t features, uint64_t* offered) noexcept {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(descriptor, UFFDIO_API, &api) != 0) return false;
  if (offered != nullptr) *offered = api.features;
  return true;
}

}  // namespace

Error Userfault::open(bool want_async, Line& why) noexcept {
  int probe = new_descriptor();
  if (probe < 0) {
    why.text("far memory needs userfaultfd for system calls too: give this user read and write ")
        .text("access to /dev/userfaultfd (Linux 6.1), or set vm.unprivileged_userfaultfd=1");
    return Error::kPermission;
  }
  uint64_t offered = 0;
  bool is_known = agree(probe, 0, &offered);
  sys::close(probe);
  if (!is_known || (offered & kFeaturesNeeded) != kFeaturesNeeded) {
    why.text("this kernel cannot write-protect shared memory by userfaultfd: Linux 5.19 can");
    return Error::kUnsupported;
  }

  features_.can_poison = (offered & kFeaturePoison) != 0;
  features_.can_track_async = want_async && (offered & kFeatureWpAsync) != 0;
  uint64_t wanted = kFeaturesNeeded | (features_.can_poison ? kFeaturePoison : 0) |
                    (features_.can_track_async ? kFeatureWpAsync : 0);
  descriptor_ = new_descriptor();
  if (descriptor_ < 0 || !agree(descriptor_, wanted, nullptr)) {
    why.text("userfaultfd refuses the features that it offers");
    close();
    return Error::kUnsupported;
  }
  // A handler waits for faults when it has nothing else to do, and only looks for them when it has.
  // poll() of a descriptor that blocks is an error, and of one that does not costs 0.8 us a fault;
  // so it blocks, where the kernel can be told otherwise for one read (6.10).
  uffd_msg message;
  iovec to{&message, sizeof(message)};
  can_read_both_ways_ = ::preadv2(descriptor_, &to, 1, -1, RWF_NOWAIT) < 0 && errno == EAGAIN;
  if (!can_read_both_ways_) ::fcntl(descriptor_, F_SETFL, O_NONBLOCK);

  if (features_.can_track_async) {
    pagemap_ = sys::open("/proc/self/pagemap", O_RDONLY);
    if (pagemap_ < 0) {
      why.text("far memory needs /proc/self/pagemap");
      close();
      return Error::kPermission;
    }
  }
  return Error::kNone;
}

void Userfault::close() noexcept {
  if (pagemap_ >= 0) sys::close(pagemap_);
  if (descriptor_ >= 0) sys::close(descriptor_);
  descriptor_ = pagemap_ = -1;
}

long Userfault::control(unsigned long request, void* argument) noexcept {
  return ::ioctl(descriptor_, request, argument) == 0 ? 0 : -errno;
}

Error Userfault::watch(void* start, size_t size_bytes, bool with_writes) noexcept {
  uffdio_register argument{};
  argument.range = {reinterpret_cast<uint64_t>(start), size_bytes};
  argument.mode = UFFDIO_REGISTER_MODE_MISSING;
  if (with_writes) argument.mode |= UFFDIO_REGISTER_MODE_MINOR | UFFDIO_REGISTER_MODE_WP;
  long result = control(UFFDIO_REGISTER, &argument);
  if (result == 0) return Error::kNone;
  return result == -EBUSY ? Error::kInUse : Error::kUnsupported;
}

void Userfault::unwatch(void* start, size_t size_bytes) noexcept {
  uffdio_range range{reinterpret_cast<uint64_t>(start), size_bytes};
  control(UFFDIO_UNREGISTER, &range);
}

uint32_t Userfault::read(PageFault* out, bool may_wait) noexcept {
  uffd_msg messages[kBatch];
  iovec to{messages, sizeof(messages)};
  long length = 0;
  if (can_read_both_ways_) {
    length = ::preadv2(descriptor_, &to, 1, -1, may_wait ? 0 : RWF_NOWAIT);
  } else {
    pollfd waiting{descriptor_, POLLIN, 0};
    if (may_wait) ::poll(&waiting, 1, -1);
    length = sys::read(descriptor_, messages, sizeof(messages));
  }
  if (length <= 0) return 0;
  uint32_t count = 0;
  for (size_t i = 0; i < static_cast<size_t>(length) / sizeof(uffd_msg); i++) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    const auto& fault = messages[i].arg.pagefault;
    out[count++] = {fault.address, (fault.flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0,
                    static_cast<int32_t>(fault.feat.ptid),
                    (fault.flags & UFFD_PAGEFAULT_FLAG_WP) != 0};
  }
  return count;
}

namespace {

// One of the calls that fill a range may stop in the middle: at a page that is there already, or
// because the address space is being changed.  And none of them crosses the end of a mapping, where
// the program may have split ours, as mlock() of a part does: then it goes page by page.  A page
// that is in no watched mapping any more is the program's, and nobody waits for it here.
// `step(offset, length)` returns the bytes done or a negative errno value.
template <typename Step>
Error fill(size_t size_bytes, Step step) noexcept {
  size_t offset = 0;
  size_t piece_bytes = size_bytes;
  while (offset < size_bytes) {
    long done = step(offset, min(piece_bytes, size_bytes - offset));
    if (done > 0) {
      offset += static_cast<size_t>(done);
    } else if (done == -ENOENT && piece_bytes > kPageBytes) {
      piece_bytes = kPageBytes;
    } else if (done == -EEXIST || done == -ENOENT) {
      offset += kPageBytes;
    } else if (done == -ENOMEM || done == -ENOSPC) {
      return Error::kNoMemory;
    } else if (done != -EAGAIN && done != 0) {
      return Error::kIo;
    }
  }
  return Error::kNone;
}

}  // namespace

Error Userfault::copy(uint64_t to, const void* from, size_t size_bytes,
                      bool is_protected) noexcept {
  return fill(size_bytes, [&](size_t offset, size_t length) noexcept -> long {
    uffdio_copy argument{};
    argument.dst = to + offset;
    argument.src = reinterpret_cast<uint64_t>(from) + offset;
    argument.len = length;
    argument.mode = is_protected ? UFFDIO_COPY_MODE_WP : 0;
    long result = control(UFFDIO_COPY, &argument);
    return result == -EAGAIN || result == 0 ? static_cast<long>(argument.copy) : result;
  });
}

Error Userfault::zero(uint64_t to, size_t size_bytes) noexcept {
  return fill(size_bytes, [&](size_t offset, size_t length) noexcept -> long {
    uffdio_zeropage argument{};
    argument.range = {to + offset, length};
    long result = control(UFFDIO_ZEROPAGE, &argument);
    return result == -EAGAIN || result == 0 ? static_cast<long>(argument.zeropage) : result;
  });
}

Error Userfault::map_frames(uint64_t start, size_t size_bytes, bool is_protected) noexcept {
  return fill(size_bytes, [&](size_t offset, size_t length) noexcept -> long {
    uffdio_continue argument{};
    argument.range = {start + offset, length};
    argument.mode = is_protected ? kContinueModeWp : 0;
    long result = control(UFFDIO_CONTINUE, &argument);
    return result == -EAGAIN || result == 0 ? static_cast<long>(argument.mapped) : result;
  });
}

Error Userfault::unprotect(uint64_t start, size_t size_bytes) noexcept {
  return fill(size_bytes, [&](size_t offset, size_t length) noexcept -> long {
    uffdio_writeprotect argument{};
    argument.range = {start + offset, length};
    long result = control(UFFDIO_WRITEPROTECT, &argument);
    return result == 0 ? static_cast<long>(length) : result;
  });
}

void Userfault::wake(uint64_t start, size_t size_bytes) noexcept {
  uffdio_range range{start, size_bytes};
  control(UFFDIO_WAKE, &range);
}

Error Userfault::poison(uint64_t start, size_t size_bytes) noexcept {
  if (!features_.can_poison) {
    // SIGSEGV instead of SIGBUS, and as final.
    int result = sys::protect(reinterpret_cast<void*>(start), size_bytes, PROT_NONE);
    wake(start, size_bytes);
    return result == 0 ? Error::kNone : Error::kIo;
  }
  // What was clean when it was unmapped left a mark in the page table, and the call takes a mark
  // for a page.  Taking protection away takes the marks away.
  unprotect(start, size_bytes);
  Error error = fill(size_bytes, [&](size_t offset, size_t length) noexcept -> long {
    PoisonArgument argument{{start + offset, length}, 0, 0};
    long result = control(kPoison, &argument);
    return result == -EAGAIN || result == 0 ? static_cast<long>(argument.updated) : result;
  });
  wake(start, size_bytes);
  return error;
}

bool Userfault::was_clean(uint64_t start, size_t size_bytes) noexcept {
  // An unmapped page that was protected is "swapped" and not "written"; one that was written to has
  // an empty entry, which is in no category at all.
  ScanRange found[kBatch];
  ScanArgument argument{};
  argument.size = sizeof(argument);
  argument.start = start;
  argument.end = start + size_bytes;
  argument.vector = reinterpret_cast<uint64_t>(found);
  argument.vector_length = kBatch;
  argument.category_inverted = kIsWritten;
  argument.category_mask = kIsSwapped | kIsWritten;
  argument.return_mask = kIsSwapped;
  int count = ::ioctl(pagemap_, kScan, &argument);
  uint64_t clean_bytes = 0;
  for (int i = 0; i < count; i++) clean_bytes += found[i].end - found[i].start;
  return clean_bytes == size_bytes;
}

bool Userfault::can_map_protected(char* page) noexcept {
  const auto address = reinterpret_cast<uint64_t>(page);
  if (zero(address, kPageBytes) != Error::kNone) return false;
  sys::advise(page, kPageBytes, MADV_DONTNEED);
  bool is_mapped = map_frames(address, kPageBytes, true) == Error::kNone;
  sys::advise(page, kPageBytes, MADV_REMOVE);
  return is_mapped;
}

bool Userfault::proves_tracking(char* page) noexcept {
  const auto address = reinterpret_cast<uint64_t>(page);
  static const char zeros[kPageBytes] = {};
  if (copy(address, zeros, kPageBytes, true) != Error::kNone) return false;
  sys::advise(page, kPageBytes, MADV_DONTNEED);
  bool is_right = was_clean(address, kPageBytes);
  if (map_frames(address, kPageBytes, true) != Error::kNone) return false;
  *static_cast<volatile char*>(page) = 1;  // the kernel notes it; nobody has to serve the fault
  sys::advise(page, kPageBytes, MADV_DONTNEED);
  is_right = is_right && !was_clean(address, kPageBytes);
  sys::advise(page, kPageBytes, MADV_REMOVE);
  return is_right && !was_clean(address, kPageBytes);
}

}  // namespace btd
