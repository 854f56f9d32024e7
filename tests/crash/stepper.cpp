#include "tests/crash/stepper.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstring>

#include "core/base/crc32c.hpp"
#include "core/base/log.hpp"
#include "tests/crash/symbol.hpp"

namespace btd::test {
namespace {

constexpr uint64_t kReportsMax = 12;
constexpr uint64_t kStepsMax = 20'000'000;  // of one operation: more is a hang

uint64_t peek_register(pid_t worker, size_t offset) {
  return static_cast<uint64_t>(ptrace(PTRACE_PEEKUSER, worker, offset, nullptr));
}

}  // namespace

pid_t Stepper::start(const Scene& scene, Life life) {
  scene_ = &scene;
  pid_t worker = fork();
  if (worker == 0) {
    scratch_.leave();
    ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    raise(SIGSTOP);
    log_level = LogLevel::kOff;
    alignas(Worker) static char storage[sizeof(Worker)];
    life(*::new (storage) Worker(log_, path_.c_str(), scene.capacity_bytes));
    _exit(0);
  }
  int status;
  waitpid(worker, &status, 0);
  ptrace(PTRACE_SETOPTIONS, worker, nullptr, PTRACE_O_EXITKILL);
  return worker;
}

int Stepper::resume(pid_t worker, int request) {
  int status = 0;
  ptrace(static_cast<__ptrace_request>(request), worker, nullptr, nullptr);
  waitpid(worker, &status, __WALL);
  return status;
}

bool Stepper::is_at_operation(int status) const {
  return WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && log_.is_busy;
}

// True: the worker has ended as it should.
bool Stepper::end(pid_t worker, int status) {
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return true;
  std::string how = WIFEXITED(status)
                        ? "exits with status " + std::to_string(WEXITSTATUS(status))
                        : "dies by signal " + std::to_string(WIFSTOPPED(status) ? WSTOPSIG(status)
                                                                                : WTERMSIG(status));
  if (WIFSTOPPED(status)) {
    instruction_ = peek_register(worker, offsetof(user_regs_struct, rip));
    kill(worker, SIGKILL);
    waitpid(worker, nullptr, __WALL);
  }
  report("the worker " + how, "while it runs");
  return false;
}

std::vector<KillPoint> Stepper::run(const Scene& scene, Life life, size_t points_max) {
  std::vector<KillPoint> points;
  pid_t worker = start(scene, life);
  metadata_ = FileImage();
  for (;;) {
    int status = resume(worker, PTRACE_CONT);
    if (!is_at_operation(status)) {
      end(worker, status);
      break;
    }
    if (!log_.is_stepped) continue;
    points.clear();
    step_through(worker, points, points_max);
  }
  close_file();
  return points;
}

void Stepper::close_file() {
  if (mapped_ != nullptr) munmap(const_cast<uint8_t*>(mapped_), metadata_end_);
  if (file_ >= 0) close(file_);
  mapped_ = nullptr;
  file_ = -1;
  blocks_ = -1;
}

void Stepper::step_through(pid_t worker, std::vector<KillPoint>& points, size_t points_max) {
  tally.operations++;
  metadata_ = FileImage();
  blocks_ = -1;
  log_judged_.clear();
  next_instruction_ = 0;
  for (step_ = 0; step_ < kStepsMax; step_++) {
    bool is_over = !log_.is_busy;
    bool is_new = has_changed();
    bool are_words_new = have_words_changed();
    if (has_log_changed() || is_new || are_words_new) {
      tally.recovered++;
      judge(is_over ? "after the operation" : "within the operation");
      if (!is_over && points.size() < points_max && step_ > 0) {
        points.emplace_back();
        points.back().image.read(path_);
        points.back().log.assign(reinterpret_cast<char*>(&log_),
                                 reinterpret_cast<char*>(&log_ + 1));
      }
    } else {
      tally.identical++;
    }
    if (is_over) return;
    int status = resume(worker, PTRACE_SINGLESTEP);
    if (!WIFSTOPPED(status) || WSTOPSIG(status) != SIGTRAP) {
      end(worker, status);
      return;
    }
    instruction_ = next_instruction_;
    next_instruction_ = peek_register(worker, offsetof(user_regs_struct, rip));
    if (next_instruction_ == reinterpret_cast<uint64_t>(&crc32c) && ++crc_calls_ % crc_period_ != 0)
      skip_crc(worker);
  }
  report("the operation does not end", "after many steps");
}

// A breakpoint at the return address, run, and the instruction put back.
void Stepper::skip_crc(pid_t worker) {
  uint64_t stack = peek_register(worker, offsetof(user_regs_struct, rsp));
  auto address = reinterpret_cast<void*>(ptrace(PTRACE_PEEKDATA, worker, stack, nullptr));
  long code = ptrace(PTRACE_PEEKTEXT, worker, address, nullptr);
  ptrace(PTRACE_POKETEXT, worker, address, (code & ~0xFFl) | 0xCC);
  resume(worker, PTRACE_CONT);
  ptrace(PTRACE_POKETEXT, worker, address, code);
  ptrace(PTRACE_POKEUSER, worker, offsetof(user_regs_struct, rip), address);
  next_instruction_ = reinterpret_cast<uint64_t>(address);
  tally.crc_skipped++;
}

// The quick look, for nearly all instructions: nothing was allocated or given back, so the pages
// that held something are the ones that do; they hold the same. Only those are touched: to read a
// hole of tmpfs through a mapping would fill it.
bool Stepper::is_surely_the_same() {
  struct stat status {};
  if (metadata_end_ == 0 || fstat(file_, &status) != 0) return false;
  if (mapped_ == nullptr) {
    void* mapped = mmap(nullptr, metadata_end_, PROT_READ, MAP_SHARED, file_, 0);
    if (mapped == MAP_FAILED) return false;
    mapped_ = static_cast<const uint8_t*>(mapped);
  }
  bool is_same = status.st_blocks == blocks_ &&
                 static_cast<uint64_t>(status.st_size) == metadata_.length_bytes() &&
                 metadata_.holds_in(mapped_);
  blocks_ = status.st_blocks;
  return is_same;
}

// Whether the metadata differ from what was judged last.  The allocator has no business in the
// data; that it kept out shows when contents are compared.
bool Stepper::has_changed() {
  if (file_ < 0) {
    file_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    metadata_end_ = 0;
    if (file_ < 0) return false;
  }
  if (metadata_end_ == 0) {
    ArenaHeader header;
    bool is_read = pread(file_, &header, sizeof(header), 0) == static_cast<ssize_t>(sizeof(header));
    if (is_read && header.checksum == checksum_of(header)) metadata_end_ = header.data_offset;
  }
  if (is_surely_the_same()) return false;
  if (!now_.read(file_, metadata_end_ == 0 ? ~uint64_t{0} : metadata_end_)) return false;
  if (now_ == metadata_) return false;
  std::swap(now_, metadata_);
  return true;
}

// The words that transactions change are data, but watched.
bool Stepper::have_words_changed() {
  uint64_t words[Log::kWords] = {};
  if (log_.words_offset == 0 || file_ < 0 ||
      pread(file_, words, sizeof(words), static_cast<off_t>(log_.words_offset)) !=
          static_cast<ssize_t>(sizeof(words)))
    return false;
  if (std::memcmp(words, words_judged_, sizeof(words)) == 0) return false;
  std::memcpy(words_judged_, words, sizeof(words));
  return true;
}

// The same file may be right before the worker has told something and wrong after it.
bool Stepper::has_log_changed() {
  auto* first = reinterpret_cast<char*>(&log_);
  size_t size_bytes = offsetof(Log, blocks) + log_.block_count * sizeof(BlockRecord);
  if (log_judged_.size() == size_bytes && std::memcmp(log_judged_.data(), first, size_bytes) == 0)
    return false;
  log_judged_.assign(first, first + size_bytes);
  return true;
}

void Stepper::judge(const char* when) {
  FileImage image;
  if (!image.read(path_)) return;  // the file is not made yet
  std::string fault = oracle_.check(image);
  if (!fault.empty()) report(fault, when);
}

void Stepper::report(const std::string& fault, const char* when) {
  tally.violations++;
  if (!log_.is_busy) tally.violations_at_rest++;
  if (tally.violations > kReportsMax) return;
  std::printf(
      "VIOLATION in scene \"%s\", %s, step %llu of \"%s\" (block %u, %llu bytes, seed %llu):\n  "
      "%s\n  just executed: %s\n",
      scene_->name, when, static_cast<unsigned long long>(step_), log_.what, log_.index,
      static_cast<unsigned long long>(log_.size_bytes), static_cast<unsigned long long>(log_.seed),
      fault.c_str(), symbol_of(instruction_).c_str());
  std::fflush(stdout);
}

void Stepper::start_anew(uint64_t seed) {
  unlink(path_.c_str());
  std::memset(static_cast<void*>(&log_), 0, sizeof(log_));
  log_.seed = log_.random_state = seed;
  log_.what = "start";
}

void Stepper::rewind(const KillPoint& point) {
  point.image.write(path_);
  std::memcpy(static_cast<void*>(&log_), point.log.data(), sizeof(log_));
  if (oracle_.check(point.image).empty()) oracle_.settle(log_);
}

bool Stepper::kill_really(const Scene& scene, Life life, uint64_t operation, uint64_t steps) {
  pid_t worker = start(scene, life);
  int status = 0;
  for (uint64_t i = 0; i <= operation; i++) {
    status = resume(worker, PTRACE_CONT);
    if (!is_at_operation(status)) {
      end(worker, status);
      return false;
    }
  }
  for (uint64_t i = 0; i < steps && log_.is_busy; i++) {
    instruction_ = peek_register(worker, offsetof(user_regs_struct, rip));
    resume(worker, PTRACE_SINGLESTEP);
    if (peek_register(worker, offsetof(user_regs_struct, rip)) ==
        reinterpret_cast<uint64_t>(&crc32c))
      skip_crc(worker);
    step_ = i;
  }
  FileImage standing;
  bool is_there = standing.read(path_);
  kill(worker, SIGKILL);
  waitpid(worker, nullptr, __WALL);
  tally.kills++;
  if (!is_there) return true;
  FileImage killed;
  killed.read(path_);
  // A copy of the file while the worker stands still is what its death leaves.
  if (uint64_t differs = standing.first_difference(killed); differs != FileImage::kSame) {
    report("the killed worker's file differs from the copy made before at offset " +
               std::to_string(differs),
           "after a real SIGKILL");
  }
  if (std::string fault = oracle_.check_file(path_); !fault.empty())
    report(fault, "after a real SIGKILL");
  return true;
}

}  // namespace btd::test
