// What an arena holds, as a program knows it: its blocks, its roots, and the words that it cares
// for.
//
// After a cut the recovered arena must be one of at most two worlds, whole: the one before the call
// in progress or the one after it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/power_cut/trace.hpp"

namespace btd::test {

inline constexpr uint32_t kRoots = 8;
// "root 0", ...
inline std::string root_name(uint32_t number) { return "root " + std::to_string(number); }

struct World {
  static constexpr uint32_t kBlocksMax = 1024;
  static constexpr uint32_t kWordsMax = 1024;
  struct Block {
    uint64_t offset;  // from the start of the file
    uint64_t size_bytes;
    uint32_t is_reachable;
    uint32_t may_be_gone;  // the collector is at work
  };
  struct Word {
    uint64_t offset;
    uint64_t value;
    uint64_t other;  // as good as `value`
  };

  uint32_t block_count;
  uint32_t word_count;
  uint64_t roots[kRoots];  // offsets; 0: not set
  Block blocks[kBlocksMax];
  Word words[kWordsMax];

  void apply(const Event& effect, bool may_be_old);
  bool knows(uint64_t word_offset) const;
  bool has_block(uint64_t offset) const;  // around it
  void let_go(uint64_t block_offset);
  // The word may be what it is there, too.
  void allow(const Word& word);
  // Which blocks the roots lead to.  `base`: what offset 0 is in a pointer.
  void mark(uint64_t base);

 private:
  void mark_from(uint64_t offset, uint64_t base);
};

// What the harness asks of a clean process, in memory shared with it.
struct Exam {
  char path[200];
  uint32_t is_strict;       // durability of the arena
  uint32_t becomes_strict;  // it is opened as one: from then on states count
  uint32_t records;         // write down the recovery
  uint32_t exercises;       // allocate in the recovered arena
  uint32_t world_count;     // 1 or 2
  uint32_t matched;         // answer: bit i: worlds[i] is what was found
  char fault[600];          // answer: "": all is well
  World worlds[2];
};

// Recovers the arena at exam.path and compares; twice.  In a process of its own.
void take_exam(Exam& exam, Trace& trace, Sites& sites);

}  // namespace btd::test
