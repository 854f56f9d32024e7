#include "rdma/client_slots.hpp"

#include <time.h>

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/crc32c.hpp"

namespace btd {

uint64_t steady_clock_us() noexcept {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

ClientSlots::Slot* ClientSlots::claim(uint32_t index, uint64_t deadline_ms) noexcept {
  if (!is_idle(index)) return nullptr;
  Slot& slot = slots_[index];
  slot.state = State::kPosted;
  slot.length_bytes = 0;
  slot.deadline_ms = deadline_ms;
  slot.completion = {
      .slot = index, .status = NodeStatus::kLost, .length_bytes = 0, .generation = 0};
  in_flight_++;
  return &slot;
}

const ClientSlots::Message* ClientSlots::begin_read(uint32_t index, uint64_t extent,
                                                    uint64_t generation_min,
                                                    uint64_t deadline_ms) noexcept {
  if (remote_key_ == 0) {
    return begin(index, Type::kRead, wire::Read{.extent = extent, .generation_min = generation_min},
                 deadline_ms);
  }
  if (!is_idle(index)) return nullptr;
  return begin(index, Type::kReadInto,
               wire::ReadInto{.extent = extent,
                              .generation_min = generation_min,
                              .address = reinterpret_cast<uint64_t>(wire_buffer(index)),
                              .key = remote_key_,
                              .reserved = 0},
               deadline_ms);
}

const ClientSlots::Message* ClientSlots::begin_write(uint32_t index, uint64_t extent,
                                                     uint64_t generation, uint32_t length_bytes,
                                                     wire::Transport transport,
                                                     uint64_t deadline_ms) noexcept {
  if (generation == 0 || length_bytes == 0 || length_bytes > kFarExtentBytes) return nullptr;
  if (!is_idle(index)) return nullptr;
  wire::Write write{};
  write.extent = extent;
  write.generation = generation;
  write.length_bytes = length_bytes;
  if (sealer_ != nullptr && !sealer_->seal(buffers_[index], length_bytes, extent, generation,
                                           sealed_[index], write.seal)) {
    return nullptr;
  }
  write.crc = crc32c(wire_buffer(index), length_bytes);
  return begin(index, Type::kWrite, write, deadline_ms,
               transport == wire::Transport::kTcp ? length_bytes : 0);
}

ClientSlots::Next ClientSlots::on_reply(const Message& message) noexcept {
  uint32_t index = message.header.slot;
  if (index >= kNodeDepth || slots_[index].state != State::kPosted) return Next::kViolation;
  Slot& slot = slots_[index];
  auto reply = message.as<wire::Reply>();
  bool is_there = slot.message.header.type == Type::kReadInto;
  Type request = is_there ? Type::kRead : slot.message.header.type;
  bool has_payload = reply.status == NodeStatus::kGood &&
                     (request == Type::kRead || request == Type::kList || request == Type::kStatus);
  if (reply.request != request || (!has_payload && reply.length_bytes != 0)) {
    return Next::kViolation;
  }
  // These are the client's own findings; a node that knows of no answer says goodbye.
  if (reply.status == NodeStatus::kLost || reply.status == NodeStatus::kTimeout) {
    return Next::kViolation;
  }
  if (request == Type::kRead || reply.status == NodeStatus::kStale) {
    slot.completion.generation = reply.generation;
  }
  if (!has_payload) {
    done(slot, reply.status);
    return Next::kDone;
  }
  // Extent and least generation are first in both.
  if (request == Type::kRead && reply.generation < slot.message.as<wire::Read>().generation_min)
    return Next::kViolation;
  if (request != Type::kList && reply.length_bytes == 0) return Next::kViolation;
  slot.length_bytes = reply.length_bytes;
  slot.crc = reply.crc;
  slot.seal = reply.seal;
  slot.state = State::kPayload;
  if (reply.length_bytes != 0 && !is_there) return Next::kPayload;
  finish(index);
  return Next::kDone;
}

void ClientSlots::finish(uint32_t index) noexcept {
  Slot& slot = slots_[index];
  BTD_ASSERT(slot.state == State::kPayload);
  NodeStatus status = deliver(index);
  if (status == NodeStatus::kGood) slot.completion.length_bytes = slot.length_bytes;
  done(slot, status);
}

// From the wire's buffer into the caller's, if it is what it should be.
NodeStatus ClientSlots::deliver(uint32_t index) noexcept {
  const Slot& slot = slots_[index];
  const char* bytes = wire_buffer(index);
  if (crc32c(bytes, slot.length_bytes) != slot.crc) return NodeStatus::kCorrupt;
  bool is_good = true;
  if (slot.message.header.type == Type::kRead || slot.message.header.type == Type::kReadInto) {
    // Bytes that are not sealed, where all must be, are somebody else's; sealed ones without a key
    // are of no use.
    is_good = sealer_ == nullptr
                  ? is_zero(slot.seal)
                  : sealer_->unseal(bytes, slot.length_bytes, slot.message.as<wire::Read>().extent,
                                    slot.completion.generation, slot.seal, buffers_[index]);
  } else {
    if (bytes != buffers_[index]) std::memcpy(buffers_[index], bytes, slot.length_bytes);
    if (slot.message.header.type == Type::kList) is_good = is_list_sound(index);
  }
  return is_good ? NodeStatus::kGood : NodeStatus::kCorrupt;
}

// The pager walks the list by the last extent it saw: an order that does not rise would never end.
bool ClientSlots::is_list_sound(uint32_t index) const noexcept {
  const Slot& slot = slots_[index];
  if (slot.length_bytes % sizeof(NodeEntry) != 0) return false;
  auto least = slot.message.as<wire::List>().first_extent;
  for (uint32_t at = 0; at < slot.length_bytes; at += sizeof(NodeEntry)) {
    NodeEntry entry;
    std::memcpy(&entry, buffers_[index] + at, sizeof(entry));
    if (entry.extent < least || entry.generation == 0 || entry.length_bytes == 0 ||
        entry.length_bytes > kFarExtentBytes) {
      return false;
    }
    bool is_last = at + sizeof(NodeEntry) == slot.length_bytes;
    if (entry.extent == UINT64_MAX && !is_last) return false;
    least = entry.extent + 1;
  }
  return true;
}

void ClientSlots::done(Slot& slot, NodeStatus status) noexcept {
  slot.completion.status = status;
  slot.state = State::kDone;
  in_flight_--;
  done_count_++;
}

void ClientSlots::fail(uint32_t index, NodeStatus status) noexcept {
  Slot& slot = slots_[index];
  if (!is_in_flight(slot)) return;
  slot.completion.generation = 0;
  done(slot, status);
}

void ClientSlots::fail_all(NodeStatus status) noexcept {
  for (uint32_t i = 0; i < kNodeDepth; i++) fail(i, status);
}

bool ClientSlots::expire(uint64_t now_ms) noexcept {
  bool is_any = false;
  for (uint32_t i = 0; i < kNodeDepth; i++) {
    const Slot& slot = slots_[i];
    if (!is_in_flight(slot) || now_ms < slot.deadline_ms) continue;
    fail(i, NodeStatus::kTimeout);
    is_any = true;
  }
  return is_any;
}

uint64_t ClientSlots::deadline_ms_min() const noexcept {
  uint64_t least = UINT64_MAX;
  for (const Slot& slot : slots_) {
    if (is_in_flight(slot)) least = min(least, slot.deadline_ms);
  }
  return least;
}

uint32_t ClientSlots::take(NodeCompletion* out, uint32_t count_max) noexcept {
  uint32_t count = 0;
  for (uint32_t i = 0; i < kNodeDepth && count < count_max && done_count_ != 0; i++) {
    if (slots_[i].state != State::kDone) continue;
    out[count++] = slots_[i].completion;
    slots_[i].state = State::kIdle;
    done_count_--;
  }
  return count;
}

}  // namespace btd
