// A memory node as a client has it, over verbs where there is a device and over TCP otherwise: the
// handshake, the operations and their deadlines, whatever carries the messages.
//
// Everything is in the object.  No call allocates but connect() where there is a verbs device:
// loading and setting up verbs does.
#pragma once

#include "rdma/handshake.hpp"
#include "rdma/tcp.hpp"
#include "rdma/verbs.hpp"

namespace btd {

// An operation without an answer for so long means that the node is dead: a disk's worst flush and
// a switch's failover fit into it.
inline constexpr uint32_t kOperationMsDefault = 5000;

// Thread safety: one thread at a time.
class FarNode final : public Node {
 public:
  // Before the first connect(); `client` and `sealer` stay where they are.  operation_ms: the
  // deadline of each operation.  sealer: nullptr, extents go as they are.
  void configure(const NodeAddress& address, const NodeClient& client,
                 uint32_t operation_ms = kOperationMsDefault,
                 const Sealer* sealer = nullptr) noexcept;
  ~FarNode() { drop(NodeStatus::kLost); }

  // Verbs have half of the deadline, so that TCP has the other half when they fail.  A deadline of
  // less than a second is only a slice for them: after kTimeout the next calls go on, and after 1.5
  // s TCP is tried.
  NodeStatus connect(uint32_t deadline_ms) noexcept override;
  bool is_connected() const noexcept override { return carrier_ != nullptr; }
  char* buffer(uint32_t slot) noexcept override { return slots_.buffer(slot); }
  bool read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept override;
  bool write(uint32_t slot, uint64_t extent, uint64_t generation,
             uint32_t length_bytes) noexcept override;
  bool release(uint32_t slot, uint64_t extent) noexcept override;
  bool list(uint32_t slot, uint64_t first_extent) noexcept override;
  uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept override;
  void gather(bool is_on) noexcept override;
  void close() noexcept override { drop(NodeStatus::kLost); }

  // A wire::NodeState and its ArenaStatus from the given index on into the buffer.
  bool status(uint32_t slot, uint64_t first_arena) noexcept;
  // For an owner: its own arena is to be released as soon as its last connection has gone.  For an
  // observer: now; kRefused while an owner is connected, kNotFound there is no such arena.  Good
  // means that it happens, over a restart of the node too.
  bool forget(uint32_t slot, const wire::Forget& arena) noexcept;
  // REQUIRES: connected.
  wire::Transport transport() const { return carrier_->transport(); }
  // REQUIRES: connect() was good.
  const wire::ClientHandshake& handshake() const { return handshake_; }

 private:
  NodeStatus connect_by(Carrier& carrier, uint64_t deadline_ms) noexcept;
  NodeStatus greet(Carrier& carrier, uint64_t deadline_ms) noexcept;
  uint64_t deadline() const noexcept { return steady_clock_ms() + operation_ms_; }
  bool post(const wire::Message* message) noexcept;
  void progress() noexcept;
  void drop(NodeStatus status) noexcept;

  // Constant after configure().
  NodeAddress address_{};
  const NodeClient* client_ = nullptr;
  uint32_t operation_ms_ = kOperationMsDefault;

  Carrier* carrier_ = nullptr;   // nullptr: not connected
  bool is_gathering_ = false;    // what is posted waits
  bool is_pending_ = false;      // verbs_ is on its way; connect() goes on with it
  bool is_greeting_ = false;     // the hello of this attempt is out
  uint64_t verbs_until_ms_ = 0;  // while it is pending
  uint64_t verbs_again_ms_ = 0;
  wire::ClientHandshake handshake_;
  TcpCarrier tcp_;
  ClientSlots slots_;
  VerbsCarrier verbs_;  // after slots_: closed before their buffers go
};

}  // namespace btd
