// A memory node's clients over verbs.
//
// What a client reads is written into its own memory, from a staging buffer, or from the store
// itself if that can be registered: with each connection's domain, for sending alone.  So no remote
// key opens it.
//
// Each connection has staging buffers, a protection domain and a queue pair of its own; closing it
// destroys queue pair and region before close() returns, so that a fenced client's one-sided writes
// reach nothing any more.  They never reach the store anyway: what is written lies in a staging
// buffer until its message has been understood, and is copied before its checksum is looked at.
#pragma once

#include <deque>
#include <list>
#include <memory>

#include "rdma/address.hpp"
#include "rdma/verbs_queue.hpp"
#include "tools/node/event_loop.hpp"
#include "tools/node/service.hpp"

namespace btd::tools {

class VerbsConnection final : public Connection, public Source {
 public:
  // Takes the id over.  Throws Failure when the device has no room for it.
  VerbsConnection(const VerbsLibrary& library, rdma_cm_id* id, std::string peer, EventLoop& loop,
                  Service& service);
  ~VerbsConnection() override;

  void ready(uint32_t events) override;
  void send(const wire::Message& message) override;
  void reply(uint8_t slot, wire::Reply reply, Payload payload) override;
  void close(NodeStatus why) override;
  void lose();  // the peer has gone: nobody is told why
  void fill(wire::Accept& accept) override;
  void place(const wire::Message& message) override;
  uint32_t queue_pair() const override { return queue_.queue_pair(); }

  // reads_asked: that the client wants to have in flight.  false: the device refused.
  bool accept(uint8_t reads_asked);
  bool is_closed() const { return state == State::kClosed; }
  bool is_proven() const { return state == State::kReady; }
  // A goodbye in the handshake is given a moment to leave.
  bool is_lingering(uint64_t now_ms) const { return queue_.is_open() && now_ms < linger_until_ms_; }
  bool is_overdue(uint64_t now_ms) const;
  // Asks a client that has been silent for long whether its machine still lives.
  void probe_if_silent(uint64_t now_ms);
  const rdma_cm_id* id() const { return id_; }

 private:
  bool take_message(const wire::Message& message);
  bool take_write(const wire::Message& message);
  void send_bytes(uint8_t slot, const Payload& payload);
  void written();
  void destroy();

  const VerbsLibrary& library_;
  rdma_cm_id* id_;
  EventLoop& loop_;
  Service& service_;
  const uint64_t accepted_ms_;
  uint64_t linger_until_ms_ = 0;
  uint64_t heard_ms_;  // when something last came in, or it was last probed
  bool is_broken_ = false;
  struct FreeBuffers {
    void operator()(char* buffers) const;
  };
  std::unique_ptr<char, FreeBuffers> staging_;
  // Where the client wants the bytes of its reads; key 0: in the staging buffer.
  struct Place {
    uint64_t address = 0;
    uint32_t key = 0;
  };
  Place places_[kNodeDepth];
  // Of the writes into the client's memory that are on their way: slots of the store that are
  // pinned until then, kNoSlot for a staging buffer.
  std::deque<SlotIndex> sources_;
  DeviceQueue queue_;  // after staging_: closed before it is freed
};

class VerbsTransport final : public Source {
 public:
  // Listens; throws Failure.
  VerbsTransport(const VerbsLibrary& library, const NodeAddress& address, EventLoop& loop,
                 Service& service);
  ~VerbsTransport() override;

  uint16_t port() const { return port_; }
  void ready(uint32_t events) override;
  void sweep(uint64_t now_ms);
  void stop();
  void close_all();

 private:
  void on_request(rdma_cm_id* id, uint8_t reads_asked);

  const VerbsLibrary& library_;
  EventLoop& loop_;
  Service& service_;
  rdma_event_channel* events_ = nullptr;
  rdma_cm_id* listener_ = nullptr;
  uint16_t port_ = 0;
  bool is_stopped_ = false;
  std::list<std::unique_ptr<VerbsConnection>> connections_;
};

}  // namespace btd::tools
