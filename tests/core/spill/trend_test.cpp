// Prediction.  Invariants checked: steady steps of any sign are found, through noise of less than
// half; random touches give nothing; runs grow while they are used and shrink when they were not;
// two readers do not disturb each other.
#define BOOST_TEST_MODULE trend
#include "core/spill/trend.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

// A trend whose next run is of 4 extents.
Run run_of_four(Trend& trend) {
  Run run{};
  for (uint64_t i = 0; i < 4; i++) run = trend.touch(i);
  run = trend.hit(run.first);
  run = trend.hit(run.first);
  BOOST_TEST(run.count == 4U);
  return run;
}

BOOST_AUTO_TEST_CASE(two_equal_steps_are_not_a_trend_and_three_are) {
  Trend trend;
  BOOST_TEST(trend.touch(10).count == 0U);
  BOOST_TEST(trend.touch(11).count == 0U);
  BOOST_TEST(trend.touch(12).count == 0U);
  Run run = trend.touch(13);
  BOOST_TEST(run.count == 1U);
  BOOST_TEST(run.first == 14U);
  BOOST_TEST(run.step == 1);
}

BOOST_AUTO_TEST_CASE(steps_may_be_large_and_go_down) {
  for (int64_t step : {-1, 3, -7, 64}) {
    Trend trend;
    uint64_t at = 1000;
    Run run{};
    for (int i = 0; i < 4; i++, at += static_cast<uint64_t>(step)) run = trend.touch(at);
    BOOST_TEST(run.step == step);
    BOOST_TEST(run.first == at);
  }
}

BOOST_AUTO_TEST_CASE(runs_double_while_they_are_hit_and_follow_each_other) {
  Trend trend;
  Run run{};
  for (uint64_t i = 0; i < 4; i++) run = trend.touch(i);
  uint32_t counts[] = {1, 2, 4, 8, 8};
  for (uint32_t count : counts) {
    BOOST_TEST(run.count == count);
    Run next = trend.hit(run.first);
    BOOST_TEST(next.first == run.first + run.count);
    run = next;
  }
}

BOOST_AUTO_TEST_CASE(what_was_cut_off_a_run_is_in_the_next_one) {
  Trend trend;
  Run run = run_of_four(trend);
  trend.cut(run, 3);
  Run next = trend.hit(run.first);
  BOOST_TEST(next.first == run.first + 3);
  // None of it: what would have been its first is a touch as any other, and goes on.
  trend.cut(next, 0);
  run = trend.hit(next.first);
  BOOST_TEST(run.first == next.first + 1);
}

BOOST_AUTO_TEST_CASE(a_miss_halves_and_asks_for_the_step_anew) {
  Trend trend;
  Run run = run_of_four(trend);
  trend.miss(run.first);
  uint64_t at = run.first + 10;
  BOOST_TEST(trend.touch(at).count == 0U);
  BOOST_TEST(trend.touch(at + 1).count == 0U);
  BOOST_TEST(trend.touch(at + 2).count == 2U);  // the jump was one step, these are two more
}

BOOST_AUTO_TEST_CASE(noise_of_less_than_half_hides_no_step) {
  Trend trend;
  uint64_t at = 100;
  Run run{};
  for (int i = 0; i < 32; i++) {
    at += i % 4 == 3 ? 5 : 2;
    run = trend.touch(at);
  }
  BOOST_TEST(run.step == 2);
}

BOOST_AUTO_TEST_CASE(random_touches_fetch_next_to_nothing) {
  std::mt19937_64 random(test::seed());
  Trend trend;
  uint64_t fetched = 0;
  for (int i = 0; i < 10000; i++) fetched += trend.touch(random() % 100'000).count;
  BOOST_TEST(fetched < 300U);
}

BOOST_AUTO_TEST_CASE(two_readers_in_different_places_keep_their_steps) {
  Trend trend;
  Run up{};
  Run down{};
  for (uint64_t i = 0; i < 8; i++) {
    up = trend.touch(1000 + i);
    down = trend.touch(9000 - 2 * i);
  }
  BOOST_TEST(up.step == 1);
  BOOST_TEST(down.step == -2);
}

}  // namespace
}  // namespace btd
