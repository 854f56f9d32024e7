// Makes a program, cuts the power at every drain and after every call, and has what media may hold
// then recovered and compared.
//
// A program's trace is replayed: at each cut the images are made from what media may hold, one
// process recovers each.  Some recoveries are written down and cut in turn.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "tests/crash/power_cut/clerk.hpp"
#include "tests/crash/power_cut/media.hpp"

namespace btd::test {

// Shared by all jobs.
struct Tally {
  uint64_t programs;
  uint64_t cuts;
  uint64_t images;         // recovered and compared
  uint64_t nested_images;  // of these, of a recovery cut short
  uint64_t same;           // an image of the same cut that was recovered already
  uint64_t violations;
};

struct CutOptions {
  uint64_t seed = 1;
  Media::Plan plan{64, 24, 0};
  uint64_t nested_period = 50;  // of so many recoveries one is cut in turn
  uint64_t only_cut = ~uint64_t{0};
  std::vector<bool> without = {};  // by site: these flushes or drains are left out
  bool stops_at_violation = false;
  bool is_quiet = false;
};

class Cutter {
 public:
  Cutter(Clerk& clerk, Exam& exam, Trace& program_trace, Trace& exam_trace, Tally& tally,
         std::string directory)
      : clerk_(clerk),
        exam_(exam),
        program_trace_(program_trace),
        exam_trace_(exam_trace),
        tally_(tally),
        directory_(std::move(directory)) {}

  // `name`: how to ask for this program again.  False: a violation.
  bool run(const Program& program, const CutOptions& options, const std::string& name);

  // Flushes and drains that the last program, or a recovery of it, came by.
  const std::vector<bool>& visited() const { return visited_; }

 private:
  void replay(const Program& program);
  void cut(const char* when, Media& media, uint32_t event, const Program& program);
  void cut_recovery(const Program& program, const std::string& outer);
  std::string examine(Media& media, bool records);
  void report(const std::string& fault, const std::string& where, const Program& program);
  void visit(const Event& event);
  bool is_left_out(const Event& event) const;
  void open_worlds(uint32_t begin);
  void mark_worlds();
  bool is_over() const;

  Clerk& clerk_;
  Exam& exam_;
  Trace& program_trace_;
  Trace& exam_trace_;
  Tally& tally_;
  std::string directory_;
  CutOptions options_;
  std::string name_;
  Media media_;
  Media nested_;
  World before_{};
  World after_{};
  std::vector<bool> visited_;
  std::unordered_set<uint64_t> seen_;  // images of this program and call
  uint64_t cut_number_ = 0;
  uint64_t exams_ = 0;
  uint64_t recordings_ = 0;
  uint64_t faults_ = 0;  // of this program
};

}  // namespace btd::test
