// Killed at every instruction: steps through real allocator work and recovers what a kill at each
// instruction leaves.
//
//   single_step [--quick | --points N] [--seed S] [--scene NAME]     all scenes, then real kills
//   single_step --wrong NAME | --wrong-all                           commits in the wrong order:
//   fails if nothing is found
//
// The full run (--points, default 100,000) repeats the scenes with further seeds until it has that
// many kill points and steps through one in 20 calls of crc32c();
// --quick does each scene once, from fewer of the places where a life was cut short, and one call
// in 400.  Nothing else is left out.
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

#include "core/base/log.hpp"
#include "tests/crash/stepper.hpp"

namespace {

using namespace btd;
using namespace btd::test;

struct Options {
  uint64_t points = 100'000;
  uint64_t seed = std::random_device{}();
  const char* scene = nullptr;
  const char* wrong = nullptr;
  bool is_wrong_all = false;
  bool is_quick = false;
};

// From each of the kill points that are chosen the rest of the lives goes on.
void run_lives(Stepper& stepper, const Scene& scene, size_t life, size_t branches,
               size_t later_branches) {
  if (life >= kLivesMax) return;
  bool is_last = life + 1 == kLivesMax || scene.lives[life + 1] == nullptr;
  size_t points_max = scene.is_killed_within && !is_last ? 64 : 0;
  std::vector<KillPoint> points = stepper.run(scene, scene.lives[life], points_max);
  if (is_last) return;
  if (!scene.is_killed_within) return run_lives(stepper, scene, life + 1, branches, later_branches);
  size_t count = std::min(branches, points.size());
  for (size_t i = 0; i < count; i++) {
    stepper.rewind(points[i * points.size() / count]);
    run_lives(stepper, scene, life + 1, life == 0 ? later_branches : 1, 1);
  }
}

// A share of the kills is real.
void kill_really(Stepper& stepper, uint64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  for (uint64_t i = 0; i < count; i++) {
    const Scene& scene = kScenes[random() % kSceneCount];
    // Half of them within the first few stores, half anywhere.
    uint64_t steps = random() % (random() % 2 == 0 ? 300 : 20'000);
    stepper.start_anew(random());
    stepper.kill_really(scene, scene.lives[0], random() % 40, steps);
  }
}

int run_wrong(Stepper& stepper, const Options& options) {
  int passed = 0;
  int failed = 0;
  for (uint32_t i = 0; i < kWrongSceneCount; i++) {
    if (!options.is_wrong_all && std::strcmp(kWrongScenes[i].name, options.wrong) != 0) continue;
    stepper.tally = {};
    stepper.start_anew(options.seed);
    stepper.run(kWrongScenes[i], kWrongScenes[i].lives[0], 0);
    uint64_t found = stepper.tally.violations - stepper.tally.violations_at_rest;
    std::printf(
        "wrong order %s: kill points: %llu, violations found: %llu (must be more than 0), at rest: "
        "%llu (must be 0)\n",
        kWrongScenes[i].name, static_cast<unsigned long long>(stepper.tally.points()),
        static_cast<unsigned long long>(found),
        static_cast<unsigned long long>(stepper.tally.violations_at_rest));
    bool is_found = found > 0 && stepper.tally.violations_at_rest == 0;
    (is_found ? passed : failed)++;
  }
  if (passed + failed == 0) {
    std::fprintf(stderr, "no such scene: %s\n", options.wrong);
    return 2;
  }
  std::printf("seed: %llu\n%d passed, %d failed\n", static_cast<unsigned long long>(options.seed),
              passed, failed);
  return failed == 0 ? 0 : 1;
}

// False: a scene stepped through nothing, which tests nothing.
bool run_all(Stepper& stepper, const Options& options) {
  bool is_complete = true;
  for (uint64_t round = 0;; round++) {
    for (uint32_t i = 0; i < kSceneCount; i++) {
      if (options.scene != nullptr && std::strcmp(kScenes[i].name, options.scene) != 0) continue;
      uint64_t before = stepper.tally.points();
      uint64_t recovered = stepper.tally.recovered;
      auto start = std::chrono::steady_clock::now();
      stepper.start_anew(options.seed + round);
      run_lives(stepper, kScenes[i], 0, options.is_quick ? 2 : 64, options.is_quick ? 1 : 2);
      std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("  %-48s %8llu kill points, %6llu recovered, %5.1f s\n", kScenes[i].name,
                  static_cast<unsigned long long>(stepper.tally.points() - before),
                  static_cast<unsigned long long>(stepper.tally.recovered - recovered),
                  seconds.count());
      std::fflush(stdout);
      is_complete = is_complete && stepper.tally.points() > before;
    }
    if (options.is_quick || stepper.tally.points() >= options.points) break;
  }
  if (options.scene == nullptr)
    kill_really(
        stepper,
        std::clamp<uint64_t>(stepper.tally.points() / 200, 50, options.is_quick ? 250 : 1000),
        options.seed);
  return is_complete;
}

// Harness and worker take turns: on one CPU a turn costs a third of what it costs across two.
void stay_on_one_cpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(sched_getcpu(), &set);
  sched_setaffinity(0, sizeof(set), &set);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i++) {
    bool has_value = i + 1 < argc;
    if (std::strcmp(argv[i], "--quick") == 0) {
      options.is_quick = true;
    } else if (std::strcmp(argv[i], "--points") == 0 && has_value) {
      options.points = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--seed") == 0 && has_value) {
      options.seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::strcmp(argv[i], "--scene") == 0 && has_value) {
      options.scene = argv[++i];
    } else if (std::strcmp(argv[i], "--wrong") == 0 && has_value) {
      options.wrong = argv[++i];
    } else if (std::strcmp(argv[i], "--wrong-all") == 0) {
      options.is_wrong_all = true;
    } else {
      std::fprintf(stderr,
                   "usage: single_step [--quick | --points N] [--seed S] [--scene NAME] | --wrong "
                   "NAME | --wrong-all\n");
      return 2;
    }
  }
  log_level = LogLevel::kOff;
  stay_on_one_cpu();
  Scratch scratch;
  bool is_wrong = options.wrong != nullptr || options.is_wrong_all;
  void* shared =
      mmap(nullptr, sizeof(Log), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Stepper stepper(scratch, *static_cast<Log*>(shared), options.is_quick || is_wrong ? 400 : 20);
  if (is_wrong) return run_wrong(stepper, options);
  bool is_complete = run_all(stepper, options);
  const Tally& tally = stepper.tally;
  auto print = [](const char* text, uint64_t value) {
    std::printf("%s%llu", text, static_cast<unsigned long long>(value));
  };
  print("of the kill points: recovered from a copy ", tally.recovered);
  print(", identical to the one before ", tally.identical);
  print(", real kills ", tally.kills);
  print("; operations stepped through ", tally.operations);
  print("; calls of crc32c not stepped through ", tally.crc_skipped);
  std::printf("\n");
  print("seed: ", options.seed);
  std::printf("\n");
  if (!is_complete) std::printf("a scene had no kill points: it tests nothing\n");
  print("kill points: ", tally.points());
  print(", violations: ", tally.violations);
  std::printf("\n");
  bool is_good = tally.violations == 0 && is_complete;
  std::printf("%d passed, %d failed\n", is_good ? 1 : 0, is_good ? 0 : 1);
  return is_good ? 0 : 1;
}
