#include "tools/node_observer.hpp"

#include <fmt/core.h>

#include <cstring>

#include "rdma/crypto.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr uint32_t kConnectMs = 5000;
constexpr uint32_t kPollUs = 500000;

NodeClient observer(const std::string& key_file) {
  NodeClient client{};
  client.role = wire::Role::kObserver;
  switch (read_key_file(key_file.c_str(), client.key)) {
    case KeyError::kNone:
      return client;
    case KeyError::kUnreadable:
      throw Failure{kExitFailed, fmt::format("{} cannot be read; nothing was done; see --key-file",
                                             printable(key_file))};
    case KeyError::kExposed:
      throw Failure{kExitRefused, fmt::format("{} is open to others than its owner; nothing was "
                                              "done; chmod 600 it",
                                              printable(key_file))};
    case KeyError::kMalformed:
      break;
  }
  throw Failure{kExitRefused,
                fmt::format("{} holds no key; nothing was done; it must be the node's own",
                            printable(key_file))};
}

}  // namespace

NodeObserver::NodeObserver(std::string address_text, const std::string& key_file)
    : address_(std::move(address_text)), client_(observer(key_file)) {
  NodeAddress address;
  if (!parse_address(address_.c_str(), address)) {
    throw Failure{kExitUsage, fmt::format("\"{}\" is no address; nothing was done; give "
                                          "192.0.2.7:7070 or [2001:db8::7]:7070",
                                          printable(address_))};
  }
  node_->configure(address, client_);
  NodeStatus status = node_->connect(kConnectMs);
  if (status != NodeStatus::kGood) fail(status);
}

void NodeObserver::fail(NodeStatus status) const {
  switch (status) {
    case NodeStatus::kRefused:
      throw Failure{kExitRefused,
                    fmt::format("{} refuses this key, or speaks another version; nothing was done; "
                                "see --key-file",
                                printable(address_))};
    case NodeStatus::kNoSpace:
      throw Failure{kExitFailed, fmt::format("{} has too many clients; nothing was done; try again",
                                             printable(address_))};
    case NodeStatus::kTimeout:
      throw Failure{kExitFailed, fmt::format("{} does not answer; nothing was done; is bartenderd "
                                             "running there?",
                                             printable(address_))};
    default:
      throw Failure{kExitFailed, fmt::format("{} cannot be reached, or hung up; nothing was done; "
                                             "is bartenderd running there?",
                                             printable(address_))};
  }
}

NodeReport NodeObserver::look() {
  NodeReport report{};
  size_t before;
  do {
    before = report.arenas.size();
    ask(report);
  } while (report.arenas.size() > before && report.arenas.size() < report.state.arena_count);
  return report;
}

NodeStatus NodeObserver::forget(const wire::Forget& arena) {
  if (!node_->forget(0, arena)) fail(NodeStatus::kLost);
  return wait().status;
}

NodeCompletion NodeObserver::wait() {
  NodeCompletion completion{};
  uint32_t count = 0;
  while (count == 0) count = node_->poll(&completion, 1, kPollUs);
  return completion;
}

// The state, and the arenas from where the report ends.
void NodeObserver::ask(NodeReport& report) {
  if (!node_->status(0, report.arenas.size())) fail(NodeStatus::kLost);
  NodeCompletion completion = wait();
  if (completion.status != NodeStatus::kGood) fail(completion.status);
  uint32_t size_bytes = completion.length_bytes;
  if (size_bytes < sizeof(report.state) ||
      (size_bytes - sizeof(report.state)) % sizeof(wire::ArenaStatus) != 0) {
    fail(NodeStatus::kCorrupt);
  }
  std::memcpy(&report.state, node_->buffer(0), sizeof(report.state));
  for (size_t at = sizeof(report.state); at < size_bytes; at += sizeof(wire::ArenaStatus)) {
    wire::ArenaStatus arena;
    std::memcpy(&arena, node_->buffer(0) + at, sizeof(arena));
    report.arenas.push_back(arena);
  }
}

}  // namespace btd::tools
