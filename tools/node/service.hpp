// What a memory node answers, whatever the transport: who may in, what a request does, who is
// fenced.
//
// Changes are collected and committed together, once a round of the event loop, so that their
// drains are shared; an answer to a change is sent after its commit.
//
// Invariants: 1. of an arena only connections of its highest epoch and one client are kReady; those
// of an older epoch are destroyed before the newer one is accepted; 2. nothing but the counters
// changes for a client that has not proven itself; 3. a connection has at most one request in
// progress on a slot.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "rdma/handshake.hpp"
#include "tools/node/store.hpp"

namespace btd::tools {

// What follows a reply: bytes of the store, pinned until they are sent, or bytes of its own.
struct Payload {
  SlotIndex pinned = kNoSlot;
  const char* data = nullptr;
  uint32_t size_bytes = 0;
  std::vector<char> own;
};

// One client's connection.  The transport derives from it and owns it.
class Connection {
 public:
  enum class State : uint8_t { kHello, kProof, kReady, kClosed };

  explicit Connection(wire::Transport transport) : transport(transport) {}
  virtual ~Connection() = default;
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  virtual void send(const wire::Message& message) = 0;
  // Sends the reply with its payload.  The slot of the request is in progress until the reply has
  // left: the transport calls Service::answered() then.
  virtual void reply(uint8_t slot, wire::Reply reply, Payload payload) = 0;
  // Says why, if that can be done without waiting, and ends the connection.  It can do nothing to
  // the store any more when this returns.
  virtual void close(NodeStatus why) = 0;
  virtual void fill(wire::Accept& accept) { (void)accept; }
  // The next reply to a read on this slot has its bytes there.
  virtual void place(const wire::Message& message) { (void)message; }
  virtual uint32_t queue_pair() const { return 0; }

  const wire::Transport transport;
  State state = State::kHello;
  std::string peer;  // its address, for people
  wire::NodeHandshake handshake;
  wire::Role role = wire::Role::kObserver;
  NodeArena* arena = nullptr;
  uint64_t epoch = 0;
  uint32_t in_progress = 0;  // a bit for each slot
};

struct Counters {
  uint64_t reads = 0;
  uint64_t writes = 0;
  uint64_t releases = 0;
  uint64_t refused = 0;
  uint64_t fenced = 0;
  uint64_t corrupt = 0;
};

// Thread safety: one thread.
class Service {
 public:
  // event: a line for the log.
  Service(Store& store, const uint8_t* key, wire::Durability durability, Backend backend,
          std::function<void(const std::string&)> event);

  void add(Connection& connection) { connections_.push_back(&connection); }
  // Forgets it.  Its leases are the transport's to give back.
  void remove(Connection& connection);

  // Takes a sound message of the connection's phase, but no kWrite over TCP; false: close it, for
  // the reason `why`.
  [[nodiscard]] bool on_message(Connection& connection, const wire::Message& message,
                                NodeStatus& why);

  // A kWrite whose bytes are still to come, or lie in a staging buffer: leases a slot for them.
  // false: the client broke the protocol.  slot == kNoSlot: there is no room or need for the bytes,
  // and `refusal` is what to answer after them.
  [[nodiscard]] bool begin_write(Connection& connection, const wire::Message& message,
                                 SlotIndex& slot, wire::Reply& refusal);
  // They are all in the slot.
  void end_write(Connection& connection, const wire::Message& message, SlotIndex slot);
  static void answered(Connection& connection, uint8_t slot) {
    connection.in_progress &= ~(1U << slot);
  }
  // Makes all changes so far durable and answers them.
  void commit();

  // At the end of a round, after commit(): releases arenas that have been forgotten, a part at a
  // time.  true: there is more to do.
  bool forget_some(uint64_t now_ms);

  // Of a store that may be registered with a card: whether one took it.
  void on_registered(bool is_registered);
  void set_transports(uint8_t bits) { transports_ = bits; }
  void set_draining() { is_draining_ = true; }
  Store& store() { return store_; }
  const Counters& counters() const { return counters_; }

 private:
  struct Asked {
    Connection* connection;  // nullptr: it is gone
    uint8_t slot;
    wire::Type type;
  };

  bool on_hello(Connection& connection, const wire::Message& message, NodeStatus& why);
  bool on_proof(Connection& connection, const wire::Message& message, NodeStatus& why);
  void fence(NodeArena& arena, const Connection& newcomer);
  bool begin(Connection& connection, uint8_t slot);
  NodeArena* arena_of(const Connection& connection);
  void on_read(Connection& connection, uint8_t slot, const wire::Read& read);
  void on_release(Connection& connection, uint8_t slot, const wire::Release& release);
  void on_list(Connection& connection, uint8_t slot, const wire::List& list);
  void on_status(Connection& connection, uint8_t slot, const wire::Status& status);
  bool on_forget(Connection& connection, uint8_t slot, const wire::Forget& forget);
  void add_change(Connection& connection, uint8_t slot, wire::Type type, const Change& change);

  Store& store_;
  const uint8_t* key_;
  const wire::Durability durability_;
  const Backend backend_;
  const std::function<void(const std::string&)> event_;
  const uint64_t started_s_;
  uint8_t transports_ = 1;
  bool is_draining_ = false;
  bool has_told_[2] = {};  // that the store was registered, that it was not
  Counters counters_;
  std::vector<Connection*> connections_;
  std::vector<Change> changes_;
  std::vector<Asked> asked_;  // changes_[i] is for asked_[i]
};

std::string uuid_text(const Uuid& uuid);

}  // namespace btd::tools
