#include "tools/node/tcp_transport.hpp"

#include <arpa/inet.h>
#include <fmt/core.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tools/failure.hpp"

namespace btd::tools {

using wire::Message;
using wire::Phase;
using wire::Type;

namespace {

constexpr int kMessagesPerTurn = 32;  // then it is another connection's turn

}  // namespace

std::string address_text(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "?";
  if (address.ss_family == AF_INET6) {
    auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof(text));
    return fmt::format("[{}]:{}", text, ntohs(v6.sin6_port));
  }
  auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
  inet_ntop(AF_INET, &v4.sin_addr, text, sizeof(text));
  return fmt::format("{}:{}", text, ntohs(v4.sin_port));
}

TcpConnection::TcpConnection(int socket, std::string peer_text, EventLoop& loop, Service& service)
    : Connection(wire::Transport::kTcp),
      socket_(socket),
      loop_(loop),
      service_(service),
      accepted_ms_(steady_clock_ms()),
      interest_(EPOLLIN) {
  peer = std::move(peer_text);
  loop_.add(socket_, interest_, *this);
  service_.add(*this);
}

TcpConnection::~TcpConnection() {
  if (!is_closed()) close(NodeStatus::kLost);
}

void TcpConnection::ready(uint32_t events) {
  if (is_closed()) return;
  if ((events & EPOLLOUT) != 0) send_queued();
  if (!is_closed() && is_receiving_) {
    receive();
  } else if (!is_closed() && (events & (EPOLLHUP | EPOLLERR)) != 0) {
    close(NodeStatus::kLost);
  }
}

// The goodbye goes out only between two messages, and only if the socket takes it at once.
void TcpConnection::close(NodeStatus why) {
  if (is_closed()) return;
  if (queue_.empty() || queue_.front().sent_bytes == 0) {
    Message message;
    wire::Goodbye goodbye{};
    goodbye.status = why == NodeStatus::kGood ? NodeStatus::kLost : why;
    wire::build(message, Type::kGoodbye, 0, goodbye);
    [[maybe_unused]] ssize_t sent =
        ::send(socket_, &message, message.size_bytes(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  loop_.remove(socket_);
  ::close(socket_);
  service_.remove(*this);
  for (Outgoing& outgoing : queue_) {
    if (outgoing.payload.pinned != kNoSlot) service_.store().unpin(outgoing.payload.pinned);
  }
  queue_.clear();
  if (has_payload_ && payload_slot_ != kNoSlot) service_.store().give_back(payload_slot_);
  has_payload_ = false;
}

bool TcpConnection::is_overdue(uint64_t now_ms) const {
  if (!is_proven() && now_ms > accepted_ms_ + kHandshakeMs) return true;
  if (message_since_ms_ != 0 && now_ms > message_since_ms_ + kMessageMs) return true;
  return !queue_.empty() && now_ms > queue_.front().since_ms + kMessageMs;
}

void TcpConnection::stop_receiving() {
  is_receiving_ = false;
  update_interest();
}

void TcpConnection::update_interest() {
  uint32_t wanted = (is_receiving_ ? EPOLLIN : 0U) | (queue_.empty() ? 0U : EPOLLOUT);
  if (wanted == interest_) return;
  interest_ = wanted;
  loop_.change(socket_, interest_, *this);
}

void TcpConnection::send(const Message& message) {
  Outgoing outgoing;
  outgoing.message = message;
  enqueue(std::move(outgoing));
}

void TcpConnection::reply(uint8_t slot, wire::Reply reply, Payload payload) {
  Outgoing outgoing;
  wire::build(outgoing.message, Type::kReply, slot, reply, payload.size_bytes);
  outgoing.payload = std::move(payload);
  enqueue(std::move(outgoing));
}

void TcpConnection::enqueue(Outgoing outgoing) {
  queue_.push_back(std::move(outgoing));
  if (queue_.size() > 1) return;  // those before it go first
  queue_.front().since_ms = steady_clock_ms();
  send_queued();
}

void TcpConnection::finish_first() {
  Outgoing& first = queue_.front();
  if (first.payload.pinned != kNoSlot) service_.store().unpin(first.payload.pinned);
  if (first.message.header.type == Type::kReply) {
    Service::answered(*this, first.message.header.slot);
  }
  queue_.pop_front();
  if (!queue_.empty()) queue_.front().since_ms = steady_clock_ms();
}

// A broken connection is noticed by receive(): from here it must not be closed, for whoever sends
// is in the middle of something.
void TcpConnection::send_queued() {
  while (!queue_.empty()) {
    Outgoing& first = queue_.front();
    size_t head_bytes = first.message.size_bytes();
    iovec parts[2];
    size_t part_count = 0;
    if (first.sent_bytes < head_bytes) {
      parts[part_count++] = {reinterpret_cast<char*>(&first.message) + first.sent_bytes,
                             head_bytes - first.sent_bytes};
    }
    size_t payload_sent = first.sent_bytes < head_bytes ? 0 : first.sent_bytes - head_bytes;
    if (payload_sent < first.payload.size_bytes) {
      // sendmsg() only reads; iovec has no const.
      parts[part_count++] = {const_cast<char*>(first.payload.data) + payload_sent,
                             first.payload.size_bytes - payload_sent};
    }
    msghdr call{};
    call.msg_iov = parts;
    call.msg_iovlen = part_count;
    ssize_t count = ::sendmsg(socket_, &call, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count < 0) {
      if (errno == EINTR) continue;
      break;
    }
    first.sent_bytes += static_cast<size_t>(count);
    if (first.sent_bytes == head_bytes + first.payload.size_bytes) finish_first();
  }
  update_interest();
}

void TcpConnection::receive() {
  for (int turn = 0; turn < kMessagesPerTurn && !is_closed(); turn++) {
    ssize_t count;
    char scrap[16 * kKiB];
    if (has_payload_) {
      uint32_t wanted = write_.header.payload_bytes - payload_bytes_;
      // A write that is refused is read to its end all the same: the next message follows it.
      char* target =
          payload_slot_ == kNoSlot ? scrap : service_.store().bytes(payload_slot_) + payload_bytes_;
      size_t room = payload_slot_ == kNoSlot ? std::min<size_t>(wanted, sizeof(scrap)) : wanted;
      iovec parts[2] = {{target, room}, {received_, sizeof(received_)}};
      count = ::readv(socket_, parts, room == wanted ? 2 : 1);
      if (count > 0) {
        size_t into_slot = std::min(static_cast<size_t>(count), room);
        payload_bytes_ += static_cast<uint32_t>(into_slot);
        received_bytes_ = static_cast<size_t>(count) - into_slot;
      }
    } else {
      count = ::recv(socket_, received_ + received_bytes_, sizeof(received_) - received_bytes_,
                     MSG_DONTWAIT);
      if (count > 0) received_bytes_ += static_cast<size_t>(count);
    }
    if (count < 0 && would_block(errno)) return;
    if (count <= 0) return close(NodeStatus::kLost);
    if (message_since_ms_ == 0) message_since_ms_ = steady_clock_ms();
    if (!consume()) return;
  }
}

// Understands what is there, as far as it goes; false: the connection is closed.
bool TcpConnection::consume() {
  size_t at = 0;
  while (true) {
    size_t available = received_bytes_ - at;
    if (has_payload_) {
      size_t taken = std::min<size_t>(available, write_.header.payload_bytes - payload_bytes_);
      if (payload_slot_ != kNoSlot) {
        std::memcpy(service_.store().bytes(payload_slot_) + payload_bytes_, received_ + at, taken);
      }
      at += taken;
      payload_bytes_ += static_cast<uint32_t>(taken);
      if (payload_bytes_ < write_.header.payload_bytes) break;
      end_payload();
      continue;
    }
    Message message;
    if (available < sizeof(message.header)) break;
    std::memcpy(&message.header, received_ + at, sizeof(message.header));
    Phase phase = is_proven() ? Phase::kNodeReady : Phase::kNodeHandshake;
    bool is_sound = is_header_sound(message.header, phase, wire::Transport::kTcp);
    if (is_sound && available < message.size_bytes()) break;
    if (is_sound) {
      std::memcpy(message.body, received_ + at + sizeof(message.header), message.header.body_bytes);
      is_sound = is_message_sound(message, wire::Transport::kTcp);
    }
    if (!is_sound) {
      close(is_proven() ? NodeStatus::kCorrupt : NodeStatus::kRefused);
      return false;
    }
    at += message.size_bytes();
    if (!take_message(message)) return false;
  }
  std::memmove(received_, received_ + at, received_bytes_ - at);
  received_bytes_ -= at;
  if (received_bytes_ == 0 && !has_payload_) {
    message_since_ms_ = 0;
  } else if (at != 0 && !has_payload_) {
    message_since_ms_ = steady_clock_ms();  // of the message after those that were taken
  }
  return true;
}

bool TcpConnection::take_message(const Message& message) {
  NodeStatus why = NodeStatus::kCorrupt;
  if (message.header.type == Type::kWrite) {
    has_payload_ = service_.begin_write(*this, message, payload_slot_, refusal_);
    if (has_payload_) {
      write_ = message;
      payload_bytes_ = 0;
      message_since_ms_ = steady_clock_ms();
      return true;
    }
  } else if (service_.on_message(*this, message, why)) {
    return !is_closed();
  }
  close(why);
  return false;
}

void TcpConnection::end_payload() {
  has_payload_ = false;
  if (payload_slot_ == kNoSlot) {
    reply(write_.header.slot, refusal_, {});
  } else {
    service_.end_write(*this, write_, payload_slot_);
  }
}

TcpTransport::TcpTransport(const NodeAddress& address, EventLoop& loop, Service& service)
    : loop_(loop), service_(service) {
  int on = 1;
  socket_ = ::socket(address.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_storage bound{};
  socklen_t bound_bytes = sizeof(bound);
  auto* where = reinterpret_cast<const sockaddr*>(&address.storage);
  if (socket_ < 0 || setsockopt(socket_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      bind(socket_, where, address.length) != 0 || listen(socket_, 128) != 0 ||
      getsockname(socket_, reinterpret_cast<sockaddr*>(&bound), &bound_bytes) != 0) {
    int error = errno;
    if (socket_ >= 0) ::close(socket_);
    throw Failure{kExitFailed, fmt::format("cannot listen at {}: {}; no extent was changed; give "
                                           "another --listen",
                                           address_text(address.storage), std::strerror(error))};
  }
  port_ = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(bound).sin6_port
                                            : reinterpret_cast<sockaddr_in&>(bound).sin_port);
  loop_.add(socket_, EPOLLIN, *this);
}

TcpTransport::~TcpTransport() {
  connections_.clear();
  if (socket_ >= 0) ::close(socket_);
}

void TcpTransport::ready(uint32_t) {
  for (int turn = 0; turn < 16; turn++) {
    sockaddr_storage from{};
    socklen_t from_bytes = sizeof(from);
    int socket = accept4(socket_, reinterpret_cast<sockaddr*>(&from), &from_bytes,
                         SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0) return;
    tune_socket(socket);
    make_room();
    connections_.push_back(
        std::make_unique<TcpConnection>(socket, address_text(from), loop_, service_));
    if (connections_.size() > kConnectionCountMax) connections_.back()->close(NodeStatus::kNoSpace);
  }
}

// The oldest that has not proven itself goes, so that strangers cannot keep clients out.
void TcpTransport::make_room() {
  size_t unproven = 0;
  TcpConnection* oldest = nullptr;
  for (const auto& connection : connections_) {
    if (connection->is_closed() || connection->is_proven()) continue;
    if (unproven++ == 0) oldest = connection.get();
  }
  if (unproven >= kUnprovenCountMax) oldest->close(NodeStatus::kTimeout);
}

void TcpTransport::sweep(uint64_t now_ms) {
  for (const auto& connection : connections_) {
    if (!connection->is_closed() && connection->is_overdue(now_ms)) {
      connection->close(NodeStatus::kTimeout);
    }
  }
  std::erase_if(connections_, [](const auto& connection) { return connection->is_closed(); });
}

void TcpTransport::stop() {
  if (socket_ >= 0) {
    loop_.remove(socket_);
    ::close(socket_);
    socket_ = -1;
  }
  for (const auto& connection : connections_) {
    if (!connection->is_closed()) connection->stop_receiving();
  }
}

bool TcpTransport::has_unsent() const {
  return std::any_of(connections_.begin(), connections_.end(), [](const auto& connection) {
    return !connection->is_closed() && connection->has_unsent();
  });
}

void TcpTransport::close_all() {
  for (const auto& connection : connections_) connection->close(NodeStatus::kLost);
}

}  // namespace btd::tools
