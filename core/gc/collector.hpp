// The collector: which blocks do the roots lead to?
//
// A parallel, conservative mark: any word of a reachable block that points into a block, anywhere
// in it, keeps that block.  Marks are a bitmap beside the arena; the work still to do is a bounded
// stack and, when that is full, a second pass over the bitmap: no recursion, no allocation after
// the start.  As in Makalu (Bhandari et al., OOPSLA 2016), whose mark phase this is to beat.
//
// It reads media only (frame headers, states, data), through a view that serves an arena in use and
// a file that is looked at alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/result.hpp"
#include "core/persist/layout.hpp"

namespace btd {

class Arena;

// Everything the mark needs to know.  Addresses are where the bytes are now; words in them point to
// where the arena lives (base_address), which is the same for an arena in use.
struct GcImage {
  const ArenaHeader* header;
  const char* file;  // byte 0 of the file
  // After power loss in `lazy` the states on media say nothing: any slot may hold a block.
  bool trusts_states = true;
};

// Precise marking: told the blocks that a root of the given name leads to.  `visit` may be called
// for any pointer in the object, and names the tracer of what it points to (nullptr: conservative).
using GcVisit = void (*)(void* context, const void* pointer, const void* tracer);

struct GcResult {
  uint64_t reachable_blocks;
  uint64_t reachable_bytes;
  uint64_t freed_blocks;
  uint64_t freed_bytes;
  uint64_t mark_ns;
  uint64_t sweep_ns;
};

// Marks from the roots and from every block of this epoch; then frees the blocks of earlier epochs
// that were not reached, and keeps (kStateKept) those that were.  `threads` 0: as many as there are
// CPUs.
// REQUIRES: no other thread changes blocks of earlier epochs, roots, or what points to them.
// What a crash leaves: each block is kept, freed or as it was.
// ERRORS: kNoMemory: no DRAM for the bitmap.
Error collect(Arena& arena, uint32_t threads, GcResult& result);

}  // namespace btd
