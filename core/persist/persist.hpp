// Moves stores from the CPU caches to the persistence domain.
//
// A range is durable only after flush() of every line in it and then drain().  Before that a line
// may become durable at any moment (eviction), so order by drain(), never by hoping a store stays
// volatile.
//
// Against the death of the process alone nothing has to move: a store to a shared mapping outlives
// its process as soon as it is made.  That is `process` durability, and ProcessPersist.
//
// Thread safety: all methods may run concurrently.  drain() covers the calling thread only.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "core/base/attributes.hpp"
#include "core/base/store_hook.hpp"

namespace btd {

class Persist {
 public:
  // Starts write-back of the cache lines that touch [address, address + size_bytes).
  virtual void flush(const void* address, size_t size_bytes) noexcept = 0;

  // Returns once every earlier flush() of this thread is durable.
  virtual void drain() noexcept = 0;

  BTD_ALWAYS_INLINE void persist(const void* address, size_t size_bytes) noexcept {
    flush(address, size_bytes);
    drain();
  }

 protected:
  ~Persist() = default;  // never deleted through the interface
};

class ProcessPersist final : public Persist {
 public:
  void flush(const void*, size_t) noexcept override {}
  void drain() noexcept override {}
};

Persist& process_persist() noexcept;

// One aligned store of at most 8 bytes, which neither a kill nor media can tear, after every
// earlier store of this thread. Synchronises with loads that acquire it.
template <typename T>
void publish(T* media, T value) noexcept {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  around_store(media, sizeof(T));
  if constexpr (sizeof(T) == 8) {
    uint64_t word;
    std::memcpy(&word, &value, sizeof(word));
    std::atomic_ref(*reinterpret_cast<uint64_t*>(media)).store(word, std::memory_order_release);
  } else {
    std::atomic_ref(*media).store(value, std::memory_order_release);
  }
  around_store(media, sizeof(T));
}

// Stores a block's state whole: one byte of a small block, two of a large one.
inline void publish_state(void* state, size_t state_bytes, uint16_t value) noexcept {
  if (state_bytes == sizeof(uint8_t)) {
    publish(static_cast<uint8_t*>(state), static_cast<uint8_t>(value));
  } else {
    publish(static_cast<uint16_t*>(state), value);
  }
}

}  // namespace btd
