// A node's messages over TCP: for machines without a verbs device.
//
// Everything is in the object: no call makes more than socket calls, none allocates.  Requests
// leave in the order in which they were posted, straight from the slots, all that were posted since
// the last flush() in one call.  Replies come in any order.
//
// After the handshake messages carry checksums but no MAC: whoever can change packets on the way
// can change data.  docs/wire.md says what follows from that.
#pragma once

#include "rdma/carrier.hpp"

namespace btd {

class TcpCarrier final : public Carrier {
 public:
  NodeStatus open(const NodeAddress& address, ClientSlots& slots,
                  uint64_t deadline_ms) noexcept override;
  void close() noexcept override;
  wire::Transport transport() const noexcept override { return wire::Transport::kTcp; }
  uint32_t queue_pair() const noexcept override { return 0; }
  NodeStatus send(const wire::Message& message, uint64_t deadline_ms) noexcept override;
  NodeStatus receive(wire::Message& message, uint64_t deadline_ms) noexcept override;
  void start(const wire::Accept&, uint16_t) noexcept override { slots_->let_nodes_write(0); }
  bool post(const wire::Message& message) noexcept override;
  bool flush() noexcept override { return send_queued(); }
  bool progress() noexcept override { return send_queued() && receive_replies(); }
  void wait(uint64_t wait_us) noexcept override;

 private:
  NodeStatus receive_exactly(void* out, size_t size_bytes, uint64_t deadline_ms) noexcept;
  NodeStatus await(short events, uint64_t deadline_ms) noexcept;
  bool is_queued(uint32_t slot) const noexcept;
  bool send_queued() noexcept;
  bool receive_replies() noexcept;
  ssize_t receive_some() noexcept;
  bool consume() noexcept;
  bool take_message(const wire::Message& message) noexcept;

  int socket_ = -1;
  ClientSlots* slots_ = nullptr;

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
  char received_[kReceiveBytes];
};

}  // namespace btd
