// Messages, handshake and slots, without any transport.  Invariants checked: what one side builds
// the other takes, and nothing else; a flipped bit anywhere is seen; no bytes whatever make the
// parser read or write outside of the message; only who has the key gets through the handshake,
// once; each operation is reported exactly once, and a node that lies is caught.
#define BOOST_TEST_MODULE wire
#include "rdma/wire.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "core/base/crc32c.hpp"
#include "rdma/client_slots.hpp"
#include "rdma/handshake.hpp"

namespace btd::wire {
namespace {

uint64_t seed() {
  static const uint64_t value = [] {
    const char* text = std::getenv("BTD_SEED");
    uint64_t chosen = text != nullptr ? std::strtoull(text, nullptr, 10) : std::random_device{}();
    std::printf("seed: %llu\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return value;
}

const Phase kPhases[] = {Phase::kClientHandshake, Phase::kClientReady, Phase::kNodeHandshake,
                         Phase::kNodeReady};

Phase phase_of(Type type) {
  if (type == Type::kHello || type == Type::kProof) return Phase::kNodeHandshake;
  if (type == Type::kChallenge || type == Type::kAccept) return Phase::kClientHandshake;
  return type <= Type::kForget ? Phase::kNodeReady : Phase::kClientReady;
}

std::vector<Message> one_of_each() {
  std::vector<Message> messages(12);
  Hello hello{};
  hello.version_min = hello.version_max = 1;
  hello.epoch = 3;
  Challenge challenge{};
  challenge.version = 1;
  Accept accept{};
  accept.depth = kNodeDepth;
  Reply reply{};
  reply.request = Type::kRead;
  reply.length_bytes = 100;
  Goodbye goodbye{};
  goodbye.status = NodeStatus::kFenced;
  build(messages[0], Type::kHello, 0, hello);
  build(messages[1], Type::kChallenge, 0, challenge);
  build(messages[2], Type::kProof, 0, Proof{});
  build(messages[3], Type::kAccept, 0, accept);
  build(messages[4], Type::kRead, 3, Read{.extent = 1, .generation_min = 2});
  build(messages[5], Type::kWrite, 15,
        Write{.extent = 1, .generation = 2, .length_bytes = 9, .crc = 4, .seal = {}}, 9);
  build(messages[6], Type::kRelease, 3, Release{.extent = 1});
  build(messages[7], Type::kList, 3, List{.first_extent = 1});
  build(messages[8], Type::kStatus, 3, Status{.first_arena = 0});
  build(messages[9], Type::kReply, 3, reply, 100);
  build(messages[10], Type::kGoodbye, 0, goodbye);
  build(messages[11], Type::kForget, 3, Forget{});
  return messages;
}

bool is_taken(const Message& message, Phase phase, Transport transport = Transport::kTcp) {
  return is_header_sound(message.header, phase, transport) && is_message_sound(message, transport);
}

BOOST_AUTO_TEST_CASE(each_message_is_taken_in_its_phase_and_no_other) {
  for (const Message& message : one_of_each()) {
    for (Phase phase : kPhases) {
      bool is_its_own = phase == phase_of(message.header.type) ||
                        (message.header.type == Type::kGoodbye && phase == Phase::kClientHandshake);
      BOOST_TEST(is_taken(message, phase) == is_its_own);
    }
    BOOST_TEST(message.size_bytes() <= kHandshakeBytesMax);
  }
}

BOOST_AUTO_TEST_CASE(a_read_into_is_taken_over_verbs_alone_and_needs_a_key) {
  ReadInto read{.extent = 1, .generation_min = 2, .address = 4096, .key = 3, .reserved = 0};
  Message message;
  build(message, Type::kReadInto, 3, read);
  for (Phase phase : kPhases) {
    BOOST_TEST(is_taken(message, phase, Transport::kVerbs) == (phase == Phase::kNodeReady));
    BOOST_TEST(!is_taken(message, phase, Transport::kTcp));
  }
  BOOST_TEST(message.size_bytes() <= kHandshakeBytesMax);
  for (size_t bit = 0; bit < message.size_bytes() * 8; bit++) {
    Message other = message;
    reinterpret_cast<uint8_t*>(&other)[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    BOOST_REQUIRE(!is_taken(other, Phase::kNodeReady, Transport::kVerbs));
  }
  read.reserved = 1;
  build(message, Type::kReadInto, 3, read);
  BOOST_TEST(!is_taken(message, Phase::kNodeReady, Transport::kVerbs));
  read.reserved = read.key = 0;
  build(message, Type::kReadInto, 3, read);
  BOOST_TEST(!is_taken(message, Phase::kNodeReady, Transport::kVerbs));
}

BOOST_AUTO_TEST_CASE(each_flipped_bit_is_seen) {
  for (const Message& good : one_of_each()) {
    for (size_t bit = 0; bit < good.size_bytes() * 8; bit++) {
      Message message = good;
      reinterpret_cast<uint8_t*>(&message)[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
      BOOST_REQUIRE(!is_taken(message, phase_of(good.header.type)));
    }
  }
}

BOOST_AUTO_TEST_CASE(only_a_good_reply_to_a_read_is_sealed) {
  Message message;
  for (NodeStatus status : {NodeStatus::kGood, NodeStatus::kStale}) {
    for (Type request : {Type::kRead, Type::kWrite, Type::kForget}) {
      Reply reply{};
      reply.request = request;
      reply.status = status;
      reply.seal.tag[3] = 1;
      build(message, Type::kReply, 0, reply);
      BOOST_TEST(is_taken(message, Phase::kClientReady) ==
                 (request == Type::kRead && status == NodeStatus::kGood));
    }
  }
  Write write{};
  write.generation = write.length_bytes = 1;
  write.seal.nonce[0] = 1;
  build(message, Type::kWrite, 0, write, 1);
  BOOST_TEST(is_taken(message, Phase::kNodeReady));
  write.seal.reserved[3] = 1;
  build(message, Type::kWrite, 0, write, 1);
  BOOST_TEST(!is_taken(message, Phase::kNodeReady));
}

BOOST_AUTO_TEST_CASE(over_verbs_no_message_has_a_payload) {
  for (const Message& message : one_of_each()) {
    BOOST_TEST(is_taken(message, phase_of(message.header.type), Transport::kVerbs) ==
               (message.header.payload_bytes == 0));
  }
}

// Run with the address sanitizer this is the fuzz test; without, it checks that nothing bad is
// taken.
BOOST_AUTO_TEST_CASE(random_bytes_with_good_checksums_are_taken_only_within_their_ranges) {
  std::mt19937_64 random(seed());
  auto messages = one_of_each();
  size_t taken = 0;
  for (int round = 0; round < 300000; round++) {
    Message message = messages[random() % messages.size()];
    Phase phase = phase_of(message.header.type);
    size_t size_bytes = message.size_bytes();
    for (uint64_t i = random() % 4; i > 0; i--) {
      reinterpret_cast<uint8_t*>(&message)[random() % size_bytes] = static_cast<uint8_t>(random());
    }
    if (!is_header_sound(message.header, phase, Transport::kTcp)) continue;
    BOOST_REQUIRE(message.size_bytes() <= sizeof(message));
    // As somebody would who can compute a checksum.
    message.header.crc =
        crc32c(message.body, message.header.body_bytes, crc32c(&message.header, 12));
    if (!is_message_sound(message, Transport::kTcp)) continue;
    taken++;
    if (message.header.type == Type::kWrite) {
      auto write = message.as<Write>();
      BOOST_REQUIRE((write.length_bytes > 0 && write.length_bytes <= kFarExtentBytes &&
                     write.generation != 0));
    }
    if (message.header.type == Type::kReply)
      BOOST_REQUIRE(message.as<Reply>().length_bytes <= kFarExtentBytes);
  }
  BOOST_TEST(taken > 1000u);
}

struct Pair {
  NodeClient client{};
  uint8_t key[kKeyBytes]{};
  ClientHandshake ours;
  NodeHandshake theirs;
  Message hello, challenge, proof, accept, none;

  Pair() {
    client.epoch = 1;
    client.arena[0] = 1;
    for (size_t i = 0; i < kKeyBytes; i++) client.key[i] = key[i] = static_cast<uint8_t>(i);
  }

  Challenge offer() {
    Challenge offer{};
    offer.durability = Durability::kPower;
    return offer;
  }

  // Up to the proof; false: somebody stopped.
  bool prove() {
    BOOST_REQUIRE(ours.start(client, Transport::kTcp, 0, hello));
    if (theirs.on_hello(hello, offer(), challenge) != NodeStatus::kGood) return false;
    return ours.on_message(challenge, proof) == ClientHandshake::Step::kSend;
  }

  ClientHandshake::Step finish() {
    Accept granted{};
    granted.depth = kNodeDepth;
    granted.staging_address = 0x1000;
    theirs.accept(key, granted, accept);
    return ours.on_message(accept, none);
  }
};

BOOST_AUTO_TEST_CASE(same_key_gets_through) {
  Pair pair;
  BOOST_REQUIRE(pair.prove());
  BOOST_TEST(pair.theirs.on_proof(pair.key, pair.proof));
  BOOST_TEST((pair.finish() == ClientHandshake::Step::kAccepted));
  BOOST_TEST(pair.ours.accept().staging_address == 0x1000u);
}

BOOST_AUTO_TEST_CASE(other_keys_do_not_on_either_side) {
  for (int bit = 0; bit < 256; bit++) {
    Pair pair;
    pair.key[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    BOOST_REQUIRE(pair.prove());
    BOOST_REQUIRE(!pair.theirs.on_proof(pair.key, pair.proof));
    BOOST_REQUIRE((pair.finish() == ClientHandshake::Step::kFailed));
    BOOST_REQUIRE((pair.ours.status() == NodeStatus::kRefused));
  }
}

BOOST_AUTO_TEST_CASE(whatever_is_changed_on_the_way_ends_the_handshake) {
  auto reseal = [](Message& message) {
    message.header.crc =
        crc32c(message.body, message.header.body_bytes, crc32c(&message.header, 12));
  };
  size_t refused = 0, tried = 0;
  for (size_t at = 0; at < sizeof(Hello); at++, tried++) {
    Pair pair;
    BOOST_REQUIRE(pair.ours.start(pair.client, Transport::kTcp, 0, pair.hello));
    pair.hello.body[at] ^= 1;
    reseal(pair.hello);
    bool is_through =
        is_message_sound(pair.hello, Transport::kTcp) &&
        pair.theirs.on_hello(pair.hello, pair.offer(), pair.challenge) == NodeStatus::kGood &&
        pair.ours.on_message(pair.challenge, pair.proof) == ClientHandshake::Step::kSend &&
        pair.theirs.on_proof(pair.key, pair.proof);
    refused += !is_through;
  }
  for (size_t at = 0; at < sizeof(Challenge); at++, tried++) {
    Pair pair;
    BOOST_REQUIRE(pair.ours.start(pair.client, Transport::kTcp, 0, pair.hello));
    BOOST_REQUIRE(
        (pair.theirs.on_hello(pair.hello, pair.offer(), pair.challenge) == NodeStatus::kGood));
    pair.challenge.body[at] ^= 1;
    reseal(pair.challenge);
    bool is_through =
        is_message_sound(pair.challenge, Transport::kTcp) &&
        pair.ours.on_message(pair.challenge, pair.proof) == ClientHandshake::Step::kSend &&
        pair.theirs.on_proof(pair.key, pair.proof);
    refused += !is_through;
  }
  for (size_t at = 0; at < sizeof(Accept); at++, tried++) {
    Pair pair;
    BOOST_REQUIRE(pair.prove());
    Accept granted{};
    granted.depth = kNodeDepth;
    pair.theirs.accept(pair.key, granted, pair.accept);
    pair.accept.body[at] ^= 1;
    reseal(pair.accept);
    refused += pair.ours.on_message(pair.accept, pair.none) != ClientHandshake::Step::kAccepted;
  }
  BOOST_TEST(refused == tried);
}

BOOST_AUTO_TEST_CASE(old_proofs_and_accepts_are_of_no_use) {
  Pair heard;
  BOOST_REQUIRE(heard.prove());
  heard.finish();
  Pair pair;
  BOOST_REQUIRE(pair.prove());
  BOOST_TEST(!pair.theirs.on_proof(pair.key, heard.proof));
  BOOST_TEST((pair.ours.on_message(heard.accept, pair.none) == ClientHandshake::Step::kFailed));
  Pair early;  // an accept before the challenge
  BOOST_REQUIRE(early.ours.start(early.client, Transport::kTcp, 0, early.hello));
  BOOST_TEST((early.ours.on_message(heard.accept, early.none) == ClientHandshake::Step::kFailed));
}

BOOST_AUTO_TEST_CASE(weaker_durability_than_asked_for_is_refused) {
  Pair pair;
  pair.client.durability = Durability::kPower;
  Challenge weak{};
  BOOST_REQUIRE(pair.ours.start(pair.client, Transport::kTcp, 0, pair.hello));
  BOOST_TEST((pair.theirs.on_hello(pair.hello, weak, pair.challenge) == NodeStatus::kRefused));
}

struct SlotsFixture {
  std::unique_ptr<ClientSlots> slots = std::make_unique<ClientSlots>();
  NodeCompletion done[kNodeDepth]{};

  Message reply(uint8_t slot, Type request, NodeStatus status, uint32_t length_bytes = 0,
                uint64_t generation = 0, uint32_t crc = 0) {
    Message message;
    Reply body{};
    body.status = status;
    body.request = request;
    body.length_bytes = length_bytes;
    body.generation = generation;
    body.crc = crc;
    build(message, Type::kReply, slot, body, length_bytes);
    return message;
  }
};

BOOST_FIXTURE_TEST_CASE(a_read_is_reported_once_with_what_was_read, SlotsFixture) {
  BOOST_REQUIRE(slots->begin_read(2, 7, 5, 1000) != nullptr);
  BOOST_TEST(slots->begin_read(2, 7, 5, 1000) == nullptr);
  BOOST_TEST(slots->in_flight() == 1u);
  BOOST_TEST(slots->take(done, kNodeDepth) == 0u);
  std::memcpy(slots->buffer(2), "bytes", 5);
  BOOST_TEST((slots->on_reply(reply(2, Type::kRead, NodeStatus::kGood, 5, 6, crc32c("bytes", 5))) ==
              ClientSlots::Next::kPayload));
  BOOST_TEST(slots->payload_bytes(2) == 5u);
  slots->finish(2);
  BOOST_REQUIRE(slots->take(done, kNodeDepth) == 1u);
  BOOST_TEST((done[0].slot == 2 && done[0].status == NodeStatus::kGood &&
              done[0].length_bytes == 5 && done[0].generation == 6));
  BOOST_TEST(slots->take(done, kNodeDepth) == 0u);
  BOOST_TEST(slots->is_idle(2));
}

BOOST_FIXTURE_TEST_CASE(arguments_out_of_range_are_not_begun, SlotsFixture) {
  BOOST_TEST(slots->begin_read(kNodeDepth, 1, 0, 1) == nullptr);
  BOOST_TEST(slots->begin_write(0, 1, 0, 10, Transport::kTcp, 1) == nullptr);
  BOOST_TEST(slots->begin_write(0, 1, 1, 0, Transport::kTcp, 1) == nullptr);
  BOOST_TEST(slots->begin_write(0, 1, 1, kFarExtentBytes + 1, Transport::kTcp, 1) == nullptr);
  BOOST_TEST(slots->in_flight() == 0u);
  BOOST_TEST(
      slots->begin_write(0, 1, 1, kFarExtentBytes, Transport::kVerbs, 1)->header.payload_bytes ==
      0u);
}

BOOST_FIXTURE_TEST_CASE(answers_that_do_not_fit_are_violations, SlotsFixture) {
  auto is_violation = [&](const Message& message) {
    return slots->on_reply(message) == ClientSlots::Next::kViolation;
  };
  BOOST_TEST(is_violation(reply(1, Type::kRead, NodeStatus::kNotFound)));  // nothing was asked
  slots->begin_read(1, 7, 5, 1000);
  BOOST_TEST(is_violation(reply(1, Type::kWrite, NodeStatus::kGood)));
  BOOST_TEST(is_violation(reply(1, Type::kRead, NodeStatus::kGood, 0, 6)));  // no bytes
  BOOST_TEST(is_violation(reply(1, Type::kRead, NodeStatus::kGood, 5, 4)));  // stale, and says good
  BOOST_TEST(is_violation(reply(1, Type::kRead, NodeStatus::kNotFound, 5, 6)));  // bytes of nothing
  BOOST_TEST(is_violation(reply(1, Type::kRead, NodeStatus::kTimeout)));
  slots->begin_release(2, 7, 1000);
  BOOST_TEST(is_violation(reply(2, Type::kRelease, NodeStatus::kGood, 1)));
  BOOST_TEST(
      (slots->on_reply(reply(2, Type::kRelease, NodeStatus::kGood)) == ClientSlots::Next::kDone));
  BOOST_TEST(is_violation(reply(2, Type::kRelease, NodeStatus::kGood)));  // twice
}

BOOST_FIXTURE_TEST_CASE(lists_must_rise_and_hold_whole_entries, SlotsFixture) {
  struct Trial {
    std::vector<NodeEntry> entries;
    uint32_t cut_bytes;
    NodeStatus expected;
  };
  NodeEntry five{5, 1, 1, 0}, six{6, 1, 1, 0}, last{UINT64_MAX, 1, 1, 0}, empty{7, 1, 0, 0},
      huge{7, 1, 65537, 0};
  for (const Trial& trial :
       {Trial{{five, six, last}, 0, NodeStatus::kGood}, Trial{{}, 0, NodeStatus::kGood},
        Trial{{six, five}, 0, NodeStatus::kCorrupt}, Trial{{five, five}, 0, NodeStatus::kCorrupt},
        Trial{{last, five}, 0, NodeStatus::kCorrupt}, Trial{{five}, 1, NodeStatus::kCorrupt},
        Trial{{empty}, 0, NodeStatus::kCorrupt}, Trial{{huge}, 0, NodeStatus::kCorrupt},
        Trial{{{4, 1, 1, 0}}, 0, NodeStatus::kCorrupt}}) {
    auto size_bytes =
        static_cast<uint32_t>(trial.entries.size() * sizeof(NodeEntry) - trial.cut_bytes);
    slots->begin_list(0, 5, 1000);
    if (size_bytes != 0) std::memcpy(slots->buffer(0), trial.entries.data(), size_bytes);
    auto next = slots->on_reply(reply(0, Type::kList, NodeStatus::kGood, size_bytes, 0,
                                      crc32c(slots->buffer(0), size_bytes)));
    if (next == ClientSlots::Next::kPayload) slots->finish(0);
    BOOST_REQUIRE(slots->take(done, 1) == 1u);
    BOOST_TEST((done[0].status == trial.expected));
  }
}

BOOST_FIXTURE_TEST_CASE(what_is_overdue_times_out_and_the_rest_is_lost, SlotsFixture) {
  for (uint32_t i = 0; i < kNodeDepth; i++)
    BOOST_REQUIRE(slots->begin_release(i, i, 100 + i) != nullptr);
  BOOST_TEST(slots->deadline_ms_min() == 100u);
  BOOST_TEST(!slots->expire(99));
  BOOST_TEST(slots->expire(103));
  slots->fail_all(NodeStatus::kLost);
  BOOST_TEST(slots->in_flight() == 0u);
  uint32_t timeouts = 0, count = slots->take(done, kNodeDepth);
  for (uint32_t i = 0; i < count; i++) timeouts += done[i].status == NodeStatus::kTimeout;
  BOOST_TEST(count == kNodeDepth);
  BOOST_TEST(timeouts == 4u);
  BOOST_TEST(slots->deadline_ms_min() == UINT64_MAX);
}

}  // namespace
}  // namespace btd::wire
