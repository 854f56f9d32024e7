// Drives a worker with ptrace, one instruction at a time, and asks the oracle what a kill there
// would leave.
//
// What the file holds when the worker stands still before instruction k is what SIGKILL at k
// leaves: its stores are in the page cache, which outlives it.  So the file is copied and the copy
// recovered, while the worker goes on.  Where neither the metadata nor the log changed since the
// last copy that was recovered, the answer is known already; such kill points are counted on their
// own.
//
// crc32c() is a loop of thousands of equal instructions that store nothing; all calls but one in
// `crc_period` are run to their end at once.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "tests/crash/file_image.hpp"
#include "tests/crash/oracle.hpp"
#include "tests/crash/scratch.hpp"
#include "tests/crash/worker.hpp"

namespace btd::test {

struct Tally {
  uint64_t recovered = 0;    // kill points whose file was copied and recovered
  uint64_t identical = 0;    // kill points whose file is the one checked before
  uint64_t crc_skipped = 0;  // calls of crc32c() that were not stepped through
  uint64_t operations = 0;
  uint64_t violations = 0;
  uint64_t violations_at_rest = 0;  // of these, after an operation had ended
  uint64_t kills = 0;               // real ones
  uint64_t points() const { return recovered + identical + kills; }
};

// The file and the log at one kill point.
struct KillPoint {
  FileImage image;
  std::vector<char> log;
};

class Stepper {
 public:
  Stepper(const Scratch& scratch, Log& log, uint32_t crc_period)
      : scratch_(scratch),
        log_(log),
        oracle_(scratch.file("copy.arena"), log),
        path_(scratch.file("work.arena")),
        crc_period_(crc_period) {}

  // Runs one life of the scene on the file as it is.  Returns the kill points of its last stepped
  // operation at which the file had just changed, at most `points_max`.
  std::vector<KillPoint> run(const Scene& scene, Life life, size_t points_max);

  // Sets the file and the log to a kill point, and the log to what was left of the operation.
  void rewind(const KillPoint& point);
  void start_anew(uint64_t seed);

  // Runs a life up to a random instruction of its operation number `operation` and kills it there.
  // False: it has not so many.
  bool kill_really(const Scene& scene, Life life, uint64_t operation, uint64_t steps);

  Tally tally;

 private:
  pid_t start(const Scene& scene, Life life);
  int resume(pid_t worker, int request);
  void step_through(pid_t worker, std::vector<KillPoint>& points, size_t points_max);
  void skip_crc(pid_t worker);
  bool has_changed();
  bool is_surely_the_same();
  void close_file();
  bool has_log_changed();
  bool have_words_changed();
  void judge(const char* when);
  void report(const std::string& fault, const char* when);
  bool is_at_operation(int status) const;
  bool end(pid_t worker, int status);

  const Scratch& scratch_;
  Log& log_;
  Oracle oracle_;
  std::string path_;
  uint32_t crc_period_;
  uint32_t crc_calls_ = 0;
  int file_ = -1;
  const uint8_t* mapped_ = nullptr;  // the metadata, once their end is known
  int64_t blocks_ = -1;              // allocated ones of the file when it was last read
  FileImage metadata_;               // as last judged
  FileImage now_;
  std::vector<char> log_judged_;
  uint64_t words_judged_[Log::kWords] = {};
  uint64_t metadata_end_ = 0;
  const Scene* scene_ = nullptr;
  uint64_t step_ = 0;         // in the operation
  uint64_t instruction_ = 0;  // address of the one just executed
  uint64_t next_instruction_ = 0;
};

}  // namespace btd::test
