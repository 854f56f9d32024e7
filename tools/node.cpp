// bartender node: how a memory node is doing.
#include <fmt/core.h>

#include <cstring>
#include <memory>

#include "rdma/crypto.hpp"
#include "rdma/far_node.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr uint32_t kConnectMs = 5000;
constexpr uint32_t kPollUs = 500000;

struct NodeReport {
  wire::NodeState state;
  std::vector<wire::ArenaStatus> arenas;
};

std::string uuid_of(const uint8_t* bytes) {
  std::string text;
  for (size_t i = 0; i < wire::kUuidBytes; i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

const char* backend_of(const wire::NodeState& state) {
  static constexpr const char* kNames[] = {"file", "tmpfs", "fsdax", "devdax"};
  return state.backend < 4 ? kNames[state.backend] : "unknown";
}

const char* durability_of(const wire::NodeState& state) {
  return state.durability == wire::Durability::kPower ? "power" : "process";
}

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

[[noreturn]] void fail(const std::string& address, NodeStatus status) {
  switch (status) {
    case NodeStatus::kRefused:
      throw Failure{kExitRefused,
                    fmt::format("{} refuses this key, or speaks another version; nothing was done; "
                                "see --key-file",
                                printable(address))};
    case NodeStatus::kNoSpace:
      throw Failure{kExitFailed, fmt::format("{} has too many clients; nothing was done; try again",
                                             printable(address))};
    case NodeStatus::kTimeout:
      throw Failure{kExitFailed, fmt::format("{} does not answer; nothing was done; is bartenderd "
                                             "running there?",
                                             printable(address))};
    default:
      throw Failure{kExitFailed, fmt::format("{} cannot be reached, or hung up; nothing was done; "
                                             "is bartenderd running there?",
                                             printable(address))};
  }
}

// The state, and the arenas from first_arena on.
void ask(FarNode& node, const std::string& address, NodeReport& report) {
  NodeCompletion completion{};
  uint32_t count = 0;
  if (!node.status(0, report.arenas.size())) fail(address, NodeStatus::kLost);
  while (count == 0) count = node.poll(&completion, 1, kPollUs);
  if (completion.status != NodeStatus::kGood) fail(address, completion.status);
  uint32_t size_bytes = completion.length_bytes;
  if (size_bytes < sizeof(report.state) ||
      (size_bytes - sizeof(report.state)) % sizeof(wire::ArenaStatus) != 0) {
    fail(address, NodeStatus::kCorrupt);
  }
  std::memcpy(&report.state, node.buffer(0), sizeof(report.state));
  for (size_t at = sizeof(report.state); at < size_bytes; at += sizeof(wire::ArenaStatus)) {
    wire::ArenaStatus arena;
    std::memcpy(&arena, node.buffer(0) + at, sizeof(arena));
    report.arenas.push_back(arena);
  }
}

NodeReport look_at(const std::string& address_text, const std::string& key_file) {
  NodeAddress address;
  if (!parse_address(address_text.c_str(), address)) {
    throw Failure{kExitUsage, fmt::format("\"{}\" is no address; nothing was done; give "
                                          "192.0.2.7:7070 or [2001:db8::7]:7070",
                                          printable(address_text))};
  }
  NodeClient client = observer(key_file);
  auto node = std::make_unique<FarNode>();
  node->configure(address, client);
  NodeStatus status = node->connect(kConnectMs);
  if (status != NodeStatus::kGood) fail(address_text, status);
  NodeReport report{};
  size_t before;
  do {
    before = report.arenas.size();
    ask(*node, address_text, report);
  } while (report.arenas.size() > before && report.arenas.size() < report.state.arena_count);
  return report;
}

Json describe(const std::string& address, const NodeReport& report) {
  const wire::NodeState& state = report.state;
  Json json = json_document("node");
  json["address"] = address;
  json["node"] = uuid_of(state.node);
  json["backend"] = backend_of(state);
  json["durability"] = durability_of(state);
  json["transports"] = Json::array();
  if ((state.transports & 1) != 0) json["transports"].push_back("tcp");
  if ((state.transports & 2) != 0) json["transports"].push_back("verbs");
  json["draining"] = state.is_draining != 0;
  json["uptime_s"] = state.uptime_s;
  json["capacity_bytes"] = state.capacity_extents * kFarExtentBytes;
  json["free_bytes"] = state.free_extents * kFarExtentBytes;
  json["reserve_bytes"] = state.reserve_extents * kFarExtentBytes;
  json["quota_bytes"] = state.quota_extents >= state.capacity_extents
                            ? Json(nullptr)
                            : Json(state.quota_extents * kFarExtentBytes);
  json["connections"] = state.connections;
  json["reads"] = state.reads;
  json["writes"] = state.writes;
  json["releases"] = state.releases;
  json["refused"] = state.refused;
  json["fenced"] = state.fenced;
  json["corrupt"] = state.corrupt;
  json["damaged_headers"] = state.damaged_headers;
  json["arenas"] = Json::array();
  for (const wire::ArenaStatus& arena : report.arenas) {
    json["arenas"].push_back({{"uuid", uuid_of(arena.arena)},
                              {"epoch", arena.epoch},
                              {"extents", arena.extents},
                              {"bytes", arena.length_bytes},
                              {"connections", arena.connections}});
  }
  return json;
}

void print_text(const std::string& address, const NodeReport& report) {
  const wire::NodeState& state = report.state;
  auto line = [](const char* name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
  };
  line("node", fmt::format("{} at {}", uuid_of(state.node), printable(address)));
  line("state", state.is_draining != 0 ? yellow("draining") : green("serving"));
  line("store", fmt::format("{}, an acknowledged write survives a {}", backend_of(state),
                            state.durability == wire::Durability::kPower
                                ? "power cut"
                                : "death of the daemon, not a power cut"));
  line("up", fmt::format("{} s", state.uptime_s));
  line("capacity", human_size(state.capacity_extents * kFarExtentBytes));
  line("free", fmt::format("{}, {} of it kept for new generations",
                           human_size(state.free_extents * kFarExtentBytes),
                           human_size(state.reserve_extents * kFarExtentBytes)));
  line("quota", state.quota_extents >= state.capacity_extents
                    ? "none"
                    : human_size(state.quota_extents * kFarExtentBytes) + " each arena");
  line("operations",
       fmt::format("{} reads, {} writes, {} releases", state.reads, state.writes, state.releases));
  line("connections", fmt::format("{}", state.connections));
  line("turned away", fmt::format("{} refused, {} fenced", state.refused, state.fenced));
  std::string damage = fmt::format("{} writes with a wrong checksum, {} headers at the last start",
                                   state.corrupt, state.damaged_headers);
  line("damaged", state.corrupt + state.damaged_headers == 0 ? "nothing" : red(damage));
  if (report.arenas.empty()) return;
  fmt::print("\n");
  Table table({"ARENA", ">EPOCH", ">EXTENTS", ">BYTES", ">CONNECTIONS"});
  for (const wire::ArenaStatus& arena : report.arenas) {
    table.row({uuid_of(arena.arena), std::to_string(arena.epoch), std::to_string(arena.extents),
               human_size(arena.length_bytes), std::to_string(arena.connections)});
  }
  table.print();
}

}  // namespace

void add_node(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("node", "Show the state of a memory node");
  static std::string address;
  static std::string key_file;
  static bool is_json = false;
  command->add_option("ADDRESS", address, "of bartenderd: 192.0.2.7:7070")->required();
  command->add_option("--key-file", key_file, "the node's key")->required();
  command->add_flag("--json", is_json, "print JSON");
  command->footer("Exit status: 0 shown, 3 the key was refused, 4 no node there, 64 wrong usage.");
  command->callback([&status] {
    NodeReport report = look_at(address, key_file);
    is_json ? print_json(describe(address, report)) : print_text(address, report);
    status = kExitOk;
  });
}

}  // namespace btd::tools
