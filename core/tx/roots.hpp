// Named roots: where a program finds its data again, and where the collector starts.
//
// A root's name is written once; its value is one word, and setting, changing and removing it is
// one 8-byte store.  What a crash leaves: before the store the old value, after it the new one; a
// name without a value is no root, and its place is used again.
//
// Thread safety: all functions may run concurrently.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/base/result.hpp"
#include "core/heap/arena.hpp"
#include "core/persist/layout.hpp"

namespace btd {

class Transaction;

class Roots {
 public:
  // REQUIRES: the arena is open; no other thread uses this object.  The arena must outlive it.
  void open(Arena& arena);

  // nullptr removes the root.  In a transaction the change is made at its commit, and the
  // transaction alone sees it before.  ERRORS: kTooLong; kInvalid: an empty name, or a value
  // outside the arena; kNoSpace: all roots are in use, or the file system is full; of
  // Transaction::write().
  Error set(const char* name, const void* value, Transaction* transaction);
  // nullptr: there is no such root.
  void* get(const char* name, const Transaction* transaction) const;

  // From index `from` on, the first root that is set; kRootCount: there is none.
  uint32_t next(uint32_t from) const;
  const char* name(uint32_t index) const { return arena_->root(index)->name; }
  void* value(uint32_t index) const;
  bool any() const { return next(0) < kRootCount; }

  Lock& lock() { return lock_; }  // for fork

 private:
  static constexpr uint32_t kNone = kRootCount;

  uint32_t find(const char (&name)[kRootNameMax + 1]) const;
  uint32_t make(const char (&name)[kRootNameMax + 1]);

  Arena* arena_ = nullptr;
  mutable Lock lock_;                 // guards what follows, and the making of names
  uint32_t hashes_[kRootCount] = {};  // of the names; 0: not in use
  bool is_pending_[kRootCount] = {};  // a transaction sets it or has done so
  uint32_t end_ = 0;                  // roots from here on were never used
};

}  // namespace btd
