// What the arena must hold, told by the process that uses it: one record a block, and the operation
// in progress.
//
// The log lies in memory shared with the harness, which reads it while the process stands still
// between two instructions.  Each operation is announced before its first instruction (begin) and
// told to be done by one store after its last (`is_busy` = 0): in between the harness accepts both
// outcomes, outside of it exactly one.
//
// Thread safety: one writer, and a reader that looks only while the writer is stopped.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>

#include "core/persist/layout.hpp"

namespace btd::test {

enum class Step : uint32_t {
  kNothing,  // no block may come or go: opening, cache refill and flush, releasing a heap, growth
  kAllocate,
  kFree,
  kResize,
  kCollect,      // blocks of earlier lives that nothing leads to go, in any order
  kTransaction,  // words, roots and blocks change together, or none of them
};

struct BlockRecord {
  uint64_t address;
  uint64_t size_bytes;  // as asked for
  uint64_t usable_bytes;
  uint64_t epoch;
  uint64_t filled_bytes;  // the contents are the pattern of its index for a block of this size; 0:
                          // not yet
  uint64_t is_live;
};

struct Log {
  static constexpr uint32_t kBlocksMax = 2048;
  static constexpr uint32_t kWords = 64;
  static constexpr uint32_t kRoots = 4;
  static constexpr uint32_t kInTransactionMax = 8;

  std::atomic<uint32_t> is_busy;
  Step step;
  uint32_t index;        // of the block in question
  uint32_t may_reclaim;  // survivors may go, those of the oldest epochs first
  uint64_t size_bytes;   // asked for
  uint64_t epoch;        // of the life that works
  uint64_t seed;
  uint64_t random_state;  // of the workload
  uint32_t is_stepped;    // the operation in progress is one to step through
  uint32_t block_count;   // records in use or used

  // Words in a block of their own, and roots: what they are, and what the transaction in progress
  // makes of them.
  uint64_t words_offset;  // in the file; 0: there are none
  uint64_t words_address;
  uint64_t words[kWords];
  uint64_t words_after[kWords];
  uint64_t roots[kRoots];  // addresses; 0: not set
  uint64_t roots_after[kRoots];
  uint32_t taken[kInTransactionMax];  // blocks of the transaction in progress: allocated
  uint32_t taken_count;
  uint32_t freed[kInTransactionMax];  // and freed
  uint32_t freed_count;
  uint32_t is_aborted;   // it comes to nothing
  uint32_t is_returned;  // commit() has returned: it is there

  const char* what;  // a literal: the same address in parent and child
  BlockRecord blocks[kBlocksMax];
};

// The word of the pattern at `offset` of block `index`.
inline uint64_t pattern_word(uint64_t seed, uint32_t index, uint64_t offset) {
  uint64_t x = seed ^ (uint64_t{index} << 40) ^ offset;
  x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15;
  return (x ^ (x >> 29)) | 1;  // never the zero that a lost page reads as
}

// Calls visit(offset) for the words that carry the pattern: the first and last 64 bytes and the
// start of each page.  Enough to see a block moved, cut, overlapped or punched, without touching
// every page's lines.
template <typename Visit>
void for_each_pattern_word(uint64_t size_bytes, Visit visit) {
  uint64_t words_bytes = size_bytes & ~uint64_t{7};
  for (uint64_t at = 0; at < words_bytes && at < 64; at += 8) visit(at);
  for (uint64_t at = 4096; at + 8 <= words_bytes; at += 4096) visit(at);
  for (uint64_t at = words_bytes > 128 ? words_bytes - 64 : 64; at < words_bytes; at += 8)
    visit(at);
}

// Whether words or roots lead to the block: the collector must keep it.
inline bool is_reachable(const Log& log, uint64_t words_address, const BlockRecord& record) {
  auto is_in = [&](uint64_t address) {
    return address >= record.address && address < record.address + record.size_bytes;
  };
  bool are_words_reachable = false;
  for (uint64_t root : log.roots) {
    if (root != 0 && is_in(root)) return true;
    are_words_reachable = are_words_reachable || root == words_address;
  }
  if (!are_words_reachable) return false;
  for (uint64_t word : log.words) {
    if (is_in(word)) return true;
  }
  return is_in(words_address);
}

// Whether the collector, at work, may have freed the block already.
inline bool may_be_collected(const Log& log, const BlockRecord& record) {
  return log.is_busy && log.step == Step::kCollect && record.epoch < log.epoch &&
         !is_reachable(log, log.words_address, record);
}

// Whether the transaction in progress allocates or frees the block.
inline bool is_in_transaction(const Log& log, uint32_t index) {
  if (!log.is_busy || log.step != Step::kTransaction) return false;
  for (uint32_t i = 0; i < log.taken_count; i++) {
    if (log.taken[i] == index) return true;
  }
  for (uint32_t i = 0; i < log.freed_count; i++) {
    if (log.freed[i] == index) return true;
  }
  return false;
}

inline void fill_pattern(uint64_t seed, uint32_t index, void* block, uint64_t size_bytes) {
  for_each_pattern_word(size_bytes, [&](uint64_t at) {
    uint64_t word = pattern_word(seed, index, at);
    std::memcpy(static_cast<char*>(block) + at, &word, sizeof(word));
  });
}

}  // namespace btd::test
