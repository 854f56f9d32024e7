// A client that keeps to the handshake and then does with verbs what it likes.
//
// Any failure of a set-up step is the test's, but for the connection itself: a packet of its making
// that is lost, once in a thousand times under emulation, is sent again after seconds, too late for
// the node's patience with strangers.
#pragma once

#include <sched.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <memory>
#include <vector>

#include "rdma/handshake.hpp"
#include "rdma/verbs_queue.hpp"
#include "tests/vm/verbs_peer.hpp"

namespace btd::test {

class RawClient {
 public:
  RawClient(const NodeAddress& address, const NodeClient& who)
      : client_(who), buffers_(kNodeDepth * kFarExtentBytes) {
    BOOST_REQUIRE(library_ != nullptr);
    NodeAddress there = address;
    events_ = library_->create_event_channel();
    BOOST_REQUIRE(events_ != nullptr);
    BOOST_REQUIRE(library_->create_id(events_, &id_, nullptr, RDMA_PS_TCP) == 0);
    auto* where = reinterpret_cast<sockaddr*>(&there.storage);
    BOOST_REQUIRE(library_->resolve_addr(id_, nullptr, where, kConnectMs) == 0);
    BOOST_REQUIRE(await(RDMA_CM_EVENT_ADDR_RESOLVED));
    BOOST_REQUIRE(library_->resolve_route(id_, kConnectMs) == 0);
    BOOST_REQUIRE(await(RDMA_CM_EVENT_ROUTE_RESOLVED));
    BOOST_REQUIRE(queue_.open(*library_, id_, buffers_.data(), DeviceQueue::Peer::kNothing));
    rdma_conn_param parameters = verbs_parameters(queue_.reads_max(), false);
    BOOST_REQUIRE(library_->connect(id_, &parameters) == 0);
    is_accepted_ = await(RDMA_CM_EVENT_ESTABLISHED) && shake_hands();
  }
  ~RawClient() {
    library_->disconnect(id_);
    queue_.close();
    library_->destroy_id(id_);
    library_->destroy_event_channel(events_);
  }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool is_accepted() const { return is_accepted_; }
  uint64_t address() const { return accept_.staging_address; }
  uint32_t key() const { return accept_.staging_key; }
  char* buffer() { return buffers_.data(); }

  // One-sided, and waits for what comes of it: true, the bytes went; false, the connection is
  // broken.
  bool reads(uint32_t length_bytes, uint64_t remote_address, uint32_t remote_key) {
    BOOST_REQUIRE(queue_.read(0, length_bytes, remote_address, remote_key));
    return await_bytes(VerbsQueue::Kind::kRead);
  }
  bool writes(uint32_t length_bytes, uint64_t remote_address, uint32_t remote_key) {
    BOOST_REQUIRE(queue_.write(0, length_bytes, remote_address, remote_key));
    return await_bytes(VerbsQueue::Kind::kWritten);
  }

 private:
  bool await(rdma_cm_event_type wanted) {
    rdma_cm_event* event = nullptr;
    BOOST_REQUIRE(library_->get_cm_event(events_, &event) == 0);
    rdma_cm_event_type type = event->event;
    library_->ack_cm_event(event);
    return type == wanted;
  }
  // Polled: what it waits for comes within the device's own time limits.
  VerbsQueue::Event next() {
    VerbsQueue::Event event;
    uint64_t end_ms = steady_clock_ms() + kConnectMs;
    while (queue_.poll(event) == 0) {
      BOOST_REQUIRE(steady_clock_ms() < end_ms);
      sched_yield();
    }
    return event;
  }
  bool await_bytes(VerbsQueue::Kind kind) {
    while (true) {
      VerbsQueue::Event event = next();
      if (event.kind == kind) return true;
      if (event.kind == VerbsQueue::Kind::kBroken) return false;
    }
  }
  bool shake_hands() {
    wire::ClientHandshake handshake;
    wire::Message outgoing;
    BOOST_REQUIRE(handshake.start(client_, wire::Transport::kVerbs, queue_.queue_pair(), outgoing));
    auto step = wire::ClientHandshake::Step::kSend;
    while (step == wire::ClientHandshake::Step::kSend) {
      BOOST_REQUIRE(queue_.send(outgoing));
      VerbsQueue::Event event = next();
      while (event.kind == VerbsQueue::Kind::kSent) event = next();
      if (event.kind != VerbsQueue::Kind::kMessage) return false;
      step = handshake.on_message(event.message, outgoing);
    }
    accept_ = handshake.accept();
    return step == wire::ClientHandshake::Step::kAccepted;
  }

  const VerbsLibrary* library_ = load_verbs();
  NodeClient client_;
  std::vector<char> buffers_;
  rdma_event_channel* events_ = nullptr;
  rdma_cm_id* id_ = nullptr;
  DeviceQueue queue_;
  wire::Accept accept_{};
  bool is_accepted_ = false;
};

inline std::unique_ptr<RawClient> accepted_client(const NodeAddress& address,
                                                  const NodeClient& who) {
  for (int i = 0; i < 5; i++) {
    auto client = std::make_unique<RawClient>(address, who);
    if (client->is_accepted()) return client;
    std::printf("not accepted; once more\n");
  }
  BOOST_FAIL("not accepted");
  return nullptr;
}

}  // namespace btd::test
