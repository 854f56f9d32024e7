// What carries the messages of one node: TCP or verbs.  All that does not depend on it, the
// handshake, the operations and their deadlines, is in FarNode.
#pragma once

#include "rdma/address.hpp"
#include "rdma/client_slots.hpp"

namespace btd {

// Thread safety: that of the FarNode it belongs to: one thread at a time.
class Carrier {
 public:
  // Makes a connection over which nothing has been said yet.  REQUIRES: closed.  `slots` stay where
  // they are until close().  ERRORS: kLost, kTimeout.
  virtual NodeStatus open(const NodeAddress& address, ClientSlots& slots,
                          uint64_t deadline_ms) noexcept = 0;
  // Nothing touches the slots' buffers any more when it returns.
  virtual void close() noexcept = 0;
  virtual wire::Transport transport() const noexcept = 0;
  virtual uint32_t queue_pair() const noexcept = 0;  // its number; 0 over TCP

  // In the handshake, one message at a time.  What is received is sound, of
  // Phase::kClientHandshake.  ERRORS: kLost, kTimeout; kRefused the peer speaks something else.
  virtual NodeStatus send(const wire::Message& message, uint64_t deadline_ms) noexcept = 0;
  virtual NodeStatus receive(wire::Message& message, uint64_t deadline_ms) noexcept = 0;
  // After it.  version: the one that both speak.
  virtual void start(const wire::Accept& accept, uint16_t version) noexcept = 0;

  // post() sends what a slot has begun, or leaves that to flush(); progress() does that too, takes
  // what has come and tells the slots.  false: the connection must be closed, and what is in flight
  // has the status failure().
  virtual bool post(const wire::Message& message) noexcept = 0;
  virtual bool flush() noexcept { return true; }
  virtual bool progress() noexcept = 0;
  NodeStatus failure() const { return failure_; }
  // Until progress() may have something to do, at most wait_us.
  virtual void wait(uint64_t wait_us) noexcept = 0;

 protected:
  ~Carrier() = default;

  bool fail(NodeStatus status) noexcept {
    failure_ = status;
    return false;
  }

 private:
  NodeStatus failure_ = NodeStatus::kLost;
};

}  // namespace btd
