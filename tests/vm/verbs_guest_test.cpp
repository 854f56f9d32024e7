// A node and its clients over real verbs, in a guest that has soft RoCE at BTD_VERBS_ADDRESS.
// Invariants checked: bytes come back as they went; who must not get in is told why; a node that
// dies or falls silent is noticed within the deadline, each operation reported once, and it is
// found again; a client that dies leaves nothing; verbs and TCP are at one port.
//
// The daemon's path is the environment's BTD_BARTENDERD.
#define BOOST_TEST_MODULE verbs_guest
#include <dirent.h>

#include <vector>

#include "tests/vm/verbs_peer.hpp"

namespace btd::test {
namespace {

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

// The bytes of a slot of the store that is on its way to a reader stay until they are there, though
// the extent has been written again, and again.  Also run on a node with a DAX device.
BOOST_FIXTURE_TEST_CASE(what_is_read_is_whole_while_it_is_written, Fixture) {
  NodeAddress address = the_node(daemon.get());
  Peer reader(address, client_of(10)), writer(address, client_of(10));
  reader.connect_by_verbs();
  writer.connect_by_verbs();
  constexpr uint64_t kRounds = 30;
  constexpr uint64_t kFirst = 6000;
  for (uint64_t round = 1; round <= kRounds; round++) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      uint64_t extent = kFirst + slot / 2;  // each twice
      if (round > 1) BOOST_REQUIRE(reader->read(slot, extent, 2 * round - 2));
      uint64_t generation = 2 * round + slot % 2;
      uint32_t length = fill(writer->buffer(slot), extent, generation);
      BOOST_REQUIRE(writer->write(slot, extent, generation, length));
    }
    for (uint32_t i = 0; i < kNodeDepth; i++) {
      // Two of one extent may be done in any order.
      NodeStatus status = writer.one().status;
      BOOST_TEST((status == NodeStatus::kGood || status == NodeStatus::kStale), int(status));
      if (round == 1) continue;
      NodeCompletion done = reader.one();
      BOOST_REQUIRE_MESSAGE(done.status == NodeStatus::kGood, int(done.status));
      BOOST_TEST(is_filled(reader->buffer(done.slot), done.length_bytes, kFirst + done.slot / 2,
                           done.generation));
    }
  }
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
}  // namespace btd::test
