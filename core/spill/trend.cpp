#include "core/spill/trend.hpp"

#include "core/base/units.hpp"

namespace btd {
namespace {

int64_t distance(uint64_t from, uint64_t to) { return static_cast<int64_t>(to - from); }

}  // namespace

Trend::History& Trend::history_of(uint64_t extent) noexcept {
  History* oldest = &histories_[0];
  for (History& history : histories_) {
    int64_t step = distance(history.last, extent);
    if (history.used != 0 && step >= -kNear && step <= kNear) return history;
    if (history.used < oldest->used) oldest = &history;
  }
  *oldest = History{};
  oldest->last = extent;
  return *oldest;
}

Trend::History* Trend::history_with_run(uint64_t extent) noexcept {
  for (History& history : histories_) {
    if (history.run.count != 0 && history.run.first == extent) return &history;
  }
  return nullptr;
}

// Boyer and Moore's vote over the last 4, 8, 16, 32 steps; 0: none has more than half.
int64_t Trend::majority(const History& history) noexcept {
  for (uint32_t window = 4; window <= kSteps; window *= 2) {
    uint32_t count = min(window, history.step_count);
    if (count < 3) return 0;  // two equal steps are a chance
    auto step_at = [&](uint32_t back) {
      return history.steps[(history.step_count - 1 - back) % kSteps];
    };
    int64_t candidate = 0;
    uint32_t votes = 0;
    for (uint32_t i = 0; i < count; i++) {
      if (votes == 0) candidate = step_at(i);
      votes = step_at(i) == candidate ? votes + 1 : votes - 1;
    }
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++) found += step_at(i) == candidate;
    if (found > count / 2 && candidate != 0) return candidate;
    if (count < window) return 0;
  }
  return 0;
}

Run Trend::next_run(History& history, int64_t step) noexcept {
  history.run = {};
  if (step != 0) {
    history.run = {history.last + static_cast<uint64_t>(step), step, history.ahead};
  }
  return history.run;
}

Run Trend::touch(uint64_t extent) noexcept {
  History& history = history_of(extent);
  int64_t step = distance(history.last, extent);
  history.used = ++clock_;
  history.last = extent;
  if (step != 0) history.steps[history.step_count++ % kSteps] = step;
  return next_run(history, majority(history));
}

Run Trend::hit(uint64_t extent) noexcept {
  History* history = history_with_run(extent);
  if (history == nullptr) return touch(extent);
  history->used = ++clock_;
  Run run = history->run;
  // As if the program had touched all of the run, with its step.
  history->last = run.first + (run.count - 1) * static_cast<uint64_t>(run.step);
  history->steps[history->step_count++ % kSteps] = run.step;
  history->ahead = min(history->ahead * 2, kAheadMax);
  return next_run(*history, run.step);
}

void Trend::cut(const Run& run, uint32_t count) noexcept {
  History* history = history_with_run(run.first);
  if (history != nullptr) history->run.count = count;
}

void Trend::miss(uint64_t extent) noexcept {
  History* history = history_with_run(extent);
  if (history == nullptr) return;
  history->ahead = max(history->ahead / 2, 1U);
  history->run = {};
  history->step_count = 0;  // the step has to be seen anew
}

}  // namespace btd
