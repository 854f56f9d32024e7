#include "tools/node/service.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <cstring>

#include "core/base/crc32c.hpp"
#include "core/base/sys.hpp"

namespace btd::tools {

using wire::Type;

namespace {

// Changes of one commit: enough to share its drains, few enough to keep nobody waiting.
constexpr size_t kChangeCountMax = 64;

// An owner that has said forget and was cut off comes back within this time, for what it still has
// to read.
constexpr uint64_t kForgetLingerMs = 2000;

// Extents that are released in one round: some milliseconds.
constexpr size_t kForgetExtentCount = 4096;

Uuid uuid_of(const uint8_t* bytes) {
  Uuid uuid;
  std::memcpy(uuid.data(), bytes, uuid.size());
  return uuid;
}

wire::Reply reply_to(Type request, NodeStatus status) {
  wire::Reply reply{};
  reply.status = status;
  reply.request = request;
  return reply;
}

Payload own_payload(std::vector<char> bytes) {
  Payload payload;
  payload.own = std::move(bytes);
  payload.data = payload.own.data();
  payload.size_bytes = static_cast<uint32_t>(payload.own.size());
  return payload;
}

void append(std::vector<char>& bytes, const auto& record) {
  auto* begin = reinterpret_cast<const char*>(&record);
  bytes.insert(bytes.end(), begin, begin + sizeof(record));
}

bool may_ask(wire::Role role, Type type) {
  switch (role) {
    case wire::Role::kOwner:
      return true;
    case wire::Role::kObserver:
      return type == Type::kStatus || type == Type::kForget;
    case wire::Role::kReader:
      return type == Type::kRead || type == Type::kReadInto || type == Type::kList;
  }
  return false;
}

}  // namespace

std::string uuid_text(const Uuid& uuid) {
  std::string text;
  for (size_t i = 0; i < uuid.size(); i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", uuid[i]);
  }
  return text;
}

Service::Service(Store& store, const uint8_t* key, wire::Durability durability, Backend backend,
                 std::function<void(const std::string&)> event)
    : store_(store),
      key_(key),
      durability_(durability),
      backend_(backend),
      event_(std::move(event)),
      started_s_(sys::steady_clock_s()) {}

void Service::remove(Connection& connection) {
  connection.state = Connection::State::kClosed;
  std::erase(connections_, &connection);
  if (connection.arena != nullptr) connection.arena->connections--;
  connection.arena = nullptr;
  for (Asked& asked : asked_) {
    if (asked.connection == &connection) asked.connection = nullptr;
  }
}

bool Service::on_message(Connection& connection, const wire::Message& message, NodeStatus& why) {
  uint8_t slot = message.header.slot;
  switch (connection.state) {
    case Connection::State::kHello:
      return on_hello(connection, message, why);
    case Connection::State::kProof:
      return on_proof(connection, message, why);
    case Connection::State::kClosed:
      return false;
    case Connection::State::kReady:
      break;
  }
  why = NodeStatus::kCorrupt;
  if (!may_ask(connection.role, message.header.type)) return false;
  if (!begin(connection, slot)) return false;
  switch (message.header.type) {
    case Type::kRead:
      on_read(connection, slot, message.as<wire::Read>());
      return true;
    case Type::kReadInto: {
      connection.place(message);
      auto read = message.as<wire::ReadInto>();
      on_read(connection, slot, {.extent = read.extent, .generation_min = read.generation_min});
      return true;
    }
    case Type::kRelease:
      on_release(connection, slot, message.as<wire::Release>());
      return true;
    case Type::kList:
      on_list(connection, slot, message.as<wire::List>());
      return true;
    case Type::kStatus:
      on_status(connection, slot, message.as<wire::Status>());
      return true;
    case Type::kForget:
      return on_forget(connection, slot, message.as<wire::Forget>());
    default:
      return false;
  }
}

bool Service::begin(Connection& connection, uint8_t slot) {
  if (connection.in_progress >> slot & 1) return false;
  connection.in_progress |= 1U << slot;
  return true;
}

bool Service::on_hello(Connection& connection, const wire::Message& message, NodeStatus& why) {
  why = NodeStatus::kRefused;
  if (message.header.type != Type::kHello) return false;
  wire::Challenge challenge{};
  challenge.transport = connection.transport;
  challenge.durability = durability_;
  challenge.queue_pair = connection.queue_pair();
  std::memcpy(challenge.node, store_.node().data(), sizeof(challenge.node));
  wire::Message answer;
  if (connection.handshake.on_hello(message, challenge, answer) != NodeStatus::kGood) {
    counters_.refused++;
    return false;
  }
  connection.state = Connection::State::kProof;
  connection.send(answer);
  return true;
}

bool Service::on_proof(Connection& connection, const wire::Message& message, NodeStatus& why) {
  why = NodeStatus::kRefused;
  if (message.header.type != Type::kProof || !connection.handshake.on_proof(key_, message)) {
    counters_.refused++;
    event_(fmt::format("{}: refused: wrong key", connection.peer));
    return false;
  }
  const wire::Hello& hello = connection.handshake.hello();
  wire::Accept accept{};
  accept.capacity_extents = store_.slot_count();
  accept.quota_extents = store_.quota_extents();
  accept.depth = kNodeDepth;
  if (hello.role == wire::Role::kOwner) {
    Uuid uuid = uuid_of(hello.arena);
    commit();  // what older connections wrote before this moment counts
    if (connection.state != Connection::State::kProof) return false;
    why = store_.may_take_over(uuid, uuid_of(hello.client), hello.epoch);
    if (why == NodeStatus::kGood) {
      // The older ones are gone before the newer one is on media, let alone accepted.
      for (const auto& arena : store_.arenas()) {
        if (arena->uuid == uuid && hello.epoch > arena->epoch) fence(*arena, connection);
      }
      why = store_.take_over(uuid, uuid_of(hello.client), hello.epoch, connection.arena);
    }
    if (why != NodeStatus::kGood) {
      (why == NodeStatus::kFenced ? counters_.fenced : counters_.refused)++;
      event_(fmt::format("{}: refused: arena {} epoch {}{}", connection.peer, uuid_text(uuid),
                         hello.epoch,
                         why == NodeStatus::kFenced ? " is not its newest" : ": too many arenas"));
      return false;
    }
    connection.arena->connections++;
    accept.arena_extents = connection.arena->extents.size();
    event_(fmt::format("{}: arena {} epoch {}, {} extents", connection.peer, uuid_text(uuid),
                       hello.epoch, accept.arena_extents));
  }
  if (hello.role == wire::Role::kReader) {
    // Nothing on media, no place among the arenas, and no connection of the arena: it hinders
    // neither a takeover nor the end of the arena.
    const NodeArena* arena = store_.find_arena(uuid_of(hello.arena));
    accept.arena_extents = arena == nullptr ? 0 : arena->extents.size();
    event_(fmt::format("{}: reads arena {}, {} extents", connection.peer,
                       uuid_text(uuid_of(hello.arena)), accept.arena_extents));
  }
  connection.role = hello.role;
  connection.epoch = hello.epoch;
  connection.state = Connection::State::kReady;
  connection.fill(accept);
  wire::Message answer;
  connection.handshake.accept(key_, accept, answer);
  connection.send(answer);
  return true;
}

void Service::fence(NodeArena& arena, const Connection& newcomer) {
  std::vector<Connection*> older;
  for (Connection* connection : connections_) {
    if (connection->arena == &arena && connection != &newcomer) older.push_back(connection);
  }
  for (Connection* connection : older) {
    counters_.fenced++;
    event_(fmt::format("{}: fenced: arena {} has a newer epoch", connection->peer,
                       uuid_text(arena.uuid)));
    connection->close(NodeStatus::kFenced);
  }
}

// What a request is about.  A reader holds no arena, which may end while it is connected; nullptr:
// there is none.
NodeArena* Service::arena_of(const Connection& connection) {
  if (connection.role != wire::Role::kReader) return connection.arena;
  return store_.find_arena(uuid_of(connection.handshake.hello().arena));
}

void Service::on_read(Connection& connection, uint8_t slot, const wire::Read& read) {
  counters_.reads++;
  SlotIndex index = kNoSlot;
  NodeArena* arena = arena_of(connection);
  const SlotHeader* header = arena == nullptr ? nullptr : store_.find(*arena, read.extent, index);
  wire::Reply reply = reply_to(Type::kRead, NodeStatus::kGood);
  if (header == nullptr) {
    reply.status = NodeStatus::kNotFound;
    return connection.reply(slot, reply, {});
  }
  reply.generation = header->generation;
  if (header->generation < read.generation_min) {
    reply.status = NodeStatus::kStale;
    return connection.reply(slot, reply, {});
  }
  reply.length_bytes = header->length_bytes;
  reply.crc = header->data_crc;
  reply.seal = header->seal;
  Payload payload;
  payload.pinned = index;
  payload.data = store_.bytes(index);
  payload.size_bytes = header->length_bytes;
  store_.pin(index);
  connection.reply(slot, reply, std::move(payload));
}

void Service::on_list(Connection& connection, uint8_t slot, const wire::List& list) {
  constexpr size_t kEntryCountMax = kFarExtentBytes / sizeof(NodeEntry);
  std::vector<char> bytes;
  if (NodeArena* arena = arena_of(connection); arena != nullptr) {
    size_t count = 0;
    for (auto at = arena->extents.lower_bound(list.first_extent);
         at != arena->extents.end() && count < kEntryCountMax; ++at, count++) {
      SlotIndex index;
      const SlotHeader* header = store_.find(*arena, at->first, index);
      append(bytes, NodeEntry{.extent = at->first,
                              .generation = header->generation,
                              .length_bytes = header->length_bytes,
                              .crc = header->data_crc});
    }
  }
  wire::Reply reply = reply_to(Type::kList, NodeStatus::kGood);
  reply.length_bytes = static_cast<uint32_t>(bytes.size());
  reply.crc = crc32c(bytes.data(), bytes.size());
  connection.reply(slot, reply, own_payload(std::move(bytes)));
}

void Service::on_status(Connection& connection, uint8_t slot, const wire::Status& status) {
  wire::NodeState state{};
  std::memcpy(state.node, store_.node().data(), sizeof(state.node));
  state.capacity_extents = store_.slot_count();
  state.free_extents = store_.free_count();
  state.reserve_extents = store_.reserve_count();
  state.quota_extents = store_.quota_extents();
  state.reads = counters_.reads;
  state.writes = counters_.writes;
  state.releases = counters_.releases;
  state.refused = counters_.refused;
  state.fenced = counters_.fenced;
  state.corrupt = counters_.corrupt;
  state.damaged_headers = store_.damaged_headers();
  state.uptime_s = sys::steady_clock_s() - started_s_;
  state.connections = static_cast<uint32_t>(connections_.size());
  state.arena_count = static_cast<uint32_t>(store_.arenas().size());
  state.durability = durability_;
  state.backend = static_cast<uint8_t>(backend_);
  state.transports = transports_;
  state.is_draining = is_draining_ ? 1 : 0;
  std::vector<char> bytes;
  append(bytes, state);
  const auto& arenas = store_.arenas();
  for (uint64_t i = status.first_arena;
       i < arenas.size() && i - status.first_arena < wire::kArenaStatusCountMax; i++) {
    const NodeArena& arena = *arenas[i];
    wire::ArenaStatus entry{};
    std::memcpy(entry.arena, arena.uuid.data(), sizeof(entry.arena));
    entry.epoch = arena.epoch;
    entry.extents = arena.extents.size();
    entry.length_bytes = arena.length_bytes;
    entry.connections = arena.connections;
    entry.state = arena.state;
    append(bytes, entry);
  }
  wire::Reply reply = reply_to(Type::kStatus, NodeStatus::kGood);
  reply.length_bytes = static_cast<uint32_t>(bytes.size());
  reply.crc = crc32c(bytes.data(), bytes.size());
  connection.reply(slot, reply, own_payload(std::move(bytes)));
}

bool Service::begin_write(Connection& connection, const wire::Message& message, SlotIndex& slot,
                          wire::Reply& refusal) {
  slot = kNoSlot;
  if (connection.role != wire::Role::kOwner || !begin(connection, message.header.slot))
    return false;
  auto write = message.as<wire::Write>();
  refusal = reply_to(Type::kWrite, NodeStatus::kGood);
  refusal.status =
      store_.lease(*connection.arena, write.extent, write.generation, slot, refusal.generation);
  return true;
}

void Service::end_write(Connection& connection, const wire::Message& message, SlotIndex slot) {
  auto write = message.as<wire::Write>();
  counters_.writes++;
  add_change(connection, message.header.slot, Type::kWrite,
             {.arena = connection.arena,
              .extent = write.extent,
              .generation = write.generation,
              .epoch = connection.epoch,
              .length_bytes = write.length_bytes,
              .crc = write.crc,
              .slot = slot,
              .seal = write.seal});
}

void Service::on_release(Connection& connection, uint8_t slot, const wire::Release& release) {
  counters_.releases++;
  add_change(connection, slot, Type::kRelease,
             {.arena = connection.arena,
              .extent = release.extent,
              .generation = 0,
              .epoch = connection.epoch,
              .length_bytes = 0,
              .crc = 0,
              .slot = kNoSlot});
}

bool Service::on_forget(Connection& connection, uint8_t slot, const wire::Forget& forget) {
  wire::Reply reply = reply_to(Type::kForget, NodeStatus::kGood);
  NodeArena* arena = store_.find_arena(uuid_of(forget.arena));
  if (connection.role == wire::Role::kOwner) {
    if (arena != connection.arena) return false;
    store_.set_state(*arena, wire::ArenaState::kMarked);
  } else if (arena == nullptr) {
    reply.status = NodeStatus::kNotFound;
  } else if (arena->connections != 0) {
    reply.status = NodeStatus::kRefused;
  } else {
    store_.set_state(*arena, wire::ArenaState::kGoing);
    event_(fmt::format("{}: forget arena {}, {} extents", connection.peer, uuid_text(arena->uuid),
                       arena->extents.size()));
  }
  connection.reply(slot, reply, {});
  return true;
}

void Service::on_registered(bool is_registered) {
  if (has_told_[is_registered]) return;
  has_told_[is_registered] = true;
  event_(is_registered ? "the store is registered with the network card: reads need no copy"
                       : "the network card does not take the store: reads are copied");
}

bool Service::forget_some(uint64_t now_ms) {
  if (!store_.is_any_leaving()) return false;
  NodeArena* going = nullptr;
  for (const auto& arena : store_.arenas()) {
    if (arena->state == wire::ArenaState::kMarked) {
      if (arena->connections != 0) {
        arena->alone_since_ms = 0;
      } else if (arena->alone_since_ms == 0) {
        arena->alone_since_ms = now_ms;
      } else if (now_ms >= arena->alone_since_ms + kForgetLingerMs) {
        event_(fmt::format("arena {}: its owner has ended, {} extents go", uuid_text(arena->uuid),
                           arena->extents.size()));
        store_.set_state(*arena, wire::ArenaState::kGoing);
      }
    }
    if (arena->state == wire::ArenaState::kGoing) going = arena.get();
  }
  if (going != nullptr) store_.forget(*going, kForgetExtentCount);
  return going != nullptr;
}

void Service::add_change(Connection& connection, uint8_t slot, Type type, const Change& change) {
  bool is_named = std::any_of(changes_.begin(), changes_.end(), [&](const Change& other) {
    return other.arena == change.arena && other.extent == change.extent;
  });
  if (is_named || changes_.size() == kChangeCountMax) commit();
  changes_.push_back(change);
  asked_.push_back({.connection = &connection, .slot = slot, .type = type});
}

void Service::commit() {
  if (changes_.empty()) return;
  store_.commit(changes_);
  // A reply may end its connection, and so change asked_, but it adds nothing to it.
  for (size_t i = 0; i < asked_.size(); i++) {
    const Change& change = changes_[i];
    if (change.status == NodeStatus::kCorrupt) counters_.corrupt++;
    if (asked_[i].connection == nullptr) continue;
    wire::Reply reply = reply_to(asked_[i].type, change.status);
    reply.generation = change.newest;
    asked_[i].connection->reply(asked_[i].slot, reply, {});
  }
  changes_.clear();
  asked_.clear();
}

}  // namespace btd::tools
