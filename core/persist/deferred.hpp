// Stores that were made, but not flushed: nobody waits for them until they matter.
//
// When a transaction has returned, its log is of no use any more, and the word that says so may
// reach media late; but it must be durable before any word that the log names is changed again, or
// a replay would undo the change.  So whoever is about to change such a word settles first.  Mostly
// the next transaction's first drain has done so already, and a transaction needs one drain less.
//
// They are flushed when they are settled, and by nobody else: a locked instruction waits for all
// flushes before it, as a drain does, and many would come in between.
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
  void defer(uint32_t slot, uint64_t* word, uint64_t value) noexcept {
    LockGuard guard(lock_);
    publish(word, value);
    words_[slot] = word;
    waiting_.store(waiting_.load(std::memory_order_relaxed) | uint64_t{1} << slot,
                   std::memory_order_release);
  }

  // Makes all that is deferred durable.  False: nothing was, and nothing was drained.
  bool settle(Persist& persist) noexcept {
    return settle(persist, [] {});
  }
  // With what flush_more() flushes, by the same drain; it is called only if there is one.
  template <typename FlushMore>
  bool settle(Persist& persist, FlushMore flush_more) noexcept {
    if (waiting_.load(std::memory_order_acquire) == 0) return false;
    // The drain is made under the lock: a word deferred meanwhile must not be taken for settled.
    LockGuard guard(lock_);
    flush_waiting(persist);
    flush_more();
    persist.drain();
    waiting_.store(0, std::memory_order_release);
    return true;
  }

  void reset_after_fork() noexcept {
    lock_.reset();
    waiting_.store(0, std::memory_order_relaxed);
  }

 private:
  void flush_waiting(Persist& persist) noexcept {
    for (uint64_t left = waiting_.load(std::memory_order_relaxed); left != 0; left &= left - 1)
      persist.flush(words_[__builtin_ctzll(left)], sizeof(uint64_t));
  }

  std::atomic<uint64_t> waiting_{0};  // a bit a slot
  Lock lock_;
  uint64_t* words_[kSlots] = {};
};

// Makes a program's own stores durable.  They may go to words that the log of a finished
// transaction names: recovery must not put back what the program was told is durable, so that log's
// end is durable with them.
inline void persist_plain_stores(Deferred& deferred, Persist& persist, const void* address,
                                 size_t size_bytes) noexcept {
  if (!deferred.settle(persist, [&] { persist.flush(address, size_bytes); }))
    persist.persist(address, size_bytes);
}
inline void drain_plain_stores(Deferred& deferred, Persist& persist) noexcept {
  if (!deferred.settle(persist)) persist.drain();
}

}  // namespace btd
