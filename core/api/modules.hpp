// Which programs and libraries a persistent pointer may have been meant for: their addresses, build
// ids and paths, kept in the arena, so that a pointer to a function or into a vtable can be named
// when the process that wrote it is gone (Coburn et al., "NV-Heaps", ASPLOS 2011).
//
// Records are only ever added, each whole before the word that makes it valid; when there is no
// room, no more are.  What a crash leaves: a record, or a place that is not in use.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/result.hpp"
#include "core/heap/arena.hpp"
#include "core/persist/layout.hpp"

namespace btd {

// Adds the record, whose epoch and checksum are filled in, unless one of the same addresses and
// build is there.  REQUIRES: calls do not overlap.  ERRORS: kNoSpace.
Error record_module(Arena& arena, ModuleRecord record);

}  // namespace btd
