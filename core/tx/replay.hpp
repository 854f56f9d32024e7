// Recovery of transactions: makes an arena's lanes clean.
//
// For each lane with records of a transaction after the last finished one: committed, its waiting
// stores are made again; otherwise its kept ranges are put back, the last first.  Both may be cut
// anywhere and run again.  Nothing is written before all lanes are understood.
#pragma once

#include "core/base/result.hpp"
#include "core/heap/arena.hpp"

namespace btd {

struct Replayed {
  uint32_t committed;  // transactions whose stores were made again
  uint32_t aborted;    // transactions that were undone
};

// REQUIRES: the arena is attached and its frame headers were validated; no other thread.
// ERRORS: kCorrupt: a record names what no transaction can change; nothing was written.
Error replay_lanes(Arena& arena, Replayed& replayed);

}  // namespace btd
