// A connection to a memory node that owns nothing: it asks for its state, and has arenas forgotten.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rdma/far_node.hpp"

namespace btd::tools {

struct NodeReport {
  wire::NodeState state;
  std::vector<wire::ArenaStatus> arenas;
};

// Throws Failure in all that goes wrong.
class NodeObserver {
 public:
  NodeObserver(std::string address_text, const std::string& key_file);

  NodeReport look();
  // kGood: decided, and done soon.  kNotFound: no such arena.  kRefused: its owner is connected.
  NodeStatus forget(const wire::Forget& arena);
  [[noreturn]] void fail(NodeStatus status) const;

 private:
  NodeCompletion wait();
  void ask(NodeReport& report);

  const std::string address_;
  const NodeClient client_;
  std::unique_ptr<FarNode> node_ = std::make_unique<FarNode>();
};

}  // namespace btd::tools
