// Copies of far extents that a dead node had are made again, on nodes that live.
//
// An extent that is far and has fewer live holders than it should is read from one of them and
// written to a spare node, in its own generation; then the spare one is a holder too.  Nothing is
// done while room is needed, and a few extents at a time, so that an eviction never waits for long.
//
// A dead node keeps its place in the word: it may come back with all that it had.  What it has then
// is not believed but looked up, before anything relies on it.
//
// A kill leaves a copy on a node that the word does not name, or not yet: of the right generation
// it is found by the next open, which asks the nodes; of an older one it is never asked for.
//
// Thread safety: the evictor's thread.
#pragma once

#include <cstdint>

#include "core/spill/pager.hpp"

namespace btd {

class Healer {
 public:
  // `nodes`: the evictor's own connections.
  void open(Pager& pager, Node* const* nodes) noexcept {
    pager_ = &pager;
    nodes_ = nodes;
  }

  // A node has been connected: it is no holder of what it does not have in the word's generation.
  // False: it did not tell all it has, and is not connected any more.
  // REQUIRES: nothing is in flight, as for heal().
  bool validate(uint32_t node) noexcept;

  // Looks at some words and copies what is wanting.  True: there is more to do at once.
  bool heal() noexcept;

 private:
  static constexpr uint32_t kDepth = 4;  // extents in flight

  struct Copy {
    uint64_t extent;
    ExtentWord word;
    uint32_t source;  // node; kFarNodesMax: none gives it
    uint32_t tried;   // nodes that were written to, a bit each
    bool is_done;
  };

  uint32_t find(Copy* copies, uint64_t look_max) noexcept;
  void copy(Copy* copies, uint32_t count) noexcept;
  void read(Copy* copies, uint32_t count) noexcept;
  bool write(Copy* copies, uint32_t count) noexcept;
  void settle(Copy& copy, uint32_t node, uint32_t slot, const NodeCompletion& completion) noexcept;
  void disbelieve(uint64_t extent, uint32_t node) noexcept;
  void collect(const uint32_t* node_of, uint32_t count, NodeCompletion* out) noexcept;
  uint32_t live_nodes() const noexcept;
  void report(uint32_t healed) noexcept;

  Pager* pager_ = nullptr;
  Node* const* nodes_ = nullptr;
  uint64_t hand_ = 0;
  uint64_t clean_ = 0;   // words passed since the last one that was wanting
  uint64_t healed_ = 0;  // extents since healing began; reported when it ends
  bool is_healing_ = false;
  uint64_t told_at_s_ = 0;
  uint64_t again_at_s_ = 0;  // not before: no node took anything
};

}  // namespace btd
