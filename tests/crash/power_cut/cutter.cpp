#include "tests/crash/power_cut/cutter.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdio>

#include "core/persist/layout.hpp"
#include "tests/crash/symbol.hpp"

namespace btd::test {
namespace {

constexpr uint64_t kReportsMax = 8;

void count(uint64_t& counter, uint64_t more = 1) {
  std::atomic_ref(counter).fetch_add(more, std::memory_order_relaxed);
}

}  // namespace

bool Cutter::is_over() const { return faults_ > 0 && options_.stops_at_violation; }

bool Cutter::run(const Program& program, const CutOptions& options, const std::string& name) {
  options_ = options;
  name_ = name;
  faults_ = 0;
  cut_number_ = 0;
  visited_.assign(Sites::kMax, false);
  count(tally_.programs);
  std::string path = directory_ + "/work.arena";
  if (std::string death = clerk_.make_program(program, path); !death.empty()) {
    report(death, "while it runs", program);
    return false;
  }
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) std::abort();
  media_.clear(static_cast<uint64_t>(status.st_size));
  std::memset(static_cast<void*>(&after_), 0, sizeof(after_));
  replay(program);
  return faults_ == 0;
}

void Cutter::visit(const Event& event) {
  if (event.kind == EventKind::kFlush || event.kind == EventKind::kDrain)
    visited_[event.site] = true;
}

bool Cutter::is_left_out(const Event& event) const {
  return event.site < options_.without.size() && options_.without[event.site] &&
         (event.kind == EventKind::kFlush || event.kind == EventKind::kDrain);
}

// A cut is made before a drain takes effect: media may hold all that it may before, and more.
void Cutter::replay(const Program& program) {
  bool is_cut = false;
  for (uint32_t i = 0; i < program_trace_.count() && !is_over(); i++) {
    const Event& event = program_trace_[i];
    switch (event.kind) {
      case EventKind::kBegin:
        is_cut = event.call >= program.first_cut;
        open_worlds(i);
        break;
      case EventKind::kEnd:
        // From here on only the world after the call will do.
        std::memcpy(static_cast<void*>(&before_), &after_, sizeof(before_));
        seen_.clear();
        if (is_cut) cut("after", media_, i, program);
        break;
      case EventKind::kDrain:
        if (is_cut) cut("in", media_, i, program);
        [[fallthrough]];
      default:
        visit(event);
        if (!is_left_out(event)) media_.apply(event);
    }
  }
}

// The worlds before and after the call that begins at this event.
void Cutter::open_worlds(uint32_t begin) {
  std::memcpy(static_cast<void*>(&before_), &after_, sizeof(before_));
  seen_.clear();
  bool may_be_old = false;
  for (uint32_t i = begin + 1;
       i < program_trace_.count() && program_trace_[i].kind != EventKind::kEnd; i++) {
    const Event& event = program_trace_[i];
    may_be_old = may_be_old || event.kind == EventKind::kMayWords;
    if (event.kind == EventKind::kNoBlock && event.b != 0) before_.let_go(event.a);
    // A word told of for the first time was something before.
    if (event.kind == EventKind::kWord && !may_be_old && !before_.knows(event.a) &&
        before_.has_block(event.a)) {
      Event was = event;
      was.b = media_.latest_word(event.a);
      before_.apply(was, false);
    }
    after_.apply(event, may_be_old);
  }
  if (may_be_old) {  // old and new words may be mixed, in both worlds
    for (uint32_t i = 0; i < after_.word_count; i++) {
      World::Word& word = after_.words[i];
      if (word.value == word.other) continue;
      before_.allow(word);
    }
  }
}

std::string Cutter::examine(Media& media, bool records) {
  std::string path = directory_ + "/image.arena";
  if (path.size() >= sizeof(exam_.path)) std::abort();
  std::strcpy(exam_.path, path.c_str());
  media.write(path);
  exam_.records = records;
  exam_.becomes_strict = records ? ++recordings_ % 2 : exams_ % 2;
  exam_.exercises = ++exams_ % 8 == 0;
  count(tally_.images);
  return clerk_.examine();
}

void Cutter::cut(const char* when, Media& media, uint32_t event, const Program& program) {
  bool is_outer = &media == &media_;
  uint64_t number = cut_number_++;
  if (is_outer && options_.only_cut != ~uint64_t{0} && number != options_.only_cut) return;
  count(tally_.cuts);
  exam_.is_strict = program.is_strict;
  exam_.world_count = std::memcmp(&before_, &after_, sizeof(before_)) == 0 ? 1 : 2;
  exam_.worlds[0] = before_;
  exam_.worlds[1] = after_;
  ArenaHeader header;
  std::memcpy(&header, media.bytes(), offsetof(ArenaHeader, capacity_bytes));
  for (World& world : exam_.worlds) world.mark(header.base_address);
  Media::Plan plan = options_.plan;
  plan.seed = mix(options_.seed * 31 + number);
  for (const Media::Choice& choice : media.choices(plan)) {
    if (is_over()) return;
    media.choose(choice);
    if (!seen_.insert(media.hash()).second) {
      count(tally_.same);
      media.undo();
      continue;
    }
    bool records = exams_ % options_.nested_period == options_.nested_period - 1;
    if (std::string fault = examine(media, records); !fault.empty()) {
      const Event& at = program_trace_[event];
      report(fault + "\n  media lacks:" + media.describe(choice),
             std::string(when) + " call " + std::to_string(at.call) + " (" +
                 program.calls[at.call].text() + "), cut " + std::to_string(number),
             program);
    } else if (records) {
      nested_.copy(media);
      media.undo();
      cut_recovery(program, std::string(when) + " call " +
                                std::to_string(program_trace_[event].call) + ", cut " +
                                std::to_string(number));
      // The exam was used for something else.
      exam_.worlds[0] = before_;
      exam_.worlds[1] = after_;
      exam_.world_count = std::memcmp(&before_, &after_, sizeof(before_)) == 0 ? 1 : 2;
      for (World& world : exam_.worlds) world.mark(header.base_address);
      continue;
    }
    media.undo();
  }
}

// The recovery just made, cut at each of its drains; and once it has ended, what it found is what
// must be found again.
void Cutter::cut_recovery(const Program& program, const std::string& outer) {
  uint32_t found = exam_.matched;
  std::unordered_set<uint64_t> seen;
  nested_.patch_boot();
  for (uint32_t i = 0; i < exam_trace_.count() && !is_over(); i++) {
    const Event& event = exam_trace_[i];
    bool is_end = event.kind == EventKind::kEnd;
    if (event.kind == EventKind::kDrain || is_end) {
      if (is_end && exam_.world_count == 2 && found != 3) {
        if (found == 2) exam_.worlds[0] = exam_.worlds[1];
        exam_.world_count = 1;
        seen.clear();
      }
      Media::Plan plan{6, 6, mix(options_.seed + i)};
      for (const Media::Choice& choice : nested_.choices(plan)) {
        if (is_over()) return;
        nested_.choose(choice);
        if (seen.insert(nested_.hash()).second) {
          count(tally_.nested_images);
          if (std::string fault = examine(nested_, false); !fault.empty())
            report(fault + "\n  media lacks:" + nested_.describe(choice),
                   "in the recovery after a cut " + outer + ", event " + std::to_string(i),
                   program);
        }
        nested_.undo();
      }
    }
    visit(event);
    if (!is_left_out(event)) nested_.apply(event);
  }
}

void Cutter::report(const std::string& fault, const std::string& where, const Program& program) {
  count(tally_.violations);
  faults_++;
  if (options_.is_quiet || faults_ > kReportsMax) return;
  std::printf("VIOLATION %s\n  %s\n  %s\n  again: %s --cut %llu\n", where.c_str(),
              program.text().c_str(), fault.c_str(), name_.c_str(),
              static_cast<unsigned long long>(cut_number_ - 1));
  std::fflush(stdout);
}

}  // namespace btd::test
