#include "tools/rewrite.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "core/recovery/open.hpp"
#include "tools/arena_file.hpp"
#include "tools/progress.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

using Kind = FarFinding::Kind;

constexpr uint32_t kConnectMs = 3000;

// The lock of an arena's owner, and that it is as it was verified.
class OwnerLock {
 public:
  OwnerLock(const std::string& path, const ArenaView& view) {
    auto refuse = [&](const char* why, const char* next) {
      mapping_.close();
      throw Failure{kExitRefused,
                    fmt::format("{}: {}; no copy was rewritten; {}", printable(path), why, next)};
    };
    Error error = mapping_.open(path.c_str(), false);
    if (error == Error::kInUse) refuse("in use", "repair it when the program has ended");
    if (error != Error::kNone) refuse("cannot be locked", "ask its owner");
    ArenaView now;
    if (ArenaView::open(path.c_str(), now) != Error::kNone ||
        now.header().sequence != view.header().sequence ||
        std::memcmp(now.header().uuid, view.header().uuid, sizeof(now.header().uuid)) != 0)
      refuse("a program had it open meanwhile", "try again");
  }
  OwnerLock(const OwnerLock&) = delete;
  OwnerLock& operator=(const OwnerLock&) = delete;
  ~OwnerLock() { mapping_.close(); }

 private:
  Mapping mapping_;
};

class Rewriter {
 public:
  Rewriter(FarZone& far, NodeClients& owners) : far_(far), owners_(owners) {}

  void rewrite(const FarFinding& finding, uint32_t wanted) {
    uint32_t targets = finding.faulty;
    // Any node may have what is missing: whoever opens the arena asks all what they have.
    auto copies = static_cast<uint32_t>(std::popcount(finding.good | targets));
    for (uint32_t node = 0; node < far_.node_count() && copies < wanted; node++) {
      if (((finding.good | targets) >> node & 1) != 0 || !far_.is_reachable(node)) continue;
      targets |= 1U << node;
      copies++;
    }
    if (!fetch(finding)) {
      report.failed += static_cast<uint64_t>(std::popcount(targets));
      return;
    }
    for (uint32_t node = 0; node < far_.node_count(); node++) {
      if ((targets >> node & 1) == 0) continue;
      bool is_done = write(finding, node);
      (is_done ? report.rewritten : report.failed)++;
    }
  }

  RewriteReport report;

 private:
  // One operation on one node, waited for.
  static NodeStatus wait_for(Node& node, bool is_posted, NodeCompletion& completion) {
    completion = {0, NodeStatus::kLost, 0, 0};
    while (is_posted && node.poll(&completion, 1, 500'000) == 0) {
    }
    return completion.status;
  }

  // What the node says of the extent now.  kGood: its bytes in this generation are in the buffer.
  NodeStatus read(const FarFinding& finding, uint32_t index) {
    FarNode& node = far_.node(index);
    NodeCompletion done{};
    NodeStatus status = wait_for(node, node.read(0, finding.extent, finding.generation), done);
    bool is_it = done.generation == finding.generation && done.length_bytes == kFarExtentBytes;
    return status == NodeStatus::kGood && !is_it ? NodeStatus::kLost : status;
  }

  // A good copy into memory.
  bool fetch(const FarFinding& finding) {
    for (uint32_t node = 0; node < far_.node_count(); node++) {
      if ((finding.good >> node & 1) == 0 || read(finding, node) != NodeStatus::kGood) continue;
      std::memcpy(good_.data(), far_.node(node).buffer(0), kFarExtentBytes);
      return true;
    }
    return false;
  }

  bool is_right(const FarFinding& finding, uint32_t index) {
    return read(finding, index) == NodeStatus::kGood &&
           std::memcmp(far_.node(index).buffer(0), good_.data(), kFarExtentBytes) == 0;
  }

  // REQUIRES: a good copy is in memory, and on another node.
  bool write(const FarFinding& finding, uint32_t index) {
    const NodeStatus now = read(finding, index);
    bool is_bad = now == NodeStatus::kCorrupt;
    bool is_missing = now == NodeStatus::kNotFound || now == NodeStatus::kStale;
    if (!is_bad && !is_missing) return is_right(finding, index);
    FarNode& node = owners_.node(0, index);
    if (!node.is_connected() && node.connect(kConnectMs) != NodeStatus::kGood) return false;
    NodeCompletion done{};
    // A node takes no generation that it has already, not even in the place of bad bytes.
    if (is_bad && wait_for(node, node.release(0, finding.extent), done) != NodeStatus::kGood)
      return false;
    std::memcpy(node.buffer(0), good_.data(), kFarExtentBytes);
    return wait_for(node, node.write(0, finding.extent, finding.generation, kFarExtentBytes),
                    done) == NodeStatus::kGood &&
           is_right(finding, index);
  }

  FarZone& far_;
  NodeClients& owners_;
  std::vector<char> good_ = std::vector<char>(kFarExtentBytes);
};

}  // namespace

RewriteReport rewrite_replicas(const std::string& arena_path, const ArenaView& view, FarZone& far,
                               const NodeOptions& options, const ReplicaReport& report) {
  OwnerLock lock(arena_path, view);
  NodeClients owners;
  NodeClientsRequest request;
  request.nodes = options.nodes.c_str();
  request.key_file = options.key_file.c_str();
  request.seal_key_file = options.seal_key_file.c_str();
  request.arena = view.header().uuid;
  request.epoch = epoch_for_nodes(view.header());
  Line why;
  if (owners.open(request, why) != Error::kNone)
    throw Failure{kExitUsage, message_of(why) + "; no copy was rewritten"};
  Progress progress("rewriting copies");
  Rewriter rewriter(far, owners);
  for (size_t i = 0; i < report.findings.size(); i++) {
    const FarFinding& finding = report.findings[i];
    progress.update(i, report.findings.size());
    if (finding.kind == Kind::kBadCopy || finding.kind == Kind::kFewCopies)
      rewriter.rewrite(finding, report.wanted);
  }
  owners.close();
  return rewriter.report;
}

}  // namespace btd::tools
