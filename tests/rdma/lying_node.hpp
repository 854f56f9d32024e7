// A node that has the key and lies.
#pragma once

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "rdma/address.hpp"
#include "rdma/handshake.hpp"

namespace btd::test {

// Shakes hands as a node does, then answers each request with whatever `answer` says; nothing:
// hangs up.  One connection.
class LyingNode {
 public:
  // What to answer to the request, whose payload comes with it.
  using Answer = std::function<std::string(const wire::Message&, const std::string&)>;
  LyingNode(const uint8_t* key, Answer answer) : answer_(std::move(answer)) {
    std::memcpy(key_, key, sizeof(key_));
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    auto* address = reinterpret_cast<sockaddr_in*>(&address_.storage);
    address->sin_family = AF_INET;
    address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address_.length = sizeof(*address);
    BOOST_REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(address), sizeof(*address)) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(address), &address_.length);
    listen(listener_, 1);
    thread_ = std::thread([this] { serve(); });
  }
  ~LyingNode() {
    thread_.join();
    ::close(listener_);
  }
  const NodeAddress& address() const { return address_; }

 private:
  bool take(int peer, wire::Message& message) {
    return recv(peer, &message.header, sizeof(message.header), MSG_WAITALL) ==
               sizeof(message.header) &&
           recv(peer, message.body, message.header.body_bytes, MSG_WAITALL) ==
               message.header.body_bytes;
  }
  void serve() {
    int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    wire::NodeHandshake handshake;
    wire::Message incoming, outgoing;
    take(peer, incoming);
    handshake.on_hello(incoming, wire::Challenge{}, outgoing);
    send(peer, &outgoing, outgoing.size_bytes(), MSG_NOSIGNAL);
    take(peer, incoming);
    wire::Accept granted{};
    granted.depth = kNodeDepth;
    if (handshake.on_proof(key_, incoming)) {
      handshake.accept(key_, granted, outgoing);
      send(peer, &outgoing, outgoing.size_bytes(), MSG_NOSIGNAL);
      while (take(peer, incoming)) {
        std::string payload(incoming.header.payload_bytes, '\0');
        if (!payload.empty() && recv(peer, payload.data(), payload.size(), MSG_WAITALL) <= 0) break;
        std::string bytes = answer_(incoming, payload);
        if (bytes.empty()) break;
        send(peer, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      }
    }
    ::close(peer);
  }

  Answer answer_;
  uint8_t key_[wire::kKeyBytes];
  int listener_;
  NodeAddress address_{};
  std::thread thread_;
};

inline std::string bytes_of(const wire::Message& request, wire::Reply reply,
                            const std::string& payload, int slot = -1) {
  wire::Message message;
  reply.length_bytes = static_cast<uint32_t>(payload.size());
  if (reply.request == wire::Type{}) reply.request = request.header.type;
  wire::build(message, wire::Type::kReply,
              slot < 0 ? request.header.slot : static_cast<uint8_t>(slot), reply,
              reply.length_bytes);
  return std::string(reinterpret_cast<char*>(&message), message.size_bytes()) + payload;
}

}  // namespace btd::test
