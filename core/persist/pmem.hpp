// Persistence by cache-line flushes, for memory that is persistent itself: DAX files and devices,
// and tmpfs in their place.  The one file that knows libpmem.
//
// What recovery can assume after power loss:
//   - a line that was flushed and then drained by one thread is on media as it was at the flush, or
//     as a later store left it;
//   - any other line may be on media in any state that it went through, in no order: the caches
//     evict when they like;
//   - inside a line an aligned word of 8 bytes is old or new, never a mix, and words of one line
//     reach media in the order of their stores (x86 keeps stores to a line in order; nothing here
//     relies on it).
// With eADR the caches are inside the persistence domain: every store that has left the store
// buffer is durable, in program order; drain() waits for that, and there is nothing to flush.
// tmpfs keeps nothing over power loss; it is treated as memory that would, so that the same
// instructions run where there is none.
//
// libpmem is asked for one thing, whether the machine has eADR.  It is not linked: it drags in half
// a dozen libraries.  What else it could do is done here, for a reason each: its flush takes the
// first instruction that CPUID lists and not the fastest; its pmem_msync() is msync(3), a point of
// cancellation, and malloc must be none; its pmem_is_pmem() knows only what it has mapped itself.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include "core/persist/persist.hpp"

namespace btd {

// Flushes by the instruction that is the fastest here (flush_speeds()); nullptr: the processor has
// none that we know.
Persist* pmem_persist() noexcept;

// For memory whose caches survive power loss: a flush is nothing, a drain is a fence.
Persist& eadr_persist() noexcept;

// Loads libpmem, if it is there and was not yet, and asks it.  For whoever opens an arena by a call
// of its own, after the C library has started.  Never within a malloc: it allocates, and waits for
// the dynamic loader.  Nor in the constructor of libbartender.so, which runs before the C library's
// own (-z initfirst): dlopen() would then start the C library early, without arguments and without
// an environment, and the program would run with neither.
void load_libpmem() noexcept;
bool is_libpmem_loaded() noexcept;

// Whether the platform writes its caches to media when the power fails: what libpmem said, else
// what the kernel says of every persistent region.
bool has_eadr() noexcept;

// The kernel's word alone.  `root`: where sysfs is, "/sys".
bool has_eadr_by_sysfs(const char* root) noexcept;

}  // namespace btd
