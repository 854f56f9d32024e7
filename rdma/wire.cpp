#include "rdma/wire.hpp"

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/crc32c.hpp"

namespace btd::wire {
namespace {

bool may_come(Type type, Phase phase) {
  switch (phase) {
    case Phase::kClientHandshake:
      return type == Type::kChallenge || type == Type::kAccept || type == Type::kGoodbye;
    case Phase::kClientReady:
      return type == Type::kReply || type == Type::kGoodbye;
    case Phase::kNodeHandshake:
      return type == Type::kHello || type == Type::kProof;
    case Phase::kNodeReady:
      return (type >= Type::kRead && type <= Type::kForget) || type == Type::kReadInto;
  }
  return false;
}

uint32_t crc_of(const Message& message) {
  uint32_t crc = crc32c(&message.header, offsetof(Header, crc));
  return crc32c(message.body, message.header.body_bytes, crc);
}

bool is_status_known(NodeStatus status) { return status <= NodeStatus::kTimeout; }

bool is_sound(const Hello& hello) {
  bool is_owner = hello.role == Role::kOwner;
  return hello.version_min <= hello.version_max && hello.transport <= Transport::kVerbs &&
         hello.durability <= Durability::kPower && hello.role <= Role::kReader &&
         hello.reserved_a == 0 && hello.reserved_b == 0 && (hello.epoch > 0) == is_owner;
}

bool is_sound(const Challenge& challenge) {
  return challenge.transport <= Transport::kVerbs && challenge.durability <= Durability::kPower;
}

bool is_sound(const Seal& seal) {
  return (seal.reserved[0] | seal.reserved[1] | seal.reserved[2] | seal.reserved[3]) == 0;
}

bool is_sound(const Write& write) {
  return is_sound(write.seal) && write.generation != 0 && write.length_bytes != 0 &&
         write.length_bytes <= kFarExtentBytes;
}

bool is_sound(const Reply& reply) {
  bool may_be_sealed = reply.request == Type::kRead && reply.status == NodeStatus::kGood;
  if (!is_sound(reply.seal) || (!may_be_sealed && !is_zero(reply.seal))) return false;
  return is_status_known(reply.status) && reply.request >= Type::kRead &&
         reply.request <= Type::kForget && reply.reserved_a == 0 && reply.reserved_b == 0 &&
         reply.length_bytes <= kFarExtentBytes;
}

bool is_sound(const Goodbye& goodbye) {
  uint8_t bits = 0;
  for (uint8_t byte : goodbye.reserved) bits |= byte;
  return is_status_known(goodbye.status) && goodbye.status != NodeStatus::kGood && bits == 0;
}

}  // namespace

size_t body_bytes_of(Type type) noexcept {
  switch (type) {
    case Type::kHello:
      return sizeof(Hello);
    case Type::kChallenge:
      return sizeof(Challenge);
    case Type::kProof:
      return sizeof(Proof);
    case Type::kAccept:
      return sizeof(Accept);
    case Type::kRead:
      return sizeof(Read);
    case Type::kReadInto:
      return sizeof(ReadInto);
    case Type::kWrite:
      return sizeof(Write);
    case Type::kRelease:
      return sizeof(Release);
    case Type::kList:
      return sizeof(List);
    case Type::kStatus:
      return sizeof(Status);
    case Type::kForget:
      return sizeof(Forget);
    case Type::kReply:
      return sizeof(Reply);
    case Type::kGoodbye:
      return sizeof(Goodbye);
  }
  return 0;
}

bool is_header_sound(const Header& header, Phase phase, Transport transport) noexcept {
  if (header.magic != kMagic || !may_come(header.type, phase)) return false;
  if (header.body_bytes != body_bytes_of(header.type)) return false;
  if (header.type == Type::kReadInto && transport != Transport::kVerbs) return false;
  bool has_slot =
      (header.type >= Type::kRead && header.type <= Type::kReply) || header.type == Type::kReadInto;
  if (header.slot >= (has_slot ? kNodeDepth : 1)) return false;
  bool has_payload =
      transport == Transport::kTcp && (header.type == Type::kWrite || header.type == Type::kReply);
  return header.payload_bytes <= (has_payload ? kFarExtentBytes : 0);
}

bool is_message_sound(const Message& message, Transport transport) noexcept {
  if (message.header.crc != crc_of(message)) return false;
  auto is_payload_right = [&](uint32_t length_bytes) {
    return message.header.payload_bytes == (transport == Transport::kTcp ? length_bytes : 0);
  };
  switch (message.header.type) {
    case Type::kHello:
      return is_sound(message.as<Hello>());
    case Type::kChallenge:
      return is_sound(message.as<Challenge>());
    case Type::kAccept:
      return message.as<Accept>().depth == kNodeDepth;
    case Type::kWrite:
      return is_sound(message.as<Write>()) && is_payload_right(message.as<Write>().length_bytes);
    case Type::kReadInto:
      return message.as<ReadInto>().key != 0 && message.as<ReadInto>().reserved == 0;
    case Type::kReply:
      return is_sound(message.as<Reply>()) && is_payload_right(message.as<Reply>().length_bytes);
    case Type::kGoodbye:
      return is_sound(message.as<Goodbye>());
    default:
      return true;  // every value is possible
  }
}

bool is_zero(const Seal& seal) noexcept {
  constexpr Seal kNone{};
  return std::memcmp(&seal, &kNone, sizeof(seal)) == 0;
}

void build_from(Message& message, Type type, uint8_t slot, const void* body,
                uint32_t payload_bytes) noexcept {
  size_t body_bytes = body_bytes_of(type);
  BTD_ASSERT(body_bytes != 0 && payload_bytes <= kFarExtentBytes);
  message.header = {.magic = kMagic,
                    .type = type,
                    .slot = slot,
                    .body_bytes = static_cast<uint16_t>(body_bytes),
                    .payload_bytes = payload_bytes,
                    .crc = 0};
  std::memcpy(message.body, body, body_bytes);
  message.header.crc = crc_of(message);
}

}  // namespace btd::wire
