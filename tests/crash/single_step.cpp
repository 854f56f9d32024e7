// Killed at every instruction: steps through real allocator work and recovers what a kill at each instruction leaves.
//
//   single_step [--quick | --points N] [--seed S] [--scene NAME]     all scenes, then real kills
//   single_step --wrong NAME                                         commits in the wrong order: fails if nothing is found
//
// The full run (--points, default 100,000) repeats the scenes with further seeds until it has that many kill points and steps through one in 20 calls of crc32c();
// --quick does each scene once, and one call in 400.  Nothing else is left out.
#include <sched.h>
#include <sys/mman.h>

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
  bool is_quick = false;
};

// From each of the kill points that are chosen the rest of the lives goes on.
void run_lives(Stepper& stepper, const Scene& scene, int life, size_t branches) {
  bool is_last = life == 2 || scene.lives[life + 1] == nullptr;
  size_t points_max = scene.is_killed_within && !is_last ? 64 : 0;
  std::vector<KillPoint> points = stepper.run(scene, scene.lives[life], points_max);
  if (is_last) return;
  if (!scene.is_killed_within) return run_lives(stepper, scene, life + 1, branches);
  size_t count = std::min(branches, points.size());
  for (size_t i = 0; i < count; i++) {
    stepper.rewind(points[i * points.size() / count]);
    run_lives(stepper, scene, life + 1, life == 0 ? 2 : 1);
  }
}

// One kill in 200 is real.
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
  for (uint32_t i = 0; i < kWrongSceneCount; i++) {
    if (std::strcmp(kWrongScenes[i].name, options.wrong) != 0) continue;
    stepper.start_anew(options.seed);
    stepper.run(kWrongScenes[i], kWrongScenes[i].lives[0], 0);
    uint64_t found = stepper.tally.violations - stepper.tally.violations_at_rest;
    std::printf("wrong order %s: kill points: %llu, violations found: %llu (must be more than 0), at rest: %llu (must be 0)\n", options.wrong,
                static_cast<unsigned long long>(stepper.tally.points()), static_cast<unsigned long long>(found),
                static_cast<unsigned long long>(stepper.tally.violations_at_rest));
    return found > 0 && stepper.tally.violations_at_rest == 0 ? 0 : 1;
  }
  std::fprintf(stderr, "no such scene: %s\n", options.wrong);
  return 2;
}

void run_all(Stepper& stepper, const Options& options) {
  for (uint64_t round = 0;; round++) {
    for (uint32_t i = 0; i < kSceneCount; i++) {
      if (options.scene != nullptr && std::strcmp(kScenes[i].name, options.scene) != 0) continue;
      uint64_t before = stepper.tally.points();
      uint64_t recovered = stepper.tally.recovered;
      auto start = std::chrono::steady_clock::now();
      stepper.start_anew(options.seed + round);
      run_lives(stepper, kScenes[i], 0, options.is_quick ? 3 : 64);
      std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
      std::printf("  %-48s %8llu kill points, %6llu recovered, %5.1f s\n", kScenes[i].name, static_cast<unsigned long long>(stepper.tally.points() - before),
                  static_cast<unsigned long long>(stepper.tally.recovered - recovered), seconds.count());
      std::fflush(stdout);
    }
    if (options.is_quick || stepper.tally.points() >= options.points) break;
  }
  kill_really(stepper, stepper.tally.points() / 200 < 1000 ? std::max<uint64_t>(stepper.tally.points() / 200, 50) : 1000, options.seed);
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
    } else {
      std::fprintf(stderr, "usage: single_step [--quick | --points N] [--seed S] [--scene NAME] | --wrong NAME\n");
      return 2;
    }
  }
  log_level = LogLevel::kOff;
  stay_on_one_cpu();
  Scratch scratch;
  void* shared = mmap(nullptr, sizeof(Log), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  Stepper stepper(scratch, *static_cast<Log*>(shared), options.is_quick || options.wrong != nullptr ? 400 : 20);
  if (options.wrong != nullptr) return run_wrong(stepper, options);
  run_all(stepper, options);
  const Tally& tally = stepper.tally;
  auto print = [](const char* text, uint64_t value) { std::printf("%s%llu", text, static_cast<unsigned long long>(value)); };
  print("of the kill points: recovered from a copy ", tally.recovered);
  print(", identical to the one before ", tally.identical);
  print(", real kills ", tally.kills);
  print("; operations stepped through ", tally.operations);
  print("; calls of crc32c not stepped through ", tally.crc_skipped);
  std::printf("\n");
  print("seed: ", options.seed);
  std::printf("\n");
  print("kill points: ", tally.points());
  print(", violations: ", tally.violations);
  std::printf("\n");
  return tally.violations == 0 && tally.points() > 0 ? 0 : 1;
}
