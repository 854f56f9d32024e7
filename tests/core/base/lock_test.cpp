// The lock.  Invariants checked: one holder at a time; a waiter is woken; errno is kept; reset()
// frees it.
#define BOOST_TEST_MODULE lock
#include "core/base/lock.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <thread>
#include <vector>

namespace btd {
namespace {

BOOST_AUTO_TEST_CASE(threads_that_count_under_the_lock_lose_no_count) {
  alarm(60);
  Lock lock;
  uint64_t count = 0;  // not atomic
  constexpr int kThreads = 6, kRounds = 100000;
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; i++) {
    threads.emplace_back([&] {
      for (int round = 0; round < kRounds; round++) {
        LockGuard guard(lock);
        count++;
        if (round % 1000 == 0)
          std::this_thread::yield();  // while holding it: the others have to wait
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(count == uint64_t{kThreads} * kRounds);
}

BOOST_AUTO_TEST_CASE(waiter_gets_the_lock_when_it_is_free_and_not_before) {
  alarm(60);
  Lock lock;
  std::atomic<int> stage{0};
  lock.lock();
  std::thread waiter([&] {
    errno = 4321;
    stage = 1;
    lock.lock();
    BOOST_TEST(errno == 4321);
    BOOST_TEST(stage == 2);
    lock.unlock();
  });
  while (stage != 1) std::this_thread::yield();
  for (int i = 0; i < 100; i++)
    std::this_thread::yield();  // most likely it waits in the kernel now
  stage = 2;
  lock.unlock();
  waiter.join();
}

BOOST_AUTO_TEST_CASE(reset_frees_a_lock_whose_holder_is_gone) {
  alarm(60);
  Lock lock;
  lock.lock();
  lock.reset();
  bool was_taken = false;
  std::thread other([&] {
    lock.lock();
    was_taken = true;
    lock.unlock();
  });
  other.join();
  BOOST_TEST(was_taken);
}

}  // namespace
}  // namespace btd
