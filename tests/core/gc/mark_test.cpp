// Which blocks the mark reaches.  Invariants checked:
//  1. Exactly those: whatever the shape, the stack's size and the number of threads.
//  2. A word keeps the block that it points into, anywhere in it, and no other.
//  3. Nothing grows with the input: a list of a million, an array of millions of pointers.
#define BOOST_TEST_MODULE mark
#include "core/gc/mark.hpp"

#include <sys/resource.h>

#include <algorithm>

#include "tests/core/gc/support.hpp"

namespace btd {
namespace {

using test::Life;
using test::make;
using test::MappedFile;
using test::Mark;
using test::set_root;
using test::word;

struct Fixture {
  Fixture() { test::limit_time(110); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
  Life life{path, 640 * kMiB};
  Arena& arena = life.arena();
};

MarkRequest with_stack(uint32_t entries, uint32_t threads = 1) {
  MarkRequest request;
  request.stack_entries = entries;
  request.threads = threads;
  return request;
}

BOOST_FIXTURE_TEST_CASE(nothing_is_reached_without_a_root, Fixture) {
  make(life, 64);
  make(life, kMiB);
  BOOST_TEST(Mark(arena).totals.blocks == 0u);
}

BOOST_FIXTURE_TEST_CASE(cycles_and_self_pointers_end, Fixture) {
  char *a = make(life, 64), *b = make(life, 48), *c = make(life, kMiB), *lonely = make(life, 64);
  word(a, 3) = b;
  word(b, 5) = c;
  word(c, 131071) = a;  // the last word
  word(c, 0) = c;
  word(lonely, 0) = lonely;
  word(lonely, 1) = a;
  set_root(arena, 0, "a", a);
  Mark mark(arena);
  BOOST_TEST(mark.totals.blocks == 3u);
  BOOST_TEST(mark.totals.bytes == 64 + 48 + kMiB);
  BOOST_TEST((mark.has(a) && mark.has(b) && mark.has(c)));
  BOOST_TEST(!mark.has(lonely));
}

BOOST_FIXTURE_TEST_CASE(a_pointer_into_a_block_keeps_it_and_one_past_its_end_does_not, Fixture) {
  for (size_t size_bytes : {16, 48, 64, 80, 4096, 32768, 32769, 100000, 1048576}) {
    char* holder = make(life, 64);
    char* block = make(life, size_bytes);
    char* next = make(life, size_bytes);
    set_root(arena, 0, "holder", holder);
    size_t usable = arena.usable_size(block);
    for (size_t inside : {size_t{0}, size_t{1}, usable / 2, usable - 1}) {
      word(holder, 7) = block + inside;
      Mark mark(arena);
      BOOST_TEST(mark.has(block), size_bytes << " at " << inside);
      BOOST_TEST(!mark.has(next));
      BOOST_TEST(mark.totals.blocks == 2u);
    }
    for (char* outside : {block + usable, block - 1}) {
      word(holder, 7) = outside;
      BOOST_TEST(!Mark(arena).has(block), size_bytes << " outside");
    }
  }
}

BOOST_FIXTURE_TEST_CASE(an_unaligned_word_a_free_block_and_a_wild_pointer_keep_nothing, Fixture) {
  char *holder = make(life, 128), *block = make(life, 64), *freed = make(life, 64);
  std::memcpy(holder + 4, &block, sizeof(block));
  word(holder, 3) = freed;
  word(holder, 4) = reinterpret_cast<char*>(arena.header().base_address);
  word(holder, 5) = arena.mapping().address(arena.header().data_offset) + 500 * kMiB;
  word(holder, 6) = arena.mapping().address(arena.header().file_bytes) - 8;
  set_root(arena, 0, "holder", holder);
  set_root(arena, 1, "freed", freed);
  BOOST_TEST((life.free(freed) == Verdict::kGood));
  BOOST_TEST(Mark(arena).totals.blocks == 1u);
  // Where states say nothing, any slot may hold a block.
  BOOST_TEST(Mark(arena, {}, kStateFree, false).has(freed));
}

BOOST_FIXTURE_TEST_CASE(roots_that_are_not_set_or_damaged_lead_nowhere, Fixture) {
  char *a = make(life, 64), *b = make(life, 64), *c = make(life, 64);
  set_root(arena, 0, "a", a);
  set_root(arena, 1, "b", b);
  set_root(arena, 40, "c", c);
  arena.root(0)->value = 0;
  arena.root(1)->head ^= 2;
  Mark mark(arena);
  BOOST_TEST(mark.totals.blocks == 1u);
  BOOST_TEST(mark.has(c));
}

BOOST_FIXTURE_TEST_CASE(blocks_with_the_own_tag_are_roots, Fixture) {
  char *mine = make(life, 64), *large = make(life, kMiB);
  Mark mark(arena, {}, arena.tag());
  BOOST_TEST((mark.has(mine) && mark.has(large)));
  BOOST_TEST(mark.totals.blocks == 2u);
}

BOOST_FIXTURE_TEST_CASE(a_list_of_a_million_needs_no_stack, Fixture) {
  char* first = nullptr;
  for (int i = 0; i < 1'000'000; i++) {
    char* node = make(life, i % 3 == 0 ? 64 : 48);
    word(node, 0) = first;
    first = node;
  }
  set_root(arena, 0, "list", first);
  rlimit limit{64 * kKiB, 64 * kKiB};  // recursion would not get far
  rlimit before;
  getrlimit(RLIMIT_STACK, &before);
  limit.rlim_max = before.rlim_max;
  setrlimit(RLIMIT_STACK, &limit);
  Mark mark(arena, with_stack(kMarkStackMin));
  setrlimit(RLIMIT_STACK, &before);
  BOOST_TEST(mark.totals.blocks == 1'000'000u);
  BOOST_TEST(mark.totals.postponed == 0u);
  // A few per cent, for small blocks too.
  BOOST_TEST(mark.marks.size_bytes() * 100 < 3 * arena.usage().grown_bytes);
}

BOOST_FIXTURE_TEST_CASE(a_long_array_of_pointers_is_scanned_by_pieces, Fixture) {
  constexpr size_t kBytes = 256 * kMiB;
  char* array = life.allocate(kBytes);  // fresh: zeros
  BOOST_REQUIRE(array != nullptr);
  std::vector<char*> blocks;
  for (size_t at = 0; at < kBytes / 8; at += 4096 / 8 - 1) {  // drifts over the pieces' borders
    blocks.push_back(make(life, 64));
    word(array, at) = blocks.back();
  }
  word(array, kBytes / 8 - 1) = blocks.emplace_back(make(life, 64));
  set_root(arena, 0, "array", array);
  for (uint32_t threads : {1u, 3u}) {
    Mark mark(arena, with_stack(64, threads));
    BOOST_TEST(mark.totals.blocks == blocks.size() + 1);
    BOOST_TEST(std::all_of(blocks.begin(), blocks.end(), [&](char* b) { return mark.has(b); }));
  }
}

// Blocks of all sizes, each pointing to a few others, some of them unreachable.
std::set<uint64_t> make_random_graph(Life& life, uint64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<char*> blocks;
  for (uint64_t i = 0; i < count; i++) {
    size_t size_bytes = random() % 100 == 0 ? 40000 + random() % 100000 : 16 + random() % 500;
    blocks.push_back(make(life, size_bytes));
  }
  std::vector<std::vector<uint64_t>> edges(count);
  for (uint64_t i = 0; i < count; i++) {
    size_t words = life.arena().usable_size(blocks[i]) / 8;
    for (uint64_t edge = 0; edge < 1 + random() % 12; edge++) {
      uint64_t to = random() % count, at = random() % words;
      if (word(blocks[i], at) != nullptr) continue;
      word(blocks[i], at) = blocks[to] + random() % life.arena().usable_size(blocks[to]);
      edges[i].push_back(to);
    }
  }
  set_root(life.arena(), 0, "graph", blocks[0]);
  // The answer, from the edges alone.
  std::set<uint64_t> reached;
  std::vector<uint64_t> left{0};
  std::vector<bool> is_seen(count);
  is_seen[0] = true;
  char* data = life.arena().mapping().address(life.arena().header().data_offset);
  while (!left.empty()) {
    uint64_t at = left.back();
    left.pop_back();
    reached.insert(static_cast<uint64_t>(blocks[at] - data));
    for (uint64_t to : edges[at]) {
      if (!is_seen[to]) left.push_back(to);
      is_seen[to] = true;
    }
  }
  return reached;
}

BOOST_FIXTURE_TEST_CASE(any_stack_and_any_number_of_threads_reach_the_same, Fixture) {
  auto expected = make_random_graph(life, 20000, test::seed());
  BOOST_TEST(expected.size() > 10000u);
  for (uint32_t entries : {4u, 5u, 100u, 8192u}) {
    for (uint32_t threads : {1u, 2u, 7u}) {
      Mark mark(arena, with_stack(entries, threads));
      BOOST_TEST((mark.offsets() == expected), entries << " entries, " << threads << " threads");
      BOOST_TEST(mark.totals.blocks == expected.size());
      if (entries <= 5 && threads == 1) BOOST_TEST(mark.totals.postponed > 1000u);
    }
  }
}

// Gives one frame at a time, and spoils what it gave before: good until the next call.
class OneFrame final : public GcFarBytes {
 public:
  explicit OneFrame(const char* data) : data_(data) {}
  const char* bytes(uint64_t offset) noexcept override {
    uint64_t frame = offset >> kFrameShift;
    if (frame != frame_) {
      fetches++;
      std::memcpy(copy_, data_ + (frame << kFrameShift), kFrameBytes);
      frame_ = frame;
    }
    return copy_ + offset % kFrameBytes;
  }
  bool is_here(uint64_t offset) const noexcept override { return offset >> kFrameShift == frame_; }
  uint64_t fetches = 0;

 private:
  const char* data_;
  uint64_t frame_ = ~uint64_t{0};
  alignas(kCacheLineBytes) char copy_[kFrameBytes];
};

// All but the first frames of the coarse zone are said to be far, and are not in the file that is
// read.
BOOST_FIXTURE_TEST_CASE(far_blocks_are_reached_through_whoever_has_their_bytes, Fixture) {
  auto expected = make_random_graph(life, 20000, test::seed());
  ArenaHeader header = arena.header();
  const uint32_t grown = header.coarse_frames_grown;
  auto* frames =
      reinterpret_cast<FrameHeader*>(arena.mapping().address(header.frame_header_offset));
  uint32_t first = kGrowFrames;  // no extent lies across the border
  while (frames[first].descriptor.frame_count == 0) first++;
  header.far_first_frame = header.coarse_frames_grown = first;
  header.far_frames_grown = grown - first;
  BOOST_REQUIRE(header.far_frames_grown > 10 * kGrowFrames);
  MappedFile file(path);
  BOOST_REQUIRE(::mprotect(file.bytes + header.data_offset + first * kFrameBytes,
                           header.far_frames_grown * kFrameBytes, PROT_NONE) == 0);
  for (uint32_t entries : {8u, 8192u}) {
    OneFrame far(arena.mapping().address(header.data_offset));
    GcImage image{&header, file.bytes};
    image.is_raw = true;
    image.far = &far;
    Marks marks;
    MarkTotals totals{};
    BOOST_REQUIRE(marks.open(image) == Error::kNone);
    BOOST_REQUIRE(mark(marks, with_stack(entries, 2), totals) == Error::kNone);
    std::set<uint64_t> found;
    marks.for_each_reached([&](const GcBlock& block) { found.insert(block.offset); });
    marks.close();
    BOOST_TEST((found == expected));
    BOOST_TEST(totals.blocks == expected.size());
    // Blocks come in no order; but those that wait are taken up by rising offset, so that frames
    // are fetched a few times each, not once for each block in them.
    BOOST_TEST(far.fetches >= header.far_frames_grown / 2);
    BOOST_TEST(far.fetches < expected.size() / 2);
  }
}

BOOST_FIXTURE_TEST_CASE(one_thread_makes_no_other, Fixture) {
  set_root(arena, 0, "a", make(life, 64));
  rlimit before;
  getrlimit(RLIMIT_NPROC, &before);
  rlimit none{0, before.rlim_max};
  setrlimit(RLIMIT_NPROC, &none);
  BOOST_TEST(Mark(arena).totals.blocks == 1u);
  // Where threads are refused the calling one does all.
  BOOST_TEST(Mark(arena, with_stack(8192, 4)).totals.blocks == 1u);
  setrlimit(RLIMIT_NPROC, &before);
}

// A node whose `next` is its first word; the second is a number that looks like a pointer.
void trace_node(void* context, const void* object, size_t, GcVisitor& visitor) {
  visitor.visit(*static_cast<void* const*>(object), static_cast<const GcTracer*>(context));
}

BOOST_FIXTURE_TEST_CASE(a_traced_object_is_not_scanned_word_by_word, Fixture) {
  char *a = make(life, 64), *b = make(life, 64), *fake = make(life, 64);
  word(a, 0) = b;
  word(a, 1) = fake;
  word(b, 1) = fake;
  set_root(arena, 0, "traced", a);
  GcTracer node{trace_node, nullptr};
  node.context = &node;
  Tracers tracers;
  BOOST_TEST((tracers.set("traced", node) == Error::kNone));
  MarkRequest request;
  request.tracers = &tracers;
  for (uint32_t threads : {1u, 3u}) {
    request.threads = threads;
    Mark mark(arena, request);
    BOOST_TEST((mark.has(a) && mark.has(b)));
    BOOST_TEST(!mark.has(fake));
  }
  BOOST_TEST(Mark(arena).has(fake));
  // Its tracer tells nothing of what `b` points to: b is scanned.
  node.context = nullptr;
  tracers.set("traced", node);
  BOOST_TEST(Mark(arena, request).has(fake));
}

// What a transaction may still put back, store or free.
struct OpenLog {
  explicit OpenLog(Arena& of) : arena(of) {
    BOOST_REQUIRE(arena.grow_lanes(1));
    at = arena.lane(0) + kCacheLineBytes;
  }
  void add(RecordKind kind, uint64_t target, const void* payload, uint32_t length) {
    LogRecord record{1, length, target, previous, static_cast<uint32_t>(kind), 0};
    chain = record.checksum = checksum_of(record, payload, chain);
    std::memcpy(at, &record, sizeof(record));
    if (length > 0) std::memcpy(at + sizeof(record), payload, length);
    previous = arena.offset_of(at);
    at += record_bytes(length);
  }
  Arena& arena;
  char* at;
  uint64_t previous = 0;
  uint32_t chain = first_chain(1);
};

BOOST_FIXTURE_TEST_CASE(an_open_transaction_keeps_what_it_may_bring_back, Fixture) {
  char *old = make(life, 64), *fresh = make(life, 64), *freed = make(life, 64);
  char *held = make(life, 64), *target = make(life, 64), *rooted = make(life, 64);
  OpenLog log(arena);
  char* undo[2] = {nullptr, old};
  log.add(RecordKind::kUndo, arena.offset_of(target), undo, sizeof(undo));
  log.add(RecordKind::kRedo, arena.offset_of(target) + 32, &fresh, sizeof(fresh));
  uint64_t value = arena.offset_of(rooted);
  log.add(RecordKind::kRedo, arena.header().root_table_offset + offsetof(Root, value), &value, 8);
  AllocPayload gone{arena.offset_of(freed), 0, 0, 1, 0};
  log.add(RecordKind::kFree, 0, &gone, sizeof(gone));
  Reservation taken = arena.reserve(life.cache(), 64, 16, nullptr);
  *static_cast<char**>(taken.block) = held;
  AllocPayload made{arena.offset_of(taken.block), 64, taken.live, taken.state_bytes, 0};
  log.add(RecordKind::kAlloc, arena.offset_of(taken.state), &made, sizeof(made));
  {
    Mark mark(arena);
    for (char* block : {old, fresh, freed, held, rooted}) BOOST_TEST(mark.has(block));
    BOOST_TEST(!mark.has(target));
  }
  // Finished: its log means nothing any more.
  reinterpret_cast<LaneHeader*>(arena.lane(0))->finished = finished_word(1, kLogFirstLine);
  BOOST_TEST(Mark(arena).totals.blocks == 0u);
}

}  // namespace
}  // namespace btd
