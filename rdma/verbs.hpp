// A node's messages over verbs: bytes move one-sidedly between a slot's buffer and the node's
// staging buffer of the same slot; messages go by SEND.  docs/wire.md says how.
//
// tests/rdma/verbs_test.cpp checks what it does with completions, tests/vm/verbs_guest_test.cpp the
// whole of it on soft RoCE.  It has not met hardware.
#pragma once

#include "rdma/carrier.hpp"
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
  // Takes all events that are there, and says whether there were any.  false: as above.
  bool progress(VerbsQueue& queue, ClientSlots& slots, bool* is_any = nullptr) noexcept;
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

class VerbsCarrier final : public Carrier {
 public:
  // Whether it is worth a try: there is a device, and the libraries are there.  The first call that
  // sees a device loads them, which allocates.
  static bool is_possible() noexcept;

  // After kTimeout it may be called again, with the same arguments, and goes on where it was.
  NodeStatus open(const NodeAddress& address, ClientSlots& slots,
                  uint64_t deadline_ms) noexcept override;
  void close() noexcept override;
  ~VerbsCarrier() { close(); }
  wire::Transport transport() const noexcept override { return wire::Transport::kVerbs; }
  uint32_t queue_pair() const noexcept override { return queue_.queue_pair(); }
  NodeStatus send(const wire::Message& message, uint64_t deadline_ms) noexcept override;
  NodeStatus receive(wire::Message& message, uint64_t deadline_ms) noexcept override;
  void start(const wire::Accept& accept, uint16_t version) noexcept override {
    protocol_.start(accept.staging_address, accept.staging_key);
    bool may_write = version >= wire::kVersionReadInto && !slots_->is_sealed();
    slots_->let_nodes_write(may_write ? queue_.remote_key() : 0);
  }
  bool post(const wire::Message& message) noexcept override;
  bool progress() noexcept override;
  void wait(uint64_t wait_us) noexcept override;

 private:
  // How far open() is: what it waits for.
  enum class Stage : uint8_t { kClosed, kAddress, kRoute, kAnswer, kOpen };

  NodeStatus begin(const NodeAddress& address, ClientSlots& slots) noexcept;
  bool connect() noexcept;
  bool probe_if_silent(bool has_heard) noexcept;
  void await_either(uint64_t wait_ms) noexcept;
  NodeStatus await_event(rdma_cm_event_type wanted, uint64_t deadline_ms) noexcept;

  const VerbsLibrary* library_ = nullptr;
  ClientSlots* slots_ = nullptr;
  rdma_event_channel* events_ = nullptr;
  rdma_cm_id* id_ = nullptr;
  Stage stage_ = Stage::kClosed;
  uint64_t silent_since_ms_ = 0;  // of the node, while it owes an answer; 0: it does not
  uint32_t spins_ = 0;            // rounds since something happened
  bool has_bad_news_ = false;  // the connection is gone; what came before may still be in the queue
  VerbsProtocol protocol_;
  DeviceQueue queue_;
};

}  // namespace btd
