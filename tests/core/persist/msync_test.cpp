// Persistence by msync.  Invariants checked: after flush and drain no page of the range is dirty,
// however many ranges there are; a flush alone need not write, and a drain does not write what this
// thread did not flush; a range that is gone harms nobody.
#define BOOST_TEST_MODULE msync
#include "core/persist/msync.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace btd {
namespace {

constexpr size_t kPages = 64;

// A file of the build directory, on a disk if that is.
class DiskFile {
 public:
  DiskFile() {
    char name[] = "msync-test-XXXXXX";
    int file = mkstemp(name);
    BOOST_REQUIRE(file >= 0);
    unlink(name);
    struct statfs status {};
    BOOST_REQUIRE(fstatfs(file, &status) == 0);
    is_disk = status.f_type != TMPFS_MAGIC;
    BOOST_REQUIRE(ftruncate(file, kPages * 4096) == 0);
    bytes = static_cast<char*>(
        mmap(nullptr, kPages * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    BOOST_REQUIRE(bytes != MAP_FAILED);
    close(file);
  }
  ~DiskFile() { munmap(bytes, kPages * 4096); }

  // As the page tables have it: write-back makes a page clean.
  size_t dirty_bytes() {
    std::ifstream file("/proc/self/smaps");
    char start[32];
    std::snprintf(start, sizeof(start), "%lx-", reinterpret_cast<unsigned long>(bytes));
    bool is_here = false;
    size_t total_kib = 0;
    for (std::string line; std::getline(file, line);) {
      if (line.find('-') < line.find(' ')) is_here = line.rfind(start, 0) == 0;
      size_t kib = 0;
      if (is_here && (std::sscanf(line.c_str(), "Private_Dirty: %zu", &kib) == 1 ||
                      std::sscanf(line.c_str(), "Shared_Dirty: %zu", &kib) == 1)) {
        total_kib += kib;
      }
    }
    return total_kib * 1024;
  }

  bool is_disk = false;
  char* bytes = nullptr;
};

BOOST_AUTO_TEST_CASE(drained_pages_are_clean_and_others_are_left_alone) {
  DiskFile file;
  if (!file.is_disk) return;
  for (size_t page = 0; page < 4; page++) file.bytes[page * 4096 + 100] = 1;
  BOOST_TEST(file.dirty_bytes() == 4u * 4096);
  msync_persist().flush(file.bytes + 4096 + 90, 20);
  BOOST_TEST(file.dirty_bytes() == 4u * 4096);
  msync_persist().drain();
  BOOST_TEST(file.dirty_bytes() == 3u * 4096);
  msync_persist().persist(file.bytes + 2 * 4096 - 1, 2);  // touches two pages
  BOOST_TEST(file.dirty_bytes() == 2u * 4096);
}

BOOST_AUTO_TEST_CASE(more_ranges_than_are_noted_are_all_clean_after_the_drain) {
  DiskFile file;
  if (!file.is_disk) return;
  for (size_t page = 0; page < kPages; page += 2) {
    file.bytes[page * 4096] = 2;
    msync_persist().flush(file.bytes + page * 4096, 1);
  }
  msync_persist().drain();
  BOOST_TEST(file.dirty_bytes() == 0u);
}

BOOST_AUTO_TEST_CASE(drain_of_one_thread_is_not_another_ones) {
  DiskFile file;
  if (!file.is_disk) return;
  file.bytes[0] = 3;
  msync_persist().flush(file.bytes, 1);
  std::thread([] { msync_persist().drain(); }).join();
  BOOST_TEST(file.dirty_bytes() == 4096u);
  msync_persist().drain();
  BOOST_TEST(file.dirty_bytes() == 0u);
}

BOOST_AUTO_TEST_CASE(range_that_was_unmapped_meanwhile_is_passed_over) {
  char* gone;
  {
    DiskFile file;
    gone = file.bytes;
    msync_persist().flush(gone, 1);
  }
  msync_persist().drain();
  msync_persist().flush(gone, 0);
  msync_persist().drain();
}

}  // namespace
}  // namespace btd
