// System calls, raw: no cancellation point, no errno unless asked for, nothing that can call
// malloc.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>

#include "core/base/check.hpp"

namespace btd::sys {

// All return what the kernel returns: a negative errno value on failure.
long write(int descriptor, const void* data, size_t size_bytes) noexcept;
long read(int descriptor, void* data, size_t size_bytes) noexcept;
long pread(int descriptor, void* data, size_t size_bytes, uint64_t offset) noexcept;
int open(const char* path, int flags, unsigned mode = 0) noexcept;  // adds O_CLOEXEC
int close(int descriptor) noexcept;
int stat_of(int descriptor, struct stat* status) noexcept;
int truncate(int descriptor, uint64_t size_bytes) noexcept;
int unlink(const char* path) noexcept;
int make_directory(const char* path, unsigned mode) noexcept;

// Address or negative errno, as uintptr_t cast to intptr_t.
intptr_t map(void* address, size_t size_bytes, int protection, int flags, int descriptor,
             uint64_t offset) noexcept;
int unmap(void* address, size_t size_bytes) noexcept;
int advise(void* address, size_t size_bytes, int advice) noexcept;
// Returns the pages' space to their file; mlock() does not keep them: what is free is nobody's.
int remove(void* address, size_t size_bytes) noexcept;
int protect(void* address, size_t size_bytes, int protection) noexcept;
// msync(2) with MS_SYNC: returns once the pages are on media.
int sync_pages(void* address, size_t size_bytes) noexcept;
int sync_file(int descriptor) noexcept;  // fsync(2)

// Reads a whole small file; returns the bytes read (the buffer is NUL-terminated), or a negative
// errno value.
long read_file(const char* path, char* buffer, size_t buffer_bytes) noexcept;

// Seconds since 1970; and seconds of a clock that only goes forward, from the vdso (no system
// call).
uint64_t wall_clock_s() noexcept;
uint64_t wall_clock_ms() noexcept;
uint64_t steady_clock_s() noexcept;

}  // namespace btd::sys
