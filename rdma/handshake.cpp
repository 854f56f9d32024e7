#include "rdma/handshake.hpp"

#include <cstring>

#include "core/base/check.hpp"

namespace btd::wire {
namespace {

constexpr char kProofLabel[] = "bartender node 1 proof";
constexpr char kAcceptLabel[] = "bartender node 1 accept";
constexpr size_t kMoreBytesMax = 64;
constexpr size_t kAcceptOpenBytes = offsetof(Accept, mac);

}  // namespace

void Transcript::add(const Message& message) {
  BTD_CHECK(size_bytes_ + message.size_bytes() <= sizeof(bytes_));
  std::memcpy(bytes_ + size_bytes_, &message, message.size_bytes());
  size_bytes_ += message.size_bytes();
}

void Transcript::mac(const uint8_t* key, const char* label, const void* more, size_t more_bytes,
                     uint8_t* out) const {
  uint8_t data[32 + sizeof(bytes_) + kMoreBytesMax];
  size_t label_bytes = std::strlen(label) + 1;  // the NUL ends it
  BTD_CHECK(label_bytes <= 32 && more_bytes <= kMoreBytesMax);
  std::memcpy(data, label, label_bytes);
  std::memcpy(data + label_bytes, bytes_, size_bytes_);
  if (more_bytes != 0) std::memcpy(data + label_bytes + size_bytes_, more, more_bytes);
  hmac_sha256(key, data, label_bytes + size_bytes_ + more_bytes, out);
}

bool ClientHandshake::start(const NodeClient& client, Transport transport, uint32_t queue_pair,
                            Message& message) noexcept {
  client_ = &client;
  transport_ = transport;
  is_proven_ = false;
  transcript_.clear();
  Hello hello{};
  hello.version_min = kVersionMin;
  hello.version_max = kVersionMax;
  hello.transport = transport;
  hello.durability = client.durability;
  hello.role = client.role;
  hello.queue_pair = queue_pair;
  hello.epoch = client.epoch;
  std::memcpy(hello.arena, client.arena, sizeof(hello.arena));
  std::memcpy(hello.client, client.client, sizeof(hello.client));
  if (!random_bytes(hello.nonce, sizeof(hello.nonce))) return false;
  build(message, Type::kHello, 0, hello);
  transcript_.add(message);
  return true;
}

ClientHandshake::Step ClientHandshake::on_message(const Message& message,
                                                  Message& answer) noexcept {
  if (message.header.type == Type::kGoodbye) return fail(message.as<Goodbye>().status);
  if (message.header.type == Type::kChallenge) {
    if (is_proven_) return fail(NodeStatus::kRefused);
    challenge_ = message.as<Challenge>();
    if (challenge_.version < kVersionMin || challenge_.version > kVersionMax ||
        challenge_.transport != transport_ || challenge_.durability < client_->durability) {
      return fail(NodeStatus::kRefused);
    }
    transcript_.add(message);
    is_proven_ = true;
    Proof proof;
    transcript_.mac(client_->key, kProofLabel, nullptr, 0, proof.mac);
    build(answer, Type::kProof, 0, proof);
    return Step::kSend;
  }
  if (!is_proven_ || message.header.type != Type::kAccept) return fail(NodeStatus::kRefused);
  accept_ = message.as<Accept>();
  uint8_t mac[kMacBytes];
  transcript_.mac(client_->key, kAcceptLabel, &accept_, kAcceptOpenBytes, mac);
  if (!is_equal_secret(mac, accept_.mac, kMacBytes)) return fail(NodeStatus::kRefused);
  status_ = NodeStatus::kGood;
  return Step::kAccepted;
}

NodeStatus NodeHandshake::on_hello(const Message& message, Challenge challenge,
                                   Message& answer) noexcept {
  hello_ = message.as<Hello>();
  if (hello_.version_min > kVersionMax || hello_.version_max < kVersionMin ||
      hello_.transport != challenge.transport || hello_.durability > challenge.durability ||
      !random_bytes(challenge.nonce, sizeof(challenge.nonce))) {
    return NodeStatus::kRefused;
  }
  has_hello_ = true;
  challenge.version = hello_.version_max < kVersionMax ? hello_.version_max : kVersionMax;
  transcript_.clear();
  transcript_.add(message);
  build(answer, Type::kChallenge, 0, challenge);
  transcript_.add(answer);
  return NodeStatus::kGood;
}

bool NodeHandshake::on_proof(const uint8_t* key, const Message& message) noexcept {
  if (!has_hello_) return false;
  uint8_t mac[kMacBytes];
  transcript_.mac(key, kProofLabel, nullptr, 0, mac);
  return is_equal_secret(mac, message.as<Proof>().mac, kMacBytes);
}

void NodeHandshake::accept(const uint8_t* key, Accept accept, Message& answer) const noexcept {
  transcript_.mac(key, kAcceptLabel, &accept, kAcceptOpenBytes, accept.mac);
  build(answer, Type::kAccept, 0, accept);
}

}  // namespace btd::wire
