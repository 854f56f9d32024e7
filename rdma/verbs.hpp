// A memory node over verbs: bytes move one-sidedly between a slot's buffer and the node's staging
// buffer of the same slot; messages go by SEND.  docs/wire.md says how.
//
// NOT YET RUN ON A DEVICE: there is none where it was written.  tests/rdma/verbs_test.cpp checks
// what it does with completions; the virtual machine's soft RoCE comes later.
#pragma once

#include "rdma/client_slots.hpp"
#include "rdma/handshake.hpp"
#include "rdma/tcp.hpp"
#include "rdma/verbs_queue.hpp"

namespace btd {

// What a client does with a queue's events, apart from how the queue came to be.
class VerbsProtocol {
 public:
  // After the handshake.
  void start(uint64_t staging_address, uint32_t staging_key) {
    staging_address_ = staging_address;
    staging_key_ = staging_key;
    status_ = NodeStatus::kGood;
  }

  // Posts what a slot has begun.  false: the connection must go; status() says why.
  bool post(VerbsQueue& queue, ClientSlots& slots, const wire::Message& message) noexcept;
  // Takes all events that are there.  false: as above.
  bool progress(VerbsQueue& queue, ClientSlots& slots) noexcept;
  NodeStatus status() const { return status_; }

 private:
  bool fail(NodeStatus status) noexcept {
    status_ = status;
    return false;
  }
  bool on_message(VerbsQueue& queue, ClientSlots& slots, const wire::Message& message) noexcept;

  uint64_t staging_address_ = 0;
  uint32_t staging_key_ = 0;
  NodeStatus status_ = NodeStatus::kGood;
};

// Thread safety: one thread at a time.
class VerbsNode final : public Node {
 public:
  void configure(const NodeAddress& address, const NodeClient& client, const Crypto& crypto,
                 const VerbsLibrary& library, uint32_t operation_ms = kOperationMsDefault) noexcept;
  ~VerbsNode() { drop(NodeStatus::kLost); }

  NodeStatus connect(uint32_t deadline_ms) noexcept override;
  bool is_connected() const noexcept override { return is_connected_; }
  char* buffer(uint32_t slot) noexcept override { return slots_.buffer(slot); }
  bool read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept override;
  bool write(uint32_t slot, uint64_t extent, uint64_t generation,
             uint32_t length_bytes) noexcept override;
  bool release(uint32_t slot, uint64_t extent) noexcept override;
  bool list(uint32_t slot, uint64_t first_extent) noexcept override;
  uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept override;
  void close() noexcept override { drop(NodeStatus::kLost); }

 private:
  NodeStatus establish(uint64_t deadline_ms) noexcept;
  NodeStatus await_event(rdma_cm_event_type wanted, uint64_t deadline_ms) noexcept;
  NodeStatus greet(uint64_t deadline_ms) noexcept;
  NodeStatus receive_message(wire::Message& message, uint64_t deadline_ms) noexcept;
  uint64_t deadline() const noexcept { return steady_clock_ms() + operation_ms_; }
  bool post(const wire::Message* message) noexcept;
  void progress() noexcept;
  void drop(NodeStatus status) noexcept;

  // Constant after configure().
  NodeAddress address_{};
  NodeClient client_{};
  const Crypto* crypto_ = nullptr;
  const VerbsLibrary* library_ = nullptr;
  uint32_t operation_ms_ = kOperationMsDefault;

  bool is_connected_ = false;
  rdma_event_channel* events_ = nullptr;
  rdma_cm_id* id_ = nullptr;
  wire::ClientHandshake handshake_;
  VerbsProtocol protocol_;
  ClientSlots slots_;
  DeviceQueue queue_;  // after slots_: closed before their buffers go
};

}  // namespace btd
