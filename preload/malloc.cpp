// The malloc family: check the arguments, choose the route, set errno.  No algorithm lives here.
//
// A request is routed by size; a pointer by address alone, never by what lies near it.
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>

#include <cerrno>
#include <cstring>

#include "core/base/attributes.hpp"
#include "core/base/units.hpp"
#include "preload/next.hpp"
#include "preload/runtime.hpp"

#define BTD_CALLER __builtin_return_address(0)

namespace btd::preload {
namespace {

BTD_COLD void* out_of_memory() {
  errno = ENOMEM;
  return nullptr;
}

BTD_COLD void* malloc_slow(size_t size_bytes) {
  if (size_bytes > PTRDIFF_MAX) return out_of_memory();
  if (threshold <= size_bytes) {
    if (void* block = allocate(size_bytes, kQuantumBytes, nullptr)) return block;
  }
  return next.malloc(size_bytes);
}

// Functions of their own, called last: malloc and free stay without a frame.
[[gnu::noinline]] void* malloc_large(size_t size_bytes) {
  void* block = arena.allocate_warm(*cache, size_bytes);
  return block != nullptr ? block : malloc_slow(size_bytes);
}

[[gnu::noinline]] void free_remote(void* pointer, uint8_t* state, const Bin* bin) {
  // A live block: there is no misuse, hence no caller, to tell of.
  if (!cache->give_away(pointer, state, bin)) free_ours(pointer, nullptr);
}

[[gnu::noinline]] void free_large(void* pointer, const void* caller) {
  if (!arena.free_warm(*cache, pointer)) free_ours(pointer, caller);
}

BTD_COLD void free_slow(void* pointer, const void* caller) {
  if (is_ours(pointer)) {
    free_ours(pointer, caller);
  } else {
    next.free(pointer);
  }
}

BTD_COLD void* calloc_slow(size_t size_bytes) {
  if (size_bytes > PTRDIFF_MAX) return out_of_memory();
  bool is_zero = false;
  void* block = threshold <= size_bytes ? allocate(size_bytes, kQuantumBytes, &is_zero) : nullptr;
  if (block == nullptr) return next.calloc(1, size_bytes);
  return is_zero ? block : std::memset(block, 0, size_bytes);
}

// Any alignment.  REQUIRES: it is a power of two.
void* allocate_aligned(size_t alignment, size_t size_bytes) {
  if (size_bytes > PTRDIFF_MAX || alignment > PTRDIFF_MAX) return out_of_memory();
  if (size_bytes >= threshold) {
    if (void* block = allocate(size_bytes, alignment, nullptr)) return block;
  }
  return next.memalign(alignment, size_bytes);
}

BTD_COLD void* move(void* pointer, size_t old_bytes, size_t new_bytes, const void* caller) {
  void* moved = ::malloc(new_bytes);
  if (moved == nullptr) return nullptr;  // the old block is untouched
  std::memcpy(moved, pointer, min(old_bytes, new_bytes));
  free_slow(pointer, caller);
  return moved;
}

void* reallocate(void* pointer, size_t size_bytes, const void* caller) {
  if (pointer == nullptr) return ::malloc(size_bytes);
  if (!is_ours(pointer)) {
    bool is_routed = size_bytes >= threshold && size_bytes != 0;
    return is_routed && size_bytes <= PTRDIFF_MAX
               ? move(pointer, next.usable_size(pointer), size_bytes, caller)
               : next.realloc(pointer, size_bytes);
  }
  if (size_bytes > PTRDIFF_MAX) return out_of_memory();
  Verdict verdict = arena.look_up(pointer);
  if (verdict != Verdict::kGood) {
    report_misuse("realloc", pointer, verdict, caller);
    return out_of_memory();
  }
  if (size_bytes == 0) {  // as glibc
    free_slow(pointer, caller);
    return nullptr;
  }
  if (is_arena_open() && size_bytes >= threshold && arena.resize_in_place(pointer, size_bytes))
    return pointer;
  return move(pointer, arena.usable_size(pointer), size_bytes, caller);
}

}  // namespace
}  // namespace btd::preload

using namespace btd;           // NOLINT: the functions below cannot live in a namespace
using namespace btd::preload;  // NOLINT

extern "C" {

BTD_EXPORT BTD_HOT void* malloc(size_t size_bytes) noexcept {
  if (size_bytes < threshold) return next.malloc(size_bytes);
  if (size_bytes > kSmallBytesMax) [[unlikely]]
    return malloc_large(size_bytes);
  return cache->allocate(size_bytes, [=] { return malloc_slow(size_bytes); });
}

BTD_EXPORT BTD_HOT void free(void* pointer) noexcept {
  auto foreign = [=] { return next.free(pointer), true; };
  auto remote = [=](uint8_t* state, const Bin* bin) {
    return free_remote(pointer, state, bin), true;
  };
  if (!ThreadCache::free(pointer, arena.geometry(), cache, foreign, remote)) [[unlikely]]
    free_large(pointer, BTD_CALLER);
}

BTD_EXPORT void* calloc(size_t count, size_t size_bytes) noexcept {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total)) [[unlikely]]
    return out_of_memory();
  if (total < threshold) return next.calloc(count, size_bytes);
  if (total > kSmallBytesMax) [[unlikely]]
    return calloc_slow(total);
  void* block = cache->allocate(total, [] { return static_cast<void*>(nullptr); });
  return block != nullptr ? std::memset(block, 0, total) : calloc_slow(total);
}

BTD_EXPORT void* realloc(void* pointer, size_t size_bytes) noexcept {
  return reallocate(pointer, size_bytes, BTD_CALLER);
}

BTD_EXPORT void* reallocarray(void* pointer, size_t count, size_t size_bytes) noexcept {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total)) return out_of_memory();
  return reallocate(pointer, total, BTD_CALLER);
}

BTD_EXPORT int posix_memalign(void** out, size_t alignment, size_t size_bytes) noexcept {
  if (!is_power_of_two(alignment) || alignment % sizeof(void*) != 0) return EINVAL;
  int kept = errno;
  void* block = allocate_aligned(alignment, size_bytes);
  errno = kept;
  if (block == nullptr) return ENOMEM;
  *out = block;
  return 0;
}

// glibc takes any alignment and rounds it up to a power of two.
BTD_EXPORT void* memalign(size_t alignment, size_t size_bytes) noexcept {
  if (alignment > SIZE_MAX / 2 + 1) {
    errno = EINVAL;
    return nullptr;
  }
  size_t power = sizeof(void*);
  while (power < alignment) power *= 2;
  return allocate_aligned(power, size_bytes);
}

BTD_EXPORT void* aligned_alloc(size_t alignment, size_t size_bytes) noexcept {
  return memalign(alignment, size_bytes);
}

BTD_EXPORT void* valloc(size_t size_bytes) noexcept {
  return allocate_aligned(static_cast<size_t>(getpagesize()), size_bytes);
}

BTD_EXPORT void* pvalloc(size_t size_bytes) noexcept {
  auto page_bytes = static_cast<size_t>(getpagesize());
  if (size_bytes > PTRDIFF_MAX - page_bytes) return out_of_memory();
  return allocate_aligned(page_bytes, round_up(size_bytes, page_bytes));
}

BTD_EXPORT void cfree(void* pointer) noexcept { free(pointer); }
BTD_EXPORT void free_sized(void* pointer, size_t) noexcept { free(pointer); }
BTD_EXPORT void free_aligned_sized(void* pointer, size_t, size_t) noexcept { free(pointer); }

BTD_EXPORT size_t malloc_usable_size(void* pointer) noexcept {
  if (pointer == nullptr) return 0;
  return is_ours(pointer) ? arena.usable_size(pointer) : next.usable_size(pointer);
}

// Names by which old programs and other libraries reach glibc's own functions.
BTD_EXPORT void* __libc_malloc(size_t size_bytes) noexcept { return malloc(size_bytes); }
BTD_EXPORT void __libc_free(void* pointer) noexcept { free(pointer); }
BTD_EXPORT void* __libc_calloc(size_t count, size_t size_bytes) noexcept {
  return calloc(count, size_bytes);
}
BTD_EXPORT void* __libc_realloc(void* pointer, size_t size_bytes) noexcept {
  return realloc(pointer, size_bytes);
}
BTD_EXPORT void* __libc_memalign(size_t alignment, size_t size_bytes) noexcept {
  return memalign(alignment, size_bytes);
}
BTD_EXPORT void* __libc_valloc(size_t size_bytes) noexcept { return valloc(size_bytes); }
BTD_EXPORT void* __libc_pvalloc(size_t size_bytes) noexcept { return pvalloc(size_bytes); }
BTD_EXPORT int __posix_memalign(void** out, size_t alignment, size_t size_bytes) noexcept {
  return posix_memalign(out, alignment, size_bytes);
}

}  // extern "C"
