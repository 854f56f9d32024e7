// A node in a guest that has soft RoCE at BTD_VERBS_ADDRESS, and its clients: what the tests over
// real verbs share.  The daemon's path is the environment's BTD_BARTENDERD.
#pragma once

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "rdma/far_node.hpp"
#include "tests/rdma/node_daemon.hpp"

namespace btd::test {

// Under emulation, and with the machine's other work, a connection takes its time.
inline constexpr uint32_t kConnectMs = 20000;
inline constexpr uint32_t kOperationMs = 4000;
inline constexpr uint64_t kSlackMs = 12000;

inline std::string here() { return std::string(std::getenv("BTD_VERBS_ADDRESS")) + ":0"; }

inline uint32_t fill(char* buffer, uint64_t extent, uint64_t generation) {
  std::mt19937_64 random(extent * 1000003 + generation);
  auto length = static_cast<uint32_t>(extent % 3 == 0 ? kFarExtentBytes : random() % 9000 + 1);
  for (uint32_t at = 0; at < length; at += 8) {
    uint64_t word = random();
    std::memcpy(buffer + at, &word, min<size_t>(8, length - at));
  }
  return length;
}

inline bool is_filled(const char* buffer, uint32_t length, uint64_t extent, uint64_t generation) {
  static char expected[kFarExtentBytes + 8];
  return fill(expected, extent, generation) == length && std::memcmp(expected, buffer, length) == 0;
}

inline NodeClient client_of(uint64_t epoch, uint8_t name = 1) {
  NodeClient client{};
  client.epoch = epoch;
  client.arena[0] = 1;
  client.client[0] = name;
  client.durability = wire::Durability::kProcess;
  client.role = wire::Role::kOwner;
  for (size_t i = 0; i < wire::kKeyBytes; i++) client.key[i] = static_cast<uint8_t>(i);
  return client;
}

// A client of a node.
struct Peer {
  NodeClient client;
  std::unique_ptr<FarNode> node = std::make_unique<FarNode>();

  Peer(const NodeAddress& address, const NodeClient& who, uint32_t operation_ms = kOperationMs)
      : client(who) {
    node->configure(address, client, operation_ms);
  }
  FarNode* operator->() { return node.get(); }
  NodeStatus connect() { return node->connect(kConnectMs); }
  void connect_by_verbs() {
    NodeStatus status = connect();
    BOOST_REQUIRE_MESSAGE(status == NodeStatus::kGood, int(status));
    BOOST_REQUIRE((node->transport() == wire::Transport::kVerbs));
  }
  NodeCompletion one() {
    NodeCompletion done{};
    for (int i = 0; i < 900; i++) {
      if (node->poll(&done, 1, 100000) == 1) return done;
    }
    BOOST_FAIL("nothing was reported");
    return done;
  }
  NodeStatus write(uint32_t slot, uint64_t extent, uint64_t generation) {
    BOOST_REQUIRE(
        node->write(slot, extent, generation, fill(node->buffer(slot), extent, generation)));
    return one().status;
  }
  void check(uint32_t slot, uint64_t extent, uint64_t generation) {
    std::memset(node->buffer(slot), 0, kFarExtentBytes);
    BOOST_REQUIRE(node->read(slot, extent, generation));
    NodeCompletion done = one();
    BOOST_REQUIRE_MESSAGE(done.status == NodeStatus::kGood, int(done.status));
    BOOST_TEST(done.generation == generation);
    BOOST_TEST(is_filled(node->buffer(slot), done.length_bytes, extent, generation));
  }
  // Of the slots posted; the time until all were reported.
  uint64_t reported_ms(uint32_t count, NodeStatus expected) {
    uint64_t began_ms = steady_clock_ms();
    for (uint32_t i = 0; i < count; i++) {
      NodeStatus status = one().status;
      BOOST_TEST((status == expected || status == NodeStatus::kLost), int(status));
    }
    NodeCompletion more;
    BOOST_TEST(node->poll(&more, 1, 1000) == 0u);
    return steady_clock_ms() - began_ms;
  }
};

// That which the environment names, if it names one.
inline NodeAddress the_node(const Daemon* otherwise = nullptr) {
  const char* text = std::getenv("BTD_NODE");
  if (text == nullptr && otherwise != nullptr) return otherwise->address();
  NodeAddress address;
  BOOST_REQUIRE(text != nullptr && parse_address(text, address));
  return address;
}

struct Fixture {
  Scratch scratch;
  std::unique_ptr<Daemon> daemon;

  Fixture() { start(here()); }
  void start(const std::string& where, const char* transport = "verbs") {
    daemon.reset();  // it has the store
    daemon = std::make_unique<Daemon>(scratch, "16M", where, "/store", transport);
  }
};

}  // namespace btd::test
