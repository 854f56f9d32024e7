// Where a program's arena lies: the path pattern, its directory, and the first name that is free.
//
//   %e  name of the executable     %p  process id     %u  user id     %%  a percent sign
//   %n  first free number: nothing, then .1, .2, ...; so that two copies of one program never share
//   an arena
#pragma once

#include <cstddef>

#include "core/base/config.hpp"
#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "core/heap/arena.hpp"
#include "core/spill/far_tier.hpp"

namespace btd {

// Writes the pattern's n-th path.  False: it does not fit.
bool expand_pattern(const char* pattern, const char* program, unsigned number, char* out,
                    size_t out_bytes);

// Opens the arena that the settings name.  The default pattern's directory is made (0700), and
// refused if others could write there; where /dev/shm cannot be used, the user's state directory
// takes its place. ERRORS: as open_arena(); `why` says it in words.  `far`: as in OpenRequest.
Error open_by_config(const Config& config, const char* program, FarTier* far, Arena& arena,
                     Line& why);

}  // namespace btd
