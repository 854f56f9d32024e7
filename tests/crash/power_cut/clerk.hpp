// A small process, forked before anything else, that forks the ones that use arenas: each begins
// clean, and forking costs little.
//
// Thread safety: one caller.
#pragma once

#include <string>

#include "tests/crash/power_cut/program.hpp"
#include "tests/crash/power_cut/world.hpp"

namespace btd::test {

class Clerk {
 public:
  Clerk(Exam& exam, Trace& program_trace, Trace& exam_trace, Sites& sites);
  ~Clerk();

  // "": it came to its end.
  std::string make_program(const Program& program, const std::string& path);
  // The answer is in the exam; "": nothing is wrong.
  std::string examine();

 private:
  static constexpr uint32_t kCallsMax = 512;
  struct Order {
    uint32_t is_exam;
    int32_t status;  // answer
    uint32_t call_count;
    uint32_t is_strict;
    char path[200];
    Call calls[kCallsMax];
  };

  void serve(int in, int out);
  void work();
  std::string send(const char* who);

  Exam& exam_;
  Trace& program_trace_;
  Trace& exam_trace_;
  Sites& sites_;
  Order* order_;
  int to_ = -1;
  int from_ = -1;
  pid_t pid_ = -1;
};

}  // namespace btd::test
