// Which way a node is reached, with libraries of verbs that are made here: the linker takes these
// functions instead of rdma/verbs_library.cpp.  Invariants checked: without a device nothing is
// loaded; when verbs fail, at once or by silence, TCP has connected within the same deadline; then
// verbs are left alone for a while; nothing is leaked.
//
// The daemon's path is the environment's BTD_BARTENDERD.
#define BOOST_TEST_MODULE fallback
#include <sys/eventfd.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <memory>

#include "rdma/far_node.hpp"
#include "tests/rdma/node_daemon.hpp"

namespace btd {
namespace {

struct Device {
  bool is_there = false;
  bool is_library_there = true;
  bool is_silent = false;  // resolve_addr() says nothing; else it fails
  int loads = 0, tries = 0, channels = 0, ids = 0;
  const int* is_announced = nullptr;  // that a call may allocate
  int unannounced = 0;

  void allocates() { unannounced += is_announced != nullptr && *is_announced != 1; }
} device;

VerbsLibrary library_of_here() {
  VerbsLibrary library{};
  library.create_event_channel = [] {
    device.allocates();
    // Never readable: nobody writes to it.
    int descriptor = eventfd(0, EFD_CLOEXEC);
    device.channels++;
    return new rdma_event_channel{.fd = descriptor};
  };
  library.destroy_event_channel = [](rdma_event_channel* channel) {
    device.allocates();
    close(channel->fd);
    delete channel;
    device.channels--;
  };
  library.create_id = [](rdma_event_channel*, rdma_cm_id** id, void*, rdma_port_space) {
    device.allocates();
    *id = new rdma_cm_id{};
    device.ids++;
    return 0;
  };
  library.destroy_id = [](rdma_cm_id* id) {
    device.allocates();
    delete id;
    device.ids--;
    return 0;
  };
  library.set_option = [](rdma_cm_id*, int, int, void*, size_t) { return 0; };
  library.resolve_addr = [](rdma_cm_id*, sockaddr*, sockaddr*, int) {
    device.tries++;
    return device.is_silent ? 0 : -1;
  };
  library.get_cm_event = [](rdma_event_channel*, rdma_cm_event**) {
    device.allocates();
    errno = EAGAIN;
    return -1;
  };
  return library;
}

}  // namespace

bool has_infiniband(const char*) noexcept { return device.is_there; }

const VerbsLibrary* load_verbs() noexcept {
  static const VerbsLibrary kLibrary = library_of_here();
  device.loads++;
  device.allocates();
  return device.is_library_there ? &kLibrary : nullptr;
}

bool has_verbs_device(const VerbsLibrary&) noexcept { return device.is_there; }

namespace {

struct Fixture {
  test::Scratch scratch;
  test::Daemon daemon{scratch};
  NodeClient client{};
  std::unique_ptr<FarNode> node = std::make_unique<FarNode>();

  Fixture() {
    device = {};
    client.epoch = 1;
    client.arena[0] = 1;
    for (size_t i = 0; i < wire::kKeyBytes; i++) client.key[i] = static_cast<uint8_t>(i);
    node->configure(daemon.address(), client);
  }
  ~Fixture() {
    node.reset();
    BOOST_TEST(device.channels == 0);
    BOOST_TEST(device.ids == 0);
  }
  void connects_by_tcp(uint32_t deadline_ms) {
    BOOST_REQUIRE((node->connect(deadline_ms) == NodeStatus::kGood));
    BOOST_TEST((node->transport() == wire::Transport::kTcp));
  }
};

BOOST_FIXTURE_TEST_CASE(without_a_device_nothing_is_loaded, Fixture) {
  connects_by_tcp(5000);
  BOOST_TEST(device.loads == 0);
}

BOOST_FIXTURE_TEST_CASE(without_the_libraries_it_is_tcp, Fixture) {
  device.is_there = true;
  device.is_library_there = false;
  connects_by_tcp(5000);
  BOOST_TEST(device.tries == 0);
}

BOOST_FIXTURE_TEST_CASE(verbs_that_fail_are_followed_by_tcp_and_left_alone, Fixture) {
  device.is_there = true;
  connects_by_tcp(5000);
  BOOST_TEST(device.tries == 1);
  for (int i = 0; i < 3; i++) {
    node->close();
    connects_by_tcp(5000);
  }
  BOOST_TEST(device.tries == 1);
}

BOOST_FIXTURE_TEST_CASE(silent_verbs_leave_half_of_the_deadline_to_tcp, Fixture) {
  device.is_there = device.is_silent = true;
  uint64_t began_ms = steady_clock_ms();
  connects_by_tcp(2000);
  uint64_t took_ms = steady_clock_ms() - began_ms;
  BOOST_TEST((took_ms >= 1000 && took_ms < 2000));
  BOOST_TEST(device.tries == 1);
}

// As the pager calls it: with a little time, again and again.
BOOST_FIXTURE_TEST_CASE(hurried_calls_go_on_with_one_attempt_until_it_is_tcps_turn, Fixture) {
  device.is_there = device.is_silent = true;
  uint64_t began_ms = steady_clock_ms();
  NodeStatus status;
  int calls = 0;
  while ((status = node->connect(50)) == NodeStatus::kTimeout) {
    BOOST_REQUIRE(++calls < 200);
    BOOST_TEST(!node->is_connected());
    BOOST_TEST(device.ids == 1);
  }
  uint64_t took_ms = steady_clock_ms() - began_ms;
  BOOST_TEST((status == NodeStatus::kGood));
  BOOST_TEST((node->transport() == wire::Transport::kTcp));
  BOOST_TEST(took_ms >= 1500);
  BOOST_TEST(calls >= 3);
  BOOST_TEST(device.tries == 1);
  BOOST_TEST(device.ids == 0);
}

// Whoever pages must not have the libraries' memory in what it pages.
BOOST_FIXTURE_TEST_CASE(what_the_libraries_allocate_is_announced, Fixture) {
  static int begun = 0, announced = 0;
  verbs_allocation_hook = [](bool is_beginning) {
    begun += is_beginning ? 1 : -1;
    announced++;
    BOOST_TEST((begun == 0 || begun == 1));
  };
  device.is_there = device.is_silent = true;
  device.is_announced = &begun;
  BOOST_TEST((node->connect(50) == NodeStatus::kTimeout));
  BOOST_TEST((node->connect(50) == NodeStatus::kTimeout));
  node->close();
  verbs_allocation_hook = nullptr;
  BOOST_TEST(begun == 0);
  BOOST_TEST(announced >= 6);
  BOOST_TEST(device.unannounced == 0);
}

BOOST_FIXTURE_TEST_CASE(closing_ends_an_attempt_that_is_on_its_way, Fixture) {
  device.is_there = device.is_silent = true;
  BOOST_TEST((node->connect(50) == NodeStatus::kTimeout));
  BOOST_TEST(device.ids == 1);
  node->close();
  BOOST_TEST(device.ids == 0);
  BOOST_TEST((node->connect(50) == NodeStatus::kTimeout));
  BOOST_TEST(device.tries == 2);
}

BOOST_FIXTURE_TEST_CASE(a_node_that_was_dead_to_both_is_tried_by_verbs_again, Fixture) {
  device.is_there = true;
  std::string where = daemon.address_text();
  daemon.kill_now();
  BOOST_TEST((node->connect(2000) == NodeStatus::kLost));
  test::Daemon again(scratch, "8M", where);
  connects_by_tcp(5000);
  BOOST_TEST(device.tries == 2);
}

BOOST_FIXTURE_TEST_CASE(without_anybody_there_both_are_tried_and_it_is_lost, Fixture) {
  device.is_there = true;
  daemon.kill_now();
  BOOST_TEST((node->connect(2000) == NodeStatus::kLost));
  BOOST_TEST(device.tries == 1);
}

}  // namespace
}  // namespace btd
