// What an arena uses to get at its nodes, with bartenderd.  Invariants checked: a bad setting is
// one clear line and nothing is mapped; open() allocates nothing and connects nowhere; pages that
// no connection uses cost nothing.
//
// The daemon's path is the environment's BTD_BARTENDERD.
#define BOOST_TEST_MODULE client
#include "rdma/client.hpp"

#include <malloc.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/crc32c.hpp"
#include "core/spill/extent_word.hpp"
#include "tests/rdma/lying_node.hpp"
#include "tests/rdma/node_daemon.hpp"

namespace btd {
namespace {

using test::Daemon;
using test::Scratch;

static_assert(kNodesMax == kFarNodesMax);

constexpr uint8_t kArena[wire::kUuidBytes] = {0xA0, 1, 2};

NodeClientsRequest request_of(const std::string& nodes, const std::string& key) {
  NodeClientsRequest request;
  request.nodes = nodes.c_str();
  request.key_file = key.c_str();
  request.arena = kArena;
  request.epoch = 1;
  return request;
}

// Closed in the end.
struct Clients {
  NodeClients clients;
  ~Clients() { clients.close(); }
  NodeClients* operator->() { return &clients; }
};

std::string why_not(const NodeClientsRequest& request, Error expected) {
  Clients clients;
  Line why;
  Error error = clients->open(request, why);
  BOOST_TEST((error == expected), why.c_str());
  BOOST_TEST(clients->count() == 0u);
  return why.c_str();
}

uint64_t resident_bytes() {
  unsigned long pages = 0, resident = 0;
  FILE* file = std::fopen("/proc/self/statm", "r");
  BOOST_REQUIRE(std::fscanf(file, "%lu %lu", &pages, &resident) == 2);
  std::fclose(file);
  return resident * 4096;
}

NodeCompletion wait_for_one(Node& node) {
  NodeCompletion completion{};
  for (int i = 0; i < 300; i++) {
    if (node.poll(&completion, 1, 100000) == 1) return completion;
  }
  BOOST_FAIL("nothing was reported");
  return completion;
}

BOOST_AUTO_TEST_CASE(bad_nodes_are_named) {
  Scratch scratch;
  std::string key = scratch.path + "/key";
  struct Trial {
    const char* nodes;
    const char* part;
    const char* what;
  };
  const Trial trials[] = {
      {"", "\"\"", "is no address"},
      {"far.example:7070", "\"far.example:7070\"", "is no address"},
      {"192.0.2.7", "\"192.0.2.7\"", "is no address"},
      {"192.0.2.7:7070,", "\"\"", "is no address"},
      {"192.0.2.7:7070 ,192.0.2.8:7070", "\"192.0.2.7:7070 \"", "is no address"},
      {"192.0.2.7:7070,192.0.2.8", "\"192.0.2.8\"", "is no address"},
      {"192.0.2.7:0", "\"192.0.2.7:0\"", "has no port"},
      {"[2001:db8::7]:0", "\"[2001:db8::7]:0\"", "has no port"},
      {"192.0.2.7:7070,192.0.2.8:7070,192.0.2.7:7070", "\"192.0.2.7:7070\"", "is there twice"},
      {"[2001:db8::7]:1,[2001:db8:0::7]:1", "\"[2001:db8:0::7]:1\"", "is there twice"},
      {"192.0.2.1:1,192.0.2.1:2,192.0.2.1:3,192.0.2.1:4,192.0.2.1:5,192.0.2.1:6,192.0.2.1:7,"
       "192.0.2.1:8,192.0.2.1:9",
       "\"192.0.2.1:9\"", "is one node too many"},
  };
  for (const Trial& trial : trials) {
    std::string why = why_not(request_of(trial.nodes, key), Error::kInvalid);
    BOOST_TEST(why.find(std::string(trial.part) + " " + trial.what) != std::string::npos, why);
    BOOST_TEST(why.find("BARTENDER_NODES") != std::string::npos, why);
    BOOST_TEST(why.find("give 192.0.2.7:7070") != std::string::npos, why);
  }
  NodeClientsRequest none = request_of("", key);
  none.nodes = nullptr;
  why_not(none, Error::kInvalid);
}

BOOST_AUTO_TEST_CASE(bad_keys_are_named) {
  Scratch scratch;
  std::string nodes = "192.0.2.7:7070", key = scratch.write_key("/other", 7);
  auto why = [&](Error expected) { return why_not(request_of(nodes, key), expected); };
  chmod(key.c_str(), 0644);
  BOOST_TEST(why(Error::kPermission).find("chmod 600 " + key) != std::string::npos);
  chmod(key.c_str(), 0600);
  BOOST_REQUIRE(truncate(key.c_str(), 40) == 0);
  BOOST_TEST(why(Error::kInvalid).find("openssl rand -hex 32") != std::string::npos);
  unlink(key.c_str());
  BOOST_TEST(why(Error::kNotFound).find(key) != std::string::npos);
  key.clear();
  BOOST_TEST(why(Error::kInvalid).find("BARTENDER_KEY_FILE is not set") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(opening_allocates_nothing_and_untouched_pages_cost_nothing) {
  Scratch scratch;
  std::string key = scratch.path + "/key";
  std::string nodes =
      "192.0.2.1:1,192.0.2.1:2,192.0.2.1:3,192.0.2.1:4,192.0.2.1:5,192.0.2.1:6,192.0.2.1:7,"
      "[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255]:65535";
  NodeClientsRequest request = request_of(nodes, key);
  request.set_count = 6;
  std::string seal = scratch.write_key("/seal", 100);
  request.seal_key_file = seal.c_str();  // also the first sodium_init() of this process
  Clients clients;
  Line why;
  uint64_t before = resident_bytes();
  size_t allocated = mallinfo2().uordblks;
  Error error = clients->open(request, why);
  size_t allocated_after = mallinfo2().uordblks;
  uint64_t grown = resident_bytes() - before;
  BOOST_TEST(allocated_after == allocated);
  BOOST_TEST((error == Error::kNone), why.c_str());
  BOOST_TEST(clients->count() == 8u);
  BOOST_TEST(clients->set_count() == 6u);
  std::printf("48 connections: %zu KiB resident\n", static_cast<size_t>(grown / 1024));
  BOOST_TEST(grown < 48 * 24 * kKiB);
  for (uint32_t set = 0; set < 6; set++) {
    for (uint32_t i = 0; i < 8; i++) {
      Node* node = clients->set(set)[i];
      BOOST_TEST(node == &clients->node(set, i));
      BOOST_TEST(!node->is_connected());
      BOOST_TEST(reinterpret_cast<uintptr_t>(node->buffer(0)) % 4096 == 0u);
    }
  }
  Line name;
  clients->name(7, name);
  BOOST_TEST(
      std::string(name.c_str()).find("[2001:db8:ffff:ffff:ffff:ffff:255.255.255.255]:65535") !=
      std::string::npos);
}

BOOST_AUTO_TEST_CASE(sets_reach_every_node_and_are_one_client) {
  Scratch scratch;
  Daemon one(scratch), two(scratch, "8M", "127.0.0.1:0", "/store2");
  std::string key = scratch.path + "/key", nodes = one.address_text() + "," + two.address_text();
  NodeClientsRequest request = request_of(nodes, key);
  request.set_count = 3;
  Clients clients;
  Line why;
  BOOST_REQUIRE((clients->open(request, why) == Error::kNone));
  for (uint32_t set = 0; set < 3; set++) {
    for (uint32_t i = 0; i < 2; i++) {
      BOOST_REQUIRE((clients->set(set)[i]->connect(5000) == NodeStatus::kGood));
      BOOST_TEST((clients->node(set, i).transport() == wire::Transport::kTcp));
    }
  }
  for (uint32_t i = 0; i < 2; i++) {
    Node& writer = *clients->set(0)[i];
    std::memset(writer.buffer(3), static_cast<int>('a' + i), 100);
    BOOST_REQUIRE(writer.write(3, 77, 5, 100));
    BOOST_TEST((wait_for_one(writer).status == NodeStatus::kGood));
    Node& reader = *clients->set(2)[i];
    BOOST_REQUIRE(reader.read(1, 77, 5));
    NodeCompletion read = wait_for_one(reader);
    BOOST_TEST((read.status == NodeStatus::kGood && read.length_bytes == 100));
    BOOST_TEST(reader.buffer(1)[99] == static_cast<char>('a' + i));
  }
  // Another opening of the same epoch is another client.
  Clients second;
  BOOST_REQUIRE((second->open(request, why) == Error::kNone));
  BOOST_TEST((second->set(0)[0]->connect(5000) == NodeStatus::kFenced));
  clients->close();
  BOOST_TEST(clients->count() == 0u);
}

BOOST_AUTO_TEST_CASE(what_is_forgotten_can_be_read_to_the_end_and_is_gone_then) {
  Scratch scratch;
  Daemon one(scratch), two(scratch, "8M", "127.0.0.1:0", "/store2");
  std::string key = scratch.path + "/key", nodes = one.address_text() + "," + two.address_text();
  NodeClientsRequest request = request_of(nodes, key);
  request.set_count = 2;
  Line why;
  {
    Clients clients;
    BOOST_REQUIRE((clients->open(request, why) == Error::kNone));
    for (uint32_t set = 0; set < 2; set++) {
      for (uint32_t i = 0; i < 2; i++)
        BOOST_REQUIRE((clients->set(set)[i]->connect(5000) == NodeStatus::kGood));
    }
    for (uint32_t i = 0; i < 2; i++) {
      BOOST_REQUIRE(clients->set(0)[i]->write(0, 9, 1, 100));
      BOOST_TEST((wait_for_one(*clients->set(0)[i]).status == NodeStatus::kGood));
    }
    kill(two.pid(), SIGSTOP);
    uint64_t began_ms = steady_clock_ms();
    BOOST_TEST(clients->forget(1, 300) == 1u);  // the other one does not answer
    uint64_t took_ms = steady_clock_ms() - began_ms;
    BOOST_TEST((took_ms >= 300 && took_ms < 3000));
    kill(two.pid(), SIGCONT);
    BOOST_REQUIRE(clients->set(0)[0]->read(0, 9, 1));
    BOOST_TEST((wait_for_one(*clients->set(0)[0]).status == NodeStatus::kGood));
    clients->set(1)[0]->close();
    BOOST_TEST(clients->forget(1, 5000) == 0u);  // one is closed, the other's slot is not free
  }
  request.epoch = 2;
  for (int i = 0;; i++) {  // an observer would not disturb; a takeover would keep it
    BOOST_REQUIRE(i < 600);
    NodeClient observer{};
    observer.role = wire::Role::kObserver;
    for (size_t byte = 0; byte < wire::kKeyBytes; byte++)
      observer.key[byte] = static_cast<uint8_t>(byte);
    auto node = std::make_unique<FarNode>();
    node->configure(one.address(), observer);
    BOOST_REQUIRE((node->connect(5000) == NodeStatus::kGood));
    BOOST_REQUIRE(node->status(0, 0));
    NodeCompletion told = wait_for_one(*node);
    BOOST_REQUIRE((told.status == NodeStatus::kGood));
    if (told.length_bytes == sizeof(wire::NodeState)) break;
    usleep(20000);
  }
  Clients clients;
  BOOST_REQUIRE((clients->open(request, why) == Error::kNone));
  BOOST_REQUIRE((clients->set(0)[0]->connect(5000) == NodeStatus::kGood));
  BOOST_TEST(clients->node(0, 0).handshake().accept().arena_extents == 0u);
}

struct Sealed {
  Scratch scratch;
  std::string key = scratch.path + "/key", seal = scratch.write_key("/seal", 100);
  NodeClientsRequest request;
  Line why;

  // `nodes` outlives it.
  void open(Clients& clients, const std::string& nodes, bool is_sealed, uint64_t epoch) {
    request = request_of(nodes, key);
    request.epoch = epoch;
    if (is_sealed) request.seal_key_file = seal.c_str();
    BOOST_REQUIRE((clients->open(request, why) == Error::kNone));
    for (uint32_t i = 0; i < clients->count(); i++)
      BOOST_REQUIRE((clients->set(0)[i]->connect(5000) == NodeStatus::kGood));
  }
};

NodeCompletion read_of(Node& node, uint64_t extent, uint64_t generation_min) {
  std::memset(node.buffer(2), 0, kFarExtentBytes);
  BOOST_REQUIRE(node.read(2, extent, generation_min));
  return wait_for_one(node);
}

BOOST_FIXTURE_TEST_CASE(nodes_hold_only_sealed_bytes, Sealed) {
  auto one = std::make_unique<Daemon>(scratch);
  Daemon two(scratch, "8M", "127.0.0.1:0", "/store2");
  std::string nodes = one->address_text() + "," + two.address_text();
  {
    Clients clients;
    open(clients, nodes, true, 1);
    // As the evictor does: the second node gets what is in the first one's buffer after write().
    Node &first = *clients->set(0)[0], &second = *clients->set(0)[1];
    for (uint64_t extent = 0; extent < 5; extent++) {
      for (uint32_t at = 0; at < kFarExtentBytes; at += 8)
        std::memcpy(first.buffer(0) + at, "secrets!", 8);
      BOOST_REQUIRE(first.write(0, extent, 1, kFarExtentBytes));
      std::memcpy(second.buffer(0), first.buffer(0), kFarExtentBytes);
      BOOST_REQUIRE(second.write(0, extent, 1, kFarExtentBytes));
      BOOST_TEST((wait_for_one(first).status == NodeStatus::kGood));
      BOOST_TEST((wait_for_one(second).status == NodeStatus::kGood));
    }
    for (Node* node : {&first, &second}) {
      NodeCompletion read = read_of(*node, 3, 1);
      BOOST_TEST((read.status == NodeStatus::kGood && read.length_bytes == kFarExtentBytes));
      BOOST_TEST(std::memcmp(node->buffer(2) + kFarExtentBytes - 8, "secrets!", 8) == 0);
      BOOST_REQUIRE(node->list(4, 0));
      NodeCompletion list = wait_for_one(*node);
      BOOST_TEST((list.status == NodeStatus::kGood && list.length_bytes == 5 * sizeof(NodeEntry)));
      NodeEntry last;
      std::memcpy(&last, node->buffer(4) + 4 * sizeof(last), sizeof(last));
      BOOST_TEST(last.extent == 4u);
    }
  }
  one->kill_now();
  FILE* store = std::fopen((scratch.path + "/store").c_str(), "r");
  std::string bytes(16 << 20, '\0');
  bytes.resize(std::fread(bytes.data(), 1, bytes.size(), store));
  std::fclose(store);
  BOOST_TEST(bytes.size() > size_t{8} << 20);
  BOOST_TEST(bytes.find("secret") == std::string::npos);

  Daemon again(scratch);
  {
    Clients clients;
    open(clients, again.address_text(), true, 2);
    BOOST_TEST((read_of(*clients->set(0)[0], 4, 1).status == NodeStatus::kGood));
    std::memcpy(clients->set(0)[0]->buffer(0), "open", 4);
  }
  {
    Clients clients;  // without the key
    open(clients, again.address_text(), false, 3);
    Node& node = *clients->set(0)[0];
    BOOST_TEST((read_of(node, 4, 1).status == NodeStatus::kCorrupt));
    std::memcpy(node.buffer(0), "open", 4);
    BOOST_REQUIRE(node.write(0, 4, 2, 4));
    BOOST_TEST((wait_for_one(node).status == NodeStatus::kGood));
  }
  {
    Clients clients;  // what was written without it is not taken with it
    open(clients, again.address_text(), true, 4);
    BOOST_TEST((read_of(*clients->set(0)[0], 4, 1).status == NodeStatus::kCorrupt));
    BOOST_TEST((read_of(*clients->set(0)[0], 3, 1).status == NodeStatus::kGood));
  }
  scratch.write_key("/seal", 50);
  Clients clients;
  open(clients, again.address_text(), true, 5);
  BOOST_TEST((read_of(*clients->set(0)[0], 3, 1).status == NodeStatus::kCorrupt));
  BOOST_TEST(std::string(clients->set(0)[0]->buffer(2), 6) != "secret");
}

// It keeps all that was written, and serves it with a lie whose checksums are right.
BOOST_FIXTURE_TEST_CASE(lies_about_sealed_extents_are_not_delivered, Sealed) {
  struct Kept {
    wire::Write write;
    std::string bytes;
  };
  using Lie = std::function<void(std::vector<Kept>&, Kept&)>;
  struct Trial {
    const char* name;
    Lie lie;
    NodeStatus expected;
  };
  // Kept: 0 is extent 1, generation 1; 1 is extent 1, generation 2; 2 is extent 2, generation 2.
  const Trial trials[] = {
      {"the truth", [](auto&, Kept&) {}, NodeStatus::kGood},
      {"a flipped byte", [](auto&, Kept& served) { served.bytes[77] ^= 4; }, NodeStatus::kCorrupt},
      {"a flipped byte of the nonce", [](auto&, Kept& served) { served.write.seal.nonce[0] ^= 1; },
       NodeStatus::kCorrupt},
      {"a flipped byte of the tag", [](auto&, Kept& served) { served.write.seal.tag[15] ^= 1; },
       NodeStatus::kCorrupt},
      {"no seal", [](auto&, Kept& served) { served.write.seal = {}; }, NodeStatus::kCorrupt},
      {"a byte less", [](auto&, Kept& served) { served.bytes.pop_back(); }, NodeStatus::kCorrupt},
      {"a byte more", [](auto&, Kept& served) { served.bytes += 'x'; }, NodeStatus::kCorrupt},
      {"another extent", [](auto& kept, Kept& served) { served = kept[2]; }, NodeStatus::kCorrupt},
      {"the older generation as the newer",
       [](auto& kept, Kept& served) {
         served = kept[0];
         served.write.generation = 2;
       },
       NodeStatus::kCorrupt},
      {"the older generation", [](auto& kept, Kept& served) { served = kept[0]; },
       NodeStatus::kCorrupt},
      {"an invented generation", [](auto&, Kept& served) { served.write.generation = 3; },
       NodeStatus::kCorrupt},
  };
  for (const Trial& trial : trials) {
    std::vector<Kept> kept;
    uint8_t node_key[wire::kKeyBytes];
    for (size_t i = 0; i < sizeof(node_key); i++) node_key[i] = static_cast<uint8_t>(i);
    test::LyingNode liar(node_key, [&](const wire::Message& asked, const std::string& payload) {
      wire::Reply reply{};
      if (asked.header.type == wire::Type::kWrite) {
        kept.push_back({asked.as<wire::Write>(), payload});
        return test::bytes_of(asked, reply, "");
      }
      Kept served = kept[1];
      trial.lie(kept, served);
      reply.generation = served.write.generation;
      reply.seal = served.write.seal;
      reply.crc = crc32c(served.bytes.data(), served.bytes.size());
      return test::bytes_of(asked, reply, served.bytes);
    });
    auto* there = reinterpret_cast<const sockaddr_in*>(&liar.address().storage);
    std::string nodes = "127.0.0.1:" + std::to_string(ntohs(there->sin_port));
    Clients clients;
    open(clients, nodes, true, 1);
    Node& node = *clients->set(0)[0];
    for (auto [extent, generation] : {std::pair<uint64_t, uint64_t>{1, 1}, {1, 2}, {2, 2}}) {
      std::memset(node.buffer(0), 'a' + static_cast<int>(kept.size()), 200);
      BOOST_REQUIRE(node.write(0, extent, generation, 200));
      BOOST_REQUIRE((wait_for_one(node).status == NodeStatus::kGood));
    }
    NodeCompletion read = read_of(node, 1, 2);
    BOOST_TEST((read.status == trial.expected), trial.name << ": " << int(read.status));
    bool is_delivered = std::string(node.buffer(2), 200) == std::string(200, 'b');
    BOOST_TEST(is_delivered == (trial.expected == NodeStatus::kGood), trial.name);
    clients->close();
  }
}

BOOST_FIXTURE_TEST_CASE(bad_seal_keys_are_named, Sealed) {
  std::string nodes = "192.0.2.7:7070";
  request = request_of(nodes, key);
  request.seal_key_file = key.c_str();
  BOOST_TEST(why_not(request, Error::kInvalid).find("the nodes' own key") != std::string::npos);
  request.seal_key_file = seal.c_str();
  chmod(seal.c_str(), 0640);
  if (geteuid() != 0) return;  // root may let a group read it
  chmod(seal.c_str(), 0604);
  BOOST_TEST(why_not(request, Error::kPermission).find("BARTENDER_SEAL_KEY_FILE: " + seal) !=
             std::string::npos);
}

}  // namespace
}  // namespace btd
