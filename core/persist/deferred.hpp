// Stores that were made and flushed, but not drained: nobody waits for them until they matter.
//
// When a transaction has returned, its log is of no use any more, and the word that says so may
// reach media late; but it must be durable before any word that the log names is changed again, or
// a replay would undo the change.  So whoever is about to change such a word settles first.  Mostly
// the next transaction's first drain has done so already, and a transaction needs one drain less.
//
// Against the death of the process alone stores need no order: nothing is ever deferred then.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include <atomic>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/persist/persist.hpp"

namespace btd {

class Deferred {
 public:
  static constexpr uint32_t kSlots = 64;

  // Stores `value` at `word`, to be durable before anybody's next settle() returns.  One word a
  // slot; a slot's earlier word must be the same one.
  void defer(uint32_t slot, uint64_t* word, uint64_t value, Persist& persist) noexcept {
    LockGuard guard(lock_);
    publish(word, value);
    persist.flush(word, sizeof(*word));
    words_[slot] = word;
    waiting_.store(waiting_.load(std::memory_order_relaxed) | uint64_t{1} << slot,
                   std::memory_order_release);
  }

  // Makes all that is deferred durable.  False: nothing was, and nothing was drained.
  bool settle(Persist& persist) noexcept {
    return waiting_.load(std::memory_order_acquire) != 0 && settle_slow(persist);
  }

  void reset_after_fork() noexcept {
    lock_.reset();
    waiting_.store(0, std::memory_order_relaxed);
  }

 private:
  // The drain is made under the lock: a word deferred meanwhile must not be taken for settled.
  BTD_COLD bool settle_slow(Persist& persist) noexcept {
    LockGuard guard(lock_);
    uint64_t waiting = waiting_.load(std::memory_order_relaxed);
    for (uint64_t left = waiting; left != 0; left &= left - 1)
      persist.flush(words_[__builtin_ctzll(left)], sizeof(uint64_t));
    persist.drain();
    waiting_.store(0, std::memory_order_release);
    return true;
  }

  std::atomic<uint64_t> waiting_{0};  // a bit a slot
  Lock lock_;
  uint64_t* words_[kSlots] = {};
};

}  // namespace btd
