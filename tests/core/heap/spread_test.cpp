// The order of strict's blocks, and what strict costs.  Invariants checked: spreading loses and
// invents no block, and takes each line in turn; in strict a malloc is one flushed line and one
// drain, and so is a free; in lazy and process neither flushes anything.
#define BOOST_TEST_MODULE spread
#include "core/heap/spread.hpp"

#include <algorithm>
#include <map>
#include <set>

#include "tests/core/support/counting_persist.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::CountingPersist;
using test::Life;

uintptr_t line_of(const CachedBlock& block) {
  return reinterpret_cast<uintptr_t>(block.state) / kCacheLineBytes;
}

// In address order from the top of the stack, as a superblock hands them out.
std::vector<CachedBlock> blocks_at(const std::vector<uint32_t>& states) {
  static uint8_t media[1 << 16] __attribute__((aligned(64)));
  std::vector<CachedBlock> blocks;
  for (uint32_t state : states) blocks.push_back({media + state, media + state});
  std::reverse(blocks.begin(), blocks.end());
  return blocks;
}

BOOST_AUTO_TEST_CASE(full_lines_are_taken_in_turn_from_the_lowest) {
  std::vector<uint32_t> states;
  for (uint32_t i = 0; i < 512; i++) states.push_back(i);
  auto blocks = blocks_at(states);
  spread_states(blocks.data(), 512);
  for (uint32_t i = 0; i < 512; i++) {
    const CachedBlock& taken = blocks[511 - i];
    BOOST_TEST(line_of(taken) - line_of(blocks[511]) == i % 8);
  }
}

BOOST_AUTO_TEST_CASE(any_blocks_are_all_still_there_and_lines_do_not_repeat_while_others_are_left) {
  std::mt19937_64 random(test::seed());
  for (int round = 0; round < 300; round++) {
    std::set<uint32_t> drawn;
    auto count = static_cast<uint32_t>(random() % (kSpreadMax + 1));
    while (drawn.size() < count) drawn.insert(static_cast<uint32_t>(random() % (64 + 8 * count)));
    auto blocks = blocks_at({drawn.begin(), drawn.end()});
    auto expected = blocks;
    spread_states(blocks.data(), count);
    auto by_address = [](const CachedBlock& a, const CachedBlock& b) { return a.block < b.block; };
    auto sorted = blocks;
    std::sort(sorted.begin(), sorted.end(), by_address);
    std::sort(expected.begin(), expected.end(), by_address);
    for (uint32_t i = 0; i < count; i++) BOOST_REQUIRE(sorted[i].block == expected[i].block);
    std::map<uintptr_t, uint32_t> left;
    for (const CachedBlock& block : blocks) left[line_of(block)]++;
    for (uint32_t i = count; i-- > 1;) {
      left[line_of(blocks[i])]--;
      if (line_of(blocks[i]) != line_of(blocks[i - 1])) continue;
      for (auto [line, rest] : left) BOOST_REQUIRE((line == line_of(blocks[i]) || rest == 0));
    }
  }
}

BOOST_AUTO_TEST_CASE(blocks_of_one_line_keep_their_order) {
  auto blocks = blocks_at({3, 5, 9, 60});
  auto before = blocks;
  spread_states(blocks.data(), 4);
  for (int i = 0; i < 4; i++) BOOST_TEST(blocks[i].block == before[i].block);
  spread_states(blocks.data(), 0);
  spread_states(blocks.data(), 1);
}

struct Counted {
  uint64_t lines, drains;
};
std::ostream& operator<<(std::ostream& out, const Counted& counted) {
  return out << counted.lines << " lines, " << counted.drains << " drains";
}
bool operator==(const Counted& a, const Counted& b) {
  return a.lines == b.lines && a.drains == b.drains;
}

struct Levels {
  test::Scratch scratch;
  Life life{scratch.file("a.arena")};
  CountingPersist structures, states;

  void strict() { life.arena().set_persist(structures, structures); }
  void lazy() { life.arena().set_persist(structures, process_persist()); }
  // As preload does it: in strict the fast path finds an empty cache.
  Verdict free(void* pointer) {
    return life.arena().is_strict() ? life.arena().free(life.cache(), pointer) : life.free(pointer);
  }
  Counted taken() {
    Counted now{structures.lines.size(), structures.drains};
    structures.reset();
    return now;
  }
};

BOOST_AUTO_TEST_CASE(strict_malloc_and_free_are_one_line_and_one_drain_each) {
  Levels levels;
  levels.strict();
  for (size_t size_bytes : {1, 16, 48, 64, 100, 1000, 5000, 32768}) {
    void* first = levels.life.allocate(size_bytes);  // fills the bin
    BOOST_REQUIRE(first != nullptr);
    levels.taken();
    char* block = levels.life.allocate(size_bytes);
    BOOST_TEST(levels.taken() == (Counted{1, 1}), size_bytes);
    BOOST_TEST((levels.free(block) == Verdict::kGood));
    BOOST_TEST(levels.taken() == (Counted{1, 1}), size_bytes);
    levels.free(first);
    levels.taken();
  }
}

BOOST_AUTO_TEST_CASE(strict_large_warm_pair_is_one_line_and_one_drain_each) {
  Levels levels;
  levels.strict();
  levels.free(levels.life.allocate(100000));
  levels.taken();
  char* block = levels.life.allocate(100000);
  BOOST_TEST(levels.taken() == (Counted{1, 1}));
  levels.free(block);
  BOOST_TEST(levels.taken() == (Counted{1, 1}));
}

BOOST_AUTO_TEST_CASE(strict_calloc_and_aligned_blocks_cost_the_same) {
  Levels levels;
  levels.strict();
  bool is_zero = false;
  void* first = levels.life.allocate(64, 64, &is_zero);
  levels.taken();
  char* block = levels.life.allocate(64, 64, &is_zero);
  BOOST_TEST(levels.taken() == (Counted{1, 1}));
  levels.free(block);
  levels.free(first);
  BOOST_TEST(levels.taken() == (Counted{2, 2}));
}

// What is flushed is the state's line, and at that moment it holds the new state.
BOOST_AUTO_TEST_CASE(strict_flushes_the_line_of_the_blocks_state) {
  Levels levels;
  levels.strict();
  levels.life.allocate(64);
  levels.structures.reset();
  char* block = levels.life.allocate(64);
  Superblock& superblock = *levels.life.arena().superblock_of(block);
  uint8_t* state = superblock.state(superblock.slot_of(block));
  BOOST_REQUIRE(levels.structures.lines.size() == 1u);
  BOOST_TEST(levels.structures.lines[0] == reinterpret_cast<uintptr_t>(state) / kCacheLineBytes);
}

BOOST_AUTO_TEST_CASE(lazy_and_process_flush_nothing_for_malloc_and_free) {
  for (bool is_lazy : {true, false}) {
    Levels levels;
    if (is_lazy) levels.lazy();
    for (size_t size_bytes : {16, 64, 1000, 32768, 100000})
      levels.free(levels.life.allocate(size_bytes));  // carves, and takes an extent
    levels.taken();
    for (size_t size_bytes : {16, 64, 1000, 32768, 100000})
      levels.free(levels.life.allocate(size_bytes));
    BOOST_TEST(levels.taken() == (Counted{0, 0}), (is_lazy ? "lazy" : "process"));
    BOOST_TEST(levels.states.lines.empty());
  }
}

BOOST_AUTO_TEST_CASE(strict_batch_never_flushes_one_line_twice_running) {
  for (size_t size_bytes : {16, 48, 64, 128, 256, 1024}) {
    Levels levels;
    levels.strict();
    std::vector<char*> blocks(1000);
    for (int round = 0; round < 3; round++) {
      std::vector<uintptr_t> lines;
      for (char*& block : blocks) {
        levels.structures.reset();
        block = levels.life.allocate(size_bytes);
        BOOST_REQUIRE(block != nullptr);
        lines.push_back(levels.structures.lines.back());
      }
      for (char* block : blocks) {
        levels.structures.reset();
        levels.free(block);
        lines.push_back(levels.structures.lines.front());
      }
      uint64_t repeated = 0, near = 0;
      for (size_t i = 1; i < lines.size(); i++) {
        repeated += lines[i] == lines[i - 1];
        for (size_t back = 2; back < 8 && back <= i; back++) near += lines[i] == lines[i - back];
      }
      BOOST_TEST_MESSAGE(size_bytes << " B, round " << round << ": " << repeated << " repeated, "
                                    << near << " within eight");
      BOOST_TEST(repeated <= 1u, size_bytes);  // where mallocs end and frees begin
      BOOST_TEST(near <= 8u, size_bytes);      // where one refill ends and the next begins
    }
  }
}

}  // namespace
}  // namespace btd
