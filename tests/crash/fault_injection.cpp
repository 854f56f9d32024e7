// The n-th mmap, mprotect, madvise or ftruncate of core fails, for every n of a workload.
//
//   fault_injection [--quick] [--seed S]
//
// Each case runs in a process of its own: on a new arena or on one with survivors, with one failing
// call, three in a row, or all from the n-th on.  While calls fail: nothing aborts, crashes or
// hangs; an arena that does not open says why; every allocation gives a good block or nullptr;
// every block can be freed.  When they stop: opening and allocating work again; every block is
// there with its contents; the arena checks clean and holds no other block; after one more recovery
// too.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "core/base/log.hpp"
#include "core/recovery/check.hpp"
#include "core/recovery/open.hpp"
#include "core/recovery/view.hpp"
#include "tests/crash/churn_table.hpp"
#include "tests/crash/faulty_sys.hpp"
#include "tests/crash/file_image.hpp"
#include "tests/crash/heap_calls.hpp"
#include "tests/crash/scratch.hpp"

namespace {

using namespace btd;
using namespace btd::test;

constexpr uint64_t kCapacityBytes = 16 * kMiB;
constexpr unsigned kSecondsMax = 20;
constexpr uint64_t kReportsMax = 2;  // of one kind
constexpr uint64_t kAll = ~uint64_t{0};
constexpr int kOperations = 160;

struct Case {
  FaultFamily family;
  const char* family_name;
  int error;
  uint64_t in_a_row;
  bool is_new;  // else with survivors
  OnRestart on_restart;
  uint64_t first = 0;
};

// What a case tells the harness, in shared memory.
struct Verdicts {
  uint64_t failed_calls;
  uint64_t refusals;  // nullptr or false under faults
  char fault[400];
};

struct Known {
  uint64_t size_bytes;
  uint64_t pattern;
  bool is_survivor;
};
using Blocks = std::map<char*, Known>;

// One process's work on an arena.
class Work {
 public:
  Work(const std::string& path, uint64_t seed, OnRestart on_restart, const Blocks& survivors)
      : path_(path), on_restart_(on_restart), random_(seed), blocks_(survivors) {
    arena_ = ::new (storage()) Arena;
  }

  // "": no fault of the arena's was found.
  std::string run() {
    Line why;
    Error error = open(why);
    if (error != Error::kNone) {
      refusals++;
      if (std::strlen(why.c_str()) < 30)
        return std::string("the arena does not open, and does not say why: ") + why.c_str();
      faults.stop();
      arena_ = ::new (storage()) Arena;
      Line again;
      if (open(again) != Error::kNone)
        return std::string("the arena does not open after the faults stopped: ") + again.c_str();
    }
    hide_unknown();
    for (int i = 0; i < kOperations && fault_.empty(); i++) operate();
    faults.stop();
    if (fault_.empty()) check_blocks("under faults");
    if (fault_.empty()) work_again();
    uint64_t epoch = arena_->header().epoch;
    arena_->close();
    if (fault_.empty()) look("when closed", epoch);
    if (fault_.empty()) recover_again(epoch);
    return fault_;
  }

  // The survivors of later cases: without faults, some of it freed, some space given back.
  Blocks prepare() {
    Line why;
    if (open(why) != Error::kNone) fail(why.c_str());
    for (int i = 0; i < 2 * kOperations && fault_.empty(); i++) operate();
    check_blocks("when prepared");
    arena_->close();
    if (!fault_.empty()) std::fprintf(stderr, "preparing: %s\n", fault_.c_str());
    for (auto& [address, known] : blocks_) known.is_survivor = true;
    return fault_.empty() ? blocks_ : Blocks{};
  }

  uint64_t refusals = 0;

 private:
  static void* storage() {
    alignas(Arena) static char bytes[sizeof(Arena)];
    std::memset(bytes, 0, sizeof(bytes));
    return bytes;
  }

  void fail(const std::string& what) {
    if (fault_.empty()) fault_ = what;
  }

  Error open(Line& why) {
    OpenRequest request{.path = path_.c_str(),
                        .capacity_bytes = kCapacityBytes,
                        .on_restart = on_restart_,
                        .program = "faults"};
    return open_arena(request, *arena_, why);
  }

  uint64_t random(uint64_t end) { return random_() % end; }

  void operate() {
    if (heap_ == nullptr) heap_ = arena_->acquire_heap();
    if (heap_ == nullptr) {
      refusals++;
      return;
    }
    uint64_t choice = random(100);
    if (choice < 50) {
      allocate(random(8) == 0 ? 1 + random(400'000) : 1 + random(9'000));
    } else if (choice < 75) {
      free_one();
    } else if (choice < 83) {
      resize_one();
    } else if (choice < 88) {
      arena_->give_back(0);
    } else if (choice < 93) {
      faults.clock_ahead_s +=
          choice == 88 ? 20 : 3;  // memory decays; a growth that was refused is tried again
    } else if (choice < 98) {
      arena_->release_heap(*heap_);
      heap_ = nullptr;
    } else {
      fork_once();
    }
  }

  // Where DRAM was refused for a survivor's superblock, recovery leaves it alone: it is on media as
  // before, but this process does not know it.
  void hide_unknown() {
    for (auto at = blocks_.begin(); at != blocks_.end() && faults.failed > 0;) {
      bool is_unknown = arena_->look_up(at->first) != Verdict::kGood;
      if (is_unknown) hidden_.insert(*at);
      at = is_unknown ? blocks_.erase(at) : std::next(at);
    }
  }

  bool allocate(uint64_t size_bytes) {
    bool is_zero = false;
    bool asks_zero = random(3) == 0;
    uint64_t alignment = random(5) == 0 ? uint64_t{16} << random(13) : 16;
    auto* block = static_cast<char*>(
        arena_->allocate(heap_->cache(), size_bytes, alignment, asks_zero ? &is_zero : nullptr));
    if (block == nullptr) {
      refusals++;
      return false;
    }
    if (reinterpret_cast<uintptr_t>(block) % alignment != 0) fail("a block is not aligned");
    if (on_restart_ != OnRestart::kKeep) {
      forget_dropped();
      forget_replaced(block, size_bytes);
    }
    for (uint64_t at = 0; is_zero && at < size_bytes; at++) {
      if (block[at] != 0) {
        fail("a block said to be zero is not");
        break;
      }
    }
    auto after = blocks_.lower_bound(block);
    bool overlaps = after != blocks_.end() && after->first < block + size_bytes;
    overlaps = overlaps || (after != blocks_.begin() &&
                            std::prev(after)->first + std::prev(after)->second.size_bytes > block);
    if (overlaps) fail("a block was given out twice");
    blocks_[block] = {size_bytes, random_(), false};
    fill_churn(block, blocks_[block].pattern, 0, size_bytes);
    return true;
  }

  // Under pressure survivors may go, where they are not to be kept.
  void forget_dropped() {
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      bool is_dropped = at->second.is_survivor &&
                        (arena_->look_up(at->first) != Verdict::kGood ||
                         first_wrong_byte(at->first, at->second.pattern, at->second.size_bytes) !=
                             at->second.size_bytes);
      at = is_dropped ? blocks_.erase(at) : std::next(at);
    }
  }

  // A dropped survivor looks live again once its place is given out.
  void forget_replaced(const char* block, uint64_t size_bytes) {
    for (auto at = blocks_.begin(); at != blocks_.end();) {
      bool is_replaced = at->second.is_survivor && at->first < block + size_bytes &&
                         block < at->first + at->second.size_bytes;
      at = is_replaced ? blocks_.erase(at) : std::next(at);
    }
  }

  Blocks::iterator some_block() {
    if (on_restart_ != OnRestart::kKeep) forget_dropped();  // the last request may have needed room
    return blocks_.empty() ? blocks_.end()
                           : std::next(blocks_.begin(), static_cast<long>(random(blocks_.size())));
  }

  void free_one() {
    auto at = some_block();
    if (at == blocks_.end()) return;
    check_block(at->first, at->second, "before it is freed");
    if (!free_block(*arena_, *heap_, at->first)) fail("a live block cannot be freed");
    blocks_.erase(at);
  }

  void resize_one() {
    auto at = some_block();
    if (at == blocks_.end() || at->second.size_bytes <= kSmallBytesMax) return;
    uint64_t size_bytes = kSmallBytesMax + 1 + random(400'000);
    if (!arena_->resize_in_place(at->first, size_bytes)) {
      refusals++;
      return;
    }
    uint64_t kept_bytes = std::min(at->second.size_bytes, size_bytes);
    if (first_wrong_byte(at->first, at->second.pattern, kept_bytes) != kept_bytes)
      fail("a resized block lost its contents");
    at->second.size_bytes = size_bytes;
    fill_churn(at->first, at->second.pattern, kept_bytes, size_bytes);
  }

  // The child sees all blocks unless its snapshot failed, and whatever it does to them does not
  // reach us.
  void fork_once() {
    uint64_t failed_before = faults.failed;
    arena_->fork_prepare();
    pid_t child = ::fork();
    if (child == 0) {
      alarm(kSecondsMax);
      arena_->fork_child();
      if (faults.failed == failed_before) check_blocks("in a forked child");
      for (auto& [address, known] : blocks_)
        std::memset(address, 0xEE, known.size_bytes);  // may be its death: it was told so
      _exit(fault_.empty() ? 0 : 9);
    }
    arena_->fork_parent();
    int status = 0;
    waitpid(child, &status, 0);
    bool is_good = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!is_good && faults.failed == 0)
      fail("a forked child lost blocks or died, without any fault");
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) fail("a forked child hangs");
    if (WIFEXITED(status) && WEXITSTATUS(status) == 9)
      fail("a forked child with a snapshot lost blocks");
    check_blocks("after a fork");
  }

  void check_block(char* block, const Known& known, const char* when) {
    char text[160];
    auto told = [&](const char* what) {
      std::snprintf(text, sizeof(text), "%s: a block of %llu bytes %s%s", when,
                    static_cast<unsigned long long>(known.size_bytes), what,
                    known.is_survivor ? " (survivor)" : "");
      fail(text);
    };
    if (arena_->look_up(block) != Verdict::kGood) return told("is not known any more");
    if (arena_->usable_size(block) < known.size_bytes) return told("shrank");
    if (first_wrong_byte(block, known.pattern, known.size_bytes) != known.size_bytes)
      told("lost its contents");
  }

  void check_blocks(const char* when) {
    if (on_restart_ != OnRestart::kKeep) forget_dropped();
    for (auto& [address, known] : blocks_) check_block(address, known, when);
  }

  void work_again() {
    faults.clock_ahead_s += 5;  // what was refused is asked for again after a second
    if (heap_ == nullptr) heap_ = arena_->acquire_heap();
    if (heap_ == nullptr) return fail("no heap after the faults stopped");
    // Room for what follows.
    while (blocks_.size() > 40) free_one();
    for (uint64_t size_bytes : {16, 100, 700, 3000, 20'000, 40'000, 300'000}) {
      if (!allocate(size_bytes))
        fail("no block of " + std::to_string(size_bytes) + " bytes after the faults stopped");
    }
    for (int i = 0; i < 40 && fault_.empty(); i++) operate();
    check_blocks("after the faults stopped");
  }

  void look(const char* when, uint64_t epoch) {
    blocks_.merge(hidden_);
    ArenaView view;
    if (ArenaView::open(path_.c_str(), view) != Error::kNone)
      return fail(std::string(when) + ": " + fault_text(view.fault()));
    check_arena(view, [&](const Finding& finding) {
      fail(std::string(when) + ": " + finding.what + " at offset " +
           std::to_string(finding.offset));
    });
    size_t count = 0;
    std::vector<char> contents;
    view.for_each_block([&](const Block& block) {
      auto at = blocks_.find(reinterpret_cast<char*>(block.address));
      if (at == blocks_.end())
        return fail(std::string(when) + ": live, but freed or never returned: a block of " +
                    std::to_string(block.size_bytes) + " bytes");
      count++;
      const Known& known = at->second;
      contents.resize(known.size_bytes);
      bool is_right =
          view.read_data(block.offset, contents.data(), known.size_bytes) &&
          first_wrong_byte(contents.data(), known.pattern, known.size_bytes) == known.size_bytes;
      if (!is_right || block.size_bytes < known.size_bytes)
        fail(std::string(when) + ": a block lost its contents");
      if (!known.is_survivor && block.epoch != epoch)
        fail(std::string(when) + ": a block is of another epoch");
    });
    if (count != blocks_.size())
      fail(std::string(when) + ": " + std::to_string(blocks_.size() - count) + " blocks are lost");
  }

  void recover_again(uint64_t epoch) {
    on_restart_ = OnRestart::kKeep;
    arena_ = ::new (storage()) Arena;
    Line why;
    if (open(why) != Error::kNone)
      return fail(std::string("the next recovery refuses: ") + why.c_str());
    arena_->close();
    look("after one more recovery", epoch);
  }

  std::string path_;
  OnRestart on_restart_;
  std::mt19937_64 random_;
  Blocks blocks_;
  Blocks hidden_;
  Arena* arena_ = nullptr;
  Heap* heap_ = nullptr;
  std::string fault_;
};

class Harness {
 public:
  explicit Harness(uint64_t seed) : seed_(seed) {
    void* shared =
        mmap(nullptr, sizeof(Verdicts), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    verdicts_ = static_cast<Verdicts*>(shared);
    Work work(path_, seed, OnRestart::kKeep, {});
    survivors_ = work.prepare();
    image_.read(path_);
  }

  bool is_prepared() const { return survivors_.size() > 20; }

  // Every n, until the workload makes fewer than n such calls.
  void run_family(Case one, uint64_t stride) {
    uint64_t before = cases;
    for (one.first = 1;; one.first += stride) {
      run_case(one);
      if (verdicts_->failed_calls == 0 && verdicts_->fault[0] == '\0') break;
      if (one.first > 5000) break;
    }
    const char* row = one.in_a_row == kAll ? "all from it on" : one.in_a_row == 1 ? "one" : "three";
    std::printf("  %-9s %-6s fails, %-14s, arena %-14s %-7s %6llu cases\n", one.family_name,
                error_name(one.error), row, one.is_new ? "new," : "with survivors,",
                one.on_restart == OnRestart::kKeep ? "keep" : "salvage",
                static_cast<unsigned long long>(cases - before));
    std::fflush(stdout);
  }

  uint64_t cases = 0;
  uint64_t violations = 0;
  uint64_t refusals = 0;
  uint64_t failed_calls = 0;

 private:
  static const char* error_name(int error) {
    return error == ENOMEM   ? "ENOMEM"
           : error == EFAULT ? "EFAULT"
           : error == EINVAL ? "EINVAL"
           : error == EINTR  ? "EINTR"
           : error == ENOSPC ? "ENOSPC"
                             : "error";
  }

  void run_case(const Case& one) {
    if (one.is_new) {
      unlink(path_.c_str());
    } else {
      image_.write(path_);
    }
    std::memset(static_cast<void*>(verdicts_), 0, sizeof(*verdicts_));
    pid_t child = fork();
    if (child == 0) {
      scratch_.leave();
      alarm(kSecondsMax);
      faults.arm(one.family, one.first, one.in_a_row, one.error);
      Work work(path_, seed_ + one.first, one.on_restart, one.is_new ? Blocks{} : survivors_);
      std::string fault = work.run();
      verdicts_->failed_calls = faults.failed;
      verdicts_->refusals = work.refusals;
      std::snprintf(verdicts_->fault, sizeof(verdicts_->fault), "%s", fault.c_str());
      _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (WIFSIGNALED(status)) {
      int number = WTERMSIG(status);
      std::snprintf(verdicts_->fault, sizeof(verdicts_->fault), "%s",
                    number == SIGALRM ? "it hangs" : strsignal(number));
    }
    cases++;
    refusals += verdicts_->refusals;
    failed_calls += verdicts_->failed_calls;
    if (verdicts_->fault[0] == '\0') return;
    violations++;
    if (++reports_[std::string(verdicts_->fault).substr(0, 20)] > kReportsMax) return;
    std::printf("VIOLATION: call %llu of %s fails with %s (%s), arena %s, %s, seed %llu:\n  %s\n",
                static_cast<unsigned long long>(one.first), one.family_name, error_name(one.error),
                one.in_a_row == kAll ? "and all after it"
                : one.in_a_row == 1  ? "once"
                                     : "three times",
                one.is_new ? "new" : "with survivors",
                one.on_restart == OnRestart::kKeep ? "keep" : "salvage",
                static_cast<unsigned long long>(seed_), verdicts_->fault);
    std::fflush(stdout);
  }

  Scratch scratch_;
  std::string path_ = scratch_.file("work.arena");
  uint64_t seed_;
  Verdicts* verdicts_;
  std::map<std::string, uint64_t> reports_;
  Blocks survivors_;
  FileImage image_;
};

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = std::random_device{}();
  bool is_quick = false;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      is_quick = true;
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: fault_injection [--quick] [--seed S]\n");
      return 2;
    }
  }
  log_level = LogLevel::kOff;
  auto start = std::chrono::steady_clock::now();
  Harness harness(seed);
  if (!harness.is_prepared()) {
    std::fprintf(stderr, "no survivors could be prepared, seed %llu\n",
                 static_cast<unsigned long long>(seed));
    return 1;
  }
  struct {
    FaultFamily family;
    const char* name;
    int errors[3];
  } families[] = {
      {FaultFamily::kMap, "mmap", {ENOMEM, 0, 0}},
      {FaultFamily::kProtect, "mprotect", {ENOMEM, 0, 0}},
      {FaultFamily::kAdvise,
       "madvise",
       {EFAULT, ENOMEM, EINVAL}},  // EFAULT: what MADV_POPULATE_WRITE says to a full file system
      {FaultFamily::kTruncate, "ftruncate", {ENOSPC, 0, 0}},
      {FaultFamily::kAny, "any", {ENOMEM, 0, 0}},
  };
  for (const auto& family : families) {
    for (int error : family.errors) {
      if (error == 0) continue;
      for (uint64_t in_a_row : {uint64_t{1}, uint64_t{3}, kAll}) {
        // Quick: every n fails once on each arena; of the variations every fifth.
        bool is_variation =
            in_a_row != 1 || error != family.errors[0] || family.family == FaultFamily::kAny;
        uint64_t stride = is_quick && is_variation ? 5 : 1;
        for (bool is_new : {true, false}) {
          harness.run_family(
              {family.family, family.name, error, in_a_row, is_new, OnRestart::kKeep}, stride);
        }
        if (!is_quick || in_a_row == kAll)
          harness.run_family(
              {family.family, family.name, error, in_a_row, false, OnRestart::kSalvage}, stride);
      }
    }
  }
  harness.run_family({FaultFamily::kAdvise, "madvise", EINTR, 1, false, OnRestart::kKeep}, 1);
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("calls that failed %llu, requests refused under faults %llu, %.1f s\nseed: %llu\n",
              number(harness.failed_calls), number(harness.refusals), seconds.count(),
              number(seed));
  std::printf("kill points: %llu, violations: %llu\n", number(harness.cases),
              number(harness.violations));
  bool is_good = harness.violations == 0 && harness.refusals > 0 && harness.cases > 100;
  std::printf("%d passed, %d failed\n", is_good ? 1 : 0, is_good ? 0 : 1);
  return is_good ? 0 : 1;
}
