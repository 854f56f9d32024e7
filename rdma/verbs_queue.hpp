// A queue pair as the protocol sees it, and the one that a device gives.
//
// The interface is there for the tests: what a client does with completions is checked without a
// device.
#pragma once

#include "rdma/verbs_library.hpp"
#include "rdma/wire.hpp"

namespace btd {

class VerbsQueue {
 public:
  enum class Kind : uint8_t {
    kMessage,  // `message` came in
    kSent,     // a message of ours was taken by the peer's device
    kRead,     // the bytes of read(slot) are there
    kWritten,  // those of write(slot) are there on the peer
    kBroken,   // nothing will come any more
  };
  struct Event {
    Kind kind;
    uint32_t slot;
    wire::Message message;
  };

  // All are done in the order in which they are posted, and each is reported by poll().
  // false: the queue is full or broken.
  virtual bool send(const wire::Message& message) noexcept = 0;
  // Between slot's buffer here and the remote address.  The buffer must stay untouched until the
  // event, or until the queue is closed.
  virtual bool write(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
                     uint32_t remote_key) noexcept = 0;
  virtual bool read(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
                    uint32_t remote_key) noexcept = 0;
  // At once; 0: nothing has happened, 1: `event` did.
  virtual int poll(Event& event) noexcept = 0;

 protected:
  ~VerbsQueue() = default;
};

// Of one connection: its own protection domain, completion queue and regions, so that nothing of
// one client can be reached through another's.
//
// Thread safety: one thread.
class DeviceQueue final : public VerbsQueue {
 public:
  // What the peer may do with the buffers.  Of a node's it may do both, and begins the reads.
  enum class Peer : uint8_t { kNothing, kWrites, kReadsAndWrites };

  // Makes queue pair and regions on `id` and posts the receives.  `buffers`: kNodeDepth of
  // kFarExtentBytes, alive until close().  Allocates, as close() frees.
  [[nodiscard]] bool open(const VerbsLibrary& library, rdma_cm_id* id, char* buffers,
                          Peer peer) noexcept;
  // Lets write_from() take bytes from there, and the peer do nothing with it.  false: the device
  // cannot.  Until close().
  [[nodiscard]] bool open_source(const char* base, uint64_t size_bytes) noexcept;
  // When this returns no device touches the buffers any more.  `id` stays the caller's.
  void close() noexcept;
  ~DeviceQueue() { close(); }

  bool send(const wire::Message& message) noexcept override;
  bool write(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
             uint32_t remote_key) noexcept override;
  bool read(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
            uint32_t remote_key) noexcept override;
  int poll(Event& event) noexcept override;

  // As write(), of bytes in a buffer of this queue or in what open_source() was given; they must
  // stay until the event, which is kWritten too: these come in the order of posting.
  bool write_from(const char* bytes, uint32_t length_bytes, uint64_t remote_address,
                  uint32_t remote_key) noexcept;
  bool has_source() const { return source_region_ != nullptr; }

  bool is_open() const { return id_ != nullptr; }
  // Readable when there is something to poll() after arm().
  int descriptor() const { return channel_->fd; }
  // Asks the peer's device for a sign of life by writing nothing to it; kBroken follows when there
  // is none.  Nobody else notices the death of a machine that only listens.
  bool probe() noexcept;
  // Takes what made the descriptor readable, and asks for the next.  poll() until 0 after it.
  void arm() noexcept;
  uint32_t queue_pair() const { return id_->qp->qp_num; }
  uint64_t address() const { return reinterpret_cast<uint64_t>(buffers_); }
  uint32_t remote_key() const { return buffer_region_->rkey; }
  // Reads in flight that the device can do.
  uint8_t reads_max() const { return reads_max_; }

 private:
  // A peer may have answered all slots and been asked again before our device hears that the first
  // answers arrived: twice the depth, and some for handshake and goodbye.
  static constexpr uint32_t kSendCount = 2 * kNodeDepth + 4;
  static constexpr uint32_t kReceiveCount = kNodeDepth + 4;
  static constexpr uint32_t kSendDepth = kSendCount + 2 * kNodeDepth + 1;  // and a probe

  bool post_receive(uint32_t index) noexcept;
  bool post_data(Kind kind, uint32_t slot, ibv_sge place, uint64_t remote_address,
                 uint32_t remote_key) noexcept;
  ibv_sge place_of(uint32_t slot, uint32_t length_bytes) const {
    return {.addr = address() + slot * kFarExtentBytes,
            .length = length_bytes,
            .lkey = buffer_region_->lkey};
  }

  const VerbsLibrary* library_ = nullptr;
  rdma_cm_id* id_ = nullptr;
  char* buffers_ = nullptr;
  uint8_t reads_max_ = 0;
  bool is_broken_ = false;
  uint64_t sends_in_use_ = 0;  // a bit for each of sends_
  bool is_probing_ = false;

  // In the order of creation.
  ibv_pd* domain_ = nullptr;
  ibv_comp_channel* channel_ = nullptr;
  ibv_cq* completions_ = nullptr;
  bool has_queue_pair_ = false;
  ibv_mr* message_region_ = nullptr;
  ibv_mr* buffer_region_ = nullptr;
  ibv_mr* source_region_ = nullptr;

  struct Messages {
    wire::Message sends[kSendCount];
    wire::Message receives[kReceiveCount];
  };
  Messages messages_;
};
static_assert(2 * kNodeDepth + 4 <= 64, "a bit for each send");

// What both sides ask of a connection.
// reads_max: in flight at a time; for a node at most what the client asks for.
rdma_conn_param verbs_parameters(uint8_t reads_max, bool is_node) noexcept;
// How long the device waits for an acknowledgement: see the definition.
void set_ack_timeout(const VerbsLibrary& library, rdma_cm_id* id) noexcept;

}  // namespace btd
