// Blocks, as bartender.h has them: from the arena of a cluster, or from the next allocator where
// there is none for the program.
#include <cstring>

#include "preload/api_support.hpp"
#include "preload/next.hpp"

namespace btd::preload {
namespace {

// Where blocks come from: kVolatile where there is no arena for the program, or not in this child.
enum class Source : uint8_t { kArena, kVolatile, kNone };
Source source_of(btd_cluster* handle) {
  if (is_cluster_open(cluster_from(handle))) [[likely]]
    return Source::kArena;
  if (handle == nullptr || is_inherited(cluster_from(handle))) return Source::kVolatile;
  errno = EINVAL;
  return Source::kNone;
}

void* allocate_block(btd_cluster* handle, size_t size_bytes, size_t alignment, bool* is_zero) {
  Cluster& cluster = *cluster_from(handle);
  void* block = nullptr;
  if (size_bytes <= PTRDIFF_MAX) {
    with_cache_of(cluster, [&](ThreadCache& cache) {
      block = cluster.arena().allocate(cache, size_bytes, alignment, is_zero);
    });
  }
  return block != nullptr ? block : fail_null(ENOMEM);
}

// A block of an arena that the hot path could not free.
BTD_COLD void free_slow(void* pointer, const void* caller) {
  if (is_ours(pointer)) {
    free_ours(pointer, caller);
    return;
  }
  Arena* home = arena_of(pointer);
  if (home == nullptr) {
    next.free(pointer);
    return;
  }
  int kept = errno;
  Verdict verdict = Verdict::kGood;
  if (Cluster* cluster = cluster_of(pointer)) {
    with_cache_of(*cluster, [&](ThreadCache& cache) { verdict = home->free(cache, pointer); });
  } else if (config.fork == ForkMode::kSnapshot) {
    verdict = home->free_inherited(pointer);
  }
  if (verdict != Verdict::kGood) report_misuse("btd_free", pointer, verdict, caller, *home);
  errno = kept;
}

void* move(btd_cluster* handle, void* pointer, size_t old_bytes, size_t new_bytes,
           const void* caller) {
  void* moved = btd_malloc(handle, new_bytes);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, pointer, min(old_bytes, new_bytes));
  free_slow(pointer, caller);
  return moved;
}

void* reallocate(btd_cluster* handle, void* pointer, size_t size_bytes, const void* caller) {
  if (pointer == nullptr) return btd_malloc(handle, size_bytes);
  Arena* home = arena_of(pointer);
  Source source = source_of(handle);
  if (source == Source::kNone) return nullptr;
  if (source == Source::kVolatile) {
    if (home == nullptr) return next.realloc(pointer, size_bytes);
    size_t old_bytes = home->usable_size(pointer);
    return old_bytes == 0 ? fail_null(EINVAL)
                          : move(handle, pointer, old_bytes, size_bytes, caller);
  }
  if (home != &cluster_from(handle)->arena() || home->look_up(pointer) != Verdict::kGood)
    return fail_null(EINVAL);
  if (size_bytes > PTRDIFF_MAX) return fail_null(ENOMEM);
  if (size_bytes == 0) {  // as glibc
    free_slow(pointer, caller);
    return nullptr;
  }
  if (home->resize_in_place(pointer, size_bytes)) return pointer;
  return move(handle, pointer, home->usable_size(pointer), size_bytes, caller);
}

}  // namespace
}  // namespace btd::preload

using namespace btd;           // NOLINT: the functions below cannot live in a namespace
using namespace btd::preload;  // NOLINT

extern "C" {

BTD_HOT void* btd_malloc(btd_cluster* handle, size_t size_bytes) {
  auto slow = [=]() -> void* {
    switch (source_of(handle)) {
      case Source::kArena:
        return allocate_block(handle, size_bytes, kQuantumBytes, nullptr);
      case Source::kVolatile:
        return next.malloc(size_bytes);
      default:
        return nullptr;
    }
  };
  if (handle == handle_of(&process_cluster) && size_bytes <= kSmallBytesMax) [[likely]]
    return cache->allocate(size_bytes, slow);
  return slow();
}

void* btd_calloc(btd_cluster* handle, size_t count, size_t size_bytes) {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total)) return fail_null(ENOMEM);
  Source source = source_of(handle);
  if (source != Source::kArena) return source == Source::kNone ? nullptr : next.calloc(1, total);
  bool is_zero = false;
  void* block = allocate_block(handle, total, kQuantumBytes, &is_zero);
  return block == nullptr || is_zero ? block : std::memset(block, 0, total);
}

void* btd_aligned(btd_cluster* handle, size_t alignment, size_t size_bytes) {
  if (!is_power_of_two(alignment)) return fail_null(EINVAL);
  Source source = source_of(handle);
  if (source != Source::kArena)
    return source == Source::kNone ? nullptr : next.memalign(alignment, size_bytes);
  return allocate_block(handle, size_bytes, max(alignment, kQuantumBytes), nullptr);
}

void* btd_realloc(btd_cluster* handle, void* pointer, size_t size_bytes) {
  return reallocate(handle, pointer, size_bytes, BTD_CALLER);
}

BTD_HOT void btd_free(void* pointer) {
  const void* caller = BTD_CALLER;
  auto foreign = [=] { return free_slow(pointer, caller), true; };
  if (!ThreadCache::free(pointer, arena.geometry(), cache, foreign)) [[unlikely]]
    free_slow(pointer, caller);
}

size_t btd_usable_size(void* pointer) {
  if (pointer == nullptr) return 0;
  Arena* home = arena_of(pointer);
  return home != nullptr ? home->usable_size(pointer) : next.usable_size(pointer);
}

int btd_recovered(const void* pointer) {
  Cluster* cluster = cluster_of(pointer);
  return cluster != nullptr && cluster->is_recovered(pointer) ? 1 : 0;
}

}  // extern "C"
