#include "preload/next.hpp"

#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "core/base/attributes.hpp"
#include "core/base/check.hpp"
#include "core/base/units.hpp"

namespace btd::preload {
namespace {

// --- The static buffer: what dlsym() itself asks for
// ------------------------------------------------------------------------

constexpr size_t kBootBytes = 16 * kKiB;
constexpr size_t kBootHeader = 16;  // the size, before each block
alignas(16) char boot_buffer[kBootBytes];
std::atomic<size_t> boot_used{0};

bool is_boot(const void* pointer) {
  return static_cast<size_t>(static_cast<const char*>(pointer) - boot_buffer) < kBootBytes;
}

size_t boot_size(const void* pointer) {
  size_t size_bytes;
  std::memcpy(&size_bytes, static_cast<const char*>(pointer) - kBootHeader, sizeof(size_bytes));
  return size_bytes;
}

void* boot_malloc(size_t size_bytes) {
  if (size_bytes > kBootBytes) return errno = ENOMEM, nullptr;
  size_t taken = round_up(size_bytes, 16) + kBootHeader;
  size_t at = boot_used.fetch_add(taken, std::memory_order_relaxed);
  if (at + taken > kBootBytes) return errno = ENOMEM, nullptr;
  char* block = boot_buffer + at + kBootHeader;
  std::memcpy(block - kBootHeader, &size_bytes, sizeof(size_bytes));
  return block;
}

// --- The resolved functions
// -----------------------------------------------------------------------------------------------

NextAllocator resolved;
enum : int { kUnresolved, kResolving, kResolved };
std::atomic<int> stage{kUnresolved};
[[gnu::tls_model("initial-exec")]] thread_local bool is_resolving;

template <typename Function>
void look_up(Function& function, const char* name) {
  void* symbol = dlsym(RTLD_NEXT, name);
  BTD_CHECK(symbol != nullptr);
  std::memcpy(&function, &symbol, sizeof(function));
}

// A block of the static buffer can still be freed or grown at any time; only a program that has one
// pays for the test.
void filtered_free(void* pointer) {
  if (!is_boot(pointer)) resolved.free(pointer);
}
void* filtered_realloc(void* pointer, size_t size_bytes) {
  if (!is_boot(pointer)) return resolved.realloc(pointer, size_bytes);
  void* moved = resolved.malloc(size_bytes);
  if (moved != nullptr) std::memcpy(moved, pointer, min(size_bytes, boot_size(pointer)));
  return moved;
}
size_t filtered_usable_size(void* pointer) {
  return is_boot(pointer) ? boot_size(pointer) : resolved.usable_size(pointer);
}

// True: the functions are there.  False: this call comes from within the look-up.
bool resolve() {
  if (stage.load(std::memory_order_acquire) == kResolved) return true;
  if (is_resolving) return false;
  is_resolving = true;
  int kept = errno;
  NextAllocator found;
  look_up(found.malloc, "malloc");
  look_up(found.free, "free");
  look_up(found.calloc, "calloc");
  look_up(found.realloc, "realloc");
  look_up(found.memalign, "memalign");
  look_up(found.posix_memalign, "posix_memalign");
  look_up(found.usable_size, "malloc_usable_size");
  resolved = found;
  if (boot_used.load(std::memory_order_relaxed) > 0) {
    found.free = filtered_free;
    found.realloc = filtered_realloc;
    found.usable_size = filtered_usable_size;
  }
  next = found;
  errno = kept;
  is_resolving = false;
  stage.store(kResolved, std::memory_order_release);
  return true;
}

void* first_malloc(size_t size_bytes) {
  return resolve() ? next.malloc(size_bytes) : boot_malloc(size_bytes);
}
void first_free(void* pointer) {
  if (resolve()) next.free(pointer);
}
void* first_calloc(size_t count, size_t size_bytes) {
  if (resolve()) return next.calloc(count, size_bytes);
  if (size_bytes != 0 && count > kBootBytes / size_bytes) return errno = ENOMEM, nullptr;
  return boot_malloc(count * size_bytes);  // the buffer is zero, and nothing in it is used twice
}
void* first_realloc(void* pointer, size_t size_bytes) {
  if (resolve()) return next.realloc(pointer, size_bytes);
  void* moved = boot_malloc(size_bytes);
  if (moved != nullptr && pointer != nullptr)
    std::memcpy(moved, pointer, min(size_bytes, boot_size(pointer)));
  return moved;
}
void* first_memalign(size_t alignment, size_t size_bytes) {
  if (resolve()) return next.memalign(alignment, size_bytes);
  return alignment <= 16 ? boot_malloc(size_bytes) : (errno = ENOMEM, nullptr);
}
int first_posix_memalign(void** out, size_t alignment, size_t size_bytes) {
  if (resolve()) return next.posix_memalign(out, alignment, size_bytes);
  void* block = first_memalign(alignment, size_bytes);
  if (block == nullptr) return ENOMEM;
  *out = block;
  return 0;
}
size_t first_usable_size(void* pointer) {
  return resolve() ? next.usable_size(pointer) : boot_size(pointer);
}

}  // namespace

constinit NextAllocator next = {first_malloc,     first_free,     first_calloc,
                                first_realloc,    first_memalign, first_posix_memalign,
                                first_usable_size};

void* next_symbol(const char* name) { return dlsym(RTLD_NEXT, name); }

}  // namespace btd::preload
