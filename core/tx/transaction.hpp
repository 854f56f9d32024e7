// Transactions: all of their changes survive, or none.
//
// Ranges that the program changes in place are kept in an undo log, durable before the program may
// touch them; what the transaction itself changes (states of blocks, roots, copies) waits in the
// same log and is stored at commit.  A transaction that changes in place needs three drains, and
// fewer cannot be: the old bytes are durable before the new ones may reach media, the new ones
// before the commit, the commit before commit() returns.  One that does not needs two.  The word
// that ends it is deferred (core/persist/deferred.hpp).
//
// What recovery sees (core/tx/replay.cpp): records of the lane's open transaction, all valid up to
// some point.  With a commit record the waiting stores are made again; without, the kept ranges are
// put back, and blocks that were taken are free, for their states were never stored.
//
// As the undo log of PMDK's libpmemobj (lanes) and the redo log of Mnemosyne (Volos et al., ASPLOS
// 2011), in one log.
//
// Thread safety: a transaction belongs to the thread that began it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/base/result.hpp"
#include "core/heap/arena.hpp"
#include "core/persist/layout.hpp"
#include "core/tx/pointer_set.hpp"

namespace btd {

class Transactions;

class Transaction {
 public:
  // Keeps the bytes of a range: from now on the program may change them in place.
  // ERRORS: kInvalid: not all of it is in the arena's data; kNoSpace: no room for the log.  An
  // error leaves the transaction as it was.
  Error add(const void* address, size_t size_bytes);

  // At commit `target` gets a copy of the bytes; until then it keeps its own.
  // ERRORS: as add().  REQUIRES: target is in the arena's data or in its root table.
  Error write(void* target, const void* bytes, size_t size_bytes);

  // What write() will have made of the word at `target`.
  uint64_t read(const uint64_t* target) const;

  // A block that is live from the commit on.  nullptr: *error says why; the transaction is as it
  // was.  Its bytes are made durable by the commit, no add() is needed.
  void* allocate(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero,
                 Error* error);
  // Makes a reservation of Arena::reserve() part of the transaction.  On an error it is not.
  Error adopt(const Reservation& reservation, size_t size_bytes);

  // The block is free from the commit on.  ERRORS: kInvalid: no live block starts there, or this
  // transaction freed it already, or it was allocated by another open one; kBusy: another open
  // transaction frees it; kNoSpace.
  Error free(void* pointer);

  // ERRORS: kInvalid: a block that was to be freed is not live any more; kNoSpace: no room for the
  // log.  Then the transaction is aborted.  The object is gone in any case.
  Error commit(ThreadCache& cache);
  void abort(ThreadCache& cache);

  Arena& arena() const { return *arena_; }

  // The caller's: how often it was begun, and whether an inner one was aborted.
  uint32_t depth = 0;
  bool is_canceled = false;

 private:
  friend class Transactions;
  struct Range {
    uintptr_t first, end;
  };
  static constexpr uint32_t kRangesKept = 8;
  // What a record says, for commit and abort: its line of the log has left the CPU's cache by then,
  // and a look at it would wait for memory.
  struct Note {
    uint64_t target;
    RecordKind kind;
    uint32_t length_bytes;
    union {
      char bytes[sizeof(AllocPayload)];  // the payload, if it is short
      const char* in_log;
    };
    // A word, or what a block's record says.
    bool is_short() const {
      return length_bytes == sizeof(uint64_t) || length_bytes == sizeof(AllocPayload);
    }
    const char* payload() const { return is_short() ? bytes : in_log; }
  };
  static constexpr uint32_t kNotes = 16;  // a transaction of more records reads its log

  [[nodiscard]] bool start(Transactions& transactions, uint32_t lane);
  Error append(RecordKind kind, uint64_t target, const void* payload, size_t length_bytes);
  Error append_pieces(RecordKind kind, const void* target, const void* bytes, size_t size_bytes);
  bool make_room(size_t wanted_bytes);
  void write_record(RecordKind kind, uint64_t target, const void* payload, size_t length_bytes);
  void flush_log();
  void drain_log();
  void fresh_line();
  bool covers(const void* address, size_t size_bytes) const;
  void note_range(const void* address, size_t size_bytes);
  void note(RecordKind kind, uint64_t target, const void* payload, size_t length_bytes);
  static Note note_of(const LogRecord* record);
  bool find_alloc(const void* pointer, Note& found) const;
  bool are_frees_good() const;
  bool flush_data() const;
  void apply() const;
  void restore() const;
  Error keep_old();
  void finish(ThreadCache& cache, bool is_committed);
  void give_blocks(ThreadCache& cache, RecordKind kind);
  void release_extents();

  const LogRecord* record_at(uint64_t offset) const {
    return reinterpret_cast<const LogRecord*>(base_ + offset);
  }
  uint64_t offset_of(const void* address) const {
    return static_cast<uint64_t>(static_cast<const char*>(address) - base_);
  }
  template <typename Visit>
  void for_each(Visit visit) const;
  template <typename Visit>
  void for_each_back(Visit visit) const;

  Arena* arena_ = nullptr;
  Transactions* transactions_ = nullptr;
  char* base_ = nullptr;  // byte 0 of the file
  uint32_t lane_ = 0;
  bool is_durable_ = false;  // beyond the process
  uint64_t sequence_ = 0;
  uint32_t chain_ = 0;         // checksum of the last record
  uint64_t last_ = 0;          // offset of the last record; 0: there is none
  char* at_ = nullptr;         // where the next record goes
  char* room_end_ = nullptr;   // of the lane or the extent in use
  char* unflushed_ = nullptr;  // the log from here on is not flushed
  char* extent_ = nullptr;     // the last extent of the log; its line 0 holds the one before
  size_t extent_bytes_ = 0;
  uint32_t free_count_ = 0;
  uint32_t next_range_ = 0;
  Range ranges_[kRangesKept] = {};  // kept or allocated last: no need to keep them twice
  uint32_t note_count_ = 0;         // records but links and the commit; notes of the first kNotes
  Note notes_[kNotes] = {};
  uint64_t finished_ = 0;  // the lane's word, whose line has left the cache; 0: look at it
};

// The lanes of an arena.
class Transactions {
 public:
  // REQUIRES: the arena is open, its lanes were replayed; no other thread uses this object.
  void open(Arena& arena);

  // Waits while all lanes are in use.  nullptr: there is no space for a lane.
  Transaction* begin();

  // Whether an open transaction will free the block.
  bool frees(const void* pointer);

  // In a forked child.
  void reset();

 private:
  friend class Transaction;
  struct Lane {
    Lock lock;  // held from begin to end
    Transaction transaction;
  };

  void forget_free(const void* pointer);

  Arena* arena_ = nullptr;
  Lock free_lock_;                       // guards freed_; taken with no lock of heap/ held
  PointerSet freed_;                     // by open transactions; the owner is the lane
  std::atomic<uint32_t> free_count_{0};  // in it: whether to look at all
  std::atomic<uint32_t> next_lane_{0};   // whose turn it is to be waited for
  Lane lanes_[kLaneCount];
};

}  // namespace btd
