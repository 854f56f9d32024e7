#include "core/base/sys.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "core/base/log.hpp"

namespace btd {

void check_failed(const char* condition, const char* file, int line) {
  Line()
      .text("BUG: ")
      .text(condition)
      .text(" does not hold at ")
      .text(file)
      .text(":")
      .number(static_cast<uint64_t>(line))
      .text("; the process stops before the arena is harmed")
      .write(LogLevel::kOff);
  abort();
}

namespace sys {
namespace {

// syscall(2) reports through errno; put it into the result and leave errno as it was.
template <typename... Arguments>
long call(long number, Arguments... arguments) noexcept {
  int kept = errno;
  long result = ::syscall(number, arguments...);
  if (result == -1) {
    result = -errno;
    errno = kept;
  }
  return result;
}

}  // namespace

long write(int descriptor, const void* data, size_t size_bytes) noexcept {
  return call(SYS_write, descriptor, data, size_bytes);
}
long read(int descriptor, void* data, size_t size_bytes) noexcept {
  return call(SYS_read, descriptor, data, size_bytes);
}
long pread(int descriptor, void* data, size_t size_bytes, uint64_t offset) noexcept {
  return call(SYS_pread64, descriptor, data, size_bytes, offset);
}
int open(const char* path, int flags, unsigned mode) noexcept {
  return static_cast<int>(call(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode));
}
int close(int descriptor) noexcept { return static_cast<int>(call(SYS_close, descriptor)); }
int stat_of(int descriptor, struct stat* status) noexcept {
  return static_cast<int>(call(SYS_fstat, descriptor, status));
}
int truncate(int descriptor, uint64_t size_bytes) noexcept {
  return static_cast<int>(call(SYS_ftruncate, descriptor, size_bytes));
}
int unlink(const char* path) noexcept {
  return static_cast<int>(call(SYS_unlinkat, AT_FDCWD, path, 0));
}
int make_directory(const char* path, unsigned mode) noexcept {
  return static_cast<int>(call(SYS_mkdirat, AT_FDCWD, path, mode));
}
intptr_t map(void* address, size_t size_bytes, int protection, int flags, int descriptor,
             uint64_t offset) noexcept {
  return call(SYS_mmap, address, size_bytes, protection, flags, descriptor, offset);
}
int unmap(void* address, size_t size_bytes) noexcept {
  return static_cast<int>(call(SYS_munmap, address, size_bytes));
}
int advise(void* address, size_t size_bytes, int advice) noexcept {
  return static_cast<int>(call(SYS_madvise, address, size_bytes, advice));
}
int remove(void* address, size_t size_bytes) noexcept {
  int result = advise(address, size_bytes, MADV_REMOVE);
  if (result != -EINVAL) return result;
  call(SYS_munlock, address, size_bytes);
  return advise(address, size_bytes, MADV_REMOVE);
}
int protect(void* address, size_t size_bytes, int protection) noexcept {
  return static_cast<int>(call(SYS_mprotect, address, size_bytes, protection));
}

int sync_pages(void* address, size_t size_bytes) noexcept {
  return static_cast<int>(call(SYS_msync, address, size_bytes, MS_SYNC));
}
int sync_file(int descriptor) noexcept { return static_cast<int>(call(SYS_fsync, descriptor)); }

long read_file(const char* path, char* buffer, size_t buffer_bytes) noexcept {
  int descriptor = open(path, O_RDONLY);
  if (descriptor < 0) return descriptor;
  long length = read(descriptor, buffer, buffer_bytes - 1);
  close(descriptor);
  buffer[length < 0 ? 0 : length] = '\0';
  return length;
}

uint64_t wall_clock_s() noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec);
}

uint64_t wall_clock_ms() noexcept {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

uint64_t steady_clock_s() noexcept {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec);
}

}  // namespace sys
}  // namespace btd
