// The order in which strict durability hands out blocks: neighbours in it have their states in
// different cache lines.
//
// A line that is flushed again before its last write-back is over waits for it (the reflush effect
// of NVAlloc, Dang et al., ASPLOS 2022).  A store, a flush and a fence, in ns, on n lines in turn,
// measured on an EPYC (family 25, model 17) with DRAM behind it:
//
//     n            1    2    3    4    8   16   64
//     clflush    288  160  151  198  200  203  200
//     clflushopt 282  164  150  196  200  200  200
//     clwb       158  154  156  156  156  156  156
//
// So two lines in turn are enough here.  NVAlloc found eight for Optane modules, whose own buffer
// has lines of 256 bytes: a bin that strict fills at once has at least that many, where its class
// has more than one state in a line at all.
#pragma once

#include <cstdint>

#include "core/heap/superblock.hpp"

namespace btd {

// At most so many blocks: the largest bin.
inline constexpr uint32_t kSpreadMax = 1024;

// Reorders `blocks` so that taking them from the end takes one from each state line in turn.
// REQUIRES: count <= kSpreadMax; blocks of a line stand together.
void spread_states(CachedBlock* blocks, uint32_t count) noexcept;

}  // namespace btd
