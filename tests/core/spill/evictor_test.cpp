// Eviction.  Invariants checked: no write is lost, however writers, handler and evictor meet, with
// the kernel's tracking and with ours; the same load loses writes when the order is reversed, so
// the check can fail; an extent that is touched while it is evicted stays; what no node takes
// stays; a node that is full, dead or ahead is gone around, and all replicas that live get a write
// before its frames go.
#define BOOST_TEST_MODULE evictor
#include "core/spill/evictor.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <thread>

#include "tests/core/support/far.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() { test::limit_time(55); }

  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(2);
};

constexpr uint64_t kWriters = 3;
constexpr uint64_t kExtents = 96;
constexpr uint64_t kWordsPerPage = 4096 / sizeof(uint64_t);

// Writers that count in words of their own: one in each page of each extent.
class Counting {
 public:
  explicit Counting(test::Far& far) : far_(far) {}

  // Goes on until all have made so many increments, or `stop`.
  void run(uint64_t increments_each, const std::atomic<bool>& stop) {
    std::vector<std::thread> threads;
    for (uint64_t writer = 0; writer < kWriters; writer++) {
      threads.emplace_back([&, writer, seed = test::seed() + writer] {
        std::mt19937_64 random(seed);
        for (uint64_t done = 0; done < increments_each && !stop; done += kBurst) {
          uint64_t extent = random() % kExtents;
          for (uint64_t i = 0; i < kBurst; i++) {
            uint64_t page = i / 16 % kPagesPerExtent;
            far_.word(extent, page * kWordsPerPage + writer) =
                far_.word(extent, page * kWordsPerPage + writer) + 1;
            expected_[writer][extent][page]++;
          }
        }
      });
    }
    for (auto& thread : threads) thread.join();
  }

  uint64_t lost() {
    uint64_t lost = 0;
    for (uint64_t writer = 0; writer < kWriters; writer++)
      for (uint64_t extent = 0; extent < kExtents; extent++)
        for (uint64_t page = 0; page < kPagesPerExtent; page++)
          lost +=
              expected_[writer][extent][page] - far_.word(extent, page * kWordsPerPage + writer);
    return lost;
  }
  uint64_t total() {
    uint64_t total = 0;
    for (auto& writer : expected_)
      for (auto& extent : writer)
        for (uint64_t page : extent) total += page;
    return total;
  }

 private:
  static constexpr uint64_t kBurst = 512;
  test::Far& far_;
  uint64_t expected_[kWriters][kExtents][kPagesPerExtent] = {};
};

void stress(Fixture& fixture, bool tracks_async, uint64_t increments) {
  test::Far far(fixture.scratch.file("far"), fixture.stores, kExtents, 32);
  far.request.tracks_async = tracks_async;
  far.must_open();
  auto counting = std::make_unique<Counting>(far);
  std::atomic<bool> stop{false};
  counting->run(increments / kWriters, stop);
  uint64_t lost = counting->lost();
  BOOST_TEST(lost == 0U);
  BOOST_TEST(counting->total() >= increments - kWriters * 512);
  BOOST_TEST(far.stats().written_back.load() > 100U);
  std::printf(
      "%s: %llu increments, %llu lost; %llu written back, %llu dropped clean, %llu overtaken, "
      "%llu reactivated\n",
      tracks_async ? "asynchronous" : "synchronous",
      static_cast<unsigned long long>(counting->total()), static_cast<unsigned long long>(lost),
      static_cast<unsigned long long>(far.stats().written_back.load()),
      static_cast<unsigned long long>(far.stats().dropped_clean.load()),
      static_cast<unsigned long long>(far.stats().canceled.load()),
      static_cast<unsigned long long>(far.stats().reactivated.load()));
}

BOOST_FIXTURE_TEST_CASE(no_increment_is_lost_under_forced_eviction, Fixture) {
  // BTD_TEST_INCREMENTS makes it longer: 10^9 is the goal, and takes some minutes.
  const char* given = std::getenv("BTD_TEST_INCREMENTS");
  if (given != nullptr) test::limit_time(3600);
  stress(*this, true, given != nullptr ? std::strtoull(given, nullptr, 0) : 10'000'000);
}

BOOST_FIXTURE_TEST_CASE(no_increment_is_lost_with_synchronous_tracking, Fixture) {
  stress(*this, false, 3'000'000);
}

BOOST_FIXTURE_TEST_CASE(nor_when_nodes_are_slow_and_evictions_are_overtaken, Fixture) {
  for (auto& store : stores) store->delay_us = 300;
  stress(*this, true, 2'000'000);
}

// The same writers, and an eviction that copies first and unmaps afterwards.
BOOST_FIXTURE_TEST_CASE(the_reversed_order_loses_increments_and_the_check_sees_it, Fixture) {
  test::Far far(scratch.file("far"), stores, kExtents, 4 * kExtents);  // its own evictor rests
  far.must_open();
  auto counting = std::make_unique<Counting>(far);
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> evicted{0};
  std::thread reversed([&] {
    int file = ::open(scratch.file("far").c_str(), O_RDONLY);
    ExtentTable& table = far.window->pager().file.table();
    const uint64_t offset = far.window->pager().file.window_offset();
    std::vector<char> copy(kFarExtentBytes);
    for (uint64_t i = 0; !stop; i++) {
      uint64_t extent = i % kExtents;
      ExtentWord word = table.load(extent);
      if (word.state() != ExtentState::kNear) continue;
      if (::pread(file, copy.data(), copy.size(), long(offset + extent * kFarExtentBytes)) < 0)
        break;
      stores[0]->put(extent, word.generation() + 1, copy.data());
      ExtentWord punching = word.with(ExtentState::kPunching)
                                .with_generation(word.generation() + 1)
                                .with_holders(1)
                                .with_dirty(false);
      if (!table.change(extent, word, punching)) continue;
      ::madvise(far.at(extent), kFarExtentBytes, MADV_DONTNEED);
      ::madvise(far.at(extent), kFarExtentBytes, MADV_REMOVE);
      far.window->pager().near_count--;
      table.store(extent, punching.with(ExtentState::kFar));
      evicted++;
    }
    ::close(file);
  });
  uint64_t lost = 0;
  for (int round = 0; round < 20 && lost == 0; round++) {
    counting->run(200'000, stop);
    lost = counting->lost();
  }
  stop = true;
  reversed.join();
  BOOST_TEST(lost > 0U);
  std::printf("reversed: %llu of %llu increments lost in %llu evictions\n",
              static_cast<unsigned long long>(lost),
              static_cast<unsigned long long>(counting->total()),
              static_cast<unsigned long long>(evicted.load()));
}

BOOST_FIXTURE_TEST_CASE(what_no_node_takes_stays_and_goes_when_one_does, Fixture) {
  for (auto& store : stores) store->fails_writes = true;
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i);
  BOOST_TEST(far.window->near_bytes() == 64 * kFarExtentBytes);  // over the limit, all of it here
  BOOST_TEST(far.stats().over_limit.load() > 0U);
  BOOST_TEST(far.stats().writes_failed.load() > 0U);
  for (uint64_t i = 0; i < 64; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  for (auto& store : stores) store->fails_writes = false;
  test::Far::wait_until([&] { return far.window->near_bytes() <= 16 * kFarExtentBytes; });
  for (uint64_t i = 0; i < 64; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(an_eviction_that_is_overtaken_and_fails_leaves_the_extent_dirty, Fixture) {
  for (auto& store : stores) {
    store->fails_writes = true;
    store->delay_us = 20'000;  // so that an eviction can be seen under way
  }
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 20; i++) test::fill(far.at(i), kFarExtentBytes, i);
  std::vector<uint64_t> overtaken;
  test::Far::wait_until([&] {
    for (uint64_t i = 0; i < 20; i++) {
      if (far.state(i).state() != ExtentState::kEvicting) continue;
      uint64_t before = far.stats().canceled;
      far.touch(i);  // read only
      if (far.stats().canceled > before) overtaken.push_back(i);
    }
    return overtaken.size() >= 8;
  });
  for (auto& store : stores) {
    store->delay_us = 0;
    store->fails_writes = false;
  }
  for (uint64_t extent : overtaken) far.push_out(extent, 20, 40);
  for (uint64_t i = 0; i < 20; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(every_live_replica_has_a_write_before_its_frames_go, Fixture) {
  stores = test::make_stores(3);
  test::Far far(scratch.file("far"), stores, 128, 16);
  far.must_open();
  for (uint64_t i = 0; i < 128; i++) test::fill(far.at(i), kFarExtentBytes, i);
  uint64_t looked = 0;
  for (uint64_t i = 0; i < 128; i++) {
    ExtentWord word = far.state(i);
    if (word.state() != ExtentState::kFar) continue;
    looked++;
    uint32_t holders = 0;
    for (uint32_t node = 0; node < 3; node++) {
      uint64_t generation = 0;
      if (!stores[node]->has(i, &generation)) continue;
      BOOST_TEST(generation == word.generation());
      BOOST_TEST(test::is_filled(stores[node]->get(i).data.data(), kFarExtentBytes, i));
      holders |= 1U << node;
    }
    BOOST_TEST(holders == word.holders());
    BOOST_TEST(__builtin_popcount(holders) == 2);
  }
  BOOST_TEST(looked > 90U);
  for (auto& store : stores) BOOST_TEST(store->size() > 40U);  // each has its part
}

BOOST_FIXTURE_TEST_CASE(a_full_or_dead_node_is_replaced_by_the_next, Fixture) {
  stores = test::make_stores(3);
  stores[0]->fails_writes = true;
  stores[1]->is_dead = true;
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (uint64_t i = 0; i < 64; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  BOOST_TEST(stores[2]->size() > 40U);
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(an_unanswered_write_is_made_again_elsewhere_or_later, Fixture) {
  stores[0]->drop_writes = 3;
  stores[1]->drop_writes = 1;
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.request.lost_wait_ms = 10'000;
  far.must_open();
  for (uint64_t round = 0; round < 3; round++) {
    for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i + round);
    for (uint64_t i = 0; i < 64; i++)
      BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i + round));
  }
  BOOST_TEST(stores[0]->drop_writes + stores[1]->drop_writes == 0U);
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(a_clean_extent_with_too_few_replicas_gets_another, Fixture) {
  stores[1]->is_dead = true;
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i);
  far.push_out(0, 32, 32);
  BOOST_TEST(far.state(0).holders() == 1U);
  stores[1]->is_dead = false;
  // The evictor finds the node again by itself, and reading makes the extents near and clean.
  uint64_t turn = 0;
  test::Far::wait_until([&] {
    far.touch(turn++ % 64);
    return far.state(0).state() == ExtentState::kFar && far.state(0).holders() == 3;
  });
  BOOST_TEST(test::is_filled(stores[1]->get(0).data.data(), kFarExtentBytes, 0));
}

BOOST_FIXTURE_TEST_CASE(a_node_that_is_ahead_is_overtaken_by_a_higher_generation, Fixture) {
  std::vector<char> other(kFarExtentBytes, 'o');
  stores[0]->put(0, 1000, other.data());
  // As if it had not answered when the window was opened.
  stores[0]->is_dead = true;
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  stores[0]->is_dead = false;
  test::fill(far.at(0), kFarExtentBytes, 42);
  uint64_t turn = 0;
  test::Far::wait_until([&] {
    turn++;
    far.word(16 + turn % 32, 9) = turn;
    if (far.state(0).state() != ExtentState::kFar) return false;
    if ((far.state(0).holders() & 1) != 0) return true;
    far.touch(0);
    return false;
  });
  BOOST_TEST(far.state(0).generation() > 1000U);
  BOOST_TEST(test::is_filled(far.at(0), kFarExtentBytes, 42));
}

BOOST_FIXTURE_TEST_CASE(a_fenced_client_writes_nothing_more, Fixture) {
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 32; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (auto& store : stores) store->is_fenced = true;
  for (uint64_t i = 32; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i);
  BOOST_TEST(far.window->pager().is_fenced.load());
  uint64_t writes = stores[0]->writes + stores[1]->writes;
  for (uint64_t i = 32; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i + 1);
  BOOST_TEST(stores[0]->writes + stores[1]->writes == writes);
}

}  // namespace
}  // namespace btd
