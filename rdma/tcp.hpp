// A memory node over TCP: for machines without a verbs device, with the same messages.
//
// Everything is in the object: no call but connect() makes more than socket calls, none allocates.
// Requests leave in the order in which they were posted, straight from the slots; what the socket
// does not take at once waits for poll().  Replies come in any order.
//
// After the handshake messages carry checksums but no MAC: whoever can change packets on the way
// can change data.  docs/wire.md says what follows from that.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include "rdma/client_slots.hpp"
#include "rdma/handshake.hpp"

namespace btd {

struct NodeAddress {
  sockaddr_storage storage;
  socklen_t length;
};

// "192.0.2.7:7070" or "[2001:db8::7]:7070"; numbers only: looking names up allocates, and a name
// server that is down must not stop a program.
[[nodiscard]] bool parse_address(const char* text, NodeAddress& address) noexcept;

// An operation without an answer for so long means that the node is dead: a disk's worst flush and
// a switch's failover fit into it.
inline constexpr uint32_t kOperationMsDefault = 5000;

// Thread safety: one thread at a time.
class TcpNode final : public Node {
 public:
  // Before the first connect().  operation_ms: the deadline of each operation.
  void configure(const NodeAddress& address, const NodeClient& client, const Crypto& crypto,
                 uint32_t operation_ms = kOperationMsDefault) noexcept;
  ~TcpNode() { drop(NodeStatus::kLost); }

  NodeStatus connect(uint32_t deadline_ms) noexcept override;
  bool is_connected() const noexcept override { return socket_ >= 0; }
  char* buffer(uint32_t slot) noexcept override { return slots_.buffer(slot); }
  bool read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept override;
  bool write(uint32_t slot, uint64_t extent, uint64_t generation,
             uint32_t length_bytes) noexcept override;
  bool release(uint32_t slot, uint64_t extent) noexcept override;
  bool list(uint32_t slot, uint64_t first_extent) noexcept override;
  uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept override;
  void close() noexcept override { drop(NodeStatus::kLost); }

  // A wire::NodeState and its ArenaStatus from the given index on into the buffer.
  bool status(uint32_t slot, uint64_t first_arena) noexcept;
  // REQUIRES: connect() was good.
  const wire::ClientHandshake& handshake() const { return handshake_; }

 private:
  NodeStatus greet(uint64_t deadline_ms) noexcept;
  NodeStatus send_message(const wire::Message& message, uint64_t deadline_ms) noexcept;
  NodeStatus receive_message(wire::Message& message, uint64_t deadline_ms) noexcept;
  NodeStatus receive_exactly(void* out, size_t size_bytes, uint64_t deadline_ms) noexcept;
  NodeStatus await(short events, uint64_t deadline_ms) noexcept;

  uint64_t deadline() const noexcept { return steady_clock_ms() + operation_ms_; }
  bool post(uint32_t slot, const wire::Message* message) noexcept;
  bool is_queued(uint32_t slot) const noexcept;
  void progress() noexcept;
  void send_queued() noexcept;
  void receive() noexcept;
  bool consume() noexcept;
  void drop(NodeStatus status) noexcept;

  // Constant after configure().
  NodeAddress address_{};
  NodeClient client_{};
  const Crypto* crypto_ = nullptr;
  uint32_t operation_ms_ = kOperationMsDefault;

  int socket_ = -1;
  wire::ClientHandshake handshake_;
  ClientSlots slots_;

  // Slots whose request is not yet wholly sent, oldest first, and how much of the oldest is.
  uint8_t queue_[kNodeDepth]{};
  uint32_t queue_begin_ = 0;
  uint32_t queue_count_ = 0;
  size_t sent_bytes_ = 0;

  // What was received and not yet understood; and the payload that goes past it into a slot.
  static constexpr size_t kReceiveBytes = 4096;
  size_t received_begin_ = 0;
  size_t received_end_ = 0;
  uint32_t payload_slot_ = kNodeDepth;  // kNodeDepth: none is coming
  uint32_t payload_got_bytes_ = 0;
  char received_[kReceiveBytes]{};
};

}  // namespace btd
