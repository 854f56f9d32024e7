// The set of pointers.  Invariant checked: it agrees with std::map under any order of insertions
// and removals, also when entries collide and wrap around.
#define BOOST_TEST_MODULE pointer_set
#include "core/tx/pointer_set.hpp"

#include <boost/test/unit_test.hpp>
#include <map>

#include "tests/core/support/scratch.hpp"

namespace btd::test {
namespace {

BOOST_AUTO_TEST_CASE(random_operations_agree_with_a_map) {
  std::mt19937_64 random(seed());
  PointerSet set;
  std::map<uintptr_t, uint32_t> model;
  for (int round = 0; round < 200000; round++) {
    uintptr_t pointer = (1 + random() % 3000) * 16;
    auto* address = reinterpret_cast<const void*>(pointer);
    auto found = model.find(pointer);
    BOOST_REQUIRE(set.owner_of(address) ==
                  (found == model.end() ? PointerSet::kNobody : found->second));
    if (found == model.end()) {
      auto owner = static_cast<uint32_t>(random() % 64);
      BOOST_REQUIRE(set.insert(address, owner));
      model[pointer] = owner;
    } else if (random() % 3 != 0) {
      set.remove(address);
      model.erase(found);
    }
    BOOST_REQUIRE(set.is_empty() == model.empty());
  }
}

BOOST_AUTO_TEST_CASE(empty_set_knows_nobody) {
  PointerSet set;
  int local;
  BOOST_TEST(set.is_empty());
  BOOST_TEST(set.owner_of(&local) == PointerSet::kNobody);
  set.remove(&local);
}

}  // namespace
}  // namespace btd::test
