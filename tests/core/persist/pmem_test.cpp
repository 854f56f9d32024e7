// Persistence by cache-line flushes.  Invariants checked: a flush changes nothing and reads only
// lines that its range touches (any other could be unmapped); eADR is believed only when every
// region of the kernel says so.
#define BOOST_TEST_MODULE pmem
#include "core/persist/pmem.hpp"

#include <sys/mman.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

BOOST_AUTO_TEST_CASE(flush_of_a_page_before_a_forbidden_one_touches_no_line_beyond) {
  Persist* persist = pmem_persist();
  if (persist == nullptr) return;
  auto* pages =
      static_cast<char*>(mmap(nullptr, 3 * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  char* page = pages + 4096;
  BOOST_REQUIRE(mprotect(page, 4096, PROT_READ | PROT_WRITE) == 0);
  for (size_t from : {0, 1, 63, 64, 4000}) {
    for (size_t size_bytes : {size_t{0}, size_t{1}, size_t{65}, 4096 - from}) {
      if (from + size_bytes > 4096) continue;
      std::memset(page, static_cast<int>(from + size_bytes), 4096);
      persist->persist(page + from, size_bytes);
      for (int i = 0; i < 4096; i++) BOOST_REQUIRE(page[i] == static_cast<char>(from + size_bytes));
    }
  }
  persist->persist(pages + 100, 0);
  munmap(pages, 3 * 4096);
}

BOOST_AUTO_TEST_CASE(eadr_has_nothing_to_flush) {
  eadr_persist().flush(reinterpret_cast<void*>(64), 1000);  // would be a fault
  eadr_persist().drain();
}

struct FakeSysfs {
  test::Scratch scratch;
  void region(int number, const std::string& domain) {
    std::string directory = scratch.file("bus/nd/devices/region" + std::to_string(number));
    std::filesystem::create_directories(directory);
    std::ofstream(directory + "/persistence_domain") << domain << "\n";
  }
  bool says() { return has_eadr_by_sysfs(scratch.path().c_str()); }
};

BOOST_AUTO_TEST_CASE(eadr_needs_a_region_and_the_word_of_all) {
  FakeSysfs sysfs;
  BOOST_TEST(!sysfs.says());
  sysfs.region(1, "cpu_cache");
  BOOST_TEST(sysfs.says());
  sysfs.region(40, "cpu_cache");
  BOOST_TEST(sysfs.says());
  sysfs.region(3, "memory_controller");
  BOOST_TEST(!sysfs.says());
}

BOOST_AUTO_TEST_CASE(unknown_persistence_domain_is_no_eadr) {
  FakeSysfs sysfs;
  sysfs.region(0, "unknown");
  BOOST_TEST(!sysfs.says());
}

BOOST_AUTO_TEST_CASE(libpmem_is_loaded_when_asked_for_and_then_agrees_with_the_kernel) {
  BOOST_TEST(!is_libpmem_loaded());
  bool by_kernel = has_eadr();
  load_libpmem();
  load_libpmem();
  BOOST_TEST(has_eadr() == by_kernel);
}

}  // namespace
}  // namespace btd
