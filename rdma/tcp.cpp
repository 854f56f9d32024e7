#include "rdma/tcp.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>

#include "core/base/check.hpp"
#include "core/base/sys.hpp"

namespace btd {

using wire::Message;
using wire::Phase;
using wire::Transport;
using wire::Type;

namespace {

// The calls here set errno; the program whose fault we serve must not see that.
class ErrnoKept {
 public:
  ErrnoKept() : kept_(errno) {}
  ~ErrnoKept() { errno = kept_; }
  ErrnoKept(const ErrnoKept&) = delete;
  ErrnoKept& operator=(const ErrnoKept&) = delete;

 private:
  int kept_;
};

bool parse_port(const char* text, uint16_t& port) {
  uint32_t value = 0;
  size_t digits = 0;
  for (; text[digits] >= '0' && text[digits] <= '9' && digits < 6; digits++) {
    value = value * 10 + static_cast<uint32_t>(text[digits] - '0');
  }
  if (digits == 0 || text[digits] != '\0' || value > 65535) return false;
  port = htons(static_cast<uint16_t>(value));
  return true;
}

bool would_block(int error) { return error == EAGAIN || error == EWOULDBLOCK || error == EINTR; }

// A peer that vanishes without a word is found out: by the kernel when it is idle, by the deadline
// of an operation when it is not.
void tune(int socket) {
  int on = 1, idle_s = 10, interval_s = 5, count = 3;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

}  // namespace

bool parse_address(const char* text, NodeAddress& address) noexcept {
  std::memset(&address, 0, sizeof(address));
  const char* colon = std::strrchr(text, ':');
  char host[INET6_ADDRSTRLEN];
  if (colon == nullptr) return false;
  bool is_v6 = text[0] == '[';
  const char* begin = is_v6 ? text + 1 : text;
  const char* end = is_v6 ? colon - 1 : colon;
  if (end <= begin || (is_v6 && *end != ']')) return false;
  auto length = static_cast<size_t>(end - begin);
  if (length >= sizeof(host)) return false;
  std::memcpy(host, begin, length);
  host[length] = '\0';
  if (is_v6) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    address.length = sizeof(*v6);
    return parse_port(colon + 1, v6->sin6_port) && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
  }
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  v4->sin_family = AF_INET;
  address.length = sizeof(*v4);
  return parse_port(colon + 1, v4->sin_port) && inet_pton(AF_INET, host, &v4->sin_addr) == 1;
}

void TcpNode::configure(const NodeAddress& address, const NodeClient& client, const Crypto& crypto,
                        uint32_t operation_ms) noexcept {
  BTD_CHECK(!is_connected());
  address_ = address;
  client_ = client;
  crypto_ = &crypto;
  operation_ms_ = operation_ms;
}

NodeStatus TcpNode::connect(uint32_t deadline_ms) noexcept {
  BTD_CHECK(!is_connected() && crypto_ != nullptr);
  ErrnoKept kept;
  uint64_t deadline = steady_clock_ms() + deadline_ms;
  socket_ = ::socket(address_.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket_ < 0) return NodeStatus::kLost;
  tune(socket_);
  queue_begin_ = queue_count_ = 0;
  sent_bytes_ = received_begin_ = received_end_ = 0;
  payload_slot_ = kNodeDepth;
  NodeStatus status = NodeStatus::kGood;
  auto* where = reinterpret_cast<const sockaddr*>(&address_.storage);
  if (::connect(socket_, where, address_.length) != 0) {
    status = errno == EINPROGRESS ? await(POLLOUT, deadline) : NodeStatus::kLost;
    int error = 0;
    socklen_t error_bytes = sizeof(error);
    if (status == NodeStatus::kGood &&
        (getsockopt(socket_, SOL_SOCKET, SO_ERROR, &error, &error_bytes) != 0 || error != 0)) {
      status = NodeStatus::kLost;
    }
  }
  if (status == NodeStatus::kGood) status = greet(deadline);
  if (status != NodeStatus::kGood) drop(NodeStatus::kLost);
  return status;
}

NodeStatus TcpNode::greet(uint64_t deadline_ms) noexcept {
  Message outgoing, incoming;
  if (!handshake_.start(*crypto_, client_, Transport::kTcp, 0, outgoing)) {
    return NodeStatus::kRefused;
  }
  while (true) {
    // A node that refuses may have closed already; its goodbye is read all the same.
    NodeStatus sent = send_message(outgoing, deadline_ms);
    if (sent == NodeStatus::kTimeout) return sent;
    NodeStatus status = receive_message(incoming, deadline_ms);
    if (status != NodeStatus::kGood) return status;
    switch (handshake_.on_message(incoming, outgoing)) {
      case wire::ClientHandshake::Step::kSend:
        break;
      case wire::ClientHandshake::Step::kAccepted:
        return NodeStatus::kGood;
      case wire::ClientHandshake::Step::kFailed:
        return handshake_.status();
    }
  }
}

NodeStatus TcpNode::await(short events, uint64_t deadline_ms) noexcept {
  while (true) {
    uint64_t now = steady_clock_ms();
    if (now >= deadline_ms) return NodeStatus::kTimeout;
    pollfd ready{.fd = socket_, .events = events, .revents = 0};
    int count = ::poll(&ready, 1, static_cast<int>(min<uint64_t>(deadline_ms - now, 60000)));
    if (count > 0) return NodeStatus::kGood;
    if (count < 0 && errno != EINTR) return NodeStatus::kLost;
  }
}

NodeStatus TcpNode::send_message(const Message& message, uint64_t deadline_ms) noexcept {
  auto* bytes = reinterpret_cast<const char*>(&message);
  for (size_t sent = 0; sent < message.size_bytes();) {
    ssize_t count = ::send(socket_, bytes + sent, message.size_bytes() - sent, MSG_NOSIGNAL);
    if (count > 0) {
      sent += static_cast<size_t>(count);
    } else if (!would_block(errno)) {
      return NodeStatus::kLost;
    } else if (NodeStatus status = await(POLLOUT, deadline_ms); status != NodeStatus::kGood) {
      return status;
    }
  }
  return NodeStatus::kGood;
}

NodeStatus TcpNode::receive_exactly(void* out, size_t size_bytes, uint64_t deadline_ms) noexcept {
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

NodeStatus TcpNode::receive_message(Message& message, uint64_t deadline_ms) noexcept {
  NodeStatus status = receive_exactly(&message.header, sizeof(message.header), deadline_ms);
  if (status != NodeStatus::kGood) return status;
  if (!is_header_sound(message.header, Phase::kClientHandshake, Transport::kTcp)) {
    return NodeStatus::kRefused;
  }
  status = receive_exactly(message.body, message.header.body_bytes, deadline_ms);
  if (status != NodeStatus::kGood) return status;
  return is_message_sound(message, Transport::kTcp) ? NodeStatus::kGood : NodeStatus::kRefused;
}

bool TcpNode::post(uint32_t slot, const Message* message) noexcept {
  if (message == nullptr) return false;
  ErrnoKept kept;
  queue_[(queue_begin_ + queue_count_++) % kNodeDepth] = static_cast<uint8_t>(slot);
  send_queued();
  return true;
}

bool TcpNode::read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept {
  return is_connected() && post(slot, slots_.begin_read(slot, extent, generation_min, deadline()));
}

bool TcpNode::write(uint32_t slot, uint64_t extent, uint64_t generation,
                    uint32_t length_bytes) noexcept {
  return is_connected() && post(slot, slots_.begin_write(slot, extent, generation, length_bytes,
                                                         Transport::kTcp, deadline()));
}

bool TcpNode::release(uint32_t slot, uint64_t extent) noexcept {
  return is_connected() && post(slot, slots_.begin_release(slot, extent, deadline()));
}

bool TcpNode::list(uint32_t slot, uint64_t first_extent) noexcept {
  return is_connected() && post(slot, slots_.begin_list(slot, first_extent, deadline()));
}

bool TcpNode::status(uint32_t slot, uint64_t first_arena) noexcept {
  return is_connected() && post(slot, slots_.begin_status(slot, first_arena, deadline()));
}

bool TcpNode::is_queued(uint32_t slot) const noexcept {
  for (uint32_t i = 0; i < queue_count_; i++) {
    if (queue_[(queue_begin_ + i) % kNodeDepth] == slot) return true;
  }
  return false;
}

void TcpNode::send_queued() noexcept {
  while (queue_count_ != 0 && is_connected()) {
    uint32_t slot = queue_[queue_begin_];
    const Message& message = slots_.message(slot);
    size_t head_bytes = message.size_bytes();
    size_t total_bytes = head_bytes + message.header.payload_bytes;
    iovec parts[2];
    int part_count = 0;
    if (sent_bytes_ < head_bytes) {
      // sendmsg() only reads; iovec has no const.
      auto* head = const_cast<char*>(reinterpret_cast<const char*>(&message));
      parts[part_count++] = {head + sent_bytes_, head_bytes - sent_bytes_};
    }
    size_t payload_sent = sent_bytes_ < head_bytes ? 0 : sent_bytes_ - head_bytes;
    if (payload_sent < message.header.payload_bytes) {
      parts[part_count++] = {slots_.buffer(slot) + payload_sent,
                             message.header.payload_bytes - payload_sent};
    }
    msghdr call{};
    call.msg_iov = parts;
    call.msg_iovlen = static_cast<size_t>(part_count);
    ssize_t count = ::sendmsg(socket_, &call, MSG_NOSIGNAL);
    if (count < 0) {
      if (errno == EINTR) continue;
      if (would_block(errno)) return;
      receive();  // what a fencing node said last may still be there to read
      drop(NodeStatus::kLost);
      return;
    }
    sent_bytes_ += static_cast<size_t>(count);
    if (sent_bytes_ == total_bytes) {
      sent_bytes_ = 0;
      queue_begin_ = (queue_begin_ + 1) % kNodeDepth;
      queue_count_--;
    }
  }
}

// Understands what is in received_, as far as it goes; false: the connection was dropped.
bool TcpNode::consume() noexcept {
  while (true) {
    size_t available = received_end_ - received_begin_;
    if (payload_slot_ < kNodeDepth) {
      uint32_t wanted = slots_.payload_bytes(payload_slot_) - payload_got_bytes_;
      size_t taken = min<size_t>(wanted, available);
      std::memcpy(slots_.buffer(payload_slot_) + payload_got_bytes_, received_ + received_begin_,
                  taken);
      received_begin_ += taken;
      payload_got_bytes_ += static_cast<uint32_t>(taken);
      if (taken < wanted) return true;
      slots_.finish(payload_slot_);
      payload_slot_ = kNodeDepth;
      continue;
    }
    Message message;
    if (available < sizeof(message.header)) return true;
    std::memcpy(&message.header, received_ + received_begin_, sizeof(message.header));
    if (!is_header_sound(message.header, Phase::kClientReady, Transport::kTcp)) break;
    if (available < message.size_bytes()) return true;
    std::memcpy(message.body, received_ + received_begin_ + sizeof(message.header),
                message.header.body_bytes);
    if (!is_message_sound(message, Transport::kTcp)) break;
    received_begin_ += message.size_bytes();
    if (message.header.type == Type::kGoodbye) {
      drop(message.as<wire::Goodbye>().status);
      return false;
    }
    // An answer to what has not been said yet would free a slot that is still queued.
    if (is_queued(message.header.slot)) break;
    switch (slots_.on_reply(message)) {
      case ClientSlots::Next::kViolation:
        // The operation that it answered wrongly, if any, must not look like a mere loss.
        slots_.fail(message.header.slot, NodeStatus::kCorrupt);
        drop(NodeStatus::kLost);
        return false;
      case ClientSlots::Next::kPayload:
        payload_slot_ = message.header.slot;
        payload_got_bytes_ = 0;
        break;
      case ClientSlots::Next::kDone:
        break;
    }
  }
  drop(NodeStatus::kCorrupt);
  return false;
}

void TcpNode::receive() noexcept {
  while (is_connected()) {
    if (!consume()) return;
    ssize_t count;
    if (payload_slot_ < kNodeDepth) {
      // Nothing is left in received_: the rest of the payload goes where it belongs, and what comes
      // after it into received_, in one call.
      uint32_t wanted = slots_.payload_bytes(payload_slot_) - payload_got_bytes_;
      received_begin_ = received_end_ = 0;
      iovec parts[2] = {{slots_.buffer(payload_slot_) + payload_got_bytes_, wanted},
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
    if (count > 0 || (count < 0 && errno == EINTR)) continue;
    if (count == 0 || !would_block(errno)) drop(NodeStatus::kLost);
    return;
  }
}

void TcpNode::progress() noexcept {
  send_queued();
  receive();
  if (slots_.expire(steady_clock_ms())) drop(NodeStatus::kLost);
}

uint32_t TcpNode::poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept {
  ErrnoKept kept;
  uint64_t started_ms = steady_clock_ms();
  uint64_t wait_end_ms = started_ms + wait_us / 1000;
  if (is_connected()) progress();
  while (!slots_.has_done() && is_connected()) {
    uint64_t now = steady_clock_ms();
    uint64_t until = min(slots_.deadline_ms_min(), wait_end_ms);
    timespec wait{};
    if (until > now) {
      uint64_t left_ms = until - now;
      wait.tv_sec = static_cast<time_t>(left_ms / 1000);
      wait.tv_nsec = static_cast<long>(left_ms % 1000) * 1000000;
    } else if (wait_us < 1000 && now == started_ms) {
      wait.tv_nsec = static_cast<long>(wait_us) * 1000;
    }
    pollfd ready{.fd = socket_,
                 .events = static_cast<short>(queue_count_ != 0 ? POLLIN | POLLOUT : POLLIN),
                 .revents = 0};
    int count = ::ppoll(&ready, 1, &wait, nullptr);
    progress();
    if (count <= 0 && steady_clock_ms() >= wait_end_ms) break;
  }
  return slots_.take(out, count_max);
}

void TcpNode::drop(NodeStatus status) noexcept {
  if (socket_ >= 0) sys::close(socket_);
  socket_ = -1;
  queue_count_ = 0;
  payload_slot_ = kNodeDepth;
  slots_.fail_all(status);
}

}  // namespace btd
