// What became of each extent of a window whose last owner is gone.
//
// Of the same boot, the file still has the words and the frames, and they win: nothing but a kill
// happened, and a tmpfs loses nothing by that.  Of another boot, or without the file, all there is
// is what nodes say: the highest committed generation of each extent.
#pragma once

#include <cstdint>

#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "core/spill/far_file.hpp"

namespace btd {

enum class Reattach : uint8_t {
  kKeep,      // take the word as it is given; frames stay
  kPunch,     // take the word, and the frames that may be left are of no use
  kMerge,     // frames that are missing come from a holder; those here win
  kFillZero,  // frames that are missing are zero; those here win
  kLost,      // part of it is nowhere
};

struct ReattachDecision {
  Reattach action;
  ExtentWord word;  // to be stored when the action is done
};

// What the nodes that answered have of an extent: the highest generation, and which of them have
// it.
struct NodeCopies {
  uint64_t generation = 0;  // 0: none
  uint32_t holders = 0;
};

// `answered`: nodes, a bit each, that have told all they have.  A holder that did not answer is
// believed to have what the word says.  Pure.
ReattachDecision decide(ExtentWord word, uint32_t frames, NodeCopies copies,
                        uint32_t answered) noexcept;

struct ReattachCounts {
  uint64_t near = 0;
  uint64_t far = 0;
  uint64_t merged = 0;
  uint64_t lost = 0;
};

// Decides for every extent, and does it.  `is_found`: the file is of this boot.  A kill in the
// middle: words already stored are as after an eviction, the others as before; the next one decides
// anew.  REQUIRES: nobody faults on the window yet; nodes that can be reached are connected.
// ERRORS: kNoMemory; kBusy an extent is partly here and partly on a node that does not answer now,
// or more than `silent_max` nodes do not answer.
Error reattach(FarFile& file, bool is_found, Node* const* nodes, uint32_t node_count,
               uint32_t silent_max, ReattachCounts* counts) noexcept;

}  // namespace btd
