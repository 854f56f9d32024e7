// The window in a forked child: far-memory.md's findings about fork, one by one.  Invariants
// checked: the child reads what the parent has, near or far, by loads and by system calls, and
// never zeros for data; nothing that it writes is seen by the parent or reaches a node; its reading
// fills no hole of the parent's; what cannot be had kills it instead of lying to it; all of that
// while the parent goes on evicting.
#define BOOST_TEST_MODULE fork_child
#include "core/spill/fork_child.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <thread>

#include "tests/core/support/far.hpp"
#include "tests/core/support/shared_node.hpp"

namespace btd {
namespace {

constexpr uint64_t kExtents = 96;

struct Fixture {
  Fixture() : far(scratch.file("far"), stores, kExtents, 16) {
    test::limit_time(50);
    far.must_open();
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far.at(i), kFarExtentBytes, i);
  }

  // Runs `body` in a child that has the window; its value is the exit status, 99: no window.
  template <typename Body>
  int in_child(Body body) {
    pid_t child = fork();
    if (child == 0) {
      far.window->forget_in_child();
      test::become_child();
      // The nodes' stores are copies of the parent's, as they are at the fork.
      test::FakeNode first(*stores[0]);
      test::FakeNode second(*stores[1]);
      Node* nodes[] = {&first, &second};
      auto* window = new ForkChild();
      Line why;
      Error error = window->open(scratch.file("far").c_str(), far.window->base(),
                                 far.window->size_bytes(), nodes, 2, why);
      if (error != Error::kNone) {
        why.write(LogLevel::kOff);
        _exit(99);
      }
      _exit(body());
    }
    int status = 0;
    BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }
  // The forked child's stores are copies, which must be what the parent's words say: the evictor
  // comes to an end.
  void rest() {
    auto& pager = far.window->pager();
    pager.near_low = kExtents;
    pager.near_high = kExtents;
    pager.near_max = kExtents;
    test::Far::wait_until([&] {
      for (uint64_t i = 0; i < kExtents; i++) {
        ExtentState state = far.state(i).state();
        if (state != ExtentState::kNear && state != ExtentState::kIdle &&
            state != ExtentState::kFar)
          return false;
      }
      return true;
    });
  }

  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(2);
  test::Far far;
};

BOOST_FIXTURE_TEST_CASE(the_child_reads_all_and_changes_nothing, Fixture) {
  rest();
  uint64_t writes = stores[0]->writes;
  std::vector<ExtentState> before;
  for (uint64_t i = 0; i < kExtents; i++) before.push_back(far.state(i).state());
  const auto blocks = test::file_blocks(scratch.file("far"));
  int status = in_child([&] {
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < kExtents; i++) {
      wrong += !test::is_filled(far.at(i), kFarExtentBytes, i);
      test::fill(far.at(i), kFarExtentBytes, i + 1000);
      wrong += !test::is_filled(far.at(i), kFarExtentBytes, i + 1000);
    }
    if (stores[0]->writes != writes) return 2;
    return wrong == 0 ? 0 : 1;
  });
  BOOST_TEST(status == 0);
  // Its reading filled no hole, and its writing is its own.
  BOOST_TEST(test::file_blocks(scratch.file("far")) == blocks);
  for (uint64_t i = 0; i < kExtents; i++) BOOST_TEST((far.state(i).state() == before[i]));
  for (uint64_t i = 0; i < kExtents; i++)
    BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
}

BOOST_FIXTURE_TEST_CASE(the_childs_system_calls_see_it_too, Fixture) {
  rest();
  uint64_t extent = 0;
  while (far.state(extent).state() != ExtentState::kFar) extent++;
  std::string name = scratch.file("data");
  int status = in_child([&] {
    int file = ::open(name.c_str(), O_RDWR | O_CREAT, 0600);
    if (::write(file, far.at(extent), kFarExtentBytes) != long(kFarExtentBytes)) return 1;
    return ::pread(file, far.at(extent + 1), 10, 0) == 10 ? 0 : 2;
  });
  BOOST_TEST(status == 0);
  std::string written = test::read_all(name);
  BOOST_REQUIRE(written.size() == kFarExtentBytes);
  BOOST_TEST(test::is_filled(written.data(), kFarExtentBytes, extent));
}

BOOST_FIXTURE_TEST_CASE(what_the_child_cannot_have_kills_it, Fixture) {
  rest();
  uint64_t extent = 0;
  while (far.state(extent).state() != ExtentState::kFar) extent++;
  int status = in_child([&] {
    for (auto& store : stores) store->clear();  // its own copies
    return far.word(extent) == 0 ? 1 : 2;
  });
  BOOST_TEST(status == -test::lost_signal());
  BOOST_TEST(test::is_filled(far.at(extent), kFarExtentBytes, extent));
}

BOOST_FIXTURE_TEST_CASE(fresh_extents_are_zero_in_the_child, Fixture) {
  far.window->discard(3);
  BOOST_TEST(in_child([&] { return test::is_all_zero(far.at(3), kFarExtentBytes) ? 0 : 1; }) == 0);
}

BOOST_FIXTURE_TEST_CASE(a_grandchild_has_its_own_way_or_dies, Fixture) {
  int status = in_child([&] {
    pid_t grandchild = fork();
    if (grandchild == 0) {
      test::become_child();
      far.touch(1);
      _exit(0);
    }
    int status = 0;
    waitpid(grandchild, &status, 0);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV ? 0 : 1;
  });
  BOOST_TEST(status == 0);
}

// The parent evicts and fetches under the child's eyes, and writes back what it had not yet written
// back at the fork; so the node's store is one that both see, as a real node's is.
BOOST_AUTO_TEST_CASE(while_the_parent_evicts_the_child_reads_no_zeros) {
  test::limit_time(50);
  test::Scratch scratch;
  test::SharedStore store(kExtents);
  std::vector<std::unique_ptr<test::SharedNode>> nodes;
  for (int i = 0; i < 3; i++) nodes.push_back(std::make_unique<test::SharedNode>(store));
  Node* handler_nodes[] = {nodes[0].get()};
  Node* evictor_nodes[] = {nodes[1].get()};
  Node* child_nodes[] = {nodes[2].get()};
  const std::string path = scratch.file("far");
  FarRequest request = test::one_node_request(path, kExtents, handler_nodes, evictor_nodes);
  Line why;
  auto window = std::make_unique<FarWindow>();
  BOOST_REQUIRE((window->open(request, why) == Error::kNone));
  auto at = [&](uint64_t extent) { return window->base() + extent * kFarExtentBytes; };
  for (uint64_t i = 0; i < kExtents; i++) test::fill(at(i), kFarExtentBytes, i);
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    std::mt19937_64 random(test::seed());
    while (!stop) {
      [[maybe_unused]] char value = *static_cast<volatile char*>(at(random() % kExtents));
    }
  });
  for (int i = 0; i < 5; i++) {
    const uint64_t fetched = window->stats().fetched;
    pid_t child = fork();
    if (child == 0) {
      window->forget_in_child();
      test::become_child();
      auto* mine = new ForkChild();
      if (mine->open(path.c_str(), window->base(), window->size_bytes(), child_nodes, 1, why) !=
          Error::kNone)
        _exit(99);
      uint64_t wrong = 0;
      for (uint64_t extent = 0; extent < kExtents; extent++)
        wrong += !test::is_filled(at(extent), kFarExtentBytes, extent);
      _exit(wrong == 0 ? 0 : 1);
    }
    int status = 0;
    BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
    BOOST_TEST(status == 0);
    test::Far::wait_until([&] { return window->stats().fetched > fetched; });  // it does go on
  }
  stop = true;
  reader.join();
  window->close();
}

BOOST_AUTO_TEST_CASE(what_a_shared_mapping_would_do_is_still_so) {
  // The finding that all of this is about.  If it fails one day, the kernel has changed.
  test::limit_time(30);
  test::Scratch scratch;
  int file = ::open(scratch.file("window").c_str(), O_RDWR | O_CREAT, 0600);
  BOOST_REQUIRE(::ftruncate(file, kFarExtentBytes) == 0);
  void* mapped = mmap(nullptr, kFarExtentBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  Userfault faults;
  Line why;
  BOOST_REQUIRE((faults.open(true, why) == Error::kNone));
  BOOST_REQUIRE((faults.watch(mapped, kFarExtentBytes, true) == Error::kNone));
  pid_t child = fork();
  if (child == 0) {
    test::become_child();
    _exit(*static_cast<volatile char*>(mapped));  // no fault is served: zero
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
  BOOST_TEST(status == 0);
  BOOST_TEST(test::file_blocks(scratch.file("window")) > 0U);  // and the hole is filled
  munmap(mapped, kFarExtentBytes);
  faults.close();
  ::close(file);
}

}  // namespace
}  // namespace btd
