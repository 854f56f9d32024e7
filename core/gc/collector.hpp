// The collector: frees what the roots do not lead to.
//
// The mark (core/gc/mark.hpp) only reads.  The sweep then decides over blocks of earlier epochs
// alone: reached ones are kept (kStateKept), the others freed.  Blocks of this epoch are never
// freed, and what they point to stays: the program knows them from elsewhere.  So is what open
// transactions are about to store, put back or free.
#pragma once

#include <cstdint>

#include "core/base/result.hpp"
#include "core/gc/mark.hpp"
#include "core/heap/arena.hpp"
#include "core/persist/persist.hpp"

namespace btd {

struct GcResult {
  uint64_t reachable_blocks;
  uint64_t reachable_bytes;
  uint64_t kept_blocks;  // of the reachable ones, those of earlier epochs
  uint64_t kept_bytes;
  uint64_t freed_blocks;
  uint64_t freed_bytes;
  uint64_t postponed_blocks;  // that met a full stack
  uint64_t table_bytes;       // DRAM used
  uint64_t mark_ns;
  uint64_t sweep_ns;
};

struct GcRequest {
  uint32_t threads = 0;  // 0: as many as there are CPUs; 1: the calling one, and none is made
  const Tracers* tracers = nullptr;
  GcRanges* reserved = nullptr;  // as in MarkRequest
};

// Marks from the roots and from every block of this epoch; then frees the blocks of earlier epochs
// that were not reached, kept ones too, and keeps those that were.
// REQUIRES: no other thread changes blocks of earlier epochs, roots, or what points to them.
// What a crash leaves: each block is kept, freed or as it was.
// ERRORS: kNoMemory: no DRAM for the marks; nothing was changed.
[[nodiscard]] Error collect(Arena& arena, const GcRequest& request, GcResult& result);

// Recovery after power loss, when not every free and malloc was made durable: rewrites the state of
// everything below the grown marks.  What the roots lead to is kept, whatever its state said; all
// other states, those of free frames and those between slots too, become free.  An arena that
// never had a root is a program's that knows nothing of us: what its states call live stays, for
// salvage.
// Large extents left with state 0 are recovery's to give back.  All is durable on return. REQUIRES:
// lanes were replayed, frame headers validated; `file` is writable and no other thread uses it.
// What a crash leaves: some states rewritten; the marks do not depend on states, so the same call
// again ends the same way.
// ERRORS: kNoMemory: nothing was changed.
[[nodiscard]] Error collect_untrusted(const ArenaHeader& header, char* file, Persist& persist,
                                      GcResult& result);

// What collect_untrusted() would do, counted from marks of an image whose states are not trusted.
// Nothing is written, and the file need not be writable.  Adds to kept_* and freed_* of `result`.
void preview_untrusted(const Marks& marks, GcResult& result);

}  // namespace btd
