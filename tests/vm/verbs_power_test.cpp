// What a power cut is made for, by the scenes power and dax: these cases are run by name, one at a
// time, with the node's address in BTD_NODE, and the machine that is killed is not theirs alone.
#include <filesystem>
#include <fstream>

#include "tests/vm/verbs_peer.hpp"

namespace btd::test {
namespace {

// What the device has seen go wrong.
void print_device_counters() {
  namespace fs = std::filesystem;
  for (const auto& entry :
       fs::directory_iterator("/sys/class/infiniband/rxe0/ports/1/hw_counters")) {
    std::string value;
    std::ifstream(entry.path()) >> value;
    if (value != "0") std::printf("%s %s\n", entry.path().filename().c_str(), value.c_str());
  }
}

// Of two guests' wire: the other one is killed when this one reads.  Nobody says goodbye then, so
// it is the device that finds out, by the acknowledgement that does not come.
BOOST_AUTO_TEST_CASE(a_machine_that_dies_is_noticed, *boost::unit_test::disabled()) {
  constexpr uint32_t kPatientMs = 60000;
  Peer peer(the_node(), client_of(1), kPatientMs);
  peer.connect_by_verbs();
  // An emulated wire may lose packets, and four losses in a row end a connection.
  NodeStatus written = peer.write(0, 3, 1);
  for (int i = 0; i < 3 && written == NodeStatus::kLost; i++) {
    print_device_counters();
    peer.connect_by_verbs();
    written = peer.write(0, 3, 1);
  }
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

// Write number n is of extent n % kExtents, so that each extent has had its generations when the
// power goes.
constexpr uint64_t kExtents = 150;
constexpr uint64_t extent_of(uint64_t number) { return number % kExtents; }
constexpr uint64_t generation_of(uint64_t number) { return number / kExtents + 1; }

BOOST_AUTO_TEST_CASE(writes_until_the_power_is_cut, *boost::unit_test::disabled()) {
  Peer peer(the_node(), client_of(1), kConnectMs);
  peer.connect_by_verbs();
  for (uint64_t number = 0;; number += kNodeDepth) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      uint64_t extent = extent_of(number + slot), generation = generation_of(number + slot);
      uint32_t length = fill(peer->buffer(slot), extent, generation);
      BOOST_REQUIRE(peer->write(slot, extent, generation, length));
    }
    for (uint32_t i = 0; i < kNodeDepth; i++) {
      NodeStatus status = peer.one().status;
      BOOST_REQUIRE_MESSAGE(status == NodeStatus::kGood, int(status));
    }
    if ((number + kNodeDepth) % 80 != 0) continue;
    std::printf("acknowledged %llu\n", static_cast<unsigned long long>(number + kNodeDepth));
    std::fflush(stdout);
  }
}

// BTD_TOLD writes were acknowledged before the cut, perhaps more.
BOOST_AUTO_TEST_CASE(what_was_acknowledged_is_there, *boost::unit_test::disabled()) {
  uint64_t told = std::strtoull(std::getenv("BTD_TOLD"), nullptr, 10);
  BOOST_REQUIRE(told > kExtents);
  Peer peer(the_node(), client_of(2), kConnectMs);
  peer.connect_by_verbs();
  uint64_t newer = 0;
  for (uint64_t number = told - kExtents; number < told; number++) {
    BOOST_REQUIRE(peer->read(0, extent_of(number), generation_of(number)));
    NodeCompletion done = peer.one();
    BOOST_REQUIRE_MESSAGE(done.status == NodeStatus::kGood,
                          "extent " << extent_of(number) << ": status " << int(done.status));
    BOOST_TEST(is_filled(peer->buffer(0), done.length_bytes, extent_of(number), done.generation));
    newer += done.generation > generation_of(number);
  }
  std::printf("%llu writes were acknowledged; %llu of %llu extents are newer than that\n",
              static_cast<unsigned long long>(told), static_cast<unsigned long long>(newer),
              static_cast<unsigned long long>(kExtents));
}

}  // namespace
}  // namespace btd::test
