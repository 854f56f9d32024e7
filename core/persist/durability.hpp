// Which way to persistence fits a backend and a durability level, and what then survives what.
//
//   backend   way                                     survives power loss
//   tmpfs     cache-line flush (an emulation)         no
//   file      msync                                   yes, as far as the disk does
//   fsdax     cache-line flush, or nothing with eADR  yes
//   devdax    the same                                yes
//
// `process` goes no way at all on any of them: a store to a shared mapping outlives its process.
// fsdax is a file whose mapping the kernel granted with MAP_SYNC (core/persist/mapping.hpp); where
// it refuses, as virtio-pmem does, the file is a plain one.
//
// What a level flushes: `lazy` the structures (arena header, frame headers, roots, logs), `strict`
// the states of blocks too.  So after power loss the states of a lazy arena mean nothing, and those
// of a strict one are exact.
#pragma once

#include "core/base/config.hpp"
#include "core/persist/mapping.hpp"
#include "core/persist/persist.hpp"

namespace btd {

enum class PersistKind : uint8_t { kNone, kFlush, kEadr, kMsync };

// For `lazy` and `strict`.
PersistKind persist_kind(Backend backend) noexcept;

struct Persistence {
  Persist& structures;
  Persist& states;  // process_persist() but in `strict`
};
Persistence choose_persist(Backend backend, Durability durability) noexcept;

// Before an arena is opened by a call, where loading a library is safe (load_libpmem()); an arena
// that a malloc opens does without.
void prepare_persist(Durability durability) noexcept;

enum class Survival : uint8_t {
  kNothing,    // the arena is gone
  kNotTold,    // it may be anything
  kReachable,  // blocks reachable from roots; transactions whole
  kExact,      // a block is live iff its malloc committed and its free did not
};
Survival after_process_death(Backend backend, Durability durability) noexcept;
Survival after_power_loss(Backend backend, Durability durability) noexcept;

}  // namespace btd
