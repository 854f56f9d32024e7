// A cluster: an arena, its roots, its transactions; and what the interface makes of the three.
//
// Each change here is put into a transaction.  One that the program began may have added what is
// changed and may read it before the commit: there words are kept (undo) and then stored in place.
// One that exists for this change alone lets the stores wait for the commit (redo), which takes a
// drain less.
//
// Thread safety: all functions may run concurrently, but open() and close().
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/api/reservations.hpp"
#include "core/base/lock.hpp"
#include "core/base/result.hpp"
#include "core/gc/tracers.hpp"
#include "core/heap/arena.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"

namespace btd {

// A transaction, and who began it.
struct Change {
  Transaction& transaction;
  ThreadCache& cache;
  bool is_of_program;
};

class Cluster {
 public:
  // REQUIRES: the arena is open and outlives this object; no other thread uses it.
  void open(Arena& arena);
  // Forgets what is in DRAM.  REQUIRES: no other thread uses it.
  void close();

  Arena& arena() const { return *arena_; }
  Roots& roots() { return roots_; }
  Transactions& transactions() { return transactions_; }
  Tracers& tracers() { return tracers_; }
  Reservations& reservations() { return reservations_; }
  // All of the range is in frames that blocks have been in.
  bool contains(const void* address, size_t size_bytes) const;

  // Copies `source`, or fills with `byte` when it is nullptr.
  // ERRORS: of Transaction::add() and write(); some bytes may be written then, which an abort
  // undoes.
  Error fill(const Change& change, void* target, const void* source, int byte, size_t size_bytes);
  // The same without a transaction, by one store.  False: it cannot be one.
  bool fill_by_one_store(void* target, const void* source, int byte, size_t size_bytes);
  // Makes the program's own stores durable: to the range, or all that it flushed.
  void persist(const void* address, size_t size_bytes);
  void drain();

  // ERRORS: kNoSpace; kInvalid: a word outside the arena, a pointer that is no live block; kBusy.
  Error set_word(const Change& change, void** where, void* value);
  void* allocate(const Change& change, size_t size_bytes, bool must_be_zero, Error* error);
  void* allocate_to(const Change& change, void** where, size_t size_bytes, Error* error);
  Error free_from(const Change& change, void** where);

  // A block that is taken until activate() or cancel().  nullptr: the arena is full, or no DRAM.
  void* reserve(ThreadCache& cache, size_t size_bytes);
  // ERRORS: kInvalid: it is not reserved, or a link is outside: nothing was done.  Others: the
  // block is free.
  struct Link {
    void** where;  // nullptr: none
    void* value;
  };
  Error activate(const Change& change, void* block, const Link (&links)[2]);
  Error cancel(ThreadCache& cache, void* block);

  // ERRORS: kInvalid: the block there is smaller; kNoSpace; of Roots::set().
  void* find_or_make(const Change& change, const char* name, size_t size_bytes, Error* error);

  // A live block that an earlier epoch left.
  bool is_recovered(const void* block);

  Lock& making() { return making_; }  // held by who makes a persistent variable

  // In a forked child, where it is not used any more.
  void reset_after_fork();

 private:
  static constexpr size_t kRedoBytesMax = 64 * kKiB;
  static constexpr size_t kUndoStepBytes = 1 * kMiB;

  Arena* arena_ = nullptr;
  Roots roots_;
  Transactions transactions_;
  Reservations reservations_;
  Tracers tracers_;
  Lock making_;
};

}  // namespace btd
