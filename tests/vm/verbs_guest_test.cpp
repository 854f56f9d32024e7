// A node and its clients over real verbs, in a guest that has soft RoCE at BTD_VERBS_ADDRESS.
// Invariants checked: bytes come back as they went; who must not get in is told why; a node that
// dies or falls silent is noticed within the deadline, each operation reported once, and it is
// found again; a client that dies leaves nothing; verbs and TCP are at one port.
//
// The daemon's path is the environment's BTD_BARTENDERD.
#define BOOST_TEST_MODULE verbs_guest
#include <dirent.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "rdma/far_node.hpp"
#include "tests/rdma/node_daemon.hpp"

namespace btd {
namespace {

using test::Daemon;
using test::Scratch;

// Under emulation, and with the machine's other work, a connection takes its time.
constexpr uint32_t kConnectMs = 20000;
constexpr uint32_t kOperationMs = 4000;
constexpr uint64_t kSlackMs = 12000;

std::string here() { return std::string(std::getenv("BTD_VERBS_ADDRESS")) + ":0"; }

uint32_t fill(char* buffer, uint64_t extent, uint64_t generation) {
  std::mt19937_64 random(extent * 1000003 + generation);
  auto length = static_cast<uint32_t>(extent % 3 == 0 ? kFarExtentBytes : random() % 9000 + 1);
  for (uint32_t at = 0; at < length; at += 8) {
    uint64_t word = random();
    std::memcpy(buffer + at, &word, min<size_t>(8, length - at));
  }
  return length;
}

bool is_filled(const char* buffer, uint32_t length, uint64_t extent, uint64_t generation) {
  static char expected[kFarExtentBytes + 8];
  return fill(expected, extent, generation) == length && std::memcmp(expected, buffer, length) == 0;
}

NodeClient client_of(uint64_t epoch, uint8_t name = 1) {
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

struct Fixture {
  Scratch scratch;
  std::unique_ptr<Daemon> daemon;

  Fixture() { start(here()); }
  void start(const std::string& where, const char* transport = "verbs") {
    daemon.reset();  // it has the store
    daemon = std::make_unique<Daemon>(scratch, "16M", where, "/store", transport);
  }
};

size_t open_descriptors() {
  size_t count = 0;
  DIR* directory = opendir("/proc/self/fd");
  while (readdir(directory) != nullptr) count++;
  closedir(directory);
  return count;
}

BOOST_FIXTURE_TEST_CASE(what_goes_comes_back, Fixture) {
  Peer peer(daemon->address(), client_of(1));
  peer.connect_by_verbs();
  // All slots at a time, several rounds, so that staging buffers and receives are used again.
  constexpr uint64_t kRounds = 5;
  for (uint64_t round = 0; round < kRounds; round++) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      uint64_t extent = round * kNodeDepth + slot;
      BOOST_REQUIRE(peer->write(slot, extent, 7, fill(peer->buffer(slot), extent, 7)));
    }
    for (uint32_t i = 0; i < kNodeDepth; i++) BOOST_TEST((peer.one().status == NodeStatus::kGood));
  }
  for (uint64_t round = 0; round < kRounds; round++) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      std::memset(peer->buffer(slot), 0, kFarExtentBytes);
      BOOST_REQUIRE(peer->read(slot, round * kNodeDepth + slot, 7));
    }
    for (uint32_t i = 0; i < kNodeDepth; i++) {
      NodeCompletion done = peer.one();
      BOOST_REQUIRE((done.status == NodeStatus::kGood));
      BOOST_TEST(
          is_filled(peer->buffer(done.slot), done.length_bytes, round * kNodeDepth + done.slot, 7));
    }
  }
  BOOST_TEST((peer.write(0, 3, 7) == NodeStatus::kStale));
  BOOST_TEST((peer.write(1, 3, 8) == NodeStatus::kGood));
  peer.check(2, 3, 8);
  BOOST_REQUIRE(peer->read(4, 5, 9));
  BOOST_TEST((peer.one().status == NodeStatus::kStale));
  BOOST_REQUIRE(peer->read(4, 4000, 0));
  BOOST_TEST((peer.one().status == NodeStatus::kNotFound));

  BOOST_REQUIRE(peer->release(5, 3));
  BOOST_TEST((peer.one().status == NodeStatus::kGood));
  BOOST_REQUIRE(peer->list(6, 0));
  NodeCompletion list = peer.one();
  BOOST_REQUIRE((list.status == NodeStatus::kGood));
  std::vector<NodeEntry> entries(list.length_bytes / sizeof(NodeEntry));
  std::memcpy(entries.data(), peer->buffer(6), list.length_bytes);
  BOOST_REQUIRE(entries.size() == kRounds * kNodeDepth - 1);
  for (uint64_t i = 0; i < entries.size(); i++)
    BOOST_TEST(entries[i].extent == i + (i >= 3 ? 1 : 0));
  BOOST_REQUIRE(peer->status(7, 0));
  BOOST_REQUIRE((peer.one().status == NodeStatus::kGood));
  wire::NodeState state;
  std::memcpy(&state, peer->buffer(7), sizeof(state));
  BOOST_TEST(int(state.transports) == 2);
}

BOOST_FIXTURE_TEST_CASE(who_must_not_get_in_is_told, Fixture) {
  NodeClient stranger = client_of(5, 9);
  stranger.key[3] ^= 1;
  for (int i = 0; i < 20; i++) {
    Peer peer(daemon->address(), stranger);
    BOOST_TEST((peer.connect() == NodeStatus::kRefused));
  }
  Peer old(daemon->address(), client_of(5));
  old.connect_by_verbs();
  BOOST_TEST((old.write(0, 1, 1) == NodeStatus::kGood));
  for (uint64_t epoch : {4, 5}) {  // a dead life, and somebody else with the same
    Peer late(daemon->address(), client_of(epoch, 2));
    BOOST_TEST((late.connect() == NodeStatus::kFenced));
  }
  Peer heir(daemon->address(), client_of(6, 3));
  heir.connect_by_verbs();
  heir.check(0, 1, 1);
  // The old one's queue pair and region are gone: its one-sided write reaches nothing.
  if (old->write(0, 1, 2, fill(old->buffer(0), 1, 2))) {
    uint64_t took_ms = old.reported_ms(1, NodeStatus::kFenced);
    BOOST_TEST(took_ms < kOperationMs + kSlackMs);
  }
  old->close();
  BOOST_TEST((old.connect() == NodeStatus::kFenced));
  heir.check(0, 1, 1);
}

BOOST_FIXTURE_TEST_CASE(a_killed_node_is_noticed_and_found_again, Fixture) {
  Peer peer(daemon->address(), client_of(1), 20000);
  uint64_t worst_ms = 0;
  for (uint64_t round = 1; round <= 3; round++) {
    peer.connect_by_verbs();
    if (round > 1) {
      for (uint64_t extent = 0; extent < 8; extent++) peer.check(0, extent, round - 1);
    }
    for (uint64_t extent = 0; extent < 8; extent++)
      BOOST_REQUIRE((peer.write(0, extent, round) == NodeStatus::kGood));
    std::string where = daemon->address_text();
    kill(daemon->pid(), SIGSTOP);  // so that nothing is answered
    for (uint32_t slot = 0; slot < kNodeDepth; slot++)
      BOOST_REQUIRE(peer->write(slot, 100 + slot, round, 4096));
    daemon->kill_now();
    worst_ms = std::max(worst_ms, peer.reported_ms(kNodeDepth, NodeStatus::kLost));
    BOOST_TEST(!peer->is_connected());
    BOOST_TEST((peer->connect(2000) != NodeStatus::kGood));
    start(where);
  }
  std::printf("a killed node was noticed after at most %llu ms\n",
              static_cast<unsigned long long>(worst_ms));
  BOOST_TEST(worst_ms < 20000u);  // before the deadline of the operation
}

BOOST_FIXTURE_TEST_CASE(a_silent_node_is_given_up_at_the_deadline, Fixture) {
  Peer peer(daemon->address(), client_of(1));
  peer.connect_by_verbs();
  kill(daemon->pid(), SIGSTOP);
  BOOST_REQUIRE(peer->read(0, 1, 0));
  uint64_t took_ms = peer.reported_ms(1, NodeStatus::kTimeout);
  BOOST_TEST((took_ms + 100 >= kOperationMs && took_ms < kOperationMs + kSlackMs), took_ms);
  kill(daemon->pid(), SIGCONT);
  peer.connect_by_verbs();
  BOOST_TEST((peer.write(0, 1, 1) == NodeStatus::kGood));
}

BOOST_FIXTURE_TEST_CASE(connections_come_and_go_without_a_trace, Fixture) {
  Peer first(daemon->address(), client_of(1));
  first.connect_by_verbs();
  size_t before = open_descriptors();
  for (int i = 0; i < 40; i++) {
    Peer peer(daemon->address(), client_of(1));
    peer.connect_by_verbs();
    if (i % 2 == 0) BOOST_REQUIRE(peer->write(0, 50, static_cast<uint64_t>(i) + 1, 100));
    peer->close();
  }
  BOOST_TEST(open_descriptors() == before);
  BOOST_TEST((first.write(0, 1, 1) == NodeStatus::kGood));
}

// Run by the next one, in a process of its own: it connects, says so and is killed.
BOOST_AUTO_TEST_CASE(a_client_that_waits_for_its_death, *boost::unit_test::disabled()) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  NodeAddress address;
  BOOST_REQUIRE(parse_address(std::getenv("BTD_NODE"), address));
  std::vector<std::unique_ptr<Peer>> peers;
  for (int i = 0; i < 8; i++) {
    peers.push_back(std::make_unique<Peer>(address, client_of(1)));
    peers.back()->connect_by_verbs();
    BOOST_REQUIRE((*peers.back())->write(0, 1, 1, 4096));
  }
  BOOST_REQUIRE(write(3, "!", 1) == 1);
  pause();
}

// More clients than a node takes at a time (256) die without a goodbye.
BOOST_FIXTURE_TEST_CASE(killed_clients_make_room, Fixture) {
  setenv("BTD_NODE", daemon->address_text().c_str(), 1);
  for (int i = 0; i < 34; i++) {
    int ready[2];
    BOOST_REQUIRE(pipe2(ready, O_CLOEXEC) == 0);
    pid_t child = fork();
    if (child == 0) {
      dup2(ready[1], 3);
      execl("/proc/self/exe", "vm-verbs", "--run_test=a_client_that_waits_for_its_death",
            static_cast<char*>(nullptr));
      _exit(127);
    }
    close(ready[1]);
    char said = 0;
    BOOST_REQUIRE(read(ready[0], &said, 1) == 1);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    close(ready[0]);
  }
  Peer peer(daemon->address(), client_of(2));
  peer.connect_by_verbs();
  BOOST_TEST((peer.write(0, 100, 1) == NodeStatus::kGood));
}

// Of two guests' wire: the other one is killed when this one reads.  Nobody says goodbye then, so
// it is the device that finds out, by the acknowledgement that does not come.
BOOST_AUTO_TEST_CASE(a_machine_that_dies_is_noticed, *boost::unit_test::disabled()) {
  constexpr uint32_t kPatientMs = 60000;
  NodeAddress address;
  BOOST_REQUIRE(parse_address(std::getenv("BTD_NODE"), address));
  Peer peer(address, client_of(1), kPatientMs);
  peer.connect_by_verbs();
  NodeStatus written = peer.write(0, 3, 1);
  BOOST_REQUIRE_MESSAGE(written == NodeStatus::kGood, int(written));
  std::printf("reading\n");
  std::fflush(stdout);
  uint64_t good_ms = steady_clock_ms();
  NodeStatus status = NodeStatus::kGood;
  uint64_t reads = 0;
  while (status == NodeStatus::kGood) {
    good_ms = steady_clock_ms();
    reads++;
    BOOST_REQUIRE(peer->read(0, 3, 1));
    status = peer.one().status;
  }
  uint64_t took_ms = steady_clock_ms() - good_ms;
  std::printf("after %llu reads the dead machine was noticed within %llu ms\n",
              static_cast<unsigned long long>(reads), static_cast<unsigned long long>(took_ms));
  BOOST_TEST((status == NodeStatus::kLost), int(status));
  BOOST_TEST(took_ms < kPatientMs / 3);
  BOOST_TEST(!peer->is_connected());
  BOOST_TEST((peer->connect(3000) != NodeStatus::kGood));
}

struct Both : Fixture {
  Both() { start(here(), "auto"); }
};

BOOST_FIXTURE_TEST_CASE(auto_is_both_at_one_port, Both) {
  Peer peer(daemon->address(), client_of(1));
  peer.connect_by_verbs();
  BOOST_REQUIRE((peer.write(0, 1, 1) == NodeStatus::kGood));
  pid_t child = fork();
  if (child == 0) {  // a child has no verbs of its own: it comes by TCP
    NodeClient client = client_of(1);
    auto node = std::make_unique<FarNode>();
    node->configure(daemon->address(), client, kOperationMs);
    bool is_good = node->connect(kConnectMs) == NodeStatus::kGood &&
                   node->transport() == wire::Transport::kTcp && node->read(0, 1, 1);
    NodeCompletion done{};
    while (is_good && node->poll(&done, 1, 100000) == 0) {
    }
    is_good = is_good && done.status == NodeStatus::kGood &&
              is_filled(node->buffer(0), done.length_bytes, 1, 1);
    node->close();
    _exit(is_good ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  BOOST_TEST(status == 0);
  peer.check(2, 1, 1);
}

// No device is behind this address.
BOOST_FIXTURE_TEST_CASE(elsewhere_it_is_tcp, Fixture) {
  start("127.0.0.1:0", "auto");
  Peer peer(daemon->address(), client_of(1));
  BOOST_REQUIRE((peer.connect() == NodeStatus::kGood));
  BOOST_TEST((peer->transport() == wire::Transport::kTcp));
  BOOST_TEST((peer.write(0, 1, 1) == NodeStatus::kGood));
}

}  // namespace
}  // namespace btd
