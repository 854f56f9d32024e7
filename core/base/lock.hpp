// A lock of one word: a futex when contended.  No allocation, no destructor, valid when zeroed, and
// can be reset in a forked child.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>

#include "core/base/attributes.hpp"

namespace btd {

class Lock {
 public:
  // Synchronises with unlock() of the thread that held it before.
  void lock() noexcept {
    uint32_t expected = kFree;
    if (!word_.compare_exchange_strong(expected, kTaken, std::memory_order_acquire)) lock_slow();
  }

  bool try_lock() noexcept {
    uint32_t expected = kFree;
    return word_.compare_exchange_strong(expected, kTaken, std::memory_order_acquire);
  }

  void unlock() noexcept {
    if (word_.exchange(kFree, std::memory_order_release) == kContended) wake();
  }

  // In a forked child, whose other threads do not exist.
  void reset() noexcept { word_.store(kFree, std::memory_order_relaxed); }

 private:
  static constexpr uint32_t kFree = 0;
  static constexpr uint32_t kTaken = 1;
  static constexpr uint32_t kContended = 2;

  BTD_COLD void lock_slow() noexcept {
    int kept = errno;
    while (word_.exchange(kContended, std::memory_order_acquire) != kFree) {
      ::syscall(SYS_futex, &word_, FUTEX_WAIT_PRIVATE, kContended, nullptr);
    }
    errno = kept;
  }

  BTD_COLD void wake() noexcept {
    int kept = errno;
    ::syscall(SYS_futex, &word_, FUTEX_WAKE_PRIVATE, 1);
    errno = kept;
  }

  std::atomic<uint32_t> word_{kFree};
};

class LockGuard {
 public:
  explicit LockGuard(Lock& lock) noexcept : lock_(lock) { lock_.lock(); }
  ~LockGuard() { lock_.unlock(); }
  LockGuard(const LockGuard&) = delete;
  LockGuard& operator=(const LockGuard&) = delete;

 private:
  Lock& lock_;
};

}  // namespace btd
