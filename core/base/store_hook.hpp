// Where the power-cut simulator sees stores: publish() tells it of each, before and after it is
// made.
//
// In every build but the simulator's own (BTD_SIMULATION, a library of its own) the functions are
// empty.
#pragma once

#include <cstddef>

#include "core/base/attributes.hpp"

namespace btd {

#if defined(BTD_SIMULATION)

// nullptr: nobody watches.
using StoreHook = void (*)(const void* address, size_t size_bytes);
inline constinit StoreHook store_hook = nullptr;

BTD_ALWAYS_INLINE void around_store(const void* address, size_t size_bytes) {
  if (store_hook != nullptr) store_hook(address, size_bytes);
}

#else

BTD_ALWAYS_INLINE void around_store(const void*, size_t) {}

#endif

}  // namespace btd
