// Opening an arena: the making of a new one, or the recovery of one whose owner is gone.
//
// Recovery reads the arena header and the frame headers, never the states: its time depends on the
// frames, not on the blocks.  It validates everything it will trust before it writes anything; what
// it does not understand it leaves as it is.  It can be killed at any instruction and run again.
#pragma once

#include <cstdint>

#include "core/base/config.hpp"
#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "core/heap/arena.hpp"
#include "core/spill/far_tier.hpp"

namespace btd {

struct OpenRequest {
  const char* path;
  uint64_t capacity_bytes;  // of a new arena; less when the kernel refuses that much, at least
                            // kCapacityBytesMin
  OnRestart on_restart = OnRestart::kSalvage;
  Durability durability = Durability::kProcess;
  bool keep_from_children = false;
  bool may_create = true;
  bool is_beside = false;    // there is, or will be, an arena of the process
  const char* program = "";  // recorded as the owner
  FarTier* far = nullptr;    // configured: what does not fit near may go there
  // For tests: what structures and states go through instead; both or neither.
  Persist* structures = nullptr;
  Persist* states = nullptr;
};

inline constexpr uint64_t kCapacityBytesMin = 4 * kMiB;

// Opens or makes the arena and starts it.  On an error `why` says what happened, what is safe and
// what to do. ERRORS: kInUse, kUnsupported, kPermission, kNotFound, kForeign, kNewer, kMismatch,
// kCorrupt, kAddressTaken, kNoSpace, kNoMemory, kIo. Thread safety: one call at a time in a
// process.
Error open_arena(const OpenRequest& request, Arena& arena, Line& why);

// Nodes know an opening by a number greater than that of all before.  One that is killed before it
// has raised the arena's epoch has had a number too; so the time is part of it.
uint64_t epoch_for_nodes(const ArenaHeader& header);

}  // namespace btd
