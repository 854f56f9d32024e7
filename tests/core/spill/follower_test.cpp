// Where a handler is kept.  Invariants checked: on the processor of the thread that has three
// quarters of the faults, wherever that goes; anywhere when no thread has them or it is gone.
#define BOOST_TEST_MODULE follower
#include "core/spill/follower.hpp"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <thread>
#include <vector>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

std::vector<int32_t> allowed_processors() {
  cpu_set_t allowed;
  BOOST_REQUIRE(sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
  std::vector<int32_t> found;
  for (int32_t i = 0; i < CPU_SETSIZE; i++)
    if (CPU_ISSET(static_cast<size_t>(i), &allowed)) found.push_back(i);
  return found;
}

void keep_on(int32_t processor) {
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(static_cast<size_t>(processor), &one);
  BOOST_REQUIRE(sched_setaffinity(0, sizeof(one), &one) == 0);
}

// A thread that does nothing on a processor of our choice, under a name that is hard to read.
class Faulter {
 public:
  explicit Faulter(int32_t processor) {
    thread_ = std::thread([this, processor] {
      pthread_setname_np(pthread_self(), "a) b (1 2 3)");
      keep_on(processor);
      number_ = gettid();
      number_.notify_all();
      is_done_.wait(false);
    });
    number_.wait(0);
  }
  ~Faulter() {
    is_done_ = true;
    is_done_.notify_all();
    thread_.join();
  }
  int32_t number() const { return number_; }

 private:
  std::atomic<int32_t> number_{0};
  std::atomic<bool> is_done_{false};
  std::thread thread_;
};

struct Fixture {
  Fixture() {
    test::limit_time(30);
    follower.start();
  }
  ~Fixture() {
    for (uint32_t i = 0; i < Follower::kFaults; i++) follower.saw(strangers++);
    BOOST_TEST(allowed_processors() == all);
  }
  void see(int32_t thread, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) follower.saw(thread);
  }
  void see_strangers(uint32_t count) {
    for (uint32_t i = 0; i < count; i++) follower.saw(strangers++);
  }

  std::vector<int32_t> all = allowed_processors();
  int32_t strangers = 1 << 30;  // no thread has such a number
  Follower follower;
};

BOOST_FIXTURE_TEST_CASE(finds_the_processor_of_a_thread, Fixture) {
  for (int32_t processor : all) {
    Faulter faulter(processor);
    BOOST_TEST(processor_of(faulter.number()) == processor);
  }
  BOOST_TEST(processor_of(strangers) == -1);
}

BOOST_FIXTURE_TEST_CASE(no_thread_that_could_starve_a_handler_is_followed, Fixture) {
  Faulter faulter(all.back());
  sched_param real_time{.sched_priority = 1};
  if (sched_setscheduler(faulter.number(), SCHED_FIFO, &real_time) != 0) {
    BOOST_TEST_MESSAGE("skipped: real-time priorities are refused here");
    return;
  }
  BOOST_TEST(processor_of(faulter.number()) == -1);
  see(faulter.number(), Follower::kFaults);
  BOOST_TEST(allowed_processors() == all);
}

BOOST_FIXTURE_TEST_CASE(follows_from_processor_to_processor, Fixture) {
  BOOST_TEST(follower.processor() == -1);
  for (int32_t processor : all) {
    Faulter faulter(processor);
    see(faulter.number(), Follower::kFaults);
    BOOST_TEST(follower.processor() == processor);
    BOOST_TEST(allowed_processors() == std::vector<int32_t>{processor});
  }
}

BOOST_FIXTURE_TEST_CASE(decides_only_after_enough_faults, Fixture) {
  Faulter faulter(all.back());
  see(faulter.number(), Follower::kFaults - 1);
  BOOST_TEST(allowed_processors() == all);
}

BOOST_FIXTURE_TEST_CASE(three_quarters_are_enough_and_less_are_not, Fixture) {
  Faulter faulter(all.back());
  see(faulter.number(), Follower::kFaults * 3 / 4);
  see_strangers(Follower::kFaults / 4);
  BOOST_TEST(follower.processor() == all.back());
  see(faulter.number(), Follower::kFaults * 3 / 4 - 1);
  see_strangers(Follower::kFaults / 4 + 1);
  BOOST_TEST(follower.processor() == -1);
  BOOST_TEST(allowed_processors() == all);
}

BOOST_FIXTURE_TEST_CASE(a_thread_that_is_gone_is_not_followed, Fixture) {
  see(strangers, Follower::kFaults);
  BOOST_TEST(follower.processor() == -1);
  BOOST_TEST(allowed_processors() == all);
}

}  // namespace
}  // namespace btd
