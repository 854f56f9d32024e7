// Repairs a copy of a damaged arena; the damaged one is only read.
#pragma once

#include <string>
#include <vector>

#include "core/recovery/check.hpp"

namespace btd::tools {

class OutputFile;

// Data that no block of the repaired copy covers any more.  It is still in both files.
struct LostRange {
  uint64_t offset;  // from the start of the data
  uint64_t size_bytes;
  const char* why;
};

// Copies the whole file, holes as holes.
void copy_arena(const ArenaView& from, OutputFile& to);

// Undoes the findings in the copy.  What cannot be known is dropped, never guessed: a frame whose
// descriptor is damaged becomes free, a slot with an impossible state becomes free, an extent's
// body (epoch, call site) starts anew.
std::vector<LostRange> repair(OutputFile& copy, const std::vector<Finding>& findings,
                              const ArenaView& damaged);

}  // namespace btd::tools
