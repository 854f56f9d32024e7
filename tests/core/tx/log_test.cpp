// The log as a reader sees it.  Invariants checked:
//   1. Records are read back in order, over line breaks and links.
//   2. Any damaged byte of a record ends the log before that record.
//   3. Records of an earlier transaction are not read.
//   4. A link that leads nowhere ends the log.
#define BOOST_TEST_MODULE log
#include "core/tx/log.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

#include "core/tx/transaction.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() {
    limit_time(55);
    transactions.open(life.arena());
  }
  uint32_t records() {
    LogReader reader(life.arena().header(), life.arena().mapping().address(), 0);
    uint32_t count = 0;
    while (reader.next() != nullptr) count++;
    return count;
  }

  Scratch scratch;
  Life life{scratch.file("arena")};
  Transactions transactions;
};

BOOST_AUTO_TEST_CASE(finished_word_holds_sequence_and_line) {
  for (uint64_t line : {1, 5, 191}) {
    BOOST_TEST(sequence_of(finished_word(77, line)) == 77u);
    BOOST_TEST(line_of(finished_word(77, line)) == line);
  }
  BOOST_TEST(line_of(finished_word(77, 192)) == kLogFirstLine);
  BOOST_TEST(line_of(0) == kLogFirstLine);
  BOOST_TEST(line_of(0xFF) == kLogFirstLine);
}

BOOST_FIXTURE_TEST_CASE(records_are_read_in_order, Fixture) {
  char* block = life.allocate(100000);
  Transaction* tx = transactions.begin();
  for (uint32_t i = 0; i < 2000; i++)
    BOOST_REQUIRE(tx->write(block + 8 * i, &i, sizeof(i)) == Error::kNone);
  LogReader reader(life.arena().header(), life.arena().mapping().address(), 0);
  for (uint32_t i = 0; i < 2000; i++) {
    const LogRecord* record = reader.next();
    BOOST_REQUIRE(record != nullptr);
    uint32_t value;
    std::memcpy(&value, payload_of(record), sizeof(value));
    BOOST_REQUIRE(value == i);
    BOOST_REQUIRE(record->target == life.arena().offset_of(block + 8 * i));
  }
  BOOST_TEST(reader.next() == nullptr);
  tx->abort(life.cache());
  BOOST_TEST(records() == 0u);
}

BOOST_FIXTURE_TEST_CASE(any_damaged_byte_ends_the_log_there, Fixture) {
  char* block = life.allocate(100000);
  Transaction* tx = transactions.begin();
  for (int i = 0; i < 5; i++) BOOST_REQUIRE(tx->write(block, "0123456789abc", 13) == Error::kNone);
  char* first = life.arena().lane(0) + kLogFirstLine * kCacheLineBytes;
  size_t bytes = record_bytes(13);
  for (size_t at = 0; at < 5 * bytes; at++) {
    bool is_padding = at % bytes >= sizeof(LogRecord) + 13;
    first[at] ^= 0x10;
    BOOST_REQUIRE(records() == (is_padding ? 5 : at / bytes));
    first[at] ^= 0x10;
  }
  BOOST_TEST(records() == 5u);
  tx->abort(life.cache());
}

BOOST_FIXTURE_TEST_CASE(link_that_leads_nowhere_ends_the_log, Fixture) {
  char* block = life.allocate(100000);
  Transaction* tx = transactions.begin();
  for (uint32_t i = 0; i < 1000; i++)
    BOOST_REQUIRE(tx->write(block + 8 * i, &i, sizeof(i)) == Error::kNone);
  BOOST_TEST(records() == 1000u);
  // The extent that it leads to gets a live block, or another kind.
  LogReader reader(life.arena().header(), life.arena().mapping().address(), 0);
  uint64_t before = 0;
  uint32_t count = 0;
  for (; reader.next() != nullptr; count++) {
    if (before != 0 && reader.last() - before > kLaneBytes) break;
    before = reader.last();
  }
  uint64_t frame = (reader.last() - life.arena().header().data_offset) / kFrameBytes;
  auto* head = reinterpret_cast<FrameHeader*>(
                   life.arena().mapping().address(life.arena().header().frame_header_offset)) +
               frame;
  head->state = large_state(1);
  BOOST_TEST(records() == count);
  head->state = 0;
  head->descriptor.frame_count++;  // its check does not fit any more
  BOOST_TEST(records() == count);
  head->descriptor.frame_count--;
  BOOST_TEST(records() == 1000u);
  tx->abort(life.cache());
}

}  // namespace
}  // namespace btd::test
