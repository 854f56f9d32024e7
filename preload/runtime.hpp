// The one arena of the process, and each thread's way to it.
//
// Life: off -> ready (the constructor has read the settings) -> open (the first routed allocation)
// -> inherited (in a forked child).  Until `ready`, and for good when anything speaks against an
// arena, every request goes to the next allocator: `threshold` is then larger than any size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/api/cluster.hpp"
#include "core/base/attributes.hpp"
#include "core/base/config.hpp"
#include "core/base/log.hpp"
#include "core/heap/arena.hpp"
#include "core/heap/thread_cache.hpp"

namespace btd {
class FarTier;
}  // namespace btd

namespace btd::preload {

inline constexpr size_t kNothingRouted = SIZE_MAX;

// Hidden where they are declared, or the fast paths would reach them through the global offset
// table.
#pragma GCC visibility push(hidden)

// Sizes from here on go to the arena.  Written by the constructor, when the arena cannot be opened,
// and in a forked child.
extern size_t threshold;

// This thread's cache, or the empty one, whose bins have no block and whose zones no granule: so
// the fast paths test nothing.
extern thread_local constinit ThreadCache* cache [[gnu::tls_model("initial-exec")]];

extern Arena arena;
extern Cluster process_cluster;  // of that arena; open as long as it is
extern Config config;

#pragma GCC visibility pop

BTD_ALWAYS_INLINE bool is_ours(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) - arena.geometry().coarse_base <
         arena.geometry().data_bytes;
}

// A routed request that the fast path could not serve, of any kind.  nullptr: the next allocator
// must.
void* allocate(size_t size_bytes, size_t alignment, bool* is_zero);

// Between the two calls what this thread allocates comes from the next allocator.  REQUIRES: it has
// no cache that could serve it; the pager's threads never get one.
void stay_volatile(bool is_beginning);

// Frees a block of ours that the fast path could not; misuse is reported.  REQUIRES:
// is_ours(pointer).
void free_ours(void* pointer, const void* caller);

// Reports what was wrong with a pointer given to `function`, and aborts unless the settings say
// otherwise.
void report_misuse(const char* function, const void* pointer, Verdict verdict, const void* caller,
                   const Arena& home = arena);

// ", called from ADDRESS (MODULE+OFFSET)"; nothing for nullptr.
Line& add_caller(Line& line, const void* caller);

bool is_arena_open();
bool is_arena_ready();  // or open
bool is_inherited();
// In a forked child: the arena is its own from now on, with what it has far.  `far`: nullptr: none.
void inherit(Arena& arena, FarTier* far);

// True: the arena is open; it was opened if it was ready.  `is_alone`: if it is made now, it never
// has far memory.
bool open_process_arena(bool is_alone);

// Calls work(context, cache) with this thread's cache of the process arena, or with one that
// threads share, under its lock.  REQUIRES: the arena is open.
void with_process_cache(void (*work)(void* context, ThreadCache& cache), void* context);

Lock& opening_lock();  // held while any arena is opened or closed
const char* program_name();

}  // namespace btd::preload
