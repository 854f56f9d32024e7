#include "rdma/tcp.hpp"

#include <poll.h>
#include <sys/uio.h>

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/sys.hpp"

namespace btd {

using wire::Message;
using wire::Phase;
using wire::Transport;
using wire::Type;

NodeStatus TcpCarrier::open(const NodeAddress& address, ClientSlots& slots,
                            uint64_t deadline_ms) noexcept {
  BTD_CHECK(socket_ < 0);
  slots_ = &slots;
  queue_begin_ = queue_count_ = 0;
  sent_bytes_ = received_begin_ = received_end_ = 0;
  payload_slot_ = kNodeDepth;
  socket_ = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket_ < 0) return NodeStatus::kLost;
  tune_socket(socket_);
  auto* where = reinterpret_cast<const sockaddr*>(&address.storage);
  if (::connect(socket_, where, address.length) == 0) return NodeStatus::kGood;
  if (errno != EINPROGRESS) return NodeStatus::kLost;
  NodeStatus status = await(POLLOUT, deadline_ms);
  if (status != NodeStatus::kGood) return status;
  int error = 0;
  socklen_t error_bytes = sizeof(error);
  bool is_there =
      getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &error_bytes) == 0 && error == 0;
  return is_there ? NodeStatus::kGood : NodeStatus::kLost;
}

void TcpCarrier::close() noexcept {
  if (socket_ >= 0) sys::close(socket_);
  socket_ = -1;
}

NodeStatus TcpCarrier::await(short events, uint64_t deadline_ms) noexcept {
  while (true) {
    uint64_t now = steady_clock_ms();
    if (now >= deadline_ms) return NodeStatus::kTimeout;
    pollfd ready{.fd = socket_, .events = events, .revents = 0};
    int count = ::poll(&ready, 1, static_cast<int>(min<uint64_t>(deadline_ms - now, 60000)));
    if (count > 0) return NodeStatus::kGood;
    if (count < 0 && errno != EINTR) return NodeStatus::kLost;
  }
}

// A node that refuses may have closed already; its goodbye is read all the same.
NodeStatus TcpCarrier::send(const Message& message, uint64_t deadline_ms) noexcept {
  auto* bytes = reinterpret_cast<const char*>(&message);
  for (size_t sent = 0; sent < message.size_bytes();) {
    ssize_t count = ::send(socket_, bytes + sent, message.size_bytes() - sent, MSG_NOSIGNAL);
    if (count > 0) {
      sent += static_cast<size_t>(count);
    } else if (!would_block(errno)) {
      return NodeStatus::kGood;
    } else if (NodeStatus status = await(POLLOUT, deadline_ms); status != NodeStatus::kGood) {
      return status;
    }
  }
  return NodeStatus::kGood;
}

NodeStatus TcpCarrier::receive_exactly(void* out, size_t size_bytes,
                                       uint64_t deadline_ms) noexcept {
  auto* bytes = static_cast<char*>(out);
  while (size_bytes != 0) {
    ssize_t count = ::recv(socket_, bytes, size_bytes, 0);
    if (count > 0) {
      bytes += count;
      size_bytes -= static_cast<size_t>(count);
    } else if (count == 0 || !would_block(errno)) {
      return NodeStatus::kLost;
    } else if (NodeStatus status = await(POLLIN, deadline_ms); status != NodeStatus::kGood) {
      return status;
    }
  }
  return NodeStatus::kGood;
}

NodeStatus TcpCarrier::receive(Message& message, uint64_t deadline_ms) noexcept {
  NodeStatus status = receive_exactly(&message.header, sizeof(message.header), deadline_ms);
  if (status != NodeStatus::kGood) return status;
  if (!is_header_sound(message.header, Phase::kClientHandshake, Transport::kTcp)) {
    return NodeStatus::kRefused;
  }
  status = receive_exactly(message.body, message.header.body_bytes, deadline_ms);
  if (status != NodeStatus::kGood) return status;
  return is_message_sound(message, Transport::kTcp) ? NodeStatus::kGood : NodeStatus::kRefused;
}

bool TcpCarrier::post(const Message& message) noexcept {
  queue_[(queue_begin_ + queue_count_++) % kNodeDepth] = message.header.slot;
  return true;
}

bool TcpCarrier::is_queued(uint32_t slot) const noexcept {
  for (uint32_t i = 0; i < queue_count_; i++) {
    if (queue_[(queue_begin_ + i) % kNodeDepth] == slot) return true;
  }
  return false;
}

// All in one call, as far as the socket takes it.
bool TcpCarrier::send_queued() noexcept {
  while (queue_count_ != 0) {
    iovec parts[2 * kNodeDepth];
    size_t part_count = 0;
    size_t skipped_bytes = sent_bytes_;
    auto add = [&](const void* bytes, size_t size_bytes) {
      const size_t skipped = min(skipped_bytes, size_bytes);
      skipped_bytes -= skipped;
      if (skipped == size_bytes) return;
      // sendmsg() only reads; iovec has no const.
      auto* from = const_cast<char*>(static_cast<const char*>(bytes));
      parts[part_count++] = {from + skipped, size_bytes - skipped};
    };
    for (uint32_t i = 0; i < queue_count_; i++) {
      const uint32_t slot = queue_[(queue_begin_ + i) % kNodeDepth];
      const Message& message = slots_->message(slot);
      add(&message, message.size_bytes());
      add(slots_->wire_buffer(slot), message.header.payload_bytes);
    }
    msghdr call{};
    call.msg_iov = parts;
    call.msg_iovlen = part_count;
    ssize_t count = ::sendmsg(socket_, &call, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (would_block(errno)) return true;
      // What a fencing node said last may still be there to read.
      return receive_replies() ? fail(NodeStatus::kLost) : false;
    }
    sent_bytes_ += static_cast<size_t>(count);
    while (queue_count_ != 0) {
      const Message& oldest = slots_->message(queue_[queue_begin_]);
      const size_t size_bytes = oldest.size_bytes() + oldest.header.payload_bytes;
      if (sent_bytes_ < size_bytes) break;
      sent_bytes_ -= size_bytes;
      queue_begin_ = (queue_begin_ + 1) % kNodeDepth;
      queue_count_--;
    }
  }
  return true;
}

bool TcpCarrier::take_message(const Message& message) noexcept {
  if (!is_message_sound(message, Transport::kTcp)) return fail(NodeStatus::kCorrupt);
  if (message.header.type == Type::kGoodbye) return fail(message.as<wire::Goodbye>().status);
  // An answer to what has not been said yet would free a slot that is still queued.
  if (is_queued(message.header.slot)) return fail(NodeStatus::kCorrupt);
  switch (slots_->on_reply(message)) {
    case ClientSlots::Next::kViolation:
      // The operation that it answered wrongly, if any, must not look like a mere loss.
      slots_->fail(message.header.slot, NodeStatus::kCorrupt);
      return fail(NodeStatus::kLost);
    case ClientSlots::Next::kPayload:
      payload_slot_ = message.header.slot;
      payload_got_bytes_ = 0;
      return true;
    case ClientSlots::Next::kDone:
      return true;
  }
  return true;
}

// Understands what is in received_, as far as it goes.
bool TcpCarrier::consume() noexcept {
  while (true) {
    size_t available = received_end_ - received_begin_;
    if (payload_slot_ < kNodeDepth) {
      uint32_t wanted = slots_->payload_bytes(payload_slot_) - payload_got_bytes_;
      size_t taken = min<size_t>(wanted, available);
      std::memcpy(slots_->wire_buffer(payload_slot_) + payload_got_bytes_,
                  received_ + received_begin_, taken);
      received_begin_ += taken;
      payload_got_bytes_ += static_cast<uint32_t>(taken);
      if (taken < wanted) return true;
      slots_->finish(payload_slot_);
      payload_slot_ = kNodeDepth;
      continue;
    }
    Message message;
    if (available < sizeof(message.header)) return true;
    std::memcpy(&message.header, received_ + received_begin_, sizeof(message.header));
    if (!is_header_sound(message.header, Phase::kClientReady, Transport::kTcp)) {
      return fail(NodeStatus::kCorrupt);
    }
    if (available < message.size_bytes()) return true;
    std::memcpy(message.body, received_ + received_begin_ + sizeof(message.header),
                message.header.body_bytes);
    received_begin_ += message.size_bytes();
    if (!take_message(message)) return false;
  }
}

// As recv(2).
ssize_t TcpCarrier::receive_some() noexcept {
  ssize_t count;
  if (payload_slot_ < kNodeDepth) {
    // Nothing is left in received_: the rest of the payload goes where it belongs, and what comes
    // after it into received_, in one call.
    uint32_t wanted = slots_->payload_bytes(payload_slot_) - payload_got_bytes_;
    received_begin_ = received_end_ = 0;
    iovec parts[2] = {{slots_->wire_buffer(payload_slot_) + payload_got_bytes_, wanted},
                      {received_, sizeof(received_)}};
    count = ::readv(socket_, parts, 2);
    if (count > 0) {
      size_t into_slot = min<size_t>(static_cast<size_t>(count), wanted);
      payload_got_bytes_ += static_cast<uint32_t>(into_slot);
      received_end_ = static_cast<size_t>(count) - into_slot;
    }
  } else {
    std::memmove(received_, received_ + received_begin_, received_end_ - received_begin_);
    received_end_ -= received_begin_;
    received_begin_ = 0;
    count = ::recv(socket_, received_ + received_end_, sizeof(received_) - received_end_, 0);
    if (count > 0) received_end_ += static_cast<size_t>(count);
  }
  return count;
}

bool TcpCarrier::receive_replies() noexcept {
  while (true) {
    if (!consume()) return false;
    ssize_t count = receive_some();
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    return count < 0 && would_block(errno) ? true : fail(NodeStatus::kLost);
  }
}

void TcpCarrier::wait(uint64_t wait_us) noexcept {
  timespec wait{.tv_sec = static_cast<time_t>(wait_us / 1000000),
                .tv_nsec = static_cast<long>(wait_us % 1000000) * 1000};
  pollfd ready{.fd = socket_,
               .events = static_cast<short>(queue_count_ != 0 ? POLLIN | POLLOUT : POLLIN),
               .revents = 0};
  ::ppoll(&ready, 1, &wait, nullptr);
}

}  // namespace btd
