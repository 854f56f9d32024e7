// The first four messages: who the peer is, before it gets anything.
//
//   client                                   node
//     hello: versions, arena, epoch, nonce  -->
//                      <-- challenge: version, durability, nonce
//     proof: HMAC over both                 -->   the node knows the client, and looks at its epoch
//                      <-- accept: HMAC over both and the address of the staging buffers
//   the client knows the node
//
// Both nonces are new for each connection and both are under both MACs, so nothing that was heard
// on another connection is of use; the labels differ, so a peer's own MAC cannot be sent back to
// it. Transport and durability are under the MACs too: nobody in between can make them weaker. The
// scheme is ISO/IEC 9798-4, mutual authentication in three passes, with the greeting before it.
//
// No transport is in here: a transport carries the messages, each way one at a time.
#pragma once

#include "rdma/crypto.hpp"
#include "rdma/wire.hpp"

namespace btd {

// What a client is to the nodes of its arena.
struct NodeClient {
  uint8_t arena[wire::kUuidBytes];
  uint8_t client[wire::kUuidBytes];  // random, once per opening of the arena
  uint64_t epoch;                    // > 0; 0: no owner
  uint8_t key[wire::kKeyBytes];
  wire::Durability durability;  // the least
  wire::Role role;
};

namespace wire {

// Hello and challenge, as they went over the wire.
class Transcript {
 public:
  void clear() { size_bytes_ = 0; }
  void add(const Message& message);
  // The MAC over label, transcript and `more`.  REQUIRES: more_bytes <= 64.
  void mac(const uint8_t* key, const char* label, const void* more, size_t more_bytes,
           uint8_t* out) const;

 private:
  uint8_t bytes_[2 * kMessageBytesMax];
  size_t size_bytes_ = 0;
};

// Thread safety: none; one object a connection attempt.
class ClientHandshake {
 public:
  // false: no randomness.
  [[nodiscard]] bool start(const NodeClient& client, Transport transport, uint32_t queue_pair,
                           Message& hello) noexcept;

  enum class Step : uint8_t { kSend, kAccepted, kFailed };
  // Takes a sound message of Phase::kClientHandshake.  kSend: `answer` is to be sent.  kAccepted:
  // accept() holds.  kFailed: status() says why.
  Step on_message(const Message& message, Message& answer) noexcept;

  NodeStatus status() const { return status_; }
  const Challenge& challenge() const { return challenge_; }
  const Accept& accept() const { return accept_; }

 private:
  Step fail(NodeStatus status) {
    status_ = status;
    return Step::kFailed;
  }

  const NodeClient* client_ = nullptr;
  Transport transport_ = Transport::kTcp;
  bool is_proven_ = false;
  NodeStatus status_ = NodeStatus::kRefused;
  Transcript transcript_;
  Challenge challenge_{};
  Accept accept_{};
};

// The node's side.  The caller looks at quota, epoch and limits between on_proof() and accept().
class NodeHandshake {
 public:
  // Takes a sound hello; builds the challenge.  ERRORS: kRefused, the versions do not meet or the
  // client asks for another transport or more durability than there is; no randomness.
  NodeStatus on_hello(const Message& message, Challenge challenge, Message& answer) noexcept;
  // Whether the client has the key.  In constant time.  Once per on_hello().
  [[nodiscard]] bool on_proof(const uint8_t* key, const Message& message) noexcept;
  // REQUIRES: on_proof() was true.
  void accept(const uint8_t* key, Accept accept, Message& answer) const noexcept;

  bool has_hello() const { return has_hello_; }
  const Hello& hello() const { return hello_; }

 private:
  bool has_hello_ = false;
  Transcript transcript_;
  Hello hello_{};
};

}  // namespace wire
}  // namespace btd
