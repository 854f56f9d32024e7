// Records of modules.  Invariants checked: each is there once, whole, and in the next life; a full
// table refuses; a torn record is no record.
#define BOOST_TEST_MODULE modules
#include "core/api/modules.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

ModuleRecord module(uint64_t number) {
  ModuleRecord record{};
  record.first = number << 20;
  record.end = record.first + 4096;
  record.build_id_bytes = 20;
  record.build_id[0] = static_cast<uint8_t>(number);
  std::strcpy(record.path, "/usr/lib/libmade.so");
  return record;
}

BOOST_AUTO_TEST_CASE(records_are_kept_once_and_survive) {
  Scratch scratch;
  Life life(scratch.file("arena"));
  BOOST_REQUIRE(life.is_open());
  auto table = [&] {
    return reinterpret_cast<ModuleRecord*>(
        life.arena().mapping().address(life.arena().header().site_table_offset + kModulesAt));
  };
  for (int round = 0; round < 2; round++) {
    for (uint64_t i = 1; i <= 3; i++)
      BOOST_TEST((record_module(life.arena(), module(i)) == Error::kNone));
  }
  ModuleRecord other = module(3);
  other.build_id[0] = 99;  // built again
  BOOST_TEST((record_module(life.arena(), other) == Error::kNone));
  for (uint64_t i = 0; i < 4; i++) {
    BOOST_TEST(table()[i].checksum == checksum_of(table()[i]));
    BOOST_TEST(table()[i].first == std::min<uint64_t>(i + 1, 3) << 20);
    BOOST_TEST(table()[i].epoch == life.arena().header().epoch);
  }
  BOOST_TEST(table()[4].checksum != checksum_of(table()[4]));
  table()[3].first ^= 1;  // torn: its place is used again
  BOOST_TEST((record_module(life.arena(), other) == Error::kNone));
  BOOST_TEST(table()[3].first == other.first);
  BOOST_TEST(table()[4].checksum != checksum_of(table()[4]));
  for (uint64_t i = 5; i <= kModuleCount; i++)
    BOOST_TEST((record_module(life.arena(), module(i)) == Error::kNone));
  BOOST_TEST((record_module(life.arena(), module(1000)) == Error::kNoSpace));
  BOOST_TEST((record_module(life.arena(), module(2)) == Error::kNone));
}

}  // namespace
}  // namespace btd::test
