// The power-cut simulator: makes programs, and at every drain recovers what media may hold.
//
//   power_cut [--quick | --images N] [--seed S] [--durability strict|lazy] [--jobs N]
//     all programs of up to three calls of an alphabet, then long random ones until there are N
//     images (default 200,000); --quick: all of one call, half of those of two, a few random ones;
//     --random: the random ones alone
//   power_cut --program NAME [--seed S] [--cut C]     one of them again, as a violation names it
//   power_cut --wrong-all                             wrong orders: each must be found out
//   power_cut --without-each ALLOWED                  leaves out each flush and each drain, one at
//   a
//     time: each must be missed, save those that the file ALLOWED names with a reason
//   power_cut --without SITE                          the same for one, with its violations
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>

#include "core/base/log.hpp"
#include "tests/crash/power_cut/cutter.hpp"
#include "tests/crash/power_cut/site_names.hpp"
#include "tests/crash/scratch.hpp"

namespace {

using namespace btd;
using namespace btd::test;

struct Options {
  uint64_t images = 200'000;
  uint64_t seed = 1;
  bool is_quick = false;
  bool is_random = false;
  bool is_wrong_all = false;
  const char* durability = nullptr;
  const char* program = nullptr;
  const char* allowed = nullptr;
  const char* without = nullptr;
  uint64_t cut = ~uint64_t{0};
  unsigned jobs = 2;
};

constexpr uint32_t kRandomCalls = 24;

bool is_same(const Call& one, const Call& other) { return one.op == other.op && one.a == other.a; }

// The names of programs: "s/3.14" strict, calls 3 and 14 of the alphabet; "lr/17" lazy, random 17;
// "s/new" the making of an arena; "s/script 1"; "s/wrong 2".
std::optional<Program> program_of(const std::string& name, uint64_t seed) {
  Program program;
  size_t slash = name.find('/');
  if (slash == std::string::npos || (name[0] != 's' && name[0] != 'l')) return {};
  program.is_strict = name[0] == 's';
  std::string rest = name.substr(slash + 1);
  if (name[1] == 'r') {
    return random_program(mix(seed * 1'000'003 + std::strtoull(rest.c_str(), nullptr, 10)),
                          program.is_strict, kRandomCalls);
  }
  program.calls = {{Op::kOpen, 0}};
  if (rest == "new") {
    program.calls.push_back({Op::kAnchor, 0});
    program.calls.push_back({Op::kAnchor, 1});
    program.calls.push_back({Op::kReopen, 0});
    return program;
  }
  program.calls.push_back({Op::kAnchor, 0});
  program.calls.push_back({Op::kAnchor, 1});
  if (rest.starts_with("wrong ")) {
    program.first_cut = 3;
    program.calls.push_back(
        {Op::kWrong, static_cast<uint32_t>(std::strtoul(rest.c_str() + 6, nullptr, 10))});
    program.calls.push_back({Op::kMalloc, 64});
    return program;
  }
  if (rest.starts_with("script ")) {
    uint64_t index = std::strtoull(rest.c_str() + 7, nullptr, 10);
    auto all = scripts(program.is_strict);
    if (index >= all.size()) return {};
    if (all[index][0].op == Op::kOpen) {  // all of it, cut in its second life
      program.calls = all[index];
      while (program.calls[program.first_cut++].op != Op::kReopen) continue;
      return program;
    }
    program.calls.insert(program.calls.end(), all[index].begin(), all[index].end());
    program.first_cut = all[index][0].op == Op::kFillRoots ? 5 : 3;
    // Many of the same are made to be there.
    if (all[index].size() > 3 &&
        std::equal(all[index].begin(), all[index].begin() + 3, all[index].begin() + 1, is_same)) {
      while (is_same(program.calls[program.first_cut], all[index][0])) program.first_cut++;
    }
    return program;
  }
  // Something to free, to set a root to, to resize; a filled slot.
  program.calls.push_back({Op::kMalloc, 40000});
  program.calls.push_back({Op::kMalloc, 64});
  program.calls.push_back({Op::kMallocTo, 200});
  auto calls = alphabet(program.is_strict);
  for (const char* at = rest.c_str(); *at != '\0';) {
    char* end;
    uint64_t index = std::strtoull(at, &end, 10);
    if (end == at || index >= calls.size()) return {};
    // What comes before the last call is a program of its own.
    program.first_cut = static_cast<uint32_t>(program.calls.size());
    program.calls.insert(program.calls.end(), calls[index].begin(), calls[index].end());
    at = *end == '.' ? end + 1 : end;
  }
  return program;
}

std::vector<std::string> script_names(bool is_strict) {
  std::vector<std::string> names;
  for (size_t i = 0; i < scripts(is_strict).size(); i++)
    names.push_back(std::string(is_strict ? "s" : "l") + "/script " + std::to_string(i));
  return names;
}

// All programs of exactly `length` calls; those of the alphabet's index `from` on.
std::vector<std::string> programs_of(bool is_strict, unsigned length) {
  std::vector<std::string> names{is_strict ? "s/" : "l/"};
  for (unsigned i = 0; i < length; i++) {
    std::vector<std::string> longer;
    for (const std::string& name : names) {
      for (size_t call = 0; call < alphabet(is_strict).size(); call++)
        longer.push_back(name + (i == 0 ? "" : ".") + std::to_string(call));
    }
    names = std::move(longer);
  }
  return names;
}

// What a job needs, all of it forked from before its first arena.
struct Desk {
  Exam* exam = map_shared<Exam>();
  Trace program_trace;
  Trace exam_trace;
  Sites* sites;
  Clerk clerk;
  Scratch scratch;
  Cutter cutter;
  Desk(Sites* sites, Tally& tally)
      : sites(sites),
        clerk(*exam, program_trace, exam_trace, *sites),
        cutter(clerk, *exam, program_trace, exam_trace, tally, scratch.file("")) {}
};

class Suite {
 public:
  explicit Suite(const Options& options) : options_(options), tally_(map_shared<Tally>()) {}

  bool wants(bool is_strict) const {
    return options_.durability == nullptr ||
           (std::strcmp(options_.durability, "strict") == 0) == is_strict;
  }

  CutOptions cut_options() const {
    CutOptions options;
    options.seed = options_.seed;
    options.only_cut = options_.cut;
    return options;
  }

  int run_all() {
    auto start = std::chrono::steady_clock::now();
    std::vector<pid_t> jobs;
    unsigned count = options_.jobs;
    for (unsigned job = 0; job < count; job++) {
      pid_t pid = fork();
      if (pid == 0) {
        {
          Desk desk(map_shared<Sites>(), *tally_);
          work(desk, job, count);
        }
        _exit(0);
      }
      jobs.push_back(pid);
    }
    bool is_good = true;
    for (pid_t pid : jobs) {
      int status;
      waitpid(pid, &status, 0);
      is_good = is_good && status == 0;
    }
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::printf(
        "programs: %llu, cuts: %llu; of the images cut in a recovery: %llu; images met again: "
        "%llu; %.0f s; seed: %llu\n",
        as_long(tally_->programs), as_long(tally_->cuts), as_long(tally_->nested_images),
        as_long(tally_->same), seconds.count(), as_long(options_.seed));
    std::printf("images: %llu, violations: %llu\n", as_long(tally_->images),
                as_long(tally_->violations));
    is_good = is_good && tally_->violations == 0 && tally_->images > 0;
    std::printf("%d passed, %d failed\n", is_good, !is_good);
    return is_good ? 0 : 1;
  }

  int run_one() {
    std::optional<Program> program = program_of(options_.program, options_.seed);
    if (!program) {
      std::fprintf(stderr, "no such program: %s\n", options_.program);
      return 2;
    }
    Desk desk(map_shared<Sites>(), *tally_);
    std::printf("%s\n", program->text().c_str());
    make(desk, options_.program, cut_options());
    std::printf("images: %llu, violations: %llu\n", as_long(tally_->images),
                as_long(tally_->violations));
    return tally_->violations == 0 ? 0 : 1;
  }

  int run_wrong() {
    Desk desk(map_shared<Sites>(), *tally_);
    int failed = 0;
    for (uint32_t i = 0; i < kWrongCount; i++) {
      CutOptions options = cut_options();
      options.is_quiet = true;
      uint64_t before = tally_->violations;
      make(desk, "s/wrong " + std::to_string(i), options);
      uint64_t found = tally_->violations - before;
      std::printf("wrong order %s: violations found: %llu (must be more than 0)\n", kWrongNames[i],
                  as_long(found));
      failed += found == 0;
    }
    std::printf("%d passed, %d failed\n", static_cast<int>(kWrongCount) - failed, failed);
    return failed == 0 ? 0 : 1;
  }

  int run_without();

 private:
  static constexpr uint64_t kShortRandom = 12;
  std::vector<std::string> short_suite() const;
  static unsigned long long as_long(uint64_t value) { return value; }

  bool make(Desk& desk, const std::string& name, const CutOptions& options) {
    std::optional<Program> program = program_of(name, options_.seed);
    return program &&
           desk.cutter.run(*program, options,
                           "--program '" + name + "' --seed " + std::to_string(options_.seed));
  }

  bool has_enough() const {
    return !options_.is_quick && std::atomic_ref(tally_->images).load() >= options_.images;
  }

  void work(Desk& desk, unsigned job, unsigned jobs) {
    CutOptions options = cut_options();
    uint64_t turn = 0;
    if (options_.is_quick) options.plan = {16, 8, 0};
    auto is_mine = [&] { return turn++ % jobs == job; };
    for (bool is_strict : {true, false}) {
      if (wants(is_strict) && is_mine()) make(desk, is_strict ? "s/new" : "l/new", options);
      for (const std::string& name : script_names(is_strict)) {
        if (wants(is_strict) && is_mine()) make(desk, name, options);
      }
    }
    for (unsigned length = 1; length <= 3 && !options_.is_random; length++) {
      if (options_.is_quick && length == 3) break;
      if (options_.is_quick) options.nested_period = 100;
      if (options_.is_quick || length == 3) options.plan = {12, 6, 0};
      if (options_.is_quick && length == 2) options.plan = {4, 3, 0};
      for (bool is_strict : {true, false}) {
        if (!wants(is_strict)) continue;
        uint64_t number = options_.seed;
        for (const std::string& name : programs_of(is_strict, length)) {
          bool is_skipped = options_.is_quick && length == 2 && number++ % 2 == 0;
          if (!is_skipped && is_mine()) make(desk, name, options);
        }
      }
    }
    options.plan = cut_options().plan;
    if (options_.is_quick) options.plan = {8, 4, 0};
    uint64_t end = options_.is_quick ? 10 : ~uint64_t{0};
    for (uint64_t i = job; i < end && !has_enough(); i += jobs) {
      bool is_strict = wants(true) && (!wants(false) || i / jobs % 2 == 0);
      make(desk, (is_strict ? "sr/" : "lr/") + std::to_string(i), options);
    }
  }

  const Options& options_;
  Tally* tally_;
};

// What is made with a flush or a drain left out: all single calls, some pairs, some long programs.
// Recoveries are cut often.
std::vector<std::string> Suite::short_suite() const {
  std::vector<std::string> names;
  for (bool is_strict : {true, false}) {
    if (!wants(is_strict)) continue;
    std::string kind = is_strict ? "s" : "l";
    names.push_back(kind + "/new");
    for (const std::string& name : script_names(is_strict)) names.push_back(name);
    for (const std::string& name : programs_of(is_strict, 1)) names.push_back(name);
    if (options_.is_quick) continue;
    for (uint64_t i = 0; i < kShortRandom; i++) names.push_back(kind + "r/" + std::to_string(i));
    auto pairs = programs_of(is_strict, 2);
    for (size_t i = options_.seed % 7; i < pairs.size(); i += 7) names.push_back(pairs[i]);
  }
  return names;
}

// The short suite, once for each flush and drain that it comes by.
int Suite::run_without() {
  auto* sites = map_shared<Sites>();
  auto* misses = map_shared<uint32_t>(Sites::kMax);  // by site: violations found without it
  std::vector<std::string> names = short_suite();
  auto* visits = map_shared<uint8_t>(names.size() * Sites::kMax);
  CutOptions options = cut_options();
  options.plan = {12, 8, 0};
  options.nested_period = 4;
  options.is_quiet = options_.without == nullptr;
  auto in_jobs = [&](auto work) {
    std::vector<pid_t> jobs;
    for (unsigned job = 0; job < options_.jobs; job++) {
      pid_t pid = fork();
      if (pid == 0) {
        {
          Desk desk(sites, *tally_);
          work(desk, job);
        }
        _exit(0);
      }
      jobs.push_back(pid);
    }
    bool is_good = true;
    for (pid_t pid : jobs) {
      int status;
      waitpid(pid, &status, 0);
      is_good = is_good && status == 0;
    }
    return is_good;
  };
  bool is_good = in_jobs([&](Desk& desk, unsigned job) {
    for (size_t i = job; i < names.size(); i += options_.jobs) {
      make(desk, names[i], options);
      for (uint32_t site = 0; site < Sites::kMax; site++)
        visits[i * Sites::kMax + site] = desk.cutter.visited()[site];
    }
  });
  std::printf("with all of them: images: %llu, violations: %llu\n", as_long(tally_->images),
              as_long(tally_->violations));
  std::fflush(stdout);
  is_good = is_good && tally_->violations == 0;

  // One line of the source may be several places in the program: they go together.
  std::vector<SiteName> site_names = names_of(*sites);
  std::map<std::string, std::vector<uint32_t>> places;
  for (uint32_t site = 0; site < sites->count; site++) {
    const SiteName& name = site_names[site];
    bool is_asked = options_.without == nullptr || name.name == options_.without;
    if (name.is_core && is_asked) places[name.name].push_back(site);
  }
  options.stops_at_violation = options_.without == nullptr;
  is_good = in_jobs([&](Desk& desk, unsigned job) {
              unsigned turn = 0;
              for (const auto& [name, alike] : places) {
                if (turn++ % options_.jobs != job) continue;
                options.without.assign(Sites::kMax, false);
                for (uint32_t site : alike) options.without[site] = true;
                uint32_t& missed = misses[alike[0]];
                for (size_t i = 0; i < names.size() && missed == 0; i++) {
                  bool is_come_by = std::any_of(alike.begin(), alike.end(), [&](uint32_t site) {
                    return visits[i * Sites::kMax + site] != 0;
                  });
                  if (is_come_by && !make(desk, names[i], options)) missed = 1;
                }
                std::printf("without %s: %s\n", name.c_str(),
                            missed ? "violations" : "nothing is noticed");
                std::fflush(stdout);
              }
            }) &&
            is_good;

  std::map<std::string, std::string> allowed;
  if (options_.allowed != nullptr) allowed = read_allowed(options_.allowed);
  int passed = 0;
  int failed = !is_good;
  for (const auto& [name, alike] : places) {
    bool is_missed = misses[alike[0]] != 0;
    bool is_allowed = allowed.contains(name);
    const char* verdict = is_missed    ? (is_allowed ? "missed, but allowed" : "missed")
                          : is_allowed ? "not missed, allowed"
                                       : "NOT MISSED";
    // An allowance that is not needed is a mistake, too.
    bool is_passed = is_missed != is_allowed;
    (is_passed ? passed : failed)++;
    std::printf("%-50s %-20s %s%s%s\n", name.c_str(), verdict,
                site_names[alike[0]].location.c_str(), is_allowed ? ": " : "",
                is_allowed ? allowed[name].c_str() : "");
    allowed.erase(name);
  }
  for (const auto& [name, reason] : allowed) {
    std::printf("%-50s not come by, but allowed\n", name.c_str());
    failed++;
  }
  std::printf("flushes and drains: %d; images: %llu; seed: %llu\n%d passed, %d failed\n",
              passed + failed, as_long(tally_->images), as_long(options_.seed), passed, failed);
  return failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i++) {
    auto is = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    auto number = [&] { return std::strtoull(argv[++i], nullptr, 10); };
    bool has_value = i + 1 < argc;
    if (is("--quick")) {
      options.is_quick = true;
    } else if (is("--random")) {
      options.is_random = true;
    } else if (is("--wrong-all")) {
      options.is_wrong_all = true;
    } else if (is("--images") && has_value) {
      options.images = number();
    } else if (is("--seed") && has_value) {
      options.seed = number();
    } else if (is("--cut") && has_value) {
      options.cut = number();
    } else if (is("--jobs") && has_value) {
      options.jobs = static_cast<unsigned>(number());
    } else if (is("--durability") && has_value) {
      options.durability = argv[++i];
    } else if (is("--program") && has_value) {
      options.program = argv[++i];
    } else if (is("--without-each") && has_value) {
      options.allowed = argv[++i];
    } else if (is("--without") && has_value) {
      options.without = argv[++i];
    } else {
      std::fprintf(stderr,
                   "usage: power_cut [--quick | --images N] [--random] [--seed S] [--durability "
                   "strict|lazy] "
                   "[--jobs N] | --program NAME [--cut C] | --wrong-all | --without-each ALLOWED | "
                   "--without SITE\n");
      return 2;
    }
  }
  log_level = LogLevel::kOff;
  Suite suite(options);
  if (options.program != nullptr) return suite.run_one();
  if (options.is_wrong_all) return suite.run_wrong();
  if (options.allowed != nullptr || options.without != nullptr) return suite.run_without();
  return suite.run_all();
}
