// Copies on memory nodes that are bad or missing, written again from a good one.
//
// What is never done: a node that has an extent right is left alone, and a bad copy is let go only
// when a good one has been read this moment, and is in memory.  A kill or a lost connection leaves
// at worst that node without the extent, and the good copy where it was.
#pragma once

#include <string>

#include "tools/replicas.hpp"

namespace btd::tools {

struct RewriteReport {
  uint64_t rewritten = 0;  // copies, read back and compared
  uint64_t failed = 0;     // copies that are bad or missing still
};

// For the findings kBadCopy and kFewCopies.  The arena is locked meanwhile, and on its nodes we
// take the place of its next owner, so nobody else can write there.  Throws Failure, before
// anything is changed, when it cannot be locked or was opened since it was verified.
RewriteReport rewrite_replicas(const std::string& arena_path, const ArenaView& view, FarZone& far,
                               const NodeOptions& options, const ReplicaReport& report);

}  // namespace btd::tools
