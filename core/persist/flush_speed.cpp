#include "core/persist/flush_speed.hpp"

#include <time.h>

#include <atomic>

#include "core/base/lock.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

using cpu::FlushInstruction;

// More than the superblock's lines that strict rotates over (core/heap/spread.hpp), so that the
// cost of a line that was dropped from the cache is in the figure.
constexpr uint32_t kScratchLines = 32;
// The best of so many: the first warms up, and an interrupt spoils one at most.
constexpr int kRounds = 3;
// No flush takes that long; a clock that says so has leapt.
constexpr uint32_t kPlausibleNsMax = 20000;

alignas(kCacheLineBytes) constinit char scratch[kScratchLines * kCacheLineBytes];
constinit Lock lock;
constinit std::atomic<bool> is_done{false};
constinit FlushSpeeds found{};

uint64_t now_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000000000 + static_cast<uint64_t>(now.tv_nsec);
}

template <FlushInstruction kInstruction>
uint32_t time_one(uint32_t line_count) {
  uint64_t best_ns = UINT32_MAX;
  for (int round = 0; round < kRounds; round++) {
    uint64_t from_ns = now_ns();
    for (uint32_t i = 0; i < kScratchLines; i++) {
      auto* line = static_cast<volatile char*>(scratch + i % line_count * kCacheLineBytes);
      *line = static_cast<char>(i + static_cast<uint32_t>(round));
      cpu::flush_line<kInstruction>(const_cast<const char*>(line));
      cpu::store_fence();
    }
    best_ns = min(best_ns, now_ns() - from_ns);
  }
  return static_cast<uint32_t>(best_ns / kScratchLines);
}

template <FlushInstruction kInstruction>
void measure() {
  if (!cpu::has(kInstruction)) return;
  FlushSpeed& speed = found.of[static_cast<size_t>(kInstruction)];
  speed.is_there = true;
  speed.fresh_ns = time_one<kInstruction>(kScratchLines);
  found.is_any = true;
}

}  // namespace

FlushInstruction fastest_of(const FlushSpeed (&speeds)[cpu::kFlushInstructionCount]) noexcept {
  size_t first = 0;
  while (first + 1 < cpu::kFlushInstructionCount && !speeds[first].is_there) first++;
  size_t best = first;
  for (size_t i = first; i < cpu::kFlushInstructionCount; i++) {
    if (!speeds[i].is_there) continue;
    if (speeds[i].fresh_ns == 0 || speeds[i].fresh_ns > kPlausibleNsMax)
      return static_cast<FlushInstruction>(first);
    if (speeds[i].fresh_ns + speeds[i].fresh_ns / 8 < speeds[best].fresh_ns) best = i;
  }
  return static_cast<FlushInstruction>(best);
}

uint32_t reflush_ns(FlushInstruction instruction) noexcept {
  LockGuard guard(lock);
  if (!cpu::has(instruction)) return 0;
  switch (instruction) {
    case FlushInstruction::kClwb:
      return time_one<FlushInstruction::kClwb>(1);
    case FlushInstruction::kClflushopt:
      return time_one<FlushInstruction::kClflushopt>(1);
    default:
      return time_one<FlushInstruction::kClflush>(1);
  }
}

const FlushSpeeds& flush_speeds() noexcept {
  if (is_done.load(std::memory_order_acquire)) return found;
  LockGuard guard(lock);
  if (is_done.load(std::memory_order_relaxed)) return found;
  measure<FlushInstruction::kClwb>();
  measure<FlushInstruction::kClflushopt>();
  measure<FlushInstruction::kClflush>();
  found.fastest = fastest_of(found.of);
  is_done.store(true, std::memory_order_release);
  return found;
}

}  // namespace btd
