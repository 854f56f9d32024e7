// The mark: from the roots to every block they lead to.
//
// Conservative: any aligned word of a reached block that points into a block, anywhere in it, keeps
// that block; one past the end is in the next one.  As in Makalu (Bhandari et al., OOPSLA 2016),
// whose mark phase this is to beat; but what waits is bounded here.
//
// What costs is waiting for memory, so it is done by turns of many blocks: they are fetched; then
// their words are looked up, and the states and marks of what they point to fetched; then those are
// looked at, without a branch, because a wrongly guessed one throws away what is under way (after
// Cher, Hosking and Vitek, "Software Prefetching for Mark-Sweep Garbage Collection", ASPLOS 2004,
// whose queue hands over one at a time).  In a list nothing can be overlapped; there a block is
// fetched as soon as its address is known, before its state and mark are.
//
// Blocks to scan wait on a stack of fixed size.  When it is full they are postponed: a bit each,
// looked for when all stacks are empty.  Long blocks are scanned by pieces, whose rest takes no new
// room.  So there is no recursion, no growth, and no input that runs out of anything.
//
// Threads share work: one that has plenty gives half of its stack away while another has none.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/result.hpp"
#include "core/gc/marks.hpp"
#include "core/gc/tracers.hpp"

namespace btd {

// Memory of blocks that no state says to be live yet: the program holds them, and what their words
// point to is reached.
class GcRanges {
 public:
  // Calls visit(context, begin, size_bytes) for each, which takes no lock and comes back soon.
  virtual void for_each(void (*visit)(void* context, const void* begin, size_t size_bytes),
                        void* context) noexcept = 0;

 protected:
  ~GcRanges() = default;  // nobody deletes one through this interface
};

struct MarkRequest {
  uint32_t threads = 1;  // 1: the calling one alone, and no other is ever made
  uint32_t stack_entries = 8192;
  const Tracers* tracers = nullptr;  // they get addresses in the image: only for an open arena's
  GcRanges* reserved = nullptr;      // of an open arena
  // Called now and then with the blocks reached so far, from one thread; may be nullptr.
  void (*progress)(void* context, uint64_t blocks) = nullptr;
  void* progress_context = nullptr;
};

struct MarkTotals {
  uint64_t blocks;
  uint64_t bytes;
  uint64_t postponed;  // blocks that met a full stack, or were to be fetched first
  uint64_t table_bytes;
};

inline constexpr uint32_t kMarkThreadsMax = 64;
inline constexpr uint32_t kMarkStackMin = 4;

// REQUIRES: marks were opened, and nothing is marked in them.
// ERRORS: kNoMemory: the kernel refuses DRAM.  A thread that cannot be made is done without.
[[nodiscard]] Error mark(Marks& marks, const MarkRequest& request, MarkTotals& totals);

}  // namespace btd
