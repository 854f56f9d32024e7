// Whether memory nodes have what an arena's far zone relies on: every copy is read and compared.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "tools/far_zone.hpp"
#include "tools/text.hpp"

namespace btd::tools {

// An extent in use that is not as it should be.
struct FarFinding {
  enum class Kind : uint8_t {
    kFewCopies,   // fewer than wanted; all that is there is good
    kBadCopy,     // another node has it right
    kUnverified,  // no copy was seen, but not everybody was asked
    kLost,        // no copy, and everybody was asked
    kDiffers,     // two good copies of one generation are not the same
  };
  Kind kind;
  uint64_t extent;
  uint32_t copies;  // good ones
  FarFault fault;   // of kUnverified and kLost
  uint64_t generation = 0;
  uint32_t good = 0;    // nodes, a bit each
  uint32_t faulty = 0;  // nodes that have it, with a bad checksum
};

struct ReplicaReport {
  uint32_t wanted = 0;   // copies of each
  uint64_t extents = 0;  // in use, with data on nodes
  uint64_t near = 0;     // in use, with data here alone; what nodes have of them is of no account
  std::array<uint64_t, kFarNodesMax + 1> by_copies{};
  std::vector<FarFinding> findings;

  uint64_t count(FarFinding::Kind kind) const;
  // Whether some extent has a good copy and lacks another.
  bool is_mendable() const {
    return count(FarFinding::Kind::kBadCopy) + count(FarFinding::Kind::kFewCopies) > 0;
  }
  int status() const;  // kExitOk, kExitPartial or, if anything is lost, kExitDamaged
};

// REQUIRES: the arena is not live.
ReplicaReport verify_replicas(const ArenaView& view, FarZone& far);

Json describe(const ReplicaReport& report, const FarZone& far);
void print_text(const ReplicaReport& report, const FarZone& far);

// What info says of the far zone.
struct FarUse {
  uint64_t extents[5] = {};  // in use, by FarExtent::Where
  uint64_t used_bytes = 0;   // in the arena's extents
};
FarUse use_of(const ArenaView& view, const FarZone& far);
Json describe(const FarUse& use, const ArenaView& view, const FarZone& far);

}  // namespace btd::tools
