// BARTENDER_PARANOID=1: what a transaction or btd_persist() wrote is looked at for pointers to
// volatile memory (core/api/paranoia.hpp), and each is told with the call site.  Otherwise nothing
// happens here.
#pragma once

#include <cstddef>

namespace btd::preload {

// A range that the thread's open transaction may write: looked at when it commits.
void note_written(const void* address, size_t size_bytes);
void check_all_written(const char* function, const void* caller);
void forget_written();

// Looks at once.
void check_written(const void* address, size_t size_bytes, const char* function,
                   const void* caller);

void paranoid_after_fork_in_child();

}  // namespace btd::preload
