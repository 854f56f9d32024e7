// Programs for the power-cut simulator: short lists of calls, and the process that makes them.
//
// A program owns an anchor, a block that root 0 points to.  In it lie slots, words that point to
// blocks, and data words.  A block is loose, or owned by one slot or root; only loose blocks are
// freed by free().
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tests/crash/power_cut/sim_persist.hpp"
#include "tests/crash/power_cut/world.hpp"

namespace btd::test {

enum class Op : uint8_t {
  kOpen,        // makes the arena, or recovers what the last life left; a: 1: in `process`
  kReopen,      // the process dies, and the next one recovers
  kAnchor,      // a: 0: the anchor, 1: its root
  kMalloc,      // a: bytes
  kFree,        // a: loose block, counted from the oldest; ~0: the newest
  kResize,      // a: bytes; of the newest loose large block, where it is
  kRelease,     // the thread's heap, and takes another
  kThread,      // a: who makes the calls that follow
  kRootSet,     // a: root; to the newest loose block
  kRootRemove,  // a: root; its block is loose then
  kMallocTo,    // a: bytes; into a free slot
  kFreeFrom,    // the slot filled last
  kActivate,    // a: bytes; reserves, and fills two slots in one step, the second with a copy
  kCopy,        // a: data words, written by a transaction of one range
  kStore,       // a data word stored and persisted by the program itself
  kBegin,       // a transaction of this thread
  kAdd,         // a: data words, kept and then changed in place
  kWrite,       // a: data words, at commit
  kTxMalloc,    // a: bytes; into a free slot
  kTxFree,      // the slot filled last
  kTxRootSet,   // a: root; to a block of this transaction
  kCommit,
  kAbort,
  kFillRoots,  // a: so many others, most of them set
  kCollect,
  kWrong,  // a: number of a wrong order
};

inline constexpr uint32_t kOverOthers = 16;  // added to a root

struct Call {
  Op op;
  uint32_t a;
  std::string text() const;
};

struct Program {
  std::vector<Call> calls;
  uint32_t first_cut = 0;  // calls before it are made without power cuts
  bool is_strict = true;
  std::string text() const;
};

// Single calls, and whole transactions, of which all short programs are made.
std::vector<std::vector<Call>> alphabet(bool is_strict);
// What takes more than three calls to go wrong.
std::vector<std::vector<Call>> scripts(bool is_strict);
// A long one.
Program random_program(uint64_t seed, bool is_strict, uint32_t calls);

// Wrong orders, made on purpose: each must be found out.
extern const char* const kWrongNames[];
extern const uint32_t kWrongCount;

// Makes the calls on the arena at `path`, which exists (empty at first).  In a process of its own;
// exits.
[[noreturn]] void run_program(const Program& program, const std::string& path, Trace& trace,
                              Sites& sites);

}  // namespace btd::test
