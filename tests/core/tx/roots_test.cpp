// Roots.  Invariants checked:
//   1. What was set is found, also in the next life; a removed root is not.
//   2. All 2,048 places can be used, and used again.
//   3. A damaged name or value is no root, and is not followed.
//   4. A bad name or value is an error that changes nothing.
#define BOOST_TEST_MODULE roots
#include "core/tx/roots.hpp"

#include <boost/test/unit_test.hpp>
#include <string>

#include "core/tx/transaction.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() { open(); }
  void open() {
    limit_time(55);
    life = std::make_unique<Life>(path);
    BOOST_REQUIRE(life->is_open());
    roots = std::make_unique<Roots>();
    roots->open(life->arena());
  }
  void reopen() {
    life->end();
    open();
  }
  uint32_t count() {
    uint32_t found = 0;
    for (uint32_t at = roots->next(0); at < kRootCount; at = roots->next(at + 1)) found++;
    return found;
  }

  Scratch scratch;
  std::string path = scratch.file("arena");
  std::unique_ptr<Life> life;
  std::unique_ptr<Roots> roots;
};

BOOST_FIXTURE_TEST_CASE(roots_are_found_in_the_next_life, Fixture) {
  char* a = life->allocate(100);
  char* b = life->allocate(100);
  BOOST_TEST(!roots->any());
  BOOST_TEST(roots->set("a", a, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("b", a, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("b", b, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("c", b, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("c", nullptr, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("never", nullptr, nullptr) == Error::kNone);
  for (int lives = 0; lives < 3; lives++) {
    BOOST_TEST(roots->get("a", nullptr) == a);
    BOOST_TEST(roots->get("b", nullptr) == b);
    BOOST_TEST(roots->get("c", nullptr) == nullptr);
    BOOST_TEST(roots->get("never", nullptr) == nullptr);
    BOOST_TEST(roots->any());
    BOOST_TEST(life->arena().has_roots());
    BOOST_TEST(count() == 2u);
    reopen();
  }
}

BOOST_FIXTURE_TEST_CASE(all_places_can_be_used_and_used_again, Fixture) {
  char* block = life->allocate(kRootCount + 1);
  for (int round = 0; round < 2; round++) {
    std::string prefix = std::string(50, 'x') + std::to_string(round) + "-";
    for (uint32_t i = 0; i < kRootCount; i++)
      BOOST_REQUIRE(roots->set((prefix + std::to_string(i)).c_str(), block + i, nullptr) ==
                    Error::kNone);
    BOOST_TEST(roots->set("one too many", block, nullptr) == Error::kNoSpace);
    reopen();
    for (uint32_t i = 0; i < kRootCount; i++)
      BOOST_REQUIRE(roots->get((prefix + std::to_string(i)).c_str(), nullptr) == block + i);
    BOOST_TEST(count() == kRootCount);
    for (uint32_t i = 0; i < kRootCount; i++)
      BOOST_REQUIRE(roots->set((prefix + std::to_string(i)).c_str(), nullptr, nullptr) ==
                    Error::kNone);
    BOOST_TEST(!roots->any());
  }
}

// A root that a transaction will set has no value yet; its place is not given away.
BOOST_FIXTURE_TEST_CASE(place_of_a_root_in_a_transaction_is_not_used_again, Fixture) {
  Transactions transactions;
  transactions.open(life->arena());
  char* block = life->allocate(100);
  Transaction* tx = transactions.begin();
  BOOST_TEST(roots->set("mine", block, tx) == Error::kNone);
  for (uint32_t i = 1; i < kRootCount; i++)
    BOOST_REQUIRE(roots->set(std::to_string(i).c_str(), block, nullptr) == Error::kNone);
  BOOST_TEST(roots->set("other", block + 1, nullptr) == Error::kNoSpace);
  BOOST_TEST(tx->commit(life->cache()) == Error::kNone);
  BOOST_TEST(roots->get("mine", nullptr) == block);
}

BOOST_FIXTURE_TEST_CASE(bad_names_and_values_are_errors, Fixture) {
  char* block = life->allocate(100);
  int local;
  BOOST_TEST(roots->set("", block, nullptr) == Error::kInvalid);
  BOOST_TEST(roots->set("a", &local, nullptr) == Error::kInvalid);
  BOOST_TEST(roots->set(std::string(64, 'n').c_str(), block, nullptr) == Error::kTooLong);
  BOOST_TEST(roots->set(std::string(63, 'n').c_str(), block, nullptr) == Error::kNone);
  BOOST_TEST(roots->get(std::string(63, 'n').c_str(), nullptr) == block);
  BOOST_TEST(roots->get(std::string(64, 'n').c_str(), nullptr) == nullptr);
  BOOST_TEST(roots->get("", nullptr) == nullptr);
  BOOST_TEST(count() == 1u);
}

BOOST_FIXTURE_TEST_CASE(damaged_roots_are_not_followed, Fixture) {
  char* block = life->allocate(100);
  for (const char* name : {"a", "b", "c"})
    BOOST_TEST(roots->set(name, block, nullptr) == Error::kNone);
  life->arena().root(0)->name[0] ^= 1;
  life->arena().root(1)->value = 1;
  reopen();
  BOOST_TEST(roots->get("a", nullptr) == nullptr);
  BOOST_TEST(roots->get("b", nullptr) == nullptr);
  BOOST_TEST(roots->get("c", nullptr) == block);
  BOOST_TEST(count() == 1u);
}

}  // namespace
}  // namespace btd::test
