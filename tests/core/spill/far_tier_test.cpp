// An arena with a far zone.  Invariants checked: what does not fit near goes far, blocks of every
// size or only large ones, and comes back as it was; malloc, free and the question for a size bring
// nothing near; memory that was freed is zero again and gone from the nodes; after the owner's
// death the next one finds all, on the machine that ran on and on one that did not; an arena whose
// data is partly elsewhere is not opened without it, and not changed.
#define BOOST_TEST_MODULE far_tier
#include "core/spill/far_tier.hpp"

#include <fcntl.h>

#include "tests/core/support/fake_node.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

constexpr uint64_t kCapacity = 64 * kMiB;
constexpr uint64_t kNear = 8 * kMiB;
constexpr size_t kBlock = 256 * kKiB;
constexpr size_t kBlocks = 96;  // 24 MiB

class FakeSource final : public NodeSource {
 public:
  explicit FakeSource(std::vector<std::unique_ptr<test::FakeStore>>& stores) {
    for (auto& set : pointers_) {
      for (auto& store : stores) {
        nodes_.push_back(std::make_unique<test::FakeNode>(*store));
        set.push_back(nodes_.back().get());
      }
    }
  }
  bool open(const uint8_t (&)[16], uint64_t epoch, Line&) noexcept override {
    epochs.push_back(epoch);
    return true;
  }
  uint32_t count() const noexcept override { return static_cast<uint32_t>(pointers_[0].size()); }
  Node* const* set(uint32_t index) const noexcept override { return pointers_[index].data(); }
  void forget() noexcept override { has_forgotten = true; }

  std::vector<uint64_t> epochs;
  bool has_forgotten = false;

 private:
  std::vector<std::unique_ptr<test::FakeNode>> nodes_;
  std::vector<Node*> pointers_[kNodeSets];
};

// A far tier over fresh connections to the stores.
struct Tier {
  explicit Tier(std::vector<std::unique_ptr<test::FakeStore>>& stores, bool small_too = true)
      : source(stores) {
    tier->configure(source, {kNear, 2, small_too});
  }
  FakeSource source;
  std::unique_ptr<FarTier> tier = std::make_unique<FarTier>();
};

struct Fixture {
  Fixture() {
    test::limit_time(50);
    for (int i = 0; i < 2; i++) stores.push_back(std::make_unique<test::FakeStore>());
  }
  ~Fixture() { log_level = LogLevel::kError; }

  static bool is_far(Arena& arena, const void* block) {
    return static_cast<const char*>(block) >= arena.far_address() &&
           static_cast<const char*>(block) < arena.far_address() + arena.far_bytes();
  }
  static void give_up(Life& life, FarTier& tier) {
    tier.close();
    life.arena().mapping().close();
  }

  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
  std::vector<std::unique_ptr<test::FakeStore>> stores;
};

BOOST_FIXTURE_TEST_CASE(what_does_not_fit_near_goes_far_and_comes_back, Fixture) {
  Tier far(stores);
  Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
  BOOST_REQUIRE_MESSAGE(life.is_open(), life.why());
  std::vector<char*> blocks;
  uint64_t far_count = 0;
  for (size_t i = 0; i < kBlocks; i++) {
    blocks.push_back(life.allocate(kBlock));
    BOOST_REQUIRE(blocks.back() != nullptr);
    far_count += is_far(life.arena(), blocks.back());
    test::fill(blocks.back(), kBlock, i);
  }
  BOOST_TEST(far_count > kBlocks / 2);
  BOOST_TEST(life.arena().usage().far_bytes == far_count * kBlock);
  BOOST_TEST(stores[0]->writes > 0u);
  BOOST_TEST(far.tier->window().near_bytes() <= kNear / 2);
  for (size_t i = 0; i < kBlocks; i++) BOOST_TEST(test::is_filled(blocks[i], kBlock, i));
  // Books are kept near.
  uint64_t reads = stores[0]->reads + stores[1]->reads;
  uint64_t faults = far.tier->window().stats().faults;
  for (size_t i = 0; i < kBlocks; i++) BOOST_TEST(life.arena().usable_size(blocks[i]) == kBlock);
  for (char* block : blocks) BOOST_TEST((life.free(block) == Verdict::kGood));
  BOOST_TEST(far.tier->window().stats().faults == faults);
  BOOST_TEST(stores[0]->reads + stores[1]->reads == reads);
  BOOST_TEST((life.free(blocks.back()) == Verdict::kNotLive));
}

BOOST_FIXTURE_TEST_CASE(small_blocks_go_far_too_unless_told_otherwise, Fixture) {
  for (bool small_too : {true, false}) {
    Tier far(stores, small_too);
    std::string file = scratch.file(small_too ? "all" : "large");
    Life life(file, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
    BOOST_REQUIRE(life.is_open());
    std::vector<char*> blocks;
    bool is_full = false;
    for (size_t i = 0; i < 12000 && !is_full; i++) {  // 12 MiB
      char* block = life.allocate(1024);
      is_full = block == nullptr;
      if (is_full) break;
      blocks.push_back(block);
      test::fill(block, 1024, i);
    }
    BOOST_TEST(is_full == !small_too);
    BOOST_TEST((life.arena().usage().far_bytes > 0) == small_too);
    for (size_t i = 0; i < blocks.size(); i++) BOOST_TEST(test::is_filled(blocks[i], 1024, i));
    for (char* block : blocks) BOOST_TEST((life.free(block) == Verdict::kGood));
    BOOST_TEST(life.allocate(kBlock) != nullptr);
  }
}

BOOST_FIXTURE_TEST_CASE(freed_memory_is_zero_again_and_leaves_the_nodes, Fixture) {
  Tier far(stores);
  Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
  BOOST_REQUIRE(life.is_open());
  std::vector<char*> near;
  while (near.empty() || !is_far(life.arena(), near.back())) near.push_back(life.allocate(kBlock));
  std::vector<char*> blocks;
  for (size_t i = 0; i < 40; i++) {
    blocks.push_back(life.allocate(5 * kMiB / 4));  // too large to be kept warm all at once
    std::memset(blocks.back(), 7, 5 * kMiB / 4);
  }
  BOOST_TEST(stores[0]->size() > 0u);
  for (char* block : blocks) life.free(block);
  life.cache().flush_all();
  bool is_zero = false;
  char* again = life.allocate(5 * kMiB / 4, 16, &is_zero);
  BOOST_TEST(is_far(life.arena(), again));
  BOOST_TEST(is_zero);
  BOOST_TEST(test::is_all_zero(again, 5 * kMiB / 4));
  std::memset(again, 9, 5 * kMiB / 4);
  life.free(again);
  life.cache().flush_all();
  // In the background.
  while (stores[0]->size() + stores[1]->size() > 2 * kBlock / kFarExtentBytes) sched_yield();
}

BOOST_FIXTURE_TEST_CASE(the_next_owner_finds_all, Fixture) {
  std::vector<char*> blocks;
  for (int round = 0; round < 3; round++) {
    BOOST_TEST_CONTEXT("round " << round) {
      Tier far(stores);
      Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
      BOOST_REQUIRE_MESSAGE(life.is_open(), life.why());
      BOOST_REQUIRE(far.source.epochs.size() == 1);
      BOOST_TEST(far.source.epochs[0] >> 40 == life.arena().header().epoch);
      for (size_t i = 0; i < blocks.size(); i++) BOOST_TEST(test::is_filled(blocks[i], kBlock, i));
      for (size_t i = 0; i < kBlocks / 4; i++) {
        size_t mark = blocks.size();
        blocks.push_back(life.allocate(kBlock));
        test::fill(blocks.back(), kBlock, mark);
      }
      give_up(life, *far.tier);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(an_arena_is_not_opened_without_its_far_part, Fixture) {
  log_level = LogLevel::kOff;
  std::string far_file;
  {
    Tier far(stores);
    Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
    for (size_t i = 0; i < kBlocks; i++) test::fill(life.allocate(kBlock), kBlock, i);
    far_file = far.tier->path();
    give_up(life, *far.tier);
  }
  auto refused = [&](FarTier* tier, Durability durability, const char* word) {
    Life life(path, kCapacity, OnRestart::kSalvage, durability, tier);
    BOOST_TEST(!life.is_open());
    BOOST_TEST(life.why().find(word) != std::string::npos, life.why());
  };
  refused(nullptr, Durability::kProcess, "BARTENDER_NODES");
  {
    Tier far(stores);
    refused(far.tier.get(), Durability::kStrict, "DURABILITY=process");
  }
  std::string aside = scratch.file("aside");
  std::filesystem::rename(far_file, aside);
  {
    Tier far(stores);
    refused(far.tier.get(), Durability::kProcess, "put it back");
  }
  std::filesystem::rename(aside, far_file);
  // All of that changed nothing.
  Tier far(stores);
  Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
  BOOST_REQUIRE_MESSAGE(life.is_open(), life.why());
  BOOST_TEST(life.arena().usage().live_blocks == kBlocks);
}

BOOST_FIXTURE_TEST_CASE(after_the_machine_died_the_nodes_must_tell, Fixture) {
  log_level = LogLevel::kOff;
  std::vector<char*> blocks;
  {
    Tier far(stores);
    Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
    for (size_t i = 0; i < kBlocks; i++) {
      blocks.push_back(life.allocate(kBlock));
      test::fill(blocks.back(), kBlock, i);
    }
    give_up(life, *far.tier);
    // What a tmpfs loses; and another boot id in both copies of the header.
    std::filesystem::remove(far.tier->path());
  }
  int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  ArenaHeader header;
  BOOST_REQUIRE(::pread(fd, &header, sizeof(header), 0) == sizeof(header));
  header.boot_id[3] ^= 0x55;
  header.checksum = checksum_of(header);
  for (off_t copy = 0; copy < 2; copy++)
    BOOST_REQUIRE(::pwrite(fd, &header, sizeof(header), copy * 4096) == sizeof(header));
  ::close(fd);

  stores[0]->is_dead = stores[1]->is_dead = true;
  {
    Tier far(stores);
    Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
    BOOST_TEST(!life.is_open());
    BOOST_TEST(life.why().find("away") != std::string::npos, life.why());
  }
  stores[1]->is_dead = false;  // one of two replicas is enough
  Tier far(stores);
  Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
  BOOST_REQUIRE_MESSAGE(life.is_open(), life.why());
  // What was far is there; what was in the window's file is as zero as a tmpfs after a restart.
  uint64_t whole = 0;
  for (size_t i = 0; i < kBlocks; i++) whole += test::is_filled(blocks[i], kBlock, i);
  BOOST_TEST(whole >= kBlocks - kNear / 2 / kBlock - 2);
}

BOOST_FIXTURE_TEST_CASE(without_nodes_that_answer_all_stays_near, Fixture) {
  stores[0]->is_dead = stores[1]->is_dead = true;
  Tier far(stores);
  Life life(path, kCapacity, OnRestart::kSalvage, Durability::kProcess, far.tier.get());
  BOOST_REQUIRE_MESSAGE(life.is_open(), life.why());
  std::vector<char*> blocks;
  for (size_t i = 0; i < kBlocks; i++) {
    blocks.push_back(life.allocate(kBlock));
    test::fill(blocks.back(), kBlock, i);
  }
  for (size_t i = 0; i < kBlocks; i++) BOOST_TEST(test::is_filled(blocks[i], kBlock, i));
}

}  // namespace
}  // namespace btd
