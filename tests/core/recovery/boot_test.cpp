// Invariants checked: an arena of this boot is never doubted; one of another boot is, unless its
// owner ended well (and its states were meant to be durable) or made each of them durable.
#define BOOST_TEST_MODULE boot
#include "core/recovery/boot.hpp"

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <string>

#include "core/base/config.hpp"

namespace btd {
namespace {

ArenaHeader header_of(ArenaState state, Durability durability, bool is_this_boot) {
  ArenaHeader header{};
  header.state = static_cast<uint32_t>(state);
  header.durability = static_cast<uint32_t>(durability);
  boot_id_of_machine(header.boot_id);
  if (!is_this_boot) header.boot_id[15] ^= 1;
  return header;
}

BOOST_AUTO_TEST_CASE(boot_id_is_the_kernels) {
  uint8_t id[16];
  boot_id_of_machine(id);
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  BOOST_REQUIRE(std::getline(file, text));
  std::erase(text, '-');
  for (size_t i = 0; i < sizeof(id); i++)
    BOOST_TEST(id[i] == std::stoi(text.substr(2 * i, 2), nullptr, 16));
}

BOOST_AUTO_TEST_CASE(states_are_doubted_where_stores_may_be_missing) {
  using enum ArenaState;
  for (auto durability : {Durability::kProcess, Durability::kLazy, Durability::kStrict}) {
    for (ArenaState state : {kOpen, kClean}) {
      ArenaHeader same = header_of(state, durability, true);
      BOOST_TEST(!is_other_boot(same));
      BOOST_TEST(!are_states_doubtful(same));
      ArenaHeader other = header_of(state, durability, false);
      BOOST_TEST(is_other_boot(other));
      bool is_doubtful =
          durability != Durability::kStrict && (state == kOpen || durability == Durability::kLazy);
      BOOST_TEST(are_states_doubtful(other) == is_doubtful);
    }
  }
}

}  // namespace
}  // namespace btd
