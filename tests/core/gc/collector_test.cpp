// The collector as a whole.  Invariants checked:
//  1. After it each block of an earlier epoch is kept, because the roots lead to it, or free; and a
//     leak is free whatever it points to.
//  2. Blocks of this epoch stay, and what they point to.
//  3. After power loss states say nothing: the same blocks are kept, every other state byte is
//  zero,
//     and the arena checks clean.  Cut anywhere and run again, it ends the same way.
#define BOOST_TEST_MODULE collector
#include "core/gc/collector.hpp"

#include "core/api/reservations.hpp"
#include "core/recovery/check.hpp"
#include "tests/core/gc/support.hpp"

namespace btd {
namespace {

using test::Life;
using test::make;
using test::MappedFile;
using test::set_root;
using test::word;

struct Fixture {
  Fixture() { test::limit_time(110); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
  GcResult result{};
};

// A life that leaves a list of `count` blocks of many sizes behind its root, and as many leaks,
// which point to each other and into the list.
struct Left {
  std::vector<char*> listed;
  std::vector<char*> leaked;
};
Left leave(const std::string& path, const char* name, uint32_t root, int count) {
  Left left;
  Life life(path);
  BOOST_REQUIRE(life.is_open());
  char *list = nullptr, *leak = nullptr;
  for (int i = 0; i < count; i++) {
    size_t size_bytes = i % 40 == 0 ? 50000 + i : 16 + i % 700;
    char* next = make(life, size_bytes);
    word(next, 0) = list;
    left.listed.push_back(list = next);
    next = make(life, size_bytes);
    word(next, 0) = leak;
    word(next, 1) = list;
    left.leaked.push_back(leak = next);
  }
  set_root(life.arena(), root, name, list);
  return left;
}

uint64_t count_live(Arena& arena, const std::vector<char*>& blocks) {
  uint64_t count = 0;
  for (char* block : blocks) count += arena.look_up(block) == Verdict::kGood ? 1 : 0;
  return count;
}

BOOST_FIXTURE_TEST_CASE(every_leak_of_every_epoch_is_freed_and_the_rest_kept, Fixture) {
  Left first = leave(path, "first", 0, 1000), second = leave(path, "second", 1, 700);
  for (uint32_t threads : {1u, 2u}) {
    Life life(path);
    uint8_t states_kept = 0;
    Error error = collect(life.arena(), {threads, nullptr}, result);
    BOOST_REQUIRE((error == Error::kNone));
    BOOST_TEST(result.reachable_blocks == 1700u);
    BOOST_TEST(result.kept_blocks == 1700u);
    BOOST_TEST(result.freed_blocks == (threads == 1 ? 1700u : 0u));
    BOOST_TEST(count_live(life.arena(), first.listed) == 1000u);
    BOOST_TEST(count_live(life.arena(), second.listed) == 700u);
    BOOST_TEST(count_live(life.arena(), first.leaked) == 0u);
    BOOST_TEST(count_live(life.arena(), second.leaked) == 0u);
    BOOST_TEST(life.arena().usage().live_blocks == 1700u);
    static ArenaView view;
    BOOST_REQUIRE(ArenaView::open(path.c_str(), view) == Error::kNone);
    view.for_each_block([&](const Block& block) { states_kept |= block.tag ^ kStateKept; });
    view.close();
    BOOST_TEST(states_kept == 0u);  // all of them
  }
}

BOOST_FIXTURE_TEST_CASE(blocks_of_this_epoch_stay_and_keep_what_they_point_to, Fixture) {
  Left left = leave(path, "list", 0, 300);
  Life life(path);
  set_root(life.arena(), 0, "list", nullptr);
  char *mine = make(life, 64), *large = make(life, kMiB), *lonely = make(life, 200);
  word(large, 9) = left.listed[9];     // and so 0..9
  word(mine, 1) = left.leaked[4] + 3;  // and so leaked 0..4, which lead to listed 0..4
  BOOST_REQUIRE((collect(life.arena(), {}, result) == Error::kNone));
  BOOST_TEST(count_live(life.arena(), left.listed) == 10u);
  BOOST_TEST(count_live(life.arena(), left.leaked) == 5u);
  BOOST_TEST(count_live(life.arena(), {mine, large, lonely}) == 3u);
  BOOST_TEST(result.freed_blocks == 600u - 15);
  // A kept block that nothing leads to any more goes with the next collection.
  word(mine, 1) = nullptr;
  BOOST_REQUIRE((collect(life.arena(), {}, result) == Error::kNone));
  BOOST_TEST(result.freed_blocks == 5u);
}

// A block that is reserved has no state yet, and is the program's all the same.
BOOST_FIXTURE_TEST_CASE(reserved_blocks_keep_what_they_point_to_until_they_are_given_back,
                        Fixture) {
  Left left = leave(path, "list", 0, 100);
  Life life(path);
  set_root(life.arena(), 0, "list", nullptr);
  Reservations reservations;
  ThreadCache& cache = life.heap().cache();
  Reservation held[2];
  for (size_t i = 0; i < 2; i++) {
    size_t size_bytes = i == 0 ? 64 : kMiB;
    held[i] = life.arena().reserve(cache, size_bytes, kQuantumBytes, nullptr);
    auto* block = static_cast<char*>(held[i].block);
    BOOST_REQUIRE(block != nullptr);
    std::memset(block, 0, size_bytes);
    word(block, size_bytes / 8 - 1) = left.listed[i == 0 ? 9 : 19];
    BOOST_REQUIRE(reservations.keep(held[i], size_bytes));
  }
  GcRequest request;
  request.reserved = &reservations;
  for (uint64_t kept : {20, 10, 0}) {
    BOOST_REQUIRE((collect(life.arena(), request, result) == Error::kNone));
    BOOST_TEST(count_live(life.arena(), left.listed) == kept);
    BOOST_TEST(count_live(life.arena(), left.leaked) == 0u);
    size_t size_bytes;
    Reservation taken;
    // In the order of what they keep.
    if (kept == 0) break;
    BOOST_REQUIRE(reservations.take(held[kept == 20 ? 1 : 0].block, taken, size_bytes));
    life.arena().cancel(cache, taken);
  }
  reservations.close();
}

BOOST_FIXTURE_TEST_CASE(tracers_are_asked_by_root, Fixture) {
  {
    Life life(path);
    char* node = make(life, 64);
    word(node, 1) = make(life, 64);
    set_root(life.arena(), 0, "node", node);
  }
  Life life(path);
  static Tracers tracers;
  tracers.set("node", {[](void*, const void*, size_t, GcVisitor&) {}, nullptr});
  BOOST_REQUIRE((collect(life.arena(), {1, &tracers}, result) == Error::kNone));
  BOOST_TEST(result.kept_blocks == 1u);
  BOOST_TEST(result.freed_blocks == 1u);
}

// As it would lie after power loss: states of all kinds wherever states are, heads as they were.
void scramble_states(MappedFile& file, uint64_t seed) {
  std::mt19937_64 random(seed);
  auto* coarse = reinterpret_cast<uint8_t*>(file.bytes + file.header.coarse_state_offset);
  auto* fine = reinterpret_cast<uint8_t*>(file.bytes + file.header.fine_state_offset);
  for (uint64_t i = 0; i < uint64_t{file.header.coarse_frames_grown} * kCoarseStatesPerFrame; i++)
    if (random() % 3 == 0) coarse[i] = static_cast<uint8_t>(random());
  for (uint64_t i = 0; i < uint64_t{file.header.fine_frames_grown} * kFineStatesPerFrame; i++)
    if (random() % 3 == 0) fine[i] = static_cast<uint8_t>(random());
  auto* heads = reinterpret_cast<FrameHeader*>(file.bytes + file.header.frame_header_offset);
  for (uint32_t frame = 0; frame < file.header.coarse_frames_grown; frame++) {
    if (heads[frame].descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge))
      heads[frame].state = large_state(random() % 2 == 0 ? 0 : 1);
  }
}

// Metadata from the first state or header on that the rewrite may change.
std::string metadata_of(const MappedFile& file) {
  return {file.bytes + file.header.frame_header_offset, file.bytes + file.header.data_offset};
}

uint64_t faults_of(const std::string& path) {
  static ArenaView view;
  BOOST_REQUIRE(ArenaView::open(path.c_str(), view) == Error::kNone);
  uint64_t faults = 0;
  check_arena(view, [&](const Finding& finding) {
    if (finding.fault != Fault::kReservedRegion) faults++;
  });
  view.close();
  return faults;
}

BOOST_FIXTURE_TEST_CASE(after_power_loss_what_the_roots_lead_to_is_kept_and_nothing_else, Fixture) {
  Left left = leave(path, "list", 0, 1500);
  {
    MappedFile file(path);
    scramble_states(file, test::seed());
    GcResult told{};
    {
      std::string before = metadata_of(file);
      Marks marks;
      MarkTotals totals{};
      GcImage image{&file.header, file.bytes};
      image.trusts_states = false;
      BOOST_REQUIRE((marks.open(image) == Error::kNone));
      BOOST_REQUIRE((mark(marks, {}, totals) == Error::kNone));
      preview_untrusted(marks, told);
      marks.close();
      BOOST_TEST((before == metadata_of(file)));
    }
    BOOST_REQUIRE(
        (collect_untrusted(file.header, file.bytes, process_persist(), result) == Error::kNone));
    BOOST_TEST(result.kept_blocks == 1500u);
    BOOST_TEST(result.reachable_blocks == 1500u);
    BOOST_TEST(result.freed_blocks > 1500u);  // whatever the states said
    BOOST_TEST(told.kept_blocks == result.kept_blocks);
    BOOST_TEST(told.kept_bytes == result.kept_bytes);
    BOOST_TEST(told.freed_blocks == result.freed_blocks);
    BOOST_TEST(told.freed_bytes == result.freed_bytes);
    std::string once = metadata_of(file);
    BOOST_REQUIRE(
        (collect_untrusted(file.header, file.bytes, process_persist(), result) == Error::kNone));
    BOOST_TEST((once == metadata_of(file)));
    BOOST_TEST(result.freed_blocks == 0u);
  }
  BOOST_TEST(faults_of(path) == 0u);
  Life life(path);
  BOOST_REQUIRE(life.is_open());
  BOOST_TEST(count_live(life.arena(), left.listed) == 1500u);
  BOOST_TEST(count_live(life.arena(), left.leaked) == 0u);
  BOOST_TEST(life.arena().usage().live_blocks == 1500u);
}

// Remembers what a cut at the n-th flush or drain would leave: the stores before it, not the
// others.
class CutPersist final : public Persist {
 public:
  CutPersist(const MappedFile& file, uint64_t cut_at) : file_(file), cut_at_(cut_at) {}
  void flush(const void* address, size_t size_bytes) noexcept override {
    flushed_.insert(reinterpret_cast<uintptr_t>(address) / kCacheLineBytes);
    BOOST_REQUIRE(size_bytes <= kCacheLineBytes);
    step();
  }
  void drain() noexcept override {
    drains++;
    step();
  }
  bool has(const void* address) const {
    return flushed_.contains(reinterpret_cast<uintptr_t>(address) / kCacheLineBytes);
  }
  uint64_t steps = 0;
  uint64_t drains = 0;
  std::string left;

 private:
  void step() {
    if (steps++ == cut_at_) left = metadata_of(file_);
  }
  const MappedFile& file_;
  uint64_t cut_at_;
  std::set<uint64_t> flushed_;
};

BOOST_FIXTURE_TEST_CASE(a_rewrite_that_is_cut_is_finished_by_the_next, Fixture) {
  leave(path, "list", 0, 400);
  MappedFile file(path);
  char* metadata = file.bytes + file.header.frame_header_offset;
  scramble_states(file, test::seed());
  std::string before = metadata_of(file);
  CutPersist all(file, ~uint64_t{0});
  BOOST_REQUIRE((collect_untrusted(file.header, file.bytes, all, result) == Error::kNone));
  std::string expected = metadata_of(file);
  // Each line that differs was flushed, and drained.
  BOOST_TEST(all.drains >= 1u);
  for (size_t at = 0; at < expected.size(); at += kCacheLineBytes) {
    if (before.compare(at, kCacheLineBytes, expected, at, kCacheLineBytes) != 0)
      BOOST_REQUIRE(all.has(metadata + at));
  }
  for (uint64_t at = 0; at < all.steps; at += 1 + all.steps / 20) {
    std::memcpy(metadata, before.data(), before.size());
    CutPersist cut(file, at);
    BOOST_REQUIRE((collect_untrusted(file.header, file.bytes, cut, result) == Error::kNone));
    BOOST_TEST((cut.left != expected || at + 2 >= all.steps));
    std::memcpy(metadata, cut.left.data(), cut.left.size());
    BOOST_REQUIRE(
        (collect_untrusted(file.header, file.bytes, process_persist(), result) == Error::kNone));
    BOOST_REQUIRE((metadata_of(file) == expected));
  }
}

}  // namespace
}  // namespace btd
