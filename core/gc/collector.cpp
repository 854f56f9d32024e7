#include "core/gc/collector.hpp"

#include <sched.h>
#include <time.h>

#include <cstring>

#include "core/base/units.hpp"

namespace btd {
namespace {

uint64_t now_ns() {
  timespec time{};
  ::clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

uint32_t cpu_count() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return min(max(static_cast<uint32_t>(CPU_COUNT(&set)), 1u), kMarkThreadsMax);
}

struct MarkedImage {
  Marks marks;
  ~MarkedImage() { marks.close(); }

  Error run(const GcImage& image, const MarkRequest& request, GcResult& result) {
    uint64_t start = now_ns();
    if (Error error = marks.open(image); error != Error::kNone) return error;
    MarkTotals totals;
    if (Error error = mark(marks, request, totals); error != Error::kNone) return error;
    result = {};
    result.reachable_blocks = totals.blocks;
    result.reachable_bytes = totals.bytes;
    result.postponed_blocks = totals.postponed;
    result.table_bytes = totals.table_bytes;
    result.mark_ns = now_ns() - start;
    return Error::kNone;
  }
};

// Stores states where they differ, and flushes each line once that was changed.
class StateWriter {
 public:
  explicit StateWriter(Persist& persist) : persist_(persist) {}

  void store(uint8_t* state, uint8_t value) {
    if (*state == value) return;
    publish(state, value);
    changed(state);
  }
  void store(uint16_t* state, uint16_t value) {
    if (*state == value) return;
    publish(state, value);
    changed(state);
  }
  // Zeros a range, eight at a time where nothing is to be done.
  void clear(uint8_t* states, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
      uint64_t word;
      if (i % 8 == 0 && i + 8 <= count) {
        std::memcpy(&word, states + i, sizeof(word));
        if (word == 0) {
          i += 7;
          continue;
        }
      }
      store(states + i, uint8_t{kStateFree});
    }
  }
  void finish() {
    if (line_ != 0) persist_.flush(reinterpret_cast<const void*>(line_), 1);
    persist_.drain();
  }

 private:
  void changed(const void* at) {
    uintptr_t line = round_down(reinterpret_cast<uintptr_t>(at), kCacheLineBytes);
    if (line == line_) return;
    if (line_ != 0) persist_.flush(reinterpret_cast<const void*>(line_), 1);
    line_ = line;
  }

  Persist& persist_;
  uintptr_t line_ = 0;  // changed, not flushed yet
};

// Decides over every state by the marks alone.
class Rewriter {
 public:
  // `writer`: nullptr: it only counts.
  Rewriter(const Marks& marks, StateWriter* writer, GcResult& result)
      : marks_(marks),
        header_(*marks.image().header),
        file_(const_cast<char*>(marks.image().file)),
        writer_(writer),
        has_roots_(header_.roots_grown > 0),
        result_(result) {}

  void run() {
    marks_.for_each_extent([this](uint64_t frame, Descriptor descriptor) {
      clear_frames(done_, frame);
      done_ = frame + descriptor.frame_count;
      if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
        clear_frames(frame, done_);
        rewrite_large(frame);
      } else {
        rewrite_superblock(frame, descriptor);
      }
    });
    clear_frames(done_, header_.coarse_frame_count + uint64_t{header_.fine_frames_grown});
    if (writer_ != nullptr) writer_->finish();
  }

 private:
  uint8_t* states_of(uint64_t frame) {
    return reinterpret_cast<uint8_t*>(file_ + state_offset(header_, frame));
  }

  template <typename State>
  void store(State* state, State value) {
    if (writer_ != nullptr) writer_->store(state, value);
  }
  void clear(uint8_t* states, uint64_t count) {
    if (writer_ != nullptr) writer_->clear(states, count);
  }

  // States of frames that hold no slots; of the grown ones in [first, end).
  void clear_frames(uint64_t first, uint64_t end) {
    for (const ZoneFrames& zone : zones_of(header_)) {
      uint64_t from = max(first, zone.first);
      uint64_t to = min(end, zone.end_grown());
      if (from < to) {
        clear(states_of(from),
              (to - from) * (zone.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame));
      }
    }
  }

  void rewrite_superblock(uint64_t frame, Descriptor descriptor) {
    const SizeClassInfo& info = kSizeClasses[descriptor.detail];
    uint8_t* states = states_of(frame);
    uint64_t count = uint64_t{descriptor.frame_count} *
                     (info.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame);
    uint64_t offset = frame << kFrameShift;
    for (uint32_t slot = 0; slot < info.slot_count; slot++, offset += info.slot_bytes) {
      uint8_t* state = states + uint64_t{slot} * info.granules;
      bool is_kept = has_roots_ ? marks_.is_reached(offset) : is_live(*state);
      count_block(is_kept, *state != kStateFree, info.slot_bytes);
      if (has_roots_ || !is_kept) store(state, is_kept ? kStateKept : kStateFree);
      clear(state + 1, info.granules - 1);
    }
    uint64_t used = uint64_t{info.slot_count} * info.granules;
    clear(states + used, count - used);
  }

  void rewrite_large(uint64_t frame) {
    auto* header = reinterpret_cast<FrameHeader*>(file_ + header_.frame_header_offset) + frame;
    bool is_kept = has_roots_ ? marks_.is_reached(frame << kFrameShift)
                              : is_live(tag_of_large_state(header->state));
    count_block(is_kept, header->state != 0,
                uint64_t{header->descriptor.frame_count} * kFrameBytes -
                    uint64_t{header->descriptor.detail} * header_.page_bytes);
    if (has_roots_ || !is_kept)
      store(&header->state, is_kept ? large_state(kStateKept) : uint16_t{0});
  }

  void count_block(bool is_kept, bool was_live, uint64_t size_bytes) {
    if (is_kept) {
      result_.kept_blocks++;
      result_.kept_bytes += size_bytes;
    } else if (was_live) {
      result_.freed_blocks++;
      result_.freed_bytes += size_bytes;
    }
  }

  const Marks& marks_;
  const ArenaHeader& header_;
  char* file_;
  StateWriter* writer_;
  bool has_roots_;
  GcResult& result_;
  uint64_t done_ = 0;  // frames before it are
};

}  // namespace

Error collect(Arena& arena, const GcRequest& request, GcResult& result) {
  GcImage image{&arena.header(), arena.mapping().address()};
  image.own_tag = arena.tag();
  MarkRequest how;
  how.threads = request.threads == 0 ? cpu_count() : request.threads;
  how.tracers = request.tracers;
  how.reserved = request.reserved;
  MarkedImage marked;
  if (Error error = marked.run(image, how, result); error != Error::kNone) return error;
  uint64_t start = now_ns();
  struct Question {
    const Marks* marks;
    uint64_t data;
  } question{&marked.marks, reinterpret_cast<uintptr_t>(marked.marks.data())};
  Arena::Swept swept = arena.sweep(
      [](const void* context, const void* block) {
        auto* asked = static_cast<const Question*>(context);
        return asked->marks->is_reached(reinterpret_cast<uintptr_t>(block) - asked->data);
      },
      &question);
  result.kept_blocks = swept.kept_blocks;
  result.kept_bytes = swept.kept_bytes;
  result.freed_blocks = swept.freed_blocks;
  result.freed_bytes = swept.freed_bytes;
  result.sweep_ns = now_ns() - start;
  return Error::kNone;
}

Error collect_untrusted(const ArenaHeader& header, char* file, Persist& persist, GcResult& result) {
  GcImage image{&header, file};
  image.trusts_states = false;
  MarkedImage marked;
  if (Error error = marked.run(image, MarkRequest{}, result); error != Error::kNone) return error;
  uint64_t start = now_ns();
  StateWriter writer(persist);
  Rewriter(marked.marks, &writer, result).run();
  result.sweep_ns = now_ns() - start;
  return Error::kNone;
}

void preview_untrusted(const Marks& marks, GcResult& result) {
  Rewriter(marks, nullptr, result).run();
}

}  // namespace btd
