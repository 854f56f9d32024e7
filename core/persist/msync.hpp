// Persistence by msync(2), for plain files: their memory is a cache of the kernel's.
//
// flush() only notes which pages the range touches, in a small array of the thread's own; drain()
// writes them.  What does not fit is written at once, which is allowed: a flushed line may become
// durable at any moment.
//
// What recovery can assume after power loss:
//   - a page that was flushed and drained is on media as it was at the drain, or later, and so is
//     the place of its bytes in the file (MS_SYNC waits for the extents, too);
//   - any other page may be on media as it was at any moment: the kernel writes back when it likes;
//     and a page that was being written is a mix of old and new, by sectors of 512 bytes at least:
//     an aligned word of 8 bytes is old or new;
//   - a page that was never written reads as zeros, even if its space was allocated.
// The file's name is durable by Mapping::make_name_durable(), once.
//
// Thread safety: all methods may run concurrently; drain() covers the calling thread's flushes.
#pragma once

#include "core/persist/persist.hpp"

namespace btd {

Persist& msync_persist() noexcept;

}  // namespace btd
