// A memory node over TCP: with bartenderd, through its death, and with a node that lies. Invariants
// checked: every posted operation is reported exactly once; an acknowledged generation is there,
// whole, after kill -9 of the daemon; bytes that are not what was written are never delivered.
//
// The daemon's path is the environment's BTD_BARTENDERD.
#define BOOST_TEST_MODULE tcp
#include "rdma/tcp.hpp"

#include <signal.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "core/base/crc32c.hpp"
#include "rdma/far_node.hpp"
#include "tests/rdma/lying_node.hpp"
#include "tests/rdma/node_daemon.hpp"

namespace btd {

using test::bytes_of;
using test::Daemon;
using test::LyingNode;
using test::Scratch;

namespace {

using wire::Message;
using wire::Type;

NodeClient client_of(uint64_t epoch) {
  NodeClient client{};
  client.epoch = epoch;
  client.arena[0] = 0xA0;
  client.client[0] = static_cast<uint8_t>(epoch);
  for (size_t i = 0; i < wire::kKeyBytes; i++) client.key[i] = static_cast<uint8_t>(i);
  return client;
}

// With the client that it is.
struct OwnNode {
  NodeClient client;
  FarNode node;
};
struct OwnPointer {
  std::unique_ptr<OwnNode> own = std::make_unique<OwnNode>();
  FarNode* operator->() const { return &own->node; }
  FarNode& operator*() const { return own->node; }
};

OwnPointer own_node(const NodeAddress& address, const NodeClient& client, uint32_t operation_ms) {
  OwnPointer node;
  node.own->client = client;
  node->configure(address, node.own->client, operation_ms);
  return node;
}

OwnPointer node_at(const NodeAddress& address, uint64_t epoch, uint32_t operation_ms = 20000) {
  return own_node(address, client_of(epoch), operation_ms);
}

NodeCompletion wait_for_one(FarNode& node) {
  NodeCompletion completion{};
  for (int i = 0; i < 300; i++) {
    if (node.poll(&completion, 1, 100000) == 1) return completion;
  }
  BOOST_FAIL("nothing was reported");
  return completion;
}

// What generation g of extent e holds: every length and every byte follows from the two.
uint32_t fill(char* buffer, uint64_t extent, uint64_t generation) {
  std::mt19937_64 random(extent * 1000003 + generation);
  auto length = static_cast<uint32_t>(random() % kFarExtentBytes + 1);
  if (random() % 4 == 0) length = kFarExtentBytes;
  for (uint32_t at = 0; at < length; at += 8) {
    uint64_t word = random();
    std::memcpy(buffer + at, &word, min<size_t>(8, length - at));
  }
  return length;
}

bool is_filled(const char* buffer, uint32_t length, uint64_t extent, uint64_t generation) {
  auto expected = std::make_unique<char[]>(kFarExtentBytes);
  return fill(expected.get(), extent, generation) == length &&
         std::memcmp(expected.get(), buffer, length) == 0;
}

BOOST_AUTO_TEST_CASE(write_read_list_release_and_all_slots_at_once) {
  Scratch scratch;
  Daemon daemon(scratch);
  auto node = node_at(daemon.address(), 1);
  BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
  NodeCompletion done[kNodeDepth];
  for (uint64_t round = 1; round <= 20; round++) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      BOOST_REQUIRE(node->write(slot, slot, round, fill(node->buffer(slot), slot, round)));
      BOOST_REQUIRE(!node->read(slot, slot, 0));  // busy
    }
    uint32_t seen = 0;
    for (uint32_t count = 0; count < kNodeDepth;) {
      uint32_t got = node->poll(done, kNodeDepth, 1000000);
      for (uint32_t i = 0; i < got; i++) {
        BOOST_REQUIRE((done[i].status == NodeStatus::kGood));
        seen |= 1U << done[i].slot;
      }
      count += got;
    }
    BOOST_TEST(seen == 0xFFFFu);
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      BOOST_REQUIRE(node->read(slot, (slot + 5) % kNodeDepth, round));
    }
    for (uint32_t count = 0; count < kNodeDepth;) {
      uint32_t got = node->poll(done, kNodeDepth, 1000000);
      for (uint32_t i = 0; i < got; i++) {
        BOOST_REQUIRE((done[i].status == NodeStatus::kGood && done[i].generation == round));
        BOOST_REQUIRE(is_filled(node->buffer(done[i].slot), done[i].length_bytes,
                                (done[i].slot + 5) % kNodeDepth, round));
      }
      count += got;
    }
  }
  BOOST_REQUIRE(node->list(0, 3));
  NodeCompletion listed = wait_for_one(*node);
  BOOST_TEST(listed.length_bytes == 13 * sizeof(NodeEntry));
  BOOST_REQUIRE(node->release(1, 4));
  BOOST_TEST((wait_for_one(*node).status == NodeStatus::kGood));
  BOOST_REQUIRE(node->read(1, 4, 0));
  BOOST_TEST((wait_for_one(*node).status == NodeStatus::kNotFound));
  BOOST_REQUIRE(node->write(1, 5, 20, 1));
  NodeCompletion stale = wait_for_one(*node);
  BOOST_TEST((stale.status == NodeStatus::kStale && stale.generation == 20));
  node->close();
  BOOST_TEST(!node->read(1, 4, 0));
  BOOST_TEST((node->connect(5000) == NodeStatus::kGood));
}

BOOST_AUTO_TEST_CASE(a_higher_epoch_fences_and_a_lower_one_stays_out) {
  Scratch scratch;
  Daemon daemon(scratch);
  auto old = node_at(daemon.address(), 1), young = node_at(daemon.address(), 2);
  BOOST_REQUIRE((old->connect(5000) == NodeStatus::kGood));
  BOOST_REQUIRE((young->connect(5000) == NodeStatus::kGood));
  std::memset(old->buffer(0), 1, 100);
  bool is_posted = old->write(0, 1, 1, 100);
  if (is_posted) {
    NodeStatus status = wait_for_one(*old).status;
    BOOST_TEST((status == NodeStatus::kFenced || status == NodeStatus::kLost));
  }
  BOOST_TEST(!old->is_connected());
  BOOST_TEST((old->connect(5000) == NodeStatus::kFenced));
  BOOST_REQUIRE(young->read(0, 1, 0));
  BOOST_TEST((wait_for_one(*young).status == NodeStatus::kNotFound));
}

BOOST_AUTO_TEST_CASE(nobody_there_wrong_key_and_silence_are_told_apart) {
  Scratch scratch;
  Daemon daemon(scratch);
  NodeClient thief = client_of(1);
  thief.key[3] ^= 1;
  auto node = own_node(daemon.address(), thief, kOperationMsDefault);
  BOOST_TEST((node->connect(5000) == NodeStatus::kRefused));
  kill(daemon.pid(), SIGSTOP);  // the kernel still accepts
  auto patient = node_at(daemon.address(), 1);
  BOOST_TEST((patient->connect(300) == NodeStatus::kTimeout));
  daemon.kill_now();
  BOOST_TEST((patient->connect(300) == NodeStatus::kLost));
}

// Of every socket of this process.
void shrink_send_buffers(int bytes) {
  for (int file = 3; file < 256; file++)
    setsockopt(file, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

// A socket takes some of the bytes, wherever that ends.
BOOST_AUTO_TEST_CASE(what_leaves_in_pieces_arrives_whole) {
  Scratch scratch;
  Daemon daemon(scratch);
  auto node = node_at(daemon.address(), 1);
  BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
  shrink_send_buffers(10'001);
  NodeCompletion done[kNodeDepth];
  for (uint64_t round = 1; round <= 5; round++) {
    kill(daemon.pid(), SIGSTOP);
    for (uint32_t slot = 0; slot < kNodeDepth; slot++)
      BOOST_REQUIRE(node->write(slot, slot, round, fill(node->buffer(slot), slot, round)));
    for (int i = 0; i < 3; i++) BOOST_TEST(node->poll(done, kNodeDepth, 1000) == 0u);
    kill(daemon.pid(), SIGCONT);
    for (uint32_t count = 0; count < kNodeDepth;) {
      uint32_t got = node->poll(done, kNodeDepth, 1000000);
      for (uint32_t i = 0; i < got; i++) BOOST_REQUIRE((done[i].status == NodeStatus::kGood));
      count += got;
    }
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      BOOST_REQUIRE(node->read(slot, slot, round));
      NodeCompletion one = wait_for_one(*node);
      BOOST_TEST(is_filled(node->buffer(slot), one.length_bytes, slot, round));
    }
  }
}

// Who asks two nodes and waits for one must not find that the other one was never asked.
BOOST_AUTO_TEST_CASE(what_is_posted_is_answered_while_nobody_looks) {
  Scratch slow_scratch, scratch;
  Daemon slow_daemon(slow_scratch), daemon(scratch);
  auto slow = node_at(slow_daemon.address(), 1, 300);
  auto node = node_at(daemon.address(), 1, 300);
  BOOST_REQUIRE((slow->connect(5000) == NodeStatus::kGood));
  BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
  fill(node->buffer(0), 1, 1);
  BOOST_REQUIRE(node->write(0, 1, 1, kFarExtentBytes));
  BOOST_TEST((wait_for_one(*node).status == NodeStatus::kGood));
  for (bool is_gathered : {false, true}) {
    if (!slow->is_connected()) BOOST_REQUIRE((slow->connect(5000) == NodeStatus::kGood));
    kill(slow_daemon.pid(), SIGSTOP);
    BOOST_REQUIRE(slow->read(0, 1, 1));
    if (is_gathered) node->gather(true);
    for (uint32_t slot = 0; slot < 4; slot++) BOOST_REQUIRE(node->read(slot, 1, 1));
    if (is_gathered) node->gather(false);
    BOOST_TEST((wait_for_one(*slow).status == NodeStatus::kTimeout));
    kill(slow_daemon.pid(), SIGCONT);
    // Its own time is over too.
    for (uint32_t slot = 0; slot < 4; slot++)
      BOOST_TEST((wait_for_one(*node).status == NodeStatus::kGood));
  }
}

BOOST_AUTO_TEST_CASE(a_stopped_node_times_out_and_a_killed_one_is_lost_each_slot_once) {
  for (bool is_kill : {false, true}) {
    Scratch scratch;
    Daemon daemon(scratch);
    auto node = node_at(daemon.address(), 1, is_kill ? 20000 : 500);
    BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
    kill(daemon.pid(), SIGSTOP);
    uint32_t posted = 0, seen = 0;
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      uint32_t length = fill(node->buffer(slot), slot, 1);
      if (node->write(slot, slot, 1, length)) posted |= 1U << slot;
    }
    BOOST_TEST(posted == 0xFFFFu);
    if (is_kill) daemon.kill_now();
    NodeStatus worst = NodeStatus::kGood;
    for (int i = 0; i < 100 && seen != posted; i++) {
      NodeCompletion done[kNodeDepth];
      uint32_t count = node->poll(done, kNodeDepth, 100000);
      for (uint32_t at = 0; at < count; at++) {
        BOOST_TEST((seen >> done[at].slot & 1) == 0u);
        seen |= 1U << done[at].slot;
        worst = max(worst, done[at].status);
      }
    }
    BOOST_TEST(seen == posted);
    BOOST_TEST((worst == (is_kill ? NodeStatus::kLost : NodeStatus::kTimeout)));
    BOOST_TEST(!node->is_connected());
  }
}

// The daemon is killed at random moments under full slots; what it acknowledged must be there, what
// it did not may be the generation before, never a mixture.
BOOST_AUTO_TEST_CASE(kill_minus_nine_loses_nothing_that_was_acknowledged) {
  uint64_t seed = std::getenv("BTD_SEED") != nullptr
                      ? std::strtoull(std::getenv("BTD_SEED"), nullptr, 10)
                      : std::random_device{}();
  std::printf("seed: %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  constexpr uint64_t kExtents = 60;
  Scratch scratch;
  std::map<uint64_t, uint64_t> acknowledged;
  uint64_t generation = 0, writes = 0, reads = 0;
  for (uint64_t life = 1; life <= 25; life++) {
    Daemon daemon(scratch);
    auto node = node_at(daemon.address(), life);
    BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
    for (auto [extent, least] : acknowledged) {
      BOOST_REQUIRE(node->read(0, extent, least));
      NodeCompletion completion = wait_for_one(*node);
      BOOST_REQUIRE((completion.status == NodeStatus::kGood && completion.generation >= least));
      BOOST_REQUIRE(
          is_filled(node->buffer(0), completion.length_bytes, extent, completion.generation));
      reads++;
    }
    std::thread killer([&, wait_us = random() % 60000] {
      std::this_thread::sleep_for(std::chrono::microseconds(wait_us));
      kill(daemon.pid(), SIGKILL);
    });
    struct Posted {
      uint64_t extent, generation;
    } posted[kNodeDepth]{};
    while (node->is_connected()) {
      for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
        if (posted[slot].generation != 0) continue;
        uint64_t extent =
            slot + kNodeDepth * (random() % 4);  // no extent is in two slots at a time
        if (extent >= kExtents) continue;
        generation++;
        uint32_t length = fill(node->buffer(slot), extent, generation);
        if (node->write(slot, extent, generation, length)) posted[slot] = {extent, generation};
      }
      NodeCompletion done[kNodeDepth];
      uint32_t count = node->poll(done, kNodeDepth, 100000);
      for (uint32_t i = 0; i < count; i++) {
        Posted& was = posted[done[i].slot];
        BOOST_REQUIRE(was.generation != 0);
        if (done[i].status == NodeStatus::kGood) {
          acknowledged[was.extent] = was.generation;
          writes++;
        } else {
          BOOST_REQUIRE((done[i].status == NodeStatus::kLost));
        }
        was = {};
      }
    }
    killer.join();
  }
  std::printf("kills: 25, acknowledged: %llu, found again: %llu\n",
              static_cast<unsigned long long>(writes), static_cast<unsigned long long>(reads));
  BOOST_TEST(writes > 100u);
}

BOOST_AUTO_TEST_CASE(lies_are_never_delivered) {
  std::string data = "as it was written";
  wire::Reply good{};
  good.generation = 9;
  good.crc = crc32c(data.data(), data.size());
  struct Trial {
    const char* name;
    LyingNode::Answer answer;
    NodeStatus expected;
  };
  auto with = [&](auto change, std::string payload) {
    return [=](const Message& request, const std::string&) {
      wire::Reply reply = good;
      change(reply);
      return bytes_of(request, reply, payload);
    };
  };
  auto none = [](wire::Reply&) {};
  std::string flipped = data;
  flipped[3] ^= 1;
  const Trial trials[] = {
      {"the truth", with(none, data), NodeStatus::kGood},
      {"a flipped bit", with(none, flipped), NodeStatus::kCorrupt},
      {"a byte less", with(none, data.substr(1)), NodeStatus::kCorrupt},
      {"a byte more", with(none, data + "x"), NodeStatus::kCorrupt},
      {"nothing", with(none, ""), NodeStatus::kCorrupt},
      {"stale as good", with([](wire::Reply& reply) { reply.generation = 4; }, data),
       NodeStatus::kCorrupt},
      {"stale", with([](wire::Reply& reply) { reply.status = NodeStatus::kStale; }, ""),
       NodeStatus::kStale},
      {"another request", with([](wire::Reply& reply) { reply.request = Type::kList; }, data),
       NodeStatus::kCorrupt},
      {"a reserved byte", with([](wire::Reply& reply) { reply.reserved_a = 1; }, data),
       NodeStatus::kCorrupt},
      {"another slot",
       [&](const Message& request, const std::string&) { return bytes_of(request, good, data, 5); },
       NodeStatus::kLost},
      {"garbage", [](const Message&, const std::string&) { return std::string(500, 'g'); },
       NodeStatus::kCorrupt},
      {"a cut reply",
       [&](const Message& request, const std::string&) {
         return bytes_of(request, good, data).substr(0, 50);
       },
       NodeStatus::kTimeout},
      {"a hang-up", [](const Message&, const std::string&) { return std::string(); },
       NodeStatus::kLost},
  };
  for (const Trial& trial : trials) {
    LyingNode liar(client_of(1).key, trial.answer);
    auto node = node_at(liar.address(), 1, 500);
    BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
    BOOST_REQUIRE(node->read(0, 1, 5));
    NodeCompletion completion = wait_for_one(*node);
    BOOST_TEST((completion.status == trial.expected), trial.name << ": " << int(completion.status));
    if (completion.status == NodeStatus::kGood)
      BOOST_TEST(std::memcmp(node->buffer(0), data.data(), data.size()) == 0);
    NodeCompletion more{};
    BOOST_TEST(node->poll(&more, 1, 0) == 0u);
  }
}

BOOST_AUTO_TEST_CASE(addresses_are_numbers) {
  NodeAddress address;
  for (const char* good : {"127.0.0.1:1", "[::1]:65535", "10.0.0.1:0"})
    BOOST_TEST(parse_address(good, address), good);
  for (const char* bad :
       {"", ":", "localhost:1", "1.2.3.4", "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:65536", "::1:5",
        "[::1]", "[]:5", "[::1:5", "1.2.3.4:1 ", "[1.2.3.4]:5"}) {
    BOOST_TEST(!parse_address(bad, address), bad);
  }
}

}  // namespace
}  // namespace btd
