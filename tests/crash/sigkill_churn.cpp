// SIGKILL at random times into an unmodified multi-threaded program, and what is left.
//
//   sigkill_churn LIBRARY PROGRAM [--quick | --full | --kills N] [--seed S]
//   sigkill_churn LIBRARY PROGRAM --wrong    the test of the test: damages a block after each kill,
//   and fails if that is not found
//
// After each kill:
//   1. the arena, as the kill left it, checks clean;
//   2. every block that was returned and not freed is there, of this epoch, with every byte of its
//   contents;
//   3. of the rest only the operations in progress and a few blocks of the C library are live; no
//   two blocks overlap;
//   4. every block that survived earlier kills is there with its contents.  It may be gone only if
//   its arena is full and does not keep survivors, or if it is so
//      old that its tag came round; and then the oldest go first;
//   5. half the time: recovery by this process, after which 1, 2 and 4 hold again.
//
// Three arenas take turns: one that is new each time; one that is small, used again and again and
// drops survivors (its epochs rise by more than one a kill); and one that keeps them
// (BARTENDER_ON_RESTART=keep), and is made anew now and then.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
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
#include "tests/crash/scratch.hpp"

namespace {

using namespace btd;
using namespace btd::test;
using Clock = std::chrono::steady_clock;

// The C library's own: a thread's dynamic vector, buffers, C++'s emergency pool.
constexpr size_t kStrangersMax = 48;
constexpr uint64_t kKeptLives = 30;
// Recovery gives up epochs once 240 of them are in use, and then down to 120
// (core/recovery/open.cpp).
constexpr uint64_t kEpochsKept = 119;
constexpr uint64_t kQuickSeconds = 40;
constexpr uint64_t kReportsMax = 10;

struct Survivor {
  uint64_t size_bytes;
  uint64_t pattern;
  uint64_t epoch;
};

struct Chain {
  const char* name;
  const char* size;
  const char* on_restart;
  uint64_t lives_max;  // then the arena is made anew; 0: never
  uint64_t lives = 0;
  std::map<uint64_t, Survivor> survivors = {};  // by address
  uint64_t epoch = 0;                           // when last looked at
  uint64_t epoch_max = 0;
};

struct Harness {
  Harness(const char* library_path, const char* program_path)
      : library(library_path), program(program_path) {}

  std::string library;
  std::string program;
  Scratch scratch;
  std::string table_path = scratch.file("table");
  std::string error_path = scratch.file("stderr");
  ChurnTable* table = nullptr;
  std::mt19937_64 random;
  bool is_wrong = false;
  uint64_t kills = 0;
  uint64_t violations = 0;
  uint64_t blocks_verified = 0;
  uint64_t survivors_verified = 0;
  uint64_t survivors_dropped = 0;
  uint64_t recoveries = 0;
  uint64_t before_first_block = 0;
  std::vector<uint8_t> contents;

  std::string arena_path(const Chain& chain) const {
    return scratch.file(std::string(chain.name) + ".arena");
  }

  void report(const Chain& chain, const std::string& what) {
    violations++;
    if (violations > kReportsMax || is_wrong) return;
    std::printf("VIOLATION after kill %llu, arena \"%s\", life %llu: %s\n",
                static_cast<unsigned long long>(kills), chain.name,
                static_cast<unsigned long long>(chain.lives), what.c_str());
    std::printf("  stderr of the program: %s\n", errors().c_str());
    std::fflush(stdout);
  }

  std::string errors() const {
    std::string text;
    if (FILE* file = std::fopen(error_path.c_str(), "r")) {
      char part[4096];
      text.assign(part, std::fread(part, 1, sizeof(part), file));
      std::fclose(file);
    }
    return text;
  }
};

// The child's whole world is what we say: no setting of whoever runs the test reaches it.
[[noreturn]] void become_program(const Harness& harness, const Chain& chain, pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(5);
  int errors = open(harness.error_path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  dup2(errors, 2);
  std::string preload = "LD_PRELOAD=" + harness.library;
  std::string arena = "BARTENDER_ARENA=" + harness.arena_path(chain);
  std::string size = std::string("BARTENDER_SIZE=") + chain.size;
  std::string on_restart = std::string("BARTENDER_ON_RESTART=") + chain.on_restart;
  char threshold[] = "BARTENDER_THRESHOLD=0";
  char* environment[] = {preload.data(),    arena.data(), size.data(),
                         on_restart.data(), threshold,    nullptr};
  std::string program = harness.program;
  std::string table = harness.table_path;
  char* arguments[] = {program.data(), table.data(), nullptr};
  execve(program.c_str(), arguments, environment);
  _exit(6);
}

// Runs the program for a random time and kills it.  False: it ended by itself.
bool run_and_kill(Harness& harness, const Chain& chain) {
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    harness.scratch.leave();
    become_program(harness, chain, parent);
  }
  // From before the loader has begun to some thousand operations in; an end by itself cuts the time
  // short.
  uint64_t span_us = harness.random() % 3 == 0 ? 8'000 : 60'000;
  uint64_t delay_us = harness.random() % span_us;
  sigset_t child_ends;
  sigemptyset(&child_ends);
  sigaddset(&child_ends, SIGCHLD);
  timespec limit{0, static_cast<long>(delay_us * 1000)};
  sigtimedwait(&child_ends, nullptr, &limit);
  kill(child, SIGKILL);
  int status = 0;
  waitpid(child, &status, 0);
  timespec none{0, 0};
  while (sigtimedwait(&child_ends, nullptr, &none) > 0) continue;
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

std::string address_text(uint64_t address, const char* what, uint64_t size_bytes) {
  char text[120];
  std::snprintf(text, sizeof(text), "block 0x%llx of %llu bytes %s",
                static_cast<unsigned long long>(address),
                static_cast<unsigned long long>(size_bytes), what);
  return text;
}

// "" if the first size_bytes of the block carry the pattern.
std::string compare_contents(Harness& harness, const ArenaView& view, const Block& block,
                             uint64_t pattern, uint64_t size_bytes) {
  if (block.size_bytes < size_bytes)
    return address_text(block.address, "is smaller than asked for", block.size_bytes);
  harness.contents.resize(size_bytes);
  if (!view.read_data(block.offset, harness.contents.data(), size_bytes))
    return address_text(block.address, "cannot be read", size_bytes);
  uint64_t wrong = first_wrong_byte(harness.contents.data(), pattern, size_bytes);
  if (wrong == size_bytes) return "";
  return address_text(block.address, "lost its contents", size_bytes) + " at byte " +
         std::to_string(wrong) + ", epoch " + std::to_string(block.epoch);
}

// Survivors of earlier lives against what is there.  Those that are gone rightly are forgotten.
void verify_survivors(Harness& harness, Chain& chain, const ArenaView& view,
                      const std::map<uint64_t, Block>& found, bool may_be_full) {
  uint64_t newest_gone = 0;
  for (auto at = chain.survivors.begin(); at != chain.survivors.end();) {
    const Survivor& survivor = at->second;
    auto block = found.find(at->first);
    bool is_there = block != found.end() &&
                    (block->second.epoch == survivor.epoch || block->second.tag == kStateKept);
    if (is_there) {
      std::string fault =
          compare_contents(harness, view, block->second, survivor.pattern, survivor.size_bytes);
      if (!fault.empty()) harness.report(chain, "survivor: " + fault);
      harness.survivors_verified++;
      ++at;
      continue;
    }
    bool is_old = view.header().epoch - survivor.epoch >= kEpochsKept;
    bool keeps = std::strcmp(chain.on_restart, "keep") == 0;
    if (keeps || !(may_be_full || is_old)) {
      harness.report(chain, address_text(at->first, "survived and is gone", survivor.size_bytes) +
                                ", epoch " + std::to_string(survivor.epoch));
    }
    newest_gone = std::max(newest_gone, survivor.epoch);
    harness.survivors_dropped++;
    at = chain.survivors.erase(at);
  }
  for (const auto& [address, block] : found) {
    if (block.epoch == 0 || block.epoch >= newest_gone) continue;
    harness.report(chain,
                   address_text(address, "is older than some that were dropped", block.size_bytes) +
                       ": epoch " + std::to_string(block.epoch) + ", dropped " +
                       std::to_string(newest_gone));
    break;
  }
}

// What the table says against what is there, and from then on the table's blocks are survivors.
void verify_table(Harness& harness, Chain& chain, const ArenaView& view,
                  const std::map<uint64_t, Block>& found) {
  const ArenaHeader& header = view.header();
  uint64_t data_address = header.base_address + header.data_offset;
  std::map<uint64_t, Survivor> told;
  size_t busy = 0;
  size_t outside = 0;
  for (const ChurnSlot& slot : harness.table->slots) {
    SlotState state = slot.state.load();
    if (state == SlotState::kBusy) busy++;
    if (state != SlotState::kLive) continue;
    if (slot.address - data_address >= view.frame_count() * kFrameBytes) {
      outside++;
      continue;
    }
    if (!told.emplace(slot.address, Survivor{slot.size_bytes, slot.pattern, header.epoch}).second) {
      harness.report(chain, address_text(slot.address, "was returned twice", slot.size_bytes));
    }
    auto block = found.find(slot.address);
    if (block == found.end() || block->second.epoch != header.epoch) {
      harness.report(chain, address_text(slot.address, "is lost", slot.size_bytes));
      continue;
    }
    std::string fault =
        compare_contents(harness, view, block->second, slot.pattern, slot.size_bytes);
    if (!fault.empty()) harness.report(chain, fault);
    harness.blocks_verified++;
  }
  bool may_be_outside = chain.lives > 1;  // survivors may fill the arena; then the next tier serves
  if (outside > 0 && !may_be_outside)
    harness.report(chain, std::to_string(outside) + " blocks are not in the arena");
  size_t strangers = 0;
  for (const auto& [address, block] : found) {
    if (block.epoch == header.epoch && told.count(address) == 0) strangers++;
  }
  if (strangers > kStrangersMax + 2 * busy)
    harness.report(
        chain, std::to_string(strangers) + " blocks are live that were freed or never returned");
  if (busy > kChurnThreads) harness.report(chain, "more slots are busy than there are threads");
  chain.survivors.merge(told);
}

// False: no view of it, which may be right.
bool look(Harness& harness, Chain& chain, const std::string& when, ArenaView& view,
          std::map<uint64_t, Block>& found) {
  Error error = ArenaView::open(harness.arena_path(chain).c_str(), view);
  if (error != Error::kNone) {
    bool has_begun = harness.table->operations.load() > 0 || !chain.survivors.empty();
    bool is_unborn = view.fault() == OpenFault::kNotFound || view.fault() == OpenFault::kEmpty ||
                     view.fault() == OpenFault::kForeign;
    if (has_begun || !is_unborn)
      harness.report(chain, when + "the arena cannot be read: " + fault_text(view.fault()));
    return false;
  }
  bool is_clean = true;
  check_arena(view, [&](const Finding& finding) {
    // Killed in the middle of writing one: the other one holds, and recovery mends it.
    if (when.empty() && finding.fault == Fault::kHeaderCopy) return;
    if (is_clean)
      harness.report(chain, when + finding.what + " at offset " + std::to_string(finding.offset));
    is_clean = false;
  });
  uint64_t end = 0;
  view.for_each_block([&](const Block& block) {
    if (block.offset < end)
      harness.report(
          chain, when + address_text(block.address, "overlaps the one before", block.size_bytes));
    end = block.offset + block.size_bytes;
    found.emplace(block.address, block);
  });
  return true;
}

void recover_here(Harness& harness, Chain& chain) {
  alignas(Arena) static char storage[sizeof(Arena)];
  auto* arena = ::new (storage) Arena;
  Line why;
  std::string path = harness.arena_path(chain);
  OnRestart on_restart =
      std::strcmp(chain.on_restart, "keep") == 0 ? OnRestart::kKeep : OnRestart::kSalvage;
  OpenRequest request{.path = path.c_str(),
                      .capacity_bytes = 8 * kMiB,
                      .on_restart = on_restart,
                      .may_create = false,
                      .program = "recovery"};
  if (open_arena(request, *arena, why) != Error::kNone) {
    harness.report(chain, std::string("recovery refuses: ") + why.c_str());
    return;
  }
  chain.epoch = arena->header().epoch;
  arena->close();
  harness.recoveries++;
  ArenaView view;
  std::map<uint64_t, Block> found;
  if (look(harness, chain, "after recovery: ", view, found))
    verify_survivors(harness, chain, view, found, false);
}

// No further growth: from then on survivors are dropped, and a kill may come in the middle of that,
// before the line that tells it.
bool is_full(const ArenaHeader& header) {
  uint64_t grown = uint64_t{header.coarse_frames_grown} + header.fine_frames_grown;
  return grown + kGrowFrames > header.capacity_bytes / kFrameBytes;
}

// Flips one byte of a live block, or tells of a block that was never returned.
void damage_a_block(Harness& harness, const Chain& chain) {
  ArenaView view;
  if (ArenaView::open(harness.arena_path(chain).c_str(), view) != Error::kNone) return;
  uint64_t data_address = view.header().base_address + view.header().data_offset;
  int file = open(harness.arena_path(chain).c_str(), O_RDWR | O_CLOEXEC);
  for (ChurnSlot& slot : harness.table->slots) {
    if (slot.state.load() != SlotState::kLive || slot.address < data_address) continue;
    if (harness.kills % 2 == 0) {
      slot.address += 16;
      break;
    }
    auto at = static_cast<off_t>(view.header().data_offset + (slot.address - data_address) +
                                 slot.size_bytes / 2);
    char byte = 0;
    bool is_done = pread(file, &byte, 1, at) == 1;
    byte = static_cast<char>(~byte);
    is_done = is_done && pwrite(file, &byte, 1, at) == 1;
    if (is_done) break;
  }
  close(file);
}

void one_kill(Harness& harness, Chain& chain) {
  if (chain.lives_max != 0 && chain.lives >= chain.lives_max) {
    unlink(harness.arena_path(chain).c_str());
    chain.survivors.clear();
    chain.lives = chain.epoch = 0;
  }
  std::memset(static_cast<void*>(harness.table), 0, sizeof(ChurnTable));
  harness.table->seed = harness.random();
  bool is_killed = run_and_kill(harness, chain);
  harness.kills++;
  chain.lives++;
  if (!is_killed) harness.report(chain, "the program ended by itself");
  if (harness.is_wrong) damage_a_block(harness, chain);
  ArenaView view;
  std::map<uint64_t, Block> found;
  if (!look(harness, chain, "", view, found)) {
    harness.before_first_block++;
    return;
  }
  verify_survivors(harness, chain, view, found, is_full(view.header()));
  // Killed before it opened the arena, the program has no blocks there.
  bool is_opened = view.header().epoch != chain.epoch;
  if (is_opened) {
    verify_table(harness, chain, view, found);
  } else if (harness.table->operations.load() > 0) {
    harness.report(chain, "blocks were returned, but the arena's epoch is that of the life before");
  }
  chain.epoch = view.header().epoch;
  chain.epoch_max = std::max(chain.epoch_max, chain.epoch);
  view.close();
  if (harness.random() % 2 == 0) recover_here(harness, chain);
}

bool make_table(Harness& harness) {
  int file = open(harness.table_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof(ChurnTable)) != 0) return false;
  void* shared = mmap(nullptr, sizeof(ChurnTable), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  harness.table = static_cast<ChurnTable*>(shared);
  return shared != MAP_FAILED;
}

int run_wrong(Harness& harness, Chain& chain) {
  harness.is_wrong = true;
  int found = 0;
  int missed = 0;
  for (int i = 0; i < 10; i++) {
    uint64_t before = harness.violations;
    one_kill(harness, chain);
    if (harness.blocks_verified == 0) continue;  // killed too early
    (harness.violations > before ? found : missed)++;
    harness.blocks_verified = 0;
  }
  std::printf("damaged blocks found: %d, missed: %d\n", found, missed);
  bool is_good = found >= 3 && missed == 0;
  std::printf("%d passed, %d failed\n", is_good ? 1 : 0, is_good ? 0 : 1);
  return is_good ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t kills = 1000;
  uint64_t seed = std::random_device{}();
  bool is_quick = false;
  bool is_wrong = false;
  const char* paths[2] = {};
  int path_count = 0;
  for (int i = 1; i < argc; i++) {
    std::string argument = argv[i];
    if (argument == "--quick") {
      is_quick = true;
    } else if (argument == "--wrong") {
      is_wrong = true;
    } else if (argument == "--full") {
      kills = 10'000;
    } else if (argument == "--kills" && i + 1 < argc) {
      kills = std::strtoull(argv[++i], nullptr, 10);
    } else if (argument == "--seed" && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (path_count < 2) {
      paths[path_count++] = argv[i];
    }
  }
  if (path_count != 2) {
    std::fprintf(stderr,
                 "usage: sigkill_churn LIBRARY PROGRAM [--quick | --full | --kills N] [--seed S] "
                 "[--wrong]\n");
    return 2;
  }
  log_level = LogLevel::kOff;
  sigset_t child_ends;
  sigemptyset(&child_ends);
  sigaddset(&child_ends, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child_ends, nullptr);
  Harness harness(paths[0], paths[1]);
  harness.random.seed(seed);
  if (!make_table(harness)) {
    std::perror("table");
    return 2;
  }
  Chain chains[] = {{"fresh", "64M", "salvage", 1},
                    {"again", "24M", "salvage", 0},
                    {"kept", "1G", "keep", kKeptLives}};
  if (is_wrong) return run_wrong(harness, chains[0]);
  auto start = Clock::now();
  auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  // In a hurry: as many as fit, but never fewer than 200.
  while (is_quick ? harness.kills < 200 || (seconds() < kQuickSeconds && harness.kills < 1000)
                  : harness.kills < kills) {
    // Half of the kills go to the arena that is used again and again.
    uint64_t turn = harness.kills % 4;
    one_kill(harness, chains[turn == 0 ? 0 : turn == 1 ? 2 : 1]);
  }
  auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf(
      "blocks verified %llu, survivors verified %llu, dropped rightly %llu; recoveries here %llu; "
      "killed before the arena was there %llu\n",
      number(harness.blocks_verified), number(harness.survivors_verified),
      number(harness.survivors_dropped), number(harness.recoveries),
      number(harness.before_first_block));
  std::printf("highest epoch %llu, %.1f s\nseed: %llu\n", number(chains[1].epoch_max), seconds(),
              number(seed));
  std::printf("kill points: %llu, violations: %llu\n", number(harness.kills),
              number(harness.violations));
  // A run that verified nothing proves nothing.
  bool has_worked = harness.blocks_verified > harness.kills * 10 &&
                    harness.survivors_verified > harness.kills &&
                    harness.before_first_block < harness.kills / 2;
  if (!has_worked) std::printf("too little was verified: this run tests nothing\n");
  bool is_good = harness.violations == 0 && has_worked;
  std::printf("%d passed, %d failed\n", is_good ? 1 : 0, is_good ? 0 : 1);
  return is_good ? 0 : 1;
}
