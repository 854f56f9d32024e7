// The processor's flush instructions.  Invariants checked: what CPUID offers runs, and a flushed
// line still holds what was stored; CPUID and the kernel agree.
#define BOOST_TEST_MODULE cpu
#include "core/base/cpu.hpp"

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <string>

namespace btd::cpu {
namespace {

template <FlushInstruction kInstruction>
void flush_and_look() {
  if (!has(kInstruction)) return;
  alignas(64) volatile char lines[192] = {};
  for (int i = 0; i < 192; i++) {
    lines[i] = static_cast<char>(i);
    flush_line<kInstruction>(const_cast<const char*>(lines + i));
  }
  store_fence();
  for (int i = 0; i < 192; i++) BOOST_TEST(lines[i] == static_cast<char>(i));
}

BOOST_AUTO_TEST_CASE(each_instruction_that_is_there_runs_and_keeps_the_line) {
  flush_and_look<FlushInstruction::kClwb>();
  flush_and_look<FlushInstruction::kClflushopt>();
  flush_and_look<FlushInstruction::kClflush>();
}

BOOST_AUTO_TEST_CASE(cpuid_agrees_with_the_kernel) {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line) && line.rfind("flags", 0) != 0) {
  }
  if (line.empty()) return;  // another architecture
  for (int i = 0; i < static_cast<int>(kFlushInstructionCount); i++) {
    auto instruction = static_cast<FlushInstruction>(i);
    bool is_listed = (line + " ").find(std::string(" ") + name_of(instruction) + " ") != line.npos;
    BOOST_TEST(has(instruction) == is_listed, name_of(instruction));
  }
}

BOOST_AUTO_TEST_CASE(names_are_those_of_the_manual) {
  BOOST_TEST(name_of(FlushInstruction::kClwb) == std::string("clwb"));
  BOOST_TEST(name_of(FlushInstruction::kClflushopt) == std::string("clflushopt"));
  BOOST_TEST(name_of(FlushInstruction::kClflush) == std::string("clflush"));
}

}  // namespace
}  // namespace btd::cpu
