// Answers of several nodes, of which a thread can wait for one at a time.
#pragma once

#include "core/spill/node.hpp"

namespace btd {

// `is_asked(node)`: something is in flight on it.  `take(node, completion)` for each answer.  Looks
// at all nodes that are asked, and waits for one of them if none has an answer.
template <typename IsAsked, typename Take>
void poll_nodes(Node* const* nodes, uint32_t node_count, uint32_t wait_us, IsAsked is_asked,
                Take take) noexcept {
  auto poll = [&](uint32_t node, uint32_t node_wait_us) {
    NodeCompletion done[kNodeDepth];
    const uint32_t found = nodes[node]->poll(done, kNodeDepth, node_wait_us);
    for (uint32_t i = 0; i < found; i++)
      if (done[i].slot < kNodeDepth) take(node, done[i]);
    return found;
  };
  uint32_t found = 0;
  uint32_t last = node_count;  // of those asked
  for (uint32_t node = 0; node < node_count; node++) {
    if (!is_asked(node)) continue;
    if (last < node_count) found += poll(last, 0);
    last = node;
  }
  if (last < node_count) poll(last, found == 0 ? wait_us : 0);
}

}  // namespace btd
