// Which way fits which backend.  Invariants checked: `process` flushes nowhere; `lazy` leaves the
// states alone and `strict` does not; a plain file goes by msync, whatever the processor; nothing
// that tmpfs holds is said to survive power loss.
#define BOOST_TEST_MODULE durability
#include "core/persist/durability.hpp"

#include <boost/test/unit_test.hpp>

#include "core/persist/msync.hpp"
#include "core/persist/pmem.hpp"

namespace btd {
namespace {

constexpr Backend kBackends[] = {Backend::kTmpfs, Backend::kFile, Backend::kFsdax,
                                 Backend::kDevdax};

BOOST_AUTO_TEST_CASE(process_level_has_nothing_to_do_on_any_backend) {
  for (Backend backend : kBackends) {
    Persistence chosen = choose_persist(backend, Durability::kProcess);
    BOOST_TEST(&chosen.structures == &process_persist());
    BOOST_TEST(&chosen.states == &process_persist());
  }
}

BOOST_AUTO_TEST_CASE(lazy_persists_structures_and_strict_states_too) {
  for (Backend backend : kBackends) {
    Persistence lazy = choose_persist(backend, Durability::kLazy);
    BOOST_TEST(&lazy.structures != &process_persist());
    BOOST_TEST(&lazy.states == &process_persist());
    Persistence strict = choose_persist(backend, Durability::kStrict);
    BOOST_TEST(&strict.structures == &lazy.structures);
    BOOST_TEST(&strict.states == &strict.structures);
  }
}

BOOST_AUTO_TEST_CASE(plain_file_goes_by_msync_and_tmpfs_by_flushes) {
  BOOST_TEST(&choose_persist(Backend::kFile, Durability::kStrict).states == &msync_persist());
  if (pmem_persist() == nullptr) return;
  BOOST_TEST(&choose_persist(Backend::kTmpfs, Durability::kStrict).states == pmem_persist());
  Persist& dax = has_eadr() ? eadr_persist() : *pmem_persist();
  BOOST_TEST(&choose_persist(Backend::kFsdax, Durability::kStrict).states == &dax);
  BOOST_TEST(&choose_persist(Backend::kDevdax, Durability::kLazy).structures == &dax);
}

BOOST_AUTO_TEST_CASE(promises_grow_with_the_level_and_tmpfs_makes_none) {
  for (Durability level : {Durability::kProcess, Durability::kLazy, Durability::kStrict}) {
    for (Backend backend : kBackends)
      BOOST_TEST((after_process_death(backend, level) == Survival::kExact));
    BOOST_TEST((after_power_loss(Backend::kTmpfs, level) == Survival::kNothing));
  }
  BOOST_TEST((after_power_loss(Backend::kFile, Durability::kProcess) == Survival::kNotTold));
  BOOST_TEST((after_power_loss(Backend::kFile, Durability::kLazy) == Survival::kReachable));
  BOOST_TEST((after_power_loss(Backend::kDevdax, Durability::kStrict) == Survival::kExact));
}

}  // namespace
}  // namespace btd
