// The choice of the flush instruction.  Invariants checked: the fastest wins, but not by noise;
// clocks that stand still or leap decide nothing; what is not there is never chosen.
#define BOOST_TEST_MODULE flush_speed
#include "core/persist/flush_speed.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>

namespace btd {
namespace {

using cpu::FlushInstruction;

FlushInstruction choice(uint32_t clwb_ns, uint32_t clflushopt_ns, uint32_t clflush_ns) {
  constexpr uint32_t kAbsent = UINT32_MAX;
  FlushSpeed speeds[] = {{clwb_ns != kAbsent, clwb_ns},
                         {clflushopt_ns != kAbsent, clflushopt_ns},
                         {clflush_ns != kAbsent, clflush_ns}};
  return fastest_of(speeds);
}
constexpr uint32_t kAbsent = UINT32_MAX;

BOOST_AUTO_TEST_CASE(fastest_instruction_is_chosen) {
  BOOST_TEST((choice(150, 200, 200) == FlushInstruction::kClwb));
  BOOST_TEST((choice(300, 200, 250) == FlushInstruction::kClflushopt));
  BOOST_TEST((choice(300, 200, 120) == FlushInstruction::kClflush));
}

BOOST_AUTO_TEST_CASE(noise_of_an_eighth_does_not_decide) {
  BOOST_TEST((choice(200, 180, 190) == FlushInstruction::kClwb));
  BOOST_TEST((choice(kAbsent, 200, 190) == FlushInstruction::kClflushopt));
}

BOOST_AUTO_TEST_CASE(odd_clock_leaves_the_first_that_is_there) {
  BOOST_TEST((choice(0, 0, 0) == FlushInstruction::kClwb));
  BOOST_TEST((choice(200, 0, 100) == FlushInstruction::kClwb));
  BOOST_TEST((choice(kAbsent, 900000, 100) == FlushInstruction::kClflushopt));
}

BOOST_AUTO_TEST_CASE(absent_instruction_is_never_chosen) {
  BOOST_TEST((choice(kAbsent, kAbsent, 300) == FlushInstruction::kClflush));
  BOOST_TEST((choice(kAbsent, 200, 300) == FlushInstruction::kClflushopt));
}

BOOST_AUTO_TEST_CASE(measurement_is_made_once_and_in_time) {
  auto from = std::chrono::steady_clock::now();
  const FlushSpeeds& speeds = flush_speeds();
  auto spent = std::chrono::steady_clock::now() - from;
  BOOST_TEST(&flush_speeds() == &speeds);
  // Ten times what it takes, for busy machines.
  BOOST_TEST((spent < std::chrono::milliseconds(20)));
  bool is_any = false;
  for (size_t i = 0; i < cpu::kFlushInstructionCount; i++) {
    BOOST_TEST(speeds.of[i].is_there == cpu::has(static_cast<FlushInstruction>(i)));
    BOOST_TEST((speeds.of[i].is_there || speeds.of[i].fresh_ns == 0));
    BOOST_TEST((reflush_ns(static_cast<FlushInstruction>(i)) > 0) == speeds.of[i].is_there);
    is_any = is_any || speeds.of[i].is_there;
  }
  BOOST_TEST(speeds.is_any == is_any);
  if (is_any) BOOST_TEST(speeds.of[static_cast<size_t>(speeds.fastest)].is_there);
}

}  // namespace
}  // namespace btd
