// A cluster over an arena that dies and lives again.  Invariants checked: each change is whole in
// the next life, or absent; what failed changed nothing and leaks nothing.
#define BOOST_TEST_MODULE cluster
#include "core/api/cluster.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <memory>
#include <vector>

#include "tests/core/support/counting_persist.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() {
    limit_time(55);
    open();
  }

  void open() {
    life = std::make_unique<Life>(path);
    BOOST_REQUIRE(life->is_open());
    cluster = std::make_unique<Cluster>();
    cluster->open(life->arena());
  }
  // Dies, and lives again.
  void reopen() {
    life->end();
    cluster->close();
    open();
  }
  // In a transaction of its own, as the interface does it; `is_of_program`: as one that the program
  // began.
  template <typename Work>
  Error change(Work work, bool is_of_program = false, bool is_committed = true) {
    Transaction* transaction = cluster->transactions().begin();
    BOOST_REQUIRE(transaction != nullptr);
    Change one{*transaction, life->cache(), is_of_program};
    Error error = work(one);
    if (error == Error::kNone && is_committed) return transaction->commit(life->cache());
    transaction->abort(life->cache());
    return error;
  }
  bool is_live(const void* block) { return life->arena().look_up(block) == Verdict::kGood; }

  Scratch scratch;
  std::string path = scratch.file("arena");
  std::unique_ptr<Life> life;
  std::unique_ptr<Cluster> cluster;
};

BOOST_FIXTURE_TEST_CASE(bytes_are_old_or_new, Fixture) {
  std::vector<char> pattern(3 * kMiB);
  for (size_t i = 0; i < pattern.size(); i++) pattern[i] = static_cast<char>(i * 31 + i / 255);
  char* block = life->allocate(pattern.size());
  for (bool is_of_program : {false, true}) {
    for (size_t size_bytes : {size_t{3}, size_t{600}, 64 * kKiB, 64 * kKiB + 1, 3 * kMiB}) {
      std::memset(block, 1, pattern.size());
      auto copy = [&](const Change& change) {
        return cluster->fill(change, block, pattern.data(), 0, size_bytes);
      };
      BOOST_TEST((this->change(copy, is_of_program, false) == Error::kNone));
      for (size_t i = 0; i < pattern.size(); i++) BOOST_REQUIRE(block[i] == 1);
      BOOST_TEST((this->change(copy, is_of_program) == Error::kNone));
      BOOST_TEST(std::memcmp(block, pattern.data(), size_bytes) == 0);
      auto set = [&](const Change& change) {
        return cluster->fill(change, block, nullptr, 9, size_bytes);
      };
      BOOST_TEST((this->change(set, is_of_program) == Error::kNone));
      for (size_t i = 0; i < size_bytes; i++) BOOST_REQUIRE(block[i] == 9);
    }
  }
  BOOST_TEST((change([&](const Change& one) {
                return cluster->fill(one, &path, pattern.data(), 0, 8);
              }) == Error::kInvalid));
}

// A transaction's end is not durable when commit() returns.  A program that then stores to one of
// its words and persists it must not get the transaction's bytes back.
BOOST_FIXTURE_TEST_CASE(persist_and_drain_settle_what_transactions_deferred, Fixture) {
  char* block = life->allocate(64);
  CountingPersist counter;
  Persist& real = life->arena().persist();
  life->arena().set_persist(counter, counter);
  auto end_of_lane = reinterpret_cast<uintptr_t>(life->arena().lane(0)) / kCacheLineBytes;
  auto line = reinterpret_cast<uintptr_t>(block) / kCacheLineBytes;
  for (bool is_persist : {true, false}) {
    uint64_t value = 7;
    BOOST_TEST((change([&](const Change& one) {
                  return one.transaction.write(block, &value, sizeof(value));
                }) == Error::kNone));
    for (bool is_first : {true, false}) {
      counter.reset();
      std::memset(block, 1, 8);
      if (is_persist) {
        cluster->persist(block, 8);
      } else {
        counter.flush(block, 8);
        cluster->drain();
      }
      std::vector<uintptr_t> lines{line};
      if (is_first) lines.insert(is_persist ? lines.begin() : lines.end(), end_of_lane);
      BOOST_TEST(counter.lines == lines);
      BOOST_TEST(counter.drains == 1u);
    }
  }
  life->arena().set_persist(real, real);
}

BOOST_FIXTURE_TEST_CASE(one_store_where_it_can_be_one, Fixture) {
  char* block = life->allocate(64);
  const char* text = "12345678";
  for (size_t size_bytes : {1, 2, 4, 8})
    BOOST_TEST(cluster->fill_by_one_store(block, text, 0, size_bytes));
  BOOST_TEST(std::memcmp(block, text, 8) == 0);
  BOOST_TEST(cluster->fill_by_one_store(block + 4, nullptr, 7, 4));
  BOOST_TEST((block[4] == 7 && block[7] == 7));
  for (size_t size_bytes : {3, 5, 6, 7, 16})
    BOOST_TEST(!cluster->fill_by_one_store(block, text, 0, size_bytes));
  BOOST_TEST(!cluster->fill_by_one_store(block + 1, text, 0, 2));
  BOOST_TEST(!cluster->fill_by_one_store(block + 4, text, 0, 8));
}

BOOST_FIXTURE_TEST_CASE(publish_and_free_are_one_step, Fixture) {
  auto** where = reinterpret_cast<void**>(life->allocate(8));
  void* block = nullptr;
  for (bool is_of_program : {false, true}) {
    *where = nullptr;
    auto publish = [&](const Change& change) {
      Error error = Error::kNone;
      block = cluster->allocate_to(change, where, 100, &error);
      return error;
    };
    auto take_away = [&](const Change& change) { return cluster->free_from(change, where); };
    BOOST_TEST((change(publish, is_of_program, false) == Error::kNone));
    BOOST_TEST((*where == nullptr && !is_live(block)));
    BOOST_TEST((change(publish, is_of_program) == Error::kNone));
    BOOST_TEST((*where == block && is_live(block)));
    BOOST_TEST((change(take_away, is_of_program, false) == Error::kNone));
    BOOST_TEST((*where == block && is_live(block)));
    BOOST_TEST((change(take_away, is_of_program) == Error::kNone));
    BOOST_TEST((*where == nullptr && !is_live(block)));
    BOOST_TEST((change(take_away, is_of_program) == Error::kNone));  // nothing there
  }
}

BOOST_FIXTURE_TEST_CASE(reserved_blocks_are_free_after_a_death, Fixture) {
  auto** links = reinterpret_cast<void**>(life->allocate(16));
  links[0] = links[1] = nullptr;
  void* lost = cluster->reserve(life->cache(), 100);
  void* kept = cluster->reserve(life->cache(), 100);
  std::strcpy(static_cast<char*>(kept), "filled before it is activated");
  void* given = cluster->reserve(life->cache(), 200000);
  BOOST_TEST((cluster->cancel(life->cache(), given) == Error::kNone));
  BOOST_TEST((cluster->cancel(life->cache(), given) == Error::kInvalid));
  const Cluster::Link both[2] = {{&links[0], kept}, {&links[1], links}};
  auto activate = [&](const Change& one) { return cluster->activate(one, kept, both); };
  BOOST_TEST((change(activate) == Error::kNone));
  BOOST_TEST((change(activate) == Error::kInvalid));
  BOOST_TEST((is_live(kept) && !is_live(lost)));
  BOOST_TEST((cluster->roots().set("links", links, nullptr) == Error::kNone));
  reopen();
  links = static_cast<void**>(cluster->roots().get("links", nullptr));
  BOOST_REQUIRE(links != nullptr);
  BOOST_TEST((links[0] == kept && links[1] == links && is_live(kept) && !is_live(lost)));
  BOOST_TEST(std::strcmp(static_cast<char*>(kept), "filled before it is activated") == 0);
  BOOST_TEST(cluster->is_recovered(kept));
  BOOST_TEST(!cluster->is_recovered(life->allocate(10)));
}

BOOST_FIXTURE_TEST_CASE(a_variable_is_made_once, Fixture) {
  void* block = nullptr;
  Error made = Error::kNone;
  auto find = [&](size_t size_bytes) {
    return change([&, size_bytes](const Change& one) {
      block = cluster->find_or_make(one, "variable", size_bytes, &made);
      return made;
    });
  };
  BOOST_TEST((find(300) == Error::kNone));
  void* first = block;
  for (int i = 0; i < 300; i++) BOOST_REQUIRE(static_cast<char*>(first)[i] == 0);
  std::strcpy(static_cast<char*>(first), "kept");
  BOOST_TEST((find(100) == Error::kNone));
  BOOST_TEST(block == first);
  BOOST_TEST((find(5000) == Error::kInvalid));
  reopen();
  BOOST_TEST((find(300) == Error::kNone));
  BOOST_TEST((block == first && std::strcmp(static_cast<char*>(first), "kept") == 0));
}

}  // namespace
}  // namespace btd::test
