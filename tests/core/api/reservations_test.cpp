// Invariants checked: a block is found exactly from keep() to take(), whatever the others do; the
// table grows; it may be taken once, by one thread.
#define BOOST_TEST_MODULE reservations
#include "core/api/reservations.hpp"

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace btd::test {
namespace {

void* block_at(uint64_t number) { return reinterpret_cast<void*>((number + 1) * 16); }

BOOST_AUTO_TEST_CASE(agrees_with_a_map) {
  auto seed = std::random_device()();
  std::printf("seed %u\n", seed);
  std::mt19937 random(seed);
  Reservations table;
  std::map<void*, size_t> model;
  for (int i = 0; i < 200000; i++) {
    // Close together, so that they collide and wrap round.
    void* block = block_at(random() % (i < 100000 ? 5000 : 100));
    if (model.count(block) == 0 && random() % 2 == 0) {
      size_t size_bytes = random();
      BOOST_REQUIRE(table.keep({block, block, 7, 1}, size_bytes));
      model[block] = size_bytes;
    } else {
      Reservation found{};
      size_t size_bytes = 0;
      bool is_found = table.take(block, found, size_bytes);
      BOOST_REQUIRE(is_found == (model.count(block) == 1));
      if (!is_found) continue;
      BOOST_REQUIRE(found.block == block && found.live == 7 && size_bytes == model[block]);
      model.erase(block);
    }
    BOOST_REQUIRE(table.count() == model.size());
  }
  table.close();
  BOOST_TEST(table.count() == 0u);
}

BOOST_AUTO_TEST_CASE(one_thread_alone_takes_a_block) {
  Reservations table;
  std::atomic<int> taken{0};
  for (uint64_t i = 0; i < 10000; i++) BOOST_REQUIRE(table.keep({block_at(i), nullptr, 1, 1}, i));
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; t++) {
    threads.emplace_back([&] {
      for (uint64_t i = 0; i < 10000; i++) {
        Reservation found{};
        size_t size_bytes = 0;
        if (table.take(block_at(i), found, size_bytes) && size_bytes == i) taken++;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  BOOST_TEST(taken == 10000);
  Reservation found{};
  size_t size_bytes = 0;
  BOOST_TEST(!table.take(nullptr, found, size_bytes));
}

}  // namespace
}  // namespace btd::test
