// A memory node's store, cut at every drain.  Invariants checked, whatever part of the undrained
// lines reached media: every acknowledged generation is there with its bytes; what was not
// acknowledged is there whole or not at all; a release that was acknowledged stays one, and an
// older generation never comes back; epochs never fall; of an arena that is forgotten either all is
// there or nothing, and nothing once that was promised.
#define BOOST_TEST_MODULE store
#include "tools/node/store.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <set>

#include "core/base/crc32c.hpp"
#include "tools/failure.hpp"

namespace btd::tools {
namespace {

struct PowerCut {};

// Memory and what of it is durable.  At the cut, of each line that was stored to since its last
// drain some 8-byte words reach media and others do not, flushed or not.
class CutMedia final : public Media {
 public:
  explicit CutMedia(uint64_t slot_count)
      : memory_(store_bytes_of(slot_count) / 8 + 8), durable_(memory_.size()) {}
  char* base() override { return reinterpret_cast<char*>(memory_.data()); }
  uint64_t size_bytes() const override { return memory_.size() * 8 - 64; }
  void flush(const void* address, size_t size_bytes) override {
    uint64_t begin = static_cast<uint64_t>(static_cast<const char*>(address) - base()) / 64;
    uint64_t end =
        (static_cast<uint64_t>(static_cast<const char*>(address) - base()) + size_bytes + 63) / 64;
    for (uint64_t line = begin; line < end; line++) flushed_.insert(line);
  }
  void drain() override {
    if (drains_left_ == 0) throw PowerCut{};
    drains_left_--;
    for (uint64_t line : flushed_) {
      for (uint64_t word = line * 8; word < line * 8 + 8; word++) durable_[word] = memory_[word];
    }
    flushed_.clear();
  }
  void cut_after(uint64_t drains) { drains_left_ = drains; }
  // A missing flush would go unnoticed if everything survived by chance; mode 0: nothing undrained
  // survives, 1: all does.
  void restart(std::mt19937_64& random) {
    uint64_t mode = random() % 4;
    for (size_t word = 0; word < memory_.size(); word++) {
      if (memory_[word] == durable_[word]) continue;
      bool is_there = mode == 1 || (mode > 1 && random() % 2 == 0);
      (is_there ? durable_[word] : memory_[word]) = is_there ? memory_[word] : durable_[word];
    }
    flushed_.clear();
    drains_left_ = UINT64_MAX;
  }

 private:
  std::vector<uint64_t> memory_, durable_;
  std::set<uint64_t> flushed_;
  uint64_t drains_left_ = UINT64_MAX;
};

const Uuid kArena{1}, kClient{2};

uint32_t fill(char* bytes, uint64_t extent, uint64_t generation) {
  std::mt19937 random(static_cast<uint32_t>(extent * 7919 + generation));
  uint32_t length = random() % 300 + 1;
  for (uint32_t i = 0; i < length; i++) bytes[i] = static_cast<char>(random());
  return length;
}

Change write_of(Store& store, NodeArena& arena, uint64_t extent, uint64_t generation,
                uint64_t epoch) {
  SlotIndex slot = kNoSlot;
  uint64_t newest = 0;
  NodeStatus status = store.lease(arena, extent, generation, slot, newest);
  BOOST_REQUIRE((status == NodeStatus::kGood));
  uint32_t length = fill(store.bytes(slot), extent, generation);
  return {.arena = &arena,
          .extent = extent,
          .generation = generation,
          .epoch = epoch,
          .length_bytes = length,
          .crc = crc32c(store.bytes(slot), length),
          .slot = slot};
}

Change release_of(NodeArena& arena, uint64_t extent) {
  return {.arena = &arena,
          .extent = extent,
          .generation = 0,
          .epoch = 0,
          .length_bytes = 0,
          .crc = 0,
          .slot = kNoSlot};
}

// extent -> the generations that may be there; 0: it may be gone.
using Model = std::map<uint64_t, std::set<uint64_t>>;

void check(Store& store, NodeArena& arena, Model& model) {
  for (auto& [extent, possible] : model) {
    SlotIndex slot = kNoSlot;
    const SlotHeader* header = store.find(arena, extent, slot);
    uint64_t found = header == nullptr ? 0 : header->generation;
    BOOST_REQUIRE_MESSAGE(possible.contains(found),
                          "extent " << extent << " has generation " << found);
    if (header != nullptr) {
      char expected[512];
      uint32_t length = fill(expected, extent, found);
      BOOST_REQUIRE(length == header->length_bytes);
      BOOST_REQUIRE(std::memcmp(expected, store.bytes(slot), length) == 0);
      BOOST_REQUIRE(header->data_crc == crc32c(expected, length));
    }
    possible = {found};
  }
  for (auto [extent, slot] : arena.extents) BOOST_REQUIRE(model.contains(extent));
}

BOOST_AUTO_TEST_CASE(power_cut_at_any_drain_loses_nothing_that_was_acknowledged) {
  uint64_t seed = std::getenv("BTD_SEED") != nullptr
                      ? std::strtoull(std::getenv("BTD_SEED"), nullptr, 10)
                      : std::random_device{}();
  std::printf("seed: %llu\n", static_cast<unsigned long long>(seed));
  uint64_t cuts = 0, acknowledged = 0;
  for (uint64_t history = 0; history < 500; history++) {
    std::mt19937_64 random(seed + history);
    CutMedia media(12);
    Model model;
    uint64_t generation = 0, epoch = 0;
    for (int life = 0; life < 12; life++) {
      std::vector<Change> changes;
      try {
        bool is_cut_in_scan = random() % 4 == 0;
        if (is_cut_in_scan) media.cut_after(random() % 3);
        Store store(media, 12, UINT64_MAX);
        NodeArena* arena = nullptr;
        // The epoch before was accepted; a cut while the next one was raised may have left either.
        if (epoch > 0) {
          BOOST_REQUIRE((store.may_take_over(kArena, Uuid{9}, epoch) == NodeStatus::kFenced));
          BOOST_REQUIRE((store.may_take_over(kArena, kClient, epoch - 1) == NodeStatus::kFenced));
        }
        uint64_t next_epoch = epoch + 1;
        BOOST_REQUIRE((store.take_over(kArena, kClient, next_epoch, arena) == NodeStatus::kGood));
        epoch = next_epoch;
        check(store, *arena, model);
        media.cut_after(random() % 12);
        while (true) {
          changes.clear();
          std::set<uint64_t> named;
          for (uint64_t i = random() % 4 + 1; i > 0; i--) {
            uint64_t extent = random() % 6;
            if (!named.insert(extent).second) continue;
            if (random() % 4 == 0) {
              changes.push_back(release_of(*arena, extent));
              model[extent].insert(0);
              continue;
            }
            generation++;
            changes.push_back(write_of(store, *arena, extent, generation, epoch));
            if (model[extent].empty()) model[extent].insert(0);
            model[extent].insert(generation);
          }
          store.commit(changes);
          for (const Change& change : changes) {
            acknowledged++;
            bool is_release = change.generation == 0;
            BOOST_REQUIRE((change.status == NodeStatus::kGood ||
                           (is_release && change.status == NodeStatus::kNotFound)));
            model[change.extent] = {change.generation};
          }
        }
      } catch (const PowerCut&) {
        cuts++;
        media.restart(random);
      }
    }
  }
  std::printf("cuts: %llu, acknowledged: %llu\n", static_cast<unsigned long long>(cuts),
              static_cast<unsigned long long>(acknowledged));
  BOOST_TEST(cuts > 5000u);
}

// An arena of 8 extents beside one of 3 that stays; the cut comes at each drain of forgetting, 50
// times with other words surviving.
BOOST_AUTO_TEST_CASE(power_cut_while_forgetting_leaves_all_or_nothing) {
  const Uuid other{7};
  uint64_t all = 0, nothing = 0;
  for (uint64_t drains = 0; drains < 9; drains++) {
    for (uint64_t seed = 0; seed < 50; seed++) {
      std::mt19937_64 random(seed);
      CutMedia media(14);
      bool is_promised = false, is_done = false;
      try {
        Store store(media, 14, UINT64_MAX);
        NodeArena *arena = nullptr, *beside = nullptr;
        BOOST_REQUIRE((store.take_over(kArena, kClient, 5, arena) == NodeStatus::kGood));
        BOOST_REQUIRE((store.take_over(other, kClient, 1, beside) == NodeStatus::kGood));
        std::vector<Change> changes;
        for (uint64_t extent = 0; extent < 8; extent++)
          changes.push_back(write_of(store, *arena, extent, 1, 5));
        for (uint64_t extent = 0; extent < 3; extent++)
          changes.push_back(write_of(store, *beside, extent, 1, 1));
        store.commit(changes);
        store.set_state(*arena, wire::ArenaState::kMarked);
        media.cut_after(drains);
        store.set_state(*arena, wire::ArenaState::kGoing);
        is_promised = true;
        while (!store.forget(*arena, 3)) {
        }
        is_done = true;
        throw PowerCut{};
      } catch (const PowerCut&) {
        media.restart(random);
      }
      Store store(media, 14, UINT64_MAX);
      NodeArena* arena = store.find_arena(kArena);
      if (arena != nullptr) {
        BOOST_REQUIRE(!is_promised);
        BOOST_REQUIRE((arena->state == wire::ArenaState::kMarked));
        Model model;
        for (uint64_t extent = 0; extent < 8; extent++) model[extent] = {1};
        check(store, *arena, model);
        all++;
      } else {
        BOOST_REQUIRE(store.free_count() == 11u);
        // A lower epoch than before: nothing of it is remembered.
        BOOST_REQUIRE((store.take_over(kArena, kClient, 1, arena) == NodeStatus::kGood));
        BOOST_REQUIRE(arena->extents.empty());
        nothing++;
      }
      BOOST_REQUIRE((is_done || store.damaged_headers() <= 3));
      Model model{{0, {1}}, {1, {1}}, {2, {1}}};
      NodeArena* beside = store.find_arena(other);
      BOOST_REQUIRE(beside != nullptr);
      check(store, *beside, model);
    }
  }
  std::printf("all: %llu, nothing: %llu\n", static_cast<unsigned long long>(all),
              static_cast<unsigned long long>(nothing));
  BOOST_TEST(all > 20u);
  BOOST_TEST(nothing > 300u);
}

BOOST_AUTO_TEST_CASE(forgotten_arenas_make_room_for_others) {
  CutMedia media(4);
  Store store(media, 4, UINT64_MAX);
  auto name = [](uint32_t i) {
    Uuid uuid{};
    std::memcpy(uuid.data(), &i, sizeof(i));
    uuid[15] = 1;
    return uuid;
  };
  NodeArena* arena = nullptr;
  for (uint32_t i = 0; i < kArenaCountMax; i++)
    BOOST_REQUIRE((store.take_over(name(i), kClient, 1, arena) == NodeStatus::kGood));
  BOOST_TEST((store.take_over(name(5000), kClient, 1, arena) == NodeStatus::kNoSpace));
  for (uint32_t i = 300; i < 310; i++) {
    NodeArena* gone = store.find_arena(name(i));
    store.set_state(*gone, wire::ArenaState::kGoing);
    BOOST_TEST(store.forget(*gone, 1));
  }
  for (uint32_t i = 0; i < 10; i++)
    BOOST_TEST((store.take_over(name(6000 + i), kClient, 1, arena) == NodeStatus::kGood));
  BOOST_TEST((store.take_over(name(5000), kClient, 1, arena) == NodeStatus::kNoSpace));
  Store again(media, 4, UINT64_MAX);
  BOOST_TEST(again.arenas().size() == kArenaCountMax);
  BOOST_TEST(again.find_arena(name(305)) == nullptr);
  BOOST_TEST(again.find_arena(name(6009)) != nullptr);
  BOOST_TEST(again.find_arena(name(1023)) != nullptr);
}

BOOST_AUTO_TEST_CASE(each_flipped_byte_of_the_headers_is_refused_or_costs_one_extent) {
  CutMedia media(12);
  {
    Store store(media, 12, UINT64_MAX);
    NodeArena* arena = nullptr;
    BOOST_REQUIRE((store.take_over(kArena, kClient, 5, arena) == NodeStatus::kGood));
    std::vector<Change> changes;
    for (uint64_t extent = 0; extent < 8; extent++)
      changes.push_back(write_of(store, *arena, extent, 1, 5));
    store.commit(changes);
  }
  std::vector<char> sound(media.base(), media.base() + store_bytes_of(12));
  auto restore = [&] { std::memcpy(media.base(), sound.data(), sound.size()); };
  for (uint64_t at = 0; at < sizeof(StoreHeader); at++) {
    media.base()[at] ^= 0x10;
    BOOST_CHECK_THROW(Store(media, 12, UINT64_MAX), Failure);
    restore();
  }
  for (uint64_t at = 0; at < 12 * sizeof(SlotHeader); at++) {
    char& byte = media.base()[kSlotTableOffset + at];
    byte ^= 0x10;
    Store store(media, 12, UINT64_MAX);
    BOOST_REQUIRE(store.arenas().size() == 1);
    size_t left = store.arenas()[0]->extents.size();
    bool is_magic_of_free_slot = left == 8;  // then the header was free, and is again
    BOOST_REQUIRE((left == 7 || is_magic_of_free_slot));
    BOOST_REQUIRE(left + store.free_count() == 12);
    restore();
  }
  // With both entries gone, the extents' own epochs still fence.
  std::memset(media.base() + kArenaTableOffset, 0x55, 128);
  Store store(media, 12, UINT64_MAX);
  BOOST_TEST((store.may_take_over(kArena, kClient, 4) == NodeStatus::kFenced));
  NodeArena* arena = nullptr;
  BOOST_TEST((store.take_over(kArena, kClient, 5, arena) == NodeStatus::kGood));
  BOOST_TEST(arena->extents.size() == 8u);
}

BOOST_AUTO_TEST_CASE(what_a_cut_left_of_a_header_is_cleared_before_its_slot_is_used) {
  CutMedia media(4);
  {
    Store store(media, 4, UINT64_MAX);
    NodeArena* arena = nullptr;
    BOOST_REQUIRE((store.take_over(kArena, kClient, 1, arena) == NodeStatus::kGood));
    std::vector<Change> changes{write_of(store, *arena, 1, 1, 1)};
    store.commit(changes);
  }
  auto* headers = reinterpret_cast<SlotHeader*>(media.base() + kSlotTableOffset);
  for (int i = 0; i < 4; i++) headers[i].magic = 0;  // the word that did not reach media
  Store store(media, 4, UINT64_MAX);
  BOOST_TEST(store.free_count() == 4u);
  BOOST_TEST(store.damaged_headers() == 0u);
  const SlotHeader none{};
  for (int i = 0; i < 4; i++) {
    BOOST_TEST(std::memcmp(&headers[i], &none, sizeof(none)) == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_pinned_slot_keeps_its_bytes_until_it_is_sent) {
  CutMedia media(4);
  Store store(media, 4, UINT64_MAX);
  NodeArena* arena = nullptr;
  BOOST_REQUIRE((store.take_over(kArena, kClient, 1, arena) == NodeStatus::kGood));
  std::vector<Change> changes{write_of(store, *arena, 1, 1, 1)};
  store.commit(changes);
  SlotIndex slot = kNoSlot;
  uint32_t length = store.find(*arena, 1, slot)->length_bytes;
  store.pin(slot);
  std::vector<char> before(store.bytes(slot), store.bytes(slot) + length);
  for (uint64_t generation = 2; generation < 20; generation++) {
    changes = {write_of(store, *arena, 1, generation, 1)};
    store.commit(changes);
    BOOST_REQUIRE(std::memcmp(store.bytes(slot), before.data(), length) == 0);
  }
  store.unpin(slot);
}

}  // namespace
}  // namespace btd::tools
