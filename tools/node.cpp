// bartender node: how a memory node is doing; and has it forget an arena that nobody needs.
#include <fmt/core.h>
#include <unistd.h>

#include <cctype>
#include <cstring>

#include "tools/node_observer.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr uint64_t kForgetMs = 60000;

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

wire::Forget parse_uuid(const std::string& text) {
  wire::Forget arena{};
  size_t digits = 0;
  bool is_good = true;
  for (char c : text) {
    if (c == '-') continue;
    bool is_digit = std::isxdigit(static_cast<unsigned char>(c)) != 0;
    is_good = is_good && is_digit && digits < 2 * wire::kUuidBytes;
    if (!is_good) break;
    int value = c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10;
    uint8_t& byte = arena.arena[digits++ / 2];
    byte = static_cast<uint8_t>(byte << 4 | value);
  }
  if (!is_good || digits != 2 * wire::kUuidBytes) {
    throw Failure{kExitUsage, fmt::format("--forget: \"{}\" is no arena's uuid; nothing was done; "
                                          "`bartender node` shows them",
                                          printable(text))};
  }
  return arena;
}

const wire::ArenaStatus* find(const NodeReport& report, const wire::Forget& arena) {
  for (const wire::ArenaStatus& one : report.arenas) {
    if (std::memcmp(one.arena, arena.arena, sizeof(arena.arena)) == 0) return &one;
  }
  return nullptr;
}

// Returns what the arena had, when all of it has been released.
wire::ArenaStatus forget(NodeObserver& node, const std::string& address, const std::string& text) {
  wire::Forget arena = parse_uuid(text);
  NodeReport before = node.look();
  const wire::ArenaStatus* found = find(before, arena);
  NodeStatus status = found == nullptr ? NodeStatus::kNotFound : node.forget(arena);
  if (status == NodeStatus::kNotFound) {
    throw Failure{kExitFailed, fmt::format("{} has no arena {}; nothing was done; `bartender node` "
                                           "shows those that it has",
                                           printable(address), uuid_of(arena.arena))};
  }
  if (status == NodeStatus::kRefused) {
    throw Failure{kExitRefused,
                  fmt::format("a program that uses arena {} is connected to {}; nothing was done; "
                              "end it first",
                              uuid_of(arena.arena), printable(address))};
  }
  if (status != NodeStatus::kGood) node.fail(status);
  uint64_t end_ms = steady_clock_ms() + kForgetMs;
  while (find(node.look(), arena) != nullptr) {
    if (steady_clock_ms() > end_ms) {
      throw Failure{kExitFailed,
                    fmt::format("{} is still releasing arena {}, and goes on by itself; "
                                "see `bartender node`",
                                printable(address), uuid_of(arena.arena))};
    }
    usleep(10000);
  }
  return *found;
}

const char* state_of(const wire::ArenaStatus& arena) {
  static constexpr const char* kNames[] = {"kept", "ending", "going"};
  auto index = static_cast<size_t>(arena.state);
  return index < 3 ? kNames[index] : "unknown";
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
                              {"connections", arena.connections},
                              {"owner_connected", arena.connections != 0},
                              {"state", state_of(arena)}});
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
  Table table({"ARENA", ">EPOCH", ">EXTENTS", ">BYTES", ">CONNECTIONS", "OWNER"});
  for (const wire::ArenaStatus& arena : report.arenas) {
    table.row({uuid_of(arena.arena), std::to_string(arena.epoch), std::to_string(arena.extents),
               human_size(arena.length_bytes), std::to_string(arena.connections),
               arena.state == wire::ArenaState::kKept
                   ? (arena.connections != 0 ? "connected" : "away")
                   : state_of(arena)});
  }
  table.print();
}

void print_forgotten(const wire::ArenaStatus& arena, const std::string& address, bool is_json) {
  if (!is_json) {
    fmt::print("{} has forgotten arena {}: {} extents with {}, and its epoch\n", printable(address),
               uuid_of(arena.arena), arena.extents, human_size(arena.length_bytes));
    return;
  }
  Json json = json_document("node");
  json["address"] = address;
  json["forgotten"] = {{"uuid", uuid_of(arena.arena)},
                       {"epoch", arena.epoch},
                       {"extents", arena.extents},
                       {"bytes", arena.length_bytes}};
  print_json(json);
}

}  // namespace

void add_node(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("node", "Show the state of a memory node, or have it forget an arena");
  static std::string address;
  static std::string key_file;
  static std::string uuid;
  static bool is_json = false;
  command->add_option("ADDRESS", address, "of bartenderd: 192.0.2.7:7070")->required();
  command->add_option("--key-file", key_file, "the node's key")->required();
  command->add_option(
      "--forget", uuid,
      "release all that this node has of the arena, for good; refused while a program "
      "that uses it is connected");
  command->add_flag("--json", is_json, "print JSON");
  command->footer(
      "Exit status: 0 shown or forgotten, 3 the key was refused or the arena is in use, 4 no node "
      "or\n"
      "arena there, 64 wrong usage.");
  command->callback([&status] {
    NodeObserver node(address, key_file);
    status = kExitOk;
    if (!uuid.empty()) return print_forgotten(forget(node, address, uuid), address, is_json);
    NodeReport report = node.look();
    is_json ? print_json(describe(address, report)) : print_text(address, report);
  });
}

}  // namespace btd::tools
