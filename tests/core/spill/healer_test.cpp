// Copies for extents whose node is gone.  Invariants checked: every far extent gets as many live
// holders as it should have, in its own generation and with its own bytes, and then another node
// may die; a node that comes back counts for what it has and not for what the word says; a node
// that takes nothing does no harm; what is touched meanwhile stays right.
#define BOOST_TEST_MODULE healer
#include "core/spill/healer.hpp"

#include <fcntl.h>
#include <unistd.h>

#include "tests/core/support/far.hpp"

namespace btd {
namespace {

constexpr uint64_t kExtents = 96;

struct Fixture {
  Fixture() { test::limit_time(50); }

  // Everything written to, most of it far.
  void fill(test::Far& far) {
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far.at(i), kFarExtentBytes, i);
  }
  // Holders that really have it, among the stores that live.
  uint32_t copies(const test::Far& far, uint64_t extent) {
    ExtentWord word = const_cast<test::Far&>(far).state(extent);
    uint32_t count = 0;
    for (size_t node = 0; node < stores.size(); node++) {
      uint64_t generation = 0;
      count += (word.holders() >> node & 1) != 0 && !stores[node]->is_dead &&
               stores[node]->has(extent, &generation) && generation == word.generation();
    }
    return count;
  }
  void wait_until_whole(test::Far& far, uint32_t wanted = 2) {
    test::Far::wait_until([&] {
      for (uint64_t i = 0; i < kExtents; i++)
        if (far.state(i).state() == ExtentState::kFar && copies(far, i) < wanted) return false;
      return true;
    });
  }
  void check_all(test::Far& far) {
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
    BOOST_TEST(far.stats().poisoned.load() == 0U);
  }

  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(3);
};

BOOST_FIXTURE_TEST_CASE(after_a_node_has_died_and_all_is_copied_another_may_die, Fixture) {
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  fill(far);
  stores[1]->is_dead = true;
  wait_until_whole(far);
  uint64_t looked = 0;
  for (uint64_t i = 0; i < kExtents; i++) {
    if (far.state(i).state() != ExtentState::kFar) continue;
    looked++;
    for (uint32_t node : {0, 2})
      BOOST_TEST(test::is_filled(stores[node]->get(i).data.data(), kFarExtentBytes, i));
  }
  BOOST_TEST(looked > kExtents / 2);
  stores[0]->is_dead = true;
  check_all(far);
}

BOOST_FIXTURE_TEST_CASE(a_node_that_comes_back_empty_is_believed_nothing, Fixture) {
  stores = test::make_stores(2);
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  fill(far);
  // Both have all.  One loses its store over a restart.
  const uint64_t lost = stores[0]->lost_connections;
  stores[0]->is_dead = true;
  test::Far::wait_until([&] { return stores[0]->lost_connections > lost; });
  stores[0]->clear();
  stores[0]->is_dead = false;
  wait_until_whole(far);
  stores[1]->is_dead = true;
  check_all(far);
}

BOOST_FIXTURE_TEST_CASE(a_node_that_comes_back_with_all_it_had_counts_again, Fixture) {
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  fill(far);
  stores[1]->is_dead = true;
  wait_until_whole(far);
  uint64_t writes = stores[1]->writes;
  stores[1]->is_dead = false;
  stores[2]->is_dead = true;  // what 1 and 2 had is on 0 as well, and on 1
  wait_until_whole(far);
  stores[0]->is_dead = true;
  check_all(far);
  BOOST_TEST(stores[1]->writes - writes < kExtents);
}

BOOST_FIXTURE_TEST_CASE(what_the_last_holder_has_lost_is_an_error_and_what_is_near_is_written_back,
                        Fixture) {
  stores = test::make_stores(1);
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.request.replica_count = 1;
  far.must_open();
  fill(far);
  for (uint64_t i = 0; i < kExtents; i++) far.touch(i);  // what is near is clean now
  auto is_near = [&](uint64_t extent) {
    ExtentState state = far.state(extent).state();
    return state == ExtentState::kNear || state == ExtentState::kIdle;
  };
  const uint64_t lost = stores[0]->lost_connections;
  stores[0]->clear();
  stores[0]->is_dead = true;
  // The evictor's own: a handler's is not polled when nothing is touched.
  test::Far::wait_until([&] { return stores[0]->lost_connections > lost; });
  stores[0]->is_dead = false;
  test::Far::wait_until([&] {
    for (uint64_t i = 0; i < kExtents; i++)
      if (is_near(i) && !far.state(i).is_dirty()) return false;
    return true;
  });
  // Each is an error or right, never anything else; what is being written back just now is right.
  int file = ::open(scratch.file("out").c_str(), O_RDWR | O_CREAT, 0600);
  std::vector<char> data(kFarExtentBytes);
  uint64_t lost_count = 0;
  for (uint64_t i = 0; i < kExtents; i++) {
    if (::pwrite(file, far.at(i), kFarExtentBytes, 0) < 0) {
      lost_count++;
      continue;
    }
    BOOST_TEST(::pread(file, data.data(), data.size(), 0) == static_cast<long>(data.size()));
    BOOST_TEST(test::is_filled(data.data(), kFarExtentBytes, i));
  }
  ::close(file);
  BOOST_TEST(lost_count >= kExtents - 16);
  BOOST_TEST(lost_count <= kExtents - 4);
}

BOOST_FIXTURE_TEST_CASE(a_spare_node_that_takes_nothing_does_no_harm, Fixture) {
  stores[2]->fails_writes = true;
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  fill(far);
  stores[1]->is_dead = true;
  uint64_t writes = stores[2]->writes;
  test::Far::wait_until([&] { return stores[2]->writes >= writes + 4; });
  check_all(far);
  stores[2]->fails_writes = false;
  wait_until_whole(far);
  stores[0]->is_dead = true;
  check_all(far);
}

BOOST_FIXTURE_TEST_CASE(extents_that_change_meanwhile_stay_right, Fixture) {
  test::Far far(scratch.file("far"), stores, kExtents, 32);
  far.must_open();
  fill(far);
  std::mt19937_64 random(test::seed());
  std::vector<uint64_t> expected(kExtents);
  for (uint64_t i = 0; i < kExtents; i++) far.word(i, 9000 % 8192) = 0;
  for (uint32_t round = 0; round < 6; round++) {
    stores[round % 3]->is_dead = true;
    for (int i = 0; i < 400; i++) {
      uint64_t extent = random() % kExtents;
      far.word(extent, 808) = ++expected[extent];
      if (random() % 16 == 0) {
        far.window->discard(extent);
        expected[extent] = 0;
        far.word(extent, 808) = 0;
      }
    }
    wait_until_whole(far);
    stores[round % 3]->is_dead = false;
    // Back in every word, or out of it.
    wait_until_whole(far);
  }
  for (uint64_t i = 0; i < kExtents; i++)
    BOOST_TEST((expected[i] == 0 || far.word(i, 808) == expected[i]));
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

}  // namespace
}  // namespace btd
