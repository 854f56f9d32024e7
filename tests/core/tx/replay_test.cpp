// Replay.  Invariants checked:
//   1. Cut after any number of records, a log without a commit is undone; with one it is completed.
//   2. Replay may be cut and run again: the same arena.
//   3. A log that names what no transaction changes is refused, and nothing is written.
#define BOOST_TEST_MODULE replay
#include "core/tx/replay.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

#include "core/tx/log.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() {
    limit_time(55);
    transactions.open(life.arena());
  }
  Scratch scratch;
  Life life{scratch.file("arena")};
  Transactions transactions;
};

// A transaction whose stores are all made, and whose end is not there: all of its log is.
BOOST_FIXTURE_TEST_CASE(committed_log_is_completed_also_twice, Fixture) {
  char* block = life.allocate(64);
  char* old = life.allocate(64);
  fill(block, 64, 1);
  auto* lane = reinterpret_cast<LaneHeader*>(life.arena().lane(0));
  BOOST_TEST(life.arena().grow_lanes(1));
  uint64_t before = lane->finished;
  Transaction* tx = transactions.begin();
  Error error;
  void* fresh = tx->allocate(life.cache(), 64, 16, nullptr, &error);
  BOOST_TEST(tx->write(block, "new bytes", 9) == Error::kNone);
  BOOST_TEST(tx->free(old) == Error::kNone);
  BOOST_TEST(tx->commit(life.cache()) == Error::kNone);
  Replayed replayed;
  BOOST_TEST(replay_lanes(life.arena(), replayed) == Error::kNone);
  BOOST_TEST(replayed.committed == 0u);
  for (int round = 0; round < 2; round++) {
    lane->finished = before;
    std::memcpy(block, "something", 9);
    Reservation state{};
    BOOST_TEST(life.arena().prepare_free(fresh, state) == Verdict::kGood);
    *static_cast<uint8_t*>(state.state) = 0;
    BOOST_TEST(replay_lanes(life.arena(), replayed) == Error::kNone);
    BOOST_TEST(replayed.committed == 1u);
    BOOST_TEST(std::memcmp(block, "new bytes", 9) == 0);
    BOOST_TEST(life.arena().look_up(fresh) == Verdict::kGood);
    BOOST_TEST(life.arena().look_up(old) == Verdict::kNotLive);
    BOOST_TEST(lane->finished == finished_word(1, kLogFirstLine));
  }
}

BOOST_FIXTURE_TEST_CASE(log_cut_anywhere_is_undone, Fixture) {
  constexpr uint32_t kRanges = 40;
  char* block = life.allocate(4096);
  for (uint32_t cut = 0; cut <= kRanges; cut++) {
    fill(block, 4096, cut);
    Transaction* tx = transactions.begin();
    for (uint32_t i = 0; i < kRanges; i++) {
      BOOST_REQUIRE(tx->add(block + 64 * i, 64) == Error::kNone);
      if (i < cut) std::memset(block + 64 * i, 0xEE, 64);
    }
    // Records from `cut` on are torn.
    LogReader reader(life.arena().header(), life.arena().mapping().address(), 0);
    uint64_t last = 0;
    for (uint32_t i = 0; i <= cut && i < kRanges; i++) {
      BOOST_REQUIRE(reader.next() != nullptr);
      last = reader.last();
    }
    char* torn = life.arena().mapping().address(last) + 12;
    if (cut < kRanges) *torn ^= 1;
    Replayed replayed;
    BOOST_TEST(replay_lanes(life.arena(), replayed) == Error::kNone);
    BOOST_TEST(replayed.aborted == (cut == 0 ? 0u : 1u));
    BOOST_TEST(is_filled(block, 4096, cut));
    if (cut < kRanges) *torn ^= 1;
    tx->abort(life.cache());
  }
}

BOOST_FIXTURE_TEST_CASE(log_that_names_something_else_is_refused, Fixture) {
  char* block = life.allocate(4096);
  Transaction* tx = transactions.begin();
  BOOST_TEST(tx->add(block, 64) == Error::kNone);
  std::memset(block, 0xEE, 64);
  auto* record = reinterpret_cast<LogRecord*>(life.arena().lane(0) + kCacheLineBytes);
  for (uint64_t target : {uint64_t{0}, life.arena().header().frame_header_offset,
                          life.arena().header().file_bytes, ~uint64_t{0}}) {
    record->target = target;
    record->checksum = checksum_of(*record, record + 1, first_chain(1));
    std::string before = read_all(scratch.file("arena")).substr(0, 64 * kKiB);
    Replayed replayed;
    BOOST_TEST(replay_lanes(life.arena(), replayed) == Error::kCorrupt);
    BOOST_TEST((read_all(scratch.file("arena")).substr(0, 64 * kKiB) == before));
    BOOST_TEST(static_cast<uint8_t>(block[0]) == 0xEE);
  }
}

// A state is one of the grown part of its own zone: what lies behind it may be a hole, the states
// of the other zone, or data.
BOOST_FIXTURE_TEST_CASE(states_outside_of_the_grown_part_are_refused, Fixture) {
  life.allocate(24);  // the fine zone is grown as well
  Transaction* tx = transactions.begin();
  Error error;
  BOOST_REQUIRE(tx->allocate(life.cache(), 64, 16, nullptr, &error) != nullptr);
  const ArenaHeader& header = life.arena().header();
  BOOST_REQUIRE(header.fine_frames_grown > 0u);
  uint64_t coarse_end = header.coarse_state_offset + header.coarse_frames_grown * 256u;
  uint64_t fine_end = header.fine_state_offset + header.fine_frames_grown * 1024u;
  uint64_t fine_heads = header.frame_header_offset + header.coarse_frame_count * 64u;
  auto state_of = [](uint64_t head) { return head + offsetof(FrameHeader, state); };
  struct {
    uint64_t target;
    uint16_t state_bytes;
    bool is_good;
  } cases[] = {
      {header.coarse_state_offset, 1, true},
      {header.coarse_state_offset - 1, 1, false},
      {coarse_end - 1, 1, true},
      {coarse_end, 1, false},
      {header.fine_state_offset - 1, 1, false},
      {fine_end - 1, 1, true},
      {fine_end, 1, false},
      {header.coarse_state_offset, 2, false},
      {header.data_offset, 1, false},
      {state_of(header.frame_header_offset + (header.coarse_frames_grown - 1) * 64u), 2, true},
      {state_of(header.frame_header_offset + header.coarse_frames_grown * 64u), 2, false},
      {state_of(header.frame_header_offset) + 2, 2, false},
      {state_of(header.frame_header_offset), 1, false},
      {state_of(fine_heads + (header.fine_frames_grown - 1) * 64u), 2, true},
      {state_of(fine_heads + header.fine_frames_grown * 64u), 2, false},
      {~uint64_t{0}, 1, false},
  };
  auto* record = reinterpret_cast<LogRecord*>(life.arena().lane(0) + kCacheLineBytes);
  auto* payload = reinterpret_cast<AllocPayload*>(record + 1);
  auto* finished = &reinterpret_cast<LaneHeader*>(life.arena().lane(0))->finished;
  for (const auto& one : cases) {
    BOOST_TEST_CONTEXT("target " << one.target << ", bytes " << one.state_bytes) {
      *finished = 0;
      record->target = one.target;
      payload->state_bytes = one.state_bytes;
      record->checksum = checksum_of(*record, payload, first_chain(1));
      Replayed replayed;
      Error expected = one.is_good ? Error::kNone : Error::kCorrupt;
      BOOST_TEST((replay_lanes(life.arena(), replayed) == expected));
      BOOST_TEST(replayed.aborted == (one.is_good ? 1u : 0u));
    }
  }
}

}  // namespace
}  // namespace btd::test
