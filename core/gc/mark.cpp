#include "core/gc/mark.hpp"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <new>

#include "core/base/lock.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/tx/log.hpp"

namespace btd {
namespace {

constexpr uint32_t kScans = 32;        // blocks under way to the cache
constexpr uint32_t kCandidates = 256;  // words whose block's state and mark are looked at together
constexpr uint32_t kFewScans = 4;  // up to so many, a found block is fetched before it is looked at
constexpr uint64_t kPieceBytes =
    4 * kKiB;  // as many words as a stack has room for, many times over
constexpr uint32_t kShareEntries = 1024;
constexpr uint32_t kShareLeast = 16;  // entries of a stack that is worth sharing
constexpr uint32_t kTakeEntries = 64;
constexpr uint64_t kProgressBlocks = 1u << 18;

// A block to scan from data offset `at` (a multiple of 8) to `end`.  Bit 0 of `at` set: to be shown
// to the tracer at address `end` instead.
struct Work {
  uint64_t at;
  uint64_t end;
  static Work traced(uint64_t offset, const GcTracer* tracer) {
    return {offset | 1, reinterpret_cast<uintptr_t>(tracer)};
  }
  bool is_traced() const { return (at & 1) != 0; }
};

void prefetch(const void* address) { __builtin_prefetch(address, 0, 3); }

}  // namespace

// What the workers share.
struct MarkShare {
  Marks& marks;
  const MarkRequest& request;
  uint32_t threads;                 // constant while they run
  std::atomic<uint32_t> hungry{0};  // workers that wait
  std::atomic<uint32_t> signal{0};  // changes when there is something for them

  // Protected by lock.
  Lock lock;
  uint32_t idle = 0;
  uint32_t count = 0;
  bool is_done = false;
  uint64_t cursor = 0;  // of the postponed
  Work entries[kShareEntries];

  MarkShare(Marks& of, const MarkRequest& with) : marks(of), request(with), threads(1) {}

  void wake_all() {
    signal.fetch_add(1, std::memory_order_release);
    ::syscall(SYS_futex, &signal, FUTEX_WAKE_PRIVATE, kMarkThreadsMax, nullptr, nullptr, 0);
  }
  void wait(uint32_t seen) {
    ::syscall(SYS_futex, &signal, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
  }
};

class alignas(kCacheLineBytes) MarkWorker final : public GcVisitor {
 public:
  // `stack`: request.stack_entries of them.
  MarkWorker(MarkShare& share, Work* stack, bool tells_progress)
      : tells_progress_(tells_progress),
        share_(share),
        marks_(share.marks),
        stack_(stack),
        stack_capacity_(share.request.stack_entries),
        origin_(marks_.image().header->base_address + marks_.image().header->data_offset),
        data_end_((marks_.fine_first() + marks_.image().header->fine_frame_count) << kFrameShift),
        is_shared_(share.threads > 1),
        has_far_(marks_.image().far != nullptr) {}

  void seed_traced_roots();
  void seed();
  // Until there is no work anywhere.
  void work() {
    do drain();
    while (get_more());
  }

  void visit(const void* pointer, const GcTracer* tracer) noexcept override {
    uint64_t offset = reinterpret_cast<uintptr_t>(pointer) - origin_;
    GcBlock block;
    if (offset >= data_end_ || !marks_.find(offset, block)) return;
    settle(block, tracer);
  }

  uint64_t blocks = 0;
  uint64_t bytes = 0;
  uint64_t postponed = 0;
  pthread_t thread{};

 private:
  void drain();
  bool get_more();
  bool take_postponed();
  void share_half();
  void scan(const Work& work);
  void scan_words(uint64_t at, uint64_t end);
  void trace(const Work& work);
  void reach(uint64_t offset) {
    GcBlock block;
    if (marks_.find(offset, block)) settle(block, nullptr);
  }
  void settle(const GcBlock& block, const GcTracer* tracer);
  void tell_progress() {
    share_.request.progress(share_.request.progress_context, blocks * share_.threads);
  }
  void push(const GcBlock& block, const GcTracer* tracer);
  void settle_candidates();
  void settle_without_branches();
  void seed_transactions();
  void seed_record(const LogRecord& record);
  void seed_reserved();
  void seed_own_blocks();
  template <typename Visit>
  void for_each_root(Visit visit);

  bool tells_progress_;
  MarkShare& share_;
  Marks& marks_;
  Work* stack_;
  uint32_t stack_count_ = 0;
  uint32_t stack_capacity_;
  uint64_t origin_;    // the address of data offset 0, as words have it
  uint64_t data_end_;  // words from here on point to no data
  bool is_shared_;
  bool has_far_;
  uint32_t scan_count_ = 0;
  uint32_t candidate_count_ = 0;
  Work scans_[kScans];
  GcBlock candidates_[kCandidates];
};

// --- The loop
// -----------------------------------------------------------------------------------------------------------

// By turns: some blocks are fetched; then they are scanned, and the states and marks of what their
// words point to are fetched; then those are looked at.  In each turn nothing depends on what
// another step of it finds, so the CPU waits for many of them at once.
void MarkWorker::drain() {
  for (;;) {
    settle_candidates();
    if (stack_count_ == 0) return;
    scan_count_ = min(stack_count_, kScans);
    stack_count_ -= scan_count_;
    for (uint32_t i = 0; i < scan_count_; i++) {
      scans_[i] = stack_[stack_count_ + scan_count_ - 1 - i];
      const char* data = marks_.data_ahead(scans_[i].at & ~uint64_t{1});
      prefetch(data);
      if (!scans_[i].is_traced() && scans_[i].end - scans_[i].at > kCacheLineBytes)
        prefetch(data + kCacheLineBytes);
    }
    for (uint32_t i = 0; i < scan_count_; i++) scan(scans_[i]);
    if (is_shared_ && stack_count_ >= kShareLeast &&
        share_.hungry.load(std::memory_order_relaxed) > 0)
      share_half();
  }
}

void MarkWorker::scan(const Work& work) {
  if (work.is_traced()) {
    trace(work);
    return;
  }
  uint64_t end = min(work.end, work.at + kPieceBytes);
  // It was on the stack a moment ago, or is the first thing to come there: what is left has room,
  // unless the blocks found meanwhile took it.
  if (end < work.end) {
    if (stack_count_ < stack_capacity_) {
      stack_[stack_count_++] = {end, work.end};
    } else {
      end = work.end;
    }
  }
  if (!marks_.image().is_raw) {
    scan_words(work.at, end);
    return;
  }
  for (uint64_t at = work.at; at < end;) {
    uint64_t frame_end = round_down(at, kFrameBytes) + kFrameBytes;
    scan_words(at, min(end, frame_end));
    at = frame_end;
  }
}

// REQUIRES: in a raw image, within one frame.
void MarkWorker::scan_words(uint64_t at, uint64_t end) {
  auto* word = reinterpret_cast<const uint64_t*>(marks_.data(at));
  auto* last = word + (end - at) / sizeof(uint64_t);
  for (; word < last; word++) {
    // Another thread of the program may be writing to a block of its own.
    uint64_t offset = __atomic_load_n(word, __ATOMIC_RELAXED) - origin_;
    if (offset >= data_end_) [[likely]]
      continue;
    if (candidate_count_ == kCandidates) settle_candidates();
    GcBlock& block = candidates_[candidate_count_];
    if (!marks_.find(offset, block)) continue;
    candidate_count_++;
    prefetch(marks_.mark_word(block.bit));
    if (block.state != nullptr) prefetch(block.state);
    if (scan_count_ <= kFewScans) prefetch(marks_.data_ahead(block.offset));
  }
}

void MarkWorker::settle_candidates() {
  if (is_shared_ || has_far_) {
    for (uint32_t i = 0; i < candidate_count_; i++) settle(candidates_[i], nullptr);
  } else {
    settle_without_branches();
  }
  candidate_count_ = 0;
}

// Whether a block was reached before is a coin's toss: as a branch it would be guessed wrong, and
// all that is under way be thrown away, for every other word.  REQUIRES: one thread marks.
void MarkWorker::settle_without_branches() {
  static const uint8_t always = kStateKept;
  bool has_room = stack_capacity_ - stack_count_ >= candidate_count_;
  uint64_t before = blocks;
  for (uint32_t i = 0; i < candidate_count_; i++) {
    const GcBlock& block = candidates_[i];
    uint8_t state = *(block.state == nullptr ? &always : block.state);
    uint64_t is_fresh = marks_.mark_if(block.bit, is_live(state));
    blocks += is_fresh;
    bytes += block.size_bytes & -is_fresh;
    if (has_room) {
      stack_[stack_count_] = {block.offset, block.offset + block.size_bytes};
      stack_count_ += static_cast<uint32_t>(is_fresh);
    } else {
      marks_.postpone_if(block.bit, is_fresh);
    }
  }
  if (!has_room && blocks != before) {
    postponed += blocks - before;
    marks_.note_postponed();
  }
  if (tells_progress_ && blocks / kProgressBlocks != before / kProgressBlocks) tell_progress();
}

void MarkWorker::trace(const Work& work) {
  auto* tracer = reinterpret_cast<const GcTracer*>(work.end);
  GcBlock block;
  if (!marks_.find(work.at & ~uint64_t{1}, block)) return;
  tracer->trace(tracer->context, marks_.data(block.offset), block.size_bytes, *this);
}

// A word points into the block.
void MarkWorker::settle(const GcBlock& block, const GcTracer* tracer) {
  if (!Marks::is_block(block) || !marks_.mark(block.bit, is_shared_)) return;
  blocks++;
  bytes += block.size_bytes;
  if (tells_progress_ && blocks % kProgressBlocks == 0) tell_progress();
  push(block, tracer);
}

void MarkWorker::push(const GcBlock& block, const GcTracer* tracer) {
  Work work = tracer != nullptr ? Work::traced(block.offset, tracer)
                                : Work{block.offset, block.offset + block.size_bytes};
  // What has to be fetched waits while there is anything else to do: it is taken up by rising
  // offset, so what lies together is fetched once.
  bool waits = has_far_ && stack_count_ > 0 && marks_.is_away(block.offset);
  if (stack_count_ < stack_capacity_ && !waits) {
    stack_[stack_count_++] = work;
  } else {
    // Its tracer is forgotten: it will be scanned word by word, which keeps no less.
    marks_.postpone(block.bit, is_shared_);
    postponed++;
  }
}

// --- Sharing
// ------------------------------------------------------------------------------------------------------------

// The older half: it has been waiting longest, and likely leads to most.
void MarkWorker::share_half() {
  share_.lock.lock();
  uint32_t given = min(stack_count_ / 2, kShareEntries - share_.count);
  std::memcpy(share_.entries + share_.count, stack_, given * sizeof(Work));
  share_.count += given;
  share_.lock.unlock();
  if (given == 0) return;
  stack_count_ -= given;
  std::memmove(stack_, stack_ + given, stack_count_ * sizeof(Work));
  share_.wake_all();
}

// REQUIRES: this worker has nothing left.  False: nor has any other.
bool MarkWorker::get_more() {
  share_.lock.lock();
  share_.idle++;
  for (;;) {
    if (share_.count > 0) {
      uint32_t taken = min(min(share_.count, kTakeEntries), stack_capacity_);
      share_.count -= taken;
      std::memcpy(stack_, share_.entries + share_.count, taken * sizeof(Work));
      stack_count_ = taken;
      break;
    }
    if (share_.is_done) break;
    if (share_.idle == share_.threads) {
      if (marks_.has_postponed() && take_postponed()) break;
      share_.is_done = true;
      share_.wake_all();
      break;
    }
    uint32_t seen = share_.signal.load(std::memory_order_acquire);
    share_.hungry.fetch_add(1, std::memory_order_relaxed);
    share_.lock.unlock();
    share_.wait(seen);
    share_.hungry.fetch_sub(1, std::memory_order_relaxed);
    share_.lock.lock();
  }
  bool has_work = stack_count_ > 0;
  if (has_work) share_.idle--;
  share_.lock.unlock();
  return has_work;
}

// Half a stack of postponed blocks, from where the last look ended.  REQUIRES: the lock, and that
// all others wait.
bool MarkWorker::take_postponed() {
  uint32_t wanted = max(stack_capacity_ / 2, 1u);
  GcBlock block;
  while (stack_count_ < wanted && marks_.take_postponed(&share_.cursor, block))
    stack_[stack_count_++] = {block.offset, block.offset + block.size_bytes};
  if (stack_count_ > 0) return true;
  // The end: once more from the start, for what was postponed behind the cursor.
  share_.cursor = 0;
  while (stack_count_ < wanted && marks_.take_postponed(&share_.cursor, block))
    stack_[stack_count_++] = {block.offset, block.offset + block.size_bytes};
  if (stack_count_ == 0) marks_.forget_postponed();
  return stack_count_ > 0;
}

// --- Where it starts
// ---------------------------------------------------------------------------------------------------

template <typename Visit>
void MarkWorker::for_each_root(Visit visit) {
  const ArenaHeader& header = *marks_.image().header;
  auto* roots = reinterpret_cast<const Root*>(marks_.image().file + header.root_table_offset);
  for (uint32_t i = 0; i < header.roots_grown; i++) {
    const Root& root = roots[i];
    uint64_t value = std::atomic_ref(const_cast<uint64_t&>(root.value)).load();
    if (value < header.data_offset || root.head != root_head(root.name)) continue;
    uint64_t offset = value - header.data_offset;
    if (offset >= data_end_) continue;
    const GcTracer* tracer =
        share_.request.tracers == nullptr ? nullptr : share_.request.tracers->of(root.name);
    visit(offset, tracer);
  }
}

// They come first: what they lead to is not scanned word by word, unless it is reached otherwise.
void MarkWorker::seed_traced_roots() {
  for_each_root([this](uint64_t offset, const GcTracer* tracer) {
    GcBlock block;
    if (tracer != nullptr && marks_.find(offset, block)) settle(block, tracer);
  });
}

void MarkWorker::seed() {
  for_each_root([this](uint64_t offset, const GcTracer*) { reach(offset); });
  seed_transactions();
  seed_reserved();
  if (marks_.image().own_tag != kStateFree) seed_own_blocks();
}

// What an open transaction may still store, put back or free is reached, and so is what its new
// blocks point to, which no state says to be live yet.
void MarkWorker::seed_transactions() {
  const GcImage& image = marks_.image();
  for (uint32_t lane = 0; lane < image.header->lanes_grown; lane++) {
    LogReader reader(*image.header, image.file, lane);
    while (const LogRecord* record = reader.next()) {
      seed_record(*record);
      drain();
    }
  }
}

void MarkWorker::seed_record(const LogRecord& record) {
  const ArenaHeader& header = *marks_.image().header;
  const char* payload = payload_of(&record);
  switch (static_cast<RecordKind>(record.kind)) {
    case RecordKind::kUndo:
    case RecordKind::kRedo: {
      // The words that will be aligned where they go.
      uint64_t skipped = -record.target % sizeof(uint64_t);
      for (uint64_t at = skipped; at + sizeof(uint64_t) <= record.length_bytes;
           at += sizeof(uint64_t)) {
        uint64_t word;
        std::memcpy(&word, payload + at, sizeof(word));
        // A root's value counts from the start of the file.
        if (record.target < header.data_offset) word += header.base_address;
        if (word - origin_ < data_end_) reach(word - origin_);
        if (stack_count_ == stack_capacity_ || at % kPieceBytes == 0) drain();
      }
      return;
    }
    case RecordKind::kAlloc:
    case RecordKind::kFree: {
      AllocPayload block;
      if (record.length_bytes != sizeof(block)) return;
      std::memcpy(&block, payload, sizeof(block));
      if (!is_in_data(header, block.block, max<uint64_t>(block.size_bytes, 1))) return;
      uint64_t offset = block.block - header.data_offset;
      if (record.kind == static_cast<uint32_t>(RecordKind::kFree)) {
        reach(offset);
      } else {
        scan({offset, offset + round_down(block.size_bytes, sizeof(uint64_t))});
      }
      return;
    }
    default:
      return;
  }
}

// Whoever calls us back holds a lock, so here nothing is drained and no tracer is called: what is
// found waits on the stack, or as a bit.
void MarkWorker::seed_reserved() {
  if (share_.request.reserved == nullptr) return;
  share_.request.reserved->for_each(
      [](void* context, const void* begin, size_t size_bytes) {
        auto* worker = static_cast<MarkWorker*>(context);
        uint64_t offset = reinterpret_cast<uintptr_t>(begin) - worker->origin_;
        if (offset >= worker->data_end_ || size_bytes > worker->data_end_ - offset) return;
        worker->scan({offset, offset + round_down(size_bytes, sizeof(uint64_t))});
      },
      this);
}

// Superblock by superblock, so that they need no room to wait in.
void MarkWorker::seed_own_blocks() {
  uint8_t own = marks_.image().own_tag;
  marks_.for_each_extent([&](uint64_t frame, Descriptor descriptor) {
    uint64_t first = frame << kFrameShift;
    if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
      if (marks_.frame_header(frame).state == large_state(own)) reach(first);
    } else {
      const SizeClassInfo& info = kSizeClasses[descriptor.detail];
      const uint8_t* states = marks_.states_of(frame);
      for (uint32_t slot = 0; slot < info.slot_count; slot++) {
        if (states[slot * info.granules] == own) reach(first + uint64_t{slot} * info.slot_bytes);
      }
    }
    drain();
  });
}

namespace {

void* run_worker(void* argument) {
  static_cast<MarkWorker*>(argument)->work();
  return nullptr;
}

// All workers, until nothing is left.  The first is the calling thread; seed() is its first work.
template <typename Seed>
void run_phase(MarkShare& share, MarkWorker* const* workers, Seed seed) {
  share.is_done = false;
  share.idle = 0;
  uint32_t made = 1;
  while (made < share.threads &&
         pthread_create(&workers[made]->thread, nullptr, run_worker, workers[made]) == 0)
    made++;
  seed(*workers[0]);
  if (made < share.threads) {  // do without the others
    LockGuard guard(share.lock);
    share.threads = made;
    share.wake_all();
  }
  workers[0]->work();
  for (uint32_t i = 1; i < made; i++) pthread_join(workers[i]->thread, nullptr);
}

}  // namespace

Error mark(Marks& marks, const MarkRequest& request, MarkTotals& totals) {
  MarkRequest bounded = request;
  bounded.threads = min(max(request.threads, 1u), kMarkThreadsMax);
  if (marks.image().far != nullptr) bounded.threads = 1;
  bounded.stack_entries = max(request.stack_entries, kMarkStackMin);
  size_t worker_bytes =
      round_up(sizeof(MarkWorker) + bounded.stack_entries * sizeof(Work), kCacheLineBytes);
  size_t share_bytes = round_up(sizeof(MarkShare), kCacheLineBytes);
  size_t all_bytes = share_bytes + bounded.threads * worker_bytes;
  intptr_t got = sys::map(nullptr, all_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got < 0 && got > -4096) return Error::kNoMemory;
  char* memory = reinterpret_cast<char*>(got);
  auto* share = ::new (memory) MarkShare(marks, bounded);
  share->threads = bounded.threads;
  MarkWorker* workers[kMarkThreadsMax] = {};
  for (uint32_t i = 0; i < bounded.threads; i++) {
    char* place = memory + share_bytes + i * worker_bytes;
    auto* stack = reinterpret_cast<Work*>(place + sizeof(MarkWorker));
    bool tells_progress = i == 0 && bounded.progress != nullptr;
    workers[i] = ::new (place) MarkWorker(*share, stack, tells_progress);
  }
  if (bounded.tracers != nullptr)
    run_phase(*share, workers, [](MarkWorker& worker) { worker.seed_traced_roots(); });
  run_phase(*share, workers, [](MarkWorker& worker) { worker.seed(); });
  totals = {};
  for (uint32_t i = 0; i < bounded.threads; i++) {
    totals.blocks += workers[i]->blocks;
    totals.bytes += workers[i]->bytes;
    totals.postponed += workers[i]->postponed;
  }
  totals.table_bytes = marks.size_bytes() + all_bytes;
  sys::unmap(memory, all_bytes);
  return Error::kNone;
}

}  // namespace btd
