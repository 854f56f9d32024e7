// The slots of a Node, whatever carries its messages: what is in flight, what a reply means, what
// is still to be reported, and when to lose patience.
//
//     kIdle --begin--> kPosted --on_reply--> [kPayload --finish-->] kDone --take--> kIdle
//                         \______________ fail, expire ______________/
//
// Invariants: 1. every begun operation is taken exactly once; 2. what a node says is believed only
// if it fits the request: type, length, generation, order of a list, and the checksum of the bytes.
#pragma once

#include "rdma/sealer.hpp"
#include "rdma/wire.hpp"

namespace btd {

// Thread safety: that of the Node it belongs to: one thread at a time.
class ClientSlots {
 public:
  using Message = wire::Message;
  using Type = wire::Type;
  enum class Next : uint8_t {
    kViolation,  // the node broke the protocol: give the connection up
    kPayload,    // bring payload_bytes(slot) into wire_buffer(slot), then finish(slot)
    kDone,       // to be taken
  };

  // Leaves the buffers as they are: in memory fresh from the kernel they are zero, and their pages
  // cost nothing until a slot is used.
  ClientSlots() {}

  // nullptr: nothing is sealed.  REQUIRES: nothing is in flight.
  void set_sealer(const Sealer* sealer) { sealer_ = sealer; }

  // The caller's.
  char* buffer(uint32_t slot) { return buffers_[slot]; }
  // What goes over the wire and comes from it: sealed bytes have a buffer of their own, so that
  // those of a write stay readable for the caller, who copies them to other nodes, and those of a
  // read are his only when they are proven.
  char* wire_buffer(uint32_t slot) { return sealer_ == nullptr ? buffers_[slot] : sealed_[slot]; }
  bool is_sealed() const { return sealer_ != nullptr; }
  // Nodes may write what is read to wire_buffer(0) and those after it, with this remote key; 0:
  // they may not.  REQUIRES: not sealed, whose bytes must not change after they are proven; nothing
  // is in flight.
  void let_nodes_write(uint32_t remote_key) { remote_key_ = remote_key; }
  bool is_idle(uint32_t slot) const {
    return slot < kNodeDepth && slots_[slot].state == State::kIdle;
  }

  // Each builds the request of an idle slot, to be sent by deadline_ms; the message stays as it is
  // until the slot is taken.  nullptr: the slot is not idle, an argument is out of range, or there
  // is no randomness to seal with.
  const Message* begin_read(uint32_t slot, uint64_t extent, uint64_t generation_min,
                            uint64_t deadline_ms) noexcept;
  const Message* begin_release(uint32_t slot, uint64_t extent, uint64_t deadline_ms) noexcept {
    return begin(slot, Type::kRelease, wire::Release{.extent = extent}, deadline_ms);
  }
  const Message* begin_list(uint32_t slot, uint64_t first_extent, uint64_t deadline_ms) noexcept {
    return begin(slot, Type::kList, wire::List{.first_extent = first_extent}, deadline_ms);
  }
  const Message* begin_status(uint32_t slot, uint64_t first_arena, uint64_t deadline_ms) noexcept {
    return begin(slot, Type::kStatus, wire::Status{.first_arena = first_arena}, deadline_ms);
  }
  const Message* begin_forget(uint32_t slot, const wire::Forget& forget,
                              uint64_t deadline_ms) noexcept {
    return begin(slot, Type::kForget, forget, deadline_ms);
  }
  const Message* begin_write(uint32_t slot, uint64_t extent, uint64_t generation,
                             uint32_t length_bytes, wire::Transport transport,
                             uint64_t deadline_ms) noexcept;

  // REQUIRES: a sound kReply.
  Next on_reply(const Message& reply) noexcept;
  uint32_t payload_bytes(uint32_t slot) const { return slots_[slot].length_bytes; }
  // The payload is in the buffer: checks it and makes the slot kDone.
  void finish(uint32_t slot) noexcept;

  // One operation, or all that are in flight, will not be answered.
  void fail(uint32_t slot, NodeStatus status) noexcept;
  void fail_all(NodeStatus status) noexcept;
  // Fails with kTimeout what is overdue; true: there was any, and the connection must go.
  bool expire(uint64_t now_ms) noexcept;
  // Of the operation in flight that is due first; UINT64_MAX: there is none.
  uint64_t deadline_ms_min() const noexcept;

  uint32_t take(NodeCompletion* out, uint32_t count_max) noexcept;
  bool has_done() const { return done_count_ != 0; }
  uint32_t in_flight() const { return in_flight_; }
  const Message& message(uint32_t slot) const { return slots_[slot].message; }

 private:
  enum class State : uint8_t { kIdle = 0, kPosted, kPayload, kDone };
  struct Slot {
    State state;
    uint32_t length_bytes;  // of the payload that the reply promises
    uint32_t crc;
    wire::Seal seal;
    uint64_t deadline_ms;
    NodeCompletion completion;
    Message message;
  };

  template <typename Body>
  const Message* begin(uint32_t index, Type type, const Body& body, uint64_t deadline_ms,
                       uint32_t payload_bytes = 0) noexcept {
    Slot* slot = claim(index, deadline_ms);
    if (slot == nullptr) return nullptr;
    wire::build(slot->message, type, static_cast<uint8_t>(index), body, payload_bytes);
    return &slot->message;
  }
  Slot* claim(uint32_t slot, uint64_t deadline_ms) noexcept;
  static bool is_in_flight(const Slot& slot) {
    return slot.state == State::kPosted || slot.state == State::kPayload;
  }
  void done(Slot& slot, NodeStatus status) noexcept;
  NodeStatus deliver(uint32_t slot) noexcept;
  bool is_list_sound(uint32_t slot) const noexcept;

  const Sealer* sealer_ = nullptr;
  uint32_t remote_key_ = 0;
  uint32_t in_flight_ = 0;
  uint32_t done_count_ = 0;
  Slot slots_[kNodeDepth]{};
  alignas(4096) char buffers_[kNodeDepth][kFarExtentBytes];
  alignas(4096) char sealed_[kNodeDepth][kFarExtentBytes];  // untouched without a sealer
};

// Of a clock that only goes forward.
uint64_t steady_clock_us() noexcept;
inline uint64_t steady_clock_ms() noexcept { return steady_clock_us() / 1000; }

}  // namespace btd
