// Fetching.  Invariants checked: whatever a node does, a fault gets the very generation that was
// written back or SIGBUS, never zeros and never old bytes; another replica is asked at once; a
// holder that comes back in time is waited for; extents fetched ahead are those the trend says,
// and cost nothing when nobody wants them.
#define BOOST_TEST_MODULE fault_handler
#include "core/spill/fault_handler.hpp"

#include <setjmp.h>
#include <sys/mman.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "tests/core/support/far.hpp"

namespace btd {
namespace {

constexpr uint64_t kExtents = 96;

struct Fixture {
  Fixture() { test::limit_time(50); }

  // A window whose extents 0 to 31 are filled and far.
  std::unique_ptr<test::Far> filled(uint32_t lost_wait_ms = 0) {
    auto far = std::make_unique<test::Far>(scratch.file("far"), stores, kExtents, 16);
    far->request.lost_wait_ms = lost_wait_ms;
    far->request.may_prefetch = false;
    far->request.handler_count = handler_count;
    far->must_open();
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far->at(i), kFarExtentBytes, i);
    for (uint64_t i = 0; i < 32; i++) far->push_out(i, 32, 64);
    return far;
  }

  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(2);
  uint32_t handler_count = 1;
};

sigjmp_buf after_signal;
void jump(int) { siglongjmp(after_signal, 1); }

// Whether reading the byte gives what a lost extent gives.
bool is_poisoned(const char* byte) {
  struct sigaction action {};
  struct sigaction before {};
  action.sa_handler = jump;
  sigaction(test::lost_signal(), &action, &before);
  bool is_hit = sigsetjmp(after_signal, 1) != 0;
  if (!is_hit) [[maybe_unused]]
    char value = *static_cast<const volatile char*>(byte);
  sigaction(test::lost_signal(), &before, nullptr);
  return is_hit;
}

void check_all(test::Far& far) {
  for (uint64_t i = 0; i < kExtents; i++)
    BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(one_dead_node_of_two_loses_nothing, Fixture) {
  for (size_t dead : {0U, 1U}) {
    auto far = filled();
    stores[dead]->is_dead = true;
    check_all(*far);
    // And what is written meanwhile has one replica.
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far->at(i), kFarExtentBytes, i + 9);
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i + 9));
    // A node that comes back has old generations; nobody gets them.
    stores[dead]->is_dead = false;
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i + 9));
    BOOST_TEST(far->stats().poisoned.load() == 0U);
    far->window->close();
    ::unlink(scratch.file("far").c_str());
    for (auto& store : stores) store->clear();
  }
}

BOOST_FIXTURE_TEST_CASE(nodes_that_die_and_return_at_random_lose_nothing, Fixture) {
  for (auto& store : stores) store->delay_us = 200;
  auto far = filled(10'000);
  std::atomic<bool> stop{false};
  std::thread chaos([&, seed = test::seed()] {
    std::mt19937_64 random(seed);
    while (!stop) {
      auto& store = stores[random() % 2];
      store->is_dead = true;
      usleep(static_cast<unsigned>(random() % 3000));
      store->is_dead = false;
      usleep(static_cast<unsigned>(random() % 30000));
    }
  });
  uint64_t wrong = 0;
  std::mt19937_64 random(test::seed() + 1);
  std::vector<uint64_t> mark(kExtents);
  for (uint64_t i = 0; i < kExtents; i++) mark[i] = i;
  // At least so long that some reads were under way when their node died.
  for (int i = 0; i < 1500 || far->stats().reads_retried < 3; i++) {
    uint64_t extent = random() % kExtents;
    wrong += !test::is_filled(far->at(extent), kFarExtentBytes, mark[extent]);
    if (random() % 2 == 0) {
      mark[extent] = random() % 1000;
      test::fill(far->at(extent), kFarExtentBytes, mark[extent]);
    }
  }
  stop = true;
  chaos.join();
  BOOST_TEST(wrong == 0U);
  BOOST_TEST(far->stats().poisoned.load() == 0U);
  BOOST_TEST(far->stats().reads_retried.load() > 0U);
  std::printf("died and returned: %llu reads went to another replica\n",
              static_cast<unsigned long long>(far->stats().reads_retried.load()));
}

BOOST_FIXTURE_TEST_CASE(an_unanswered_read_goes_to_the_other_replica, Fixture) {
  auto far = filled();
  stores[0]->drop_reads = 1;
  check_all(*far);
  BOOST_TEST(far->stats().reads_retried.load() >= 1U);
}

BOOST_FIXTURE_TEST_CASE(a_flipped_byte_is_never_delivered, Fixture) {
  auto far = filled();
  for (uint64_t i = 0; i < 32; i++) stores[i % 2]->flip(i, 100 * i);
  check_all(*far);
  BOOST_TEST(far->stats().reads_retried.load() > 10U);
}

BOOST_FIXTURE_TEST_CASE(a_stale_node_is_never_believed, Fixture) {
  auto far = filled();
  std::vector<char> old(kFarExtentBytes, 'o');
  for (uint64_t i = 0; i < 16; i++) {
    uint64_t generation = 0;
    BOOST_REQUIRE(stores[0]->has(i, &generation));
    stores[0]->put(i, generation - 1, old.data());
  }
  for (uint64_t i = 0; i < 16; i++) BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i));
}

BOOST_FIXTURE_TEST_CASE(a_generation_that_was_never_written_is_not_believed, Fixture) {
  auto far = filled();
  stores[0]->lies_about_generation = true;
  for (uint64_t i = 0; i < 16; i++) BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i));
  BOOST_TEST(far->stats().reads_retried.load() >= 8U);
}

BOOST_FIXTURE_TEST_CASE(the_last_replica_gone_is_sigbus_and_efault_and_never_zeros, Fixture) {
  auto far = filled();
  for (auto& store : stores) store->is_dead = true;
  BOOST_TEST(is_poisoned(far->at(5) + 5000));
  BOOST_TEST(is_poisoned(far->at(5) + 60000));
  int ends[2];
  BOOST_REQUIRE(::pipe(ends) == 0);
  BOOST_TEST(::write(ends[1], far->at(5), 100) == -1);
  BOOST_TEST(errno == EFAULT);
  ::close(ends[0]);
  ::close(ends[1]);
  // Only what was touched is lost, and a discarded extent is whole again.
  BOOST_TEST(far->stats().poisoned.load() == 1U);
  for (auto& store : stores) store->is_dead = false;
  BOOST_TEST(is_poisoned(far->at(5)));
  far->window->discard(5);
  test::fill(far->at(5), kFarExtentBytes, 5);
  uint64_t turn = 0;
  test::Far::wait_until([&] {
    far->touch(6 + turn++ % 26);
    return far->state(5).state() == ExtentState::kFar;
  });
  for (uint64_t i = 0; i < kExtents; i++)
    BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i));
}

// It must not happen; if it does, the end is a signal, and no thread that faults for ever.
BOOST_FIXTURE_TEST_CASE(frames_that_are_gone_are_sigbus_and_never_zeros, Fixture) {
  auto far = filled();
  test::fill(far->at(9), kFarExtentBytes, 9);
  BOOST_REQUIRE(::madvise(far->at(9), kFarExtentBytes, MADV_REMOVE) == 0);
  BOOST_TEST(is_poisoned(far->at(9) + 5000));
  BOOST_TEST(is_poisoned(far->at(9) + 60000));
  far->window->discard(9);
  BOOST_TEST(test::is_all_zero(far->at(9), kFarExtentBytes));
}

BOOST_FIXTURE_TEST_CASE(a_clean_extent_that_was_evicted_can_be_poisoned, Fixture) {
  auto far = filled();
  (void)test::is_filled(far->at(7), kFarExtentBytes, 7);
  far->push_out(7, 32, 64);  // clean: leaves marks in the page table
  for (auto& store : stores) store->clear();
  for (size_t page = 0; page < 16; page++) BOOST_TEST(is_poisoned(far->at(7) + page * 4096));
}

BOOST_FIXTURE_TEST_CASE(a_holder_that_returns_in_time_is_waited_for, Fixture) {
  auto far = filled(30'000);
  for (auto& store : stores) store->is_dead = true;
  std::atomic<bool> is_read{false};
  std::thread reader([&] {
    BOOST_TEST(test::is_filled(far->at(3), kFarExtentBytes, 3));
    is_read = true;
  });
  test::Far::wait_until([&] { return far->state(3).state() == ExtentState::kFetching; });
  usleep(20'000);  // time in which it must not get anything
  BOOST_TEST(!is_read.load());
  // Others are served meanwhile.
  uint64_t near = 0;
  while (far->state(near).state() != ExtentState::kNear &&
         far->state(near).state() != ExtentState::kIdle)
    near++;
  BOOST_TEST(test::is_filled(far->at(near), kFarExtentBytes, near));
  stores[1]->is_dead = false;
  reader.join();
  BOOST_TEST(far->stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(a_sequential_reader_finds_extents_fetched_ahead, Fixture) {
  auto far = filled();
  far->window->pager().may_prefetch = true;
  for (auto& store : stores) store->delay_us = 200;
  uint64_t faults_before = far->stats().faults;
  for (uint64_t round = 0; round < 3; round++)
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i));
  uint64_t fetched = far->stats().fetched;
  BOOST_TEST(far->stats().prefetched.load() > fetched / 2);
  BOOST_TEST(far->stats().runs_hit.load() > 20U);
  BOOST_TEST(far->stats().faults - faults_before < 3 * kExtents);
  // Downwards too.
  uint64_t prefetched = far->stats().prefetched;
  for (uint64_t i = kExtents; i-- > 0;) BOOST_TEST(test::is_filled(far->at(i), kFarExtentBytes, i));
  BOOST_TEST(far->stats().prefetched.load() > prefetched + 20);
  BOOST_TEST(far->stats().poisoned.load() == 0U);
}

// Processors that threads of this name may run on, each thread's.
std::multiset<int> processors_of(const std::string& name) {
  std::multiset<int> found;
  for (auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string comm;
    std::ifstream(task.path() / "comm") >> comm;
    cpu_set_t allowed;
    const int thread = std::stoi(task.path().filename());
    if (comm == name && sched_getaffinity(thread, sizeof(allowed), &allowed) == 0)
      found.insert(CPU_COUNT(&allowed));
  }
  return found;
}

// A fault that needs no node.
void fault(test::Far& far, uint64_t extent) {
  far.window->discard(extent);
  far.touch(extent);
}

// Until the first handler serves this thread alone.
void fault_until_one_serves(test::Far& far, uint64_t extent) {
  test::Far::wait_until([&] {
    fault(far, extent);
    return !far.window->pager().wants_help.load();
  });
}

BOOST_FIXTURE_TEST_CASE(one_threads_faults_are_served_beside_it_and_those_of_two_by_two, Fixture) {
  const int all = static_cast<int>(std::thread::hardware_concurrency());
  test::Far far(scratch.file("far"), stores, kExtents, kExtents);
  far.request.handler_count = 2;
  far.must_open();
  Pager& pager = far.window->pager();
  fault_until_one_serves(far, 0);
  BOOST_TEST(processors_of("far-handler") == (std::multiset<int>{1, all}));

  std::atomic<uint32_t> turn{0};
  std::atomic<bool> is_done{false};
  std::thread other([&] {
    while (true) {
      turn.wait(0);
      if (is_done) return;
      fault(far, 1);
      turn = 0;
      turn.notify_one();
    }
  });
  test::Far::wait_until([&] {
    fault(far, 0);
    turn = 1;
    turn.notify_one();
    turn.wait(1);
    return pager.wants_help.load();
  });
  BOOST_TEST(processors_of("far-handler") == (std::multiset<int>{all, all}));
  is_done = true;
  turn = 1;
  turn.notify_one();
  other.join();
}

BOOST_FIXTURE_TEST_CASE(who_waits_for_room_has_others_served, Fixture) {
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.request.handler_count = 2;
  far.must_open();
  Pager& pager = far.window->pager();
  fault_until_one_serves(far, 0);
  for (auto& store : stores) store->delay_us = 20'000;
  uint64_t extent = 0;
  test::Far::wait_until([&] {
    test::fill(far.at(extent), kFarExtentBytes, extent);
    extent = (extent + 1) % kExtents;
    return pager.wants_help.load();
  });
}

BOOST_FIXTURE_TEST_CASE(a_run_goes_on_whichever_handler_fetches_it, Fixture) {
  constexpr uint64_t kEach = 128;  // far enough from each other for a trend of its own
  test::Far far(scratch.file("far"), stores, 2 * kEach, 64);
  far.request.handler_count = 2;
  far.must_open();
  for (uint64_t i = 0; i < 2 * kEach; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (auto& store : stores) store->delay_us = 500;
  const uint64_t faults_before = far.stats().faults;
  // Two at a time, so that both handlers are awake.
  std::vector<std::thread> readers;
  for (uint64_t part = 0; part < 2; part++) {
    readers.emplace_back([&far, part] {
      for (uint64_t i = part * kEach; i < (part + 1) * kEach; i++)
        BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
    });
  }
  for (std::thread& reader : readers) reader.join();
  BOOST_TEST(far.stats().prefetched.load() > far.stats().fetched.load() / 2);
  // Each run is known to be used, also those that the program has reached before they were here.
  // Before Linux 6.4 only those: a clean extent cannot be kept unmapped.
  if (far.window->pager().maps_protected)
    BOOST_TEST(far.stats().runs_hit.load() >= 2 * kEach / Trend::kAheadMax);
  BOOST_TEST(far.stats().faults - faults_before < 4 * kEach);
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

// The first handler has a run on its way, and the other one sleeps.
BOOST_FIXTURE_TEST_CASE(a_window_closes_while_extents_are_on_their_way, Fixture) {
  handler_count = 2;
  for (int round = 0; round < 40; round++) {
    auto far = filled();
    fault_until_one_serves(*far, kExtents - 1);
    far->window->pager().may_prefetch = true;
    for (auto& store : stores) store->delay_us = 3000;
    for (uint64_t i = 0; far->stats().runs_hit.load() == 0 && i < 32; i++) far->touch(i);
    far->window->close();
    for (auto& store : stores) store->delay_us = 0;
    unlink(scratch.file("far").c_str());
  }
}

BOOST_FIXTURE_TEST_CASE(a_window_that_was_closed_can_be_opened_again, Fixture) {
  auto far = filled();
  for (int round = 0; round < 3; round++) {
    far->window->close();
    far->request.has_data = true;
    far->request.handler_count = 2;
    far->must_open();
    check_all(*far);
  }
}

BOOST_FIXTURE_TEST_CASE(a_random_reader_is_not_given_more_than_it_asks, Fixture) {
  auto far = filled();
  far->window->pager().may_prefetch = true;
  std::mt19937_64 random(test::seed());
  for (int i = 0; i < 1000; i++) far->touch(random() % kExtents);
  BOOST_TEST(far->stats().prefetched.load() < far->stats().fetched.load() / 10);
}

}  // namespace
}  // namespace btd
