// A memory node's clients over TCP.
//
// A connection holds at most: one message header and body, one leased slot for the write that is
// coming in, and one reply for each of its kNodeDepth slots.  So memory is bounded by the number of
// connections, and that is bounded too; those that have not proven themselves are few, their
// messages at most kHandshakeBytesMax, and the oldest of them makes room for the next.
#pragma once

#include <deque>
#include <list>
#include <memory>

#include "rdma/address.hpp"
#include "rdma/client_slots.hpp"
#include "tools/node/event_loop.hpp"
#include "tools/node/service.hpp"

namespace btd::tools {

inline constexpr size_t kConnectionCountMax = 256;
inline constexpr size_t kUnprovenCountMax = 64;
inline constexpr uint64_t kHandshakeMs = 2000;  // from accept() to proven
inline constexpr uint64_t kMessageMs = 5000;    // for one message, in or out, whole

class TcpConnection final : public Connection, public Source {
 public:
  TcpConnection(int socket, std::string peer, EventLoop& loop, Service& service);
  ~TcpConnection() override;

  void ready(uint32_t events) override;
  void send(const wire::Message& message) override;
  void reply(uint8_t slot, wire::Reply reply, Payload payload) override;
  void close(NodeStatus why) override;

  bool is_closed() const { return state == State::kClosed; }
  bool is_proven() const { return state == State::kReady; }
  bool has_unsent() const { return !queue_.empty(); }
  bool is_overdue(uint64_t now_ms) const;
  void stop_receiving();

 private:
  struct Outgoing {
    wire::Message message;
    Payload payload;
    size_t sent_bytes = 0;
    uint64_t since_ms = 0;  // when it became the first of the queue
  };

  void enqueue(Outgoing outgoing);
  void send_queued();
  void finish_first();
  void receive();
  bool consume();
  bool take_message(const wire::Message& message);
  void end_payload();
  void update_interest();

  const int socket_;
  EventLoop& loop_;
  Service& service_;
  const uint64_t accepted_ms_;

  std::deque<Outgoing> queue_;
  uint32_t interest_;
  bool is_receiving_ = true;

  // What was received and not yet understood.
  size_t received_bytes_ = 0;
  uint64_t message_since_ms_ = 0;  // when the first byte of an unfinished message came; 0: none
  char received_[4096];

  // The write whose payload is coming in.
  bool has_payload_ = false;
  wire::Message write_;
  SlotIndex payload_slot_ = kNoSlot;
  wire::Reply refusal_{};
  uint32_t payload_bytes_ = 0;
};

class TcpTransport final : public Source {
 public:
  // Listens; throws Failure.
  TcpTransport(const NodeAddress& address, EventLoop& loop, Service& service);
  ~TcpTransport() override;

  uint16_t port() const { return port_; }
  void ready(uint32_t events) override;
  // At the end of a round: drops who is too slow, forgets who is gone.
  void sweep(uint64_t now_ms);
  void stop();  // accepts and receives no more
  bool has_unsent() const;
  void close_all();

 private:
  void make_room();

  EventLoop& loop_;
  Service& service_;
  int socket_ = -1;
  uint16_t port_ = 0;
  std::list<std::unique_ptr<TcpConnection>> connections_;
};

std::string address_text(const sockaddr_storage& address);

}  // namespace btd::tools
