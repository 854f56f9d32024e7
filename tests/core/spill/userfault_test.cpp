// The kernel's side.  Invariants checked: each call does what the pager relies on, on this kernel;
// above all that a page written to is never called clean, and that a page not written to is.
#define BOOST_TEST_MODULE userfault
#include "core/spill/userfault.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include <atomic>
#include <thread>

#include "core/spill/node.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

constexpr size_t kPages = 16;
constexpr size_t kBytes = kPages * kPageBytes;

struct Fixture {
  explicit Fixture(bool want_async = true) {
    test::limit_time(30);
    file = ::open(scratch.file("window").c_str(), O_RDWR | O_CREAT, 0600);
    BOOST_REQUIRE(::ftruncate(file, 4 * kBytes) == 0);
    base =
        static_cast<char*>(mmap(nullptr, 4 * kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
    BOOST_REQUIRE(base != MAP_FAILED);
    Error error = faults.open(want_async, why);
    BOOST_REQUIRE_MESSAGE(error == Error::kNone, why.c_str());
    BOOST_REQUIRE(faults.watch(base, 4 * kBytes, true) == Error::kNone);
    std::memset(data, 'd', sizeof(data));
    address = reinterpret_cast<uint64_t>(base);
  }
  ~Fixture() {
    munmap(base, 4 * kBytes);
    faults.close();
    ::close(file);
  }
  // Reads the byte in another thread, and returns the fault that comes of it.
  PageFault fault_of(size_t offset, bool is_write) {
    toucher = std::thread([this, offset, is_write] {
      auto* byte = static_cast<volatile char*>(base + offset);
      if (is_write) *byte = 'w';
      if (!is_write) seen = *byte;
    });
    PageFault found[Userfault::kBatch];
    uint32_t count = faults.read(found, true);
    BOOST_REQUIRE(count == 1U);
    return found[0];
  }

  test::Scratch scratch;
  Line why;
  Userfault faults;
  int file;
  char* base;
  uint64_t address;
  char data[kBytes];
  std::thread toucher;
  std::atomic<char> seen{0};
};
struct Synchronous : Fixture {
  Synchronous() : Fixture(false) {}
};

BOOST_FIXTURE_TEST_CASE(a_missing_page_is_reported_and_a_copy_answers, Fixture) {
  PageFault fault = fault_of(kBytes + 5, false);
  BOOST_TEST(fault.address / kPageBytes == (address + kBytes) / kPageBytes);
  BOOST_TEST(!fault.is_write);
  BOOST_TEST((faults.copy(address + kBytes, data, kBytes, true) == Error::kNone));
  toucher.join();
  BOOST_TEST(seen.load() == 'd');
  PageFault none[Userfault::kBatch];
  BOOST_TEST(faults.read(none, false) == 0U);
}

BOOST_FIXTURE_TEST_CASE(pages_that_are_there_are_left_as_they_are, Fixture) {
  BOOST_TEST((faults.copy(address + 3 * kPageBytes, data, kPageBytes, false) == Error::kNone));
  std::memset(data, 'n', sizeof(data));
  BOOST_TEST((faults.copy(address, data, kBytes, false) == Error::kNone));
  for (size_t page = 0; page < kPages; page++)
    BOOST_TEST(base[page * kPageBytes] == (page == 3 ? 'd' : 'n'));
}

// mlock(), mprotect() and some advice of the program do that to a part of ours.
BOOST_FIXTURE_TEST_CASE(a_mapping_that_was_split_is_served_all_the_same, Fixture) {
  for (size_t first : {size_t{5}, size_t{16 + 3}, size_t{32 + 9}})
    BOOST_REQUIRE(::madvise(base + first * kPageBytes, 3 * kPageBytes, MADV_DONTDUMP) == 0);
  BOOST_TEST((faults.copy(address, data, kBytes, true) == Error::kNone));
  BOOST_TEST((faults.zero(address + kBytes, kBytes) == Error::kNone));
  BOOST_TEST((faults.unprotect(address, kBytes) == Error::kNone));
  for (size_t page = 0; page < kPages; page++) {
    BOOST_TEST(base[page * kPageBytes] == 'd');
    BOOST_TEST(base[kBytes + page * kPageBytes] == 0);
  }
  BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
  BOOST_TEST((faults.map_frames(address, kBytes, false) == Error::kNone));
  for (size_t page = 0; page < kPages; page++) BOOST_TEST(base[page * kPageBytes] == 'd');
  if (!faults.features().can_poison) return;
  BOOST_TEST((faults.poison(address + 2 * kBytes, kBytes) == Error::kNone));
  int pipes[2];
  BOOST_REQUIRE(::pipe(pipes) == 0);
  for (size_t page = 0; page < kPages; page++)
    BOOST_TEST(::write(pipes[1], base + 2 * kBytes + page * kPageBytes, 1) == -1);
  ::close(pipes[0]);
  ::close(pipes[1]);
}

BOOST_FIXTURE_TEST_CASE(an_unmapped_page_is_mapped_again_with_what_it_had, Fixture) {
  BOOST_TEST((faults.zero(address, kBytes) == Error::kNone));
  base[7] = 'x';
  BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
  fault_of(7, false);
  BOOST_TEST((faults.map_frames(address, kBytes, false) == Error::kNone));
  toucher.join();
  BOOST_TEST(seen.load() == 'x');
}

BOOST_FIXTURE_TEST_CASE(clean_is_said_of_all_pages_or_not_at_all, Fixture) {
  if (!faults.features().can_track_async) return;
  BOOST_TEST(faults.proves_tracking(base + kBytes));
  for (size_t written = 0; written <= kPages; written++) {
    BOOST_TEST((faults.copy(address, data, kBytes, true) == Error::kNone));
    if (written < kPages) base[written * kPageBytes + written] = 'w';
    BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
    BOOST_TEST(faults.was_clean(address, kBytes) == (written == kPages));
    // Mapped again, protected: clean as before, until it is written to.
    BOOST_TEST((faults.map_frames(address, kBytes, true) == Error::kNone));
    BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
    BOOST_TEST(faults.was_clean(address, kBytes));
    BOOST_TEST(::madvise(base, kBytes, MADV_REMOVE) == 0);
  }
  // Never mapped: not clean, because nobody knows.
  BOOST_TEST(!faults.was_clean(address + 2 * kBytes, kBytes));
}

BOOST_FIXTURE_TEST_CASE(what_the_kernel_writes_is_not_clean, Fixture) {
  if (!faults.features().can_track_async) return;
  BOOST_TEST((faults.copy(address, data, kBytes, true) == Error::kNone));
  int zero = ::open("/dev/zero", O_RDONLY);
  BOOST_TEST(::read(zero, base + 9 * kPageBytes, 10) == 10);
  ::close(zero);
  BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
  BOOST_TEST(!faults.was_clean(address, kBytes));
}

BOOST_FIXTURE_TEST_CASE(synchronously_a_write_waits_until_it_is_allowed, Synchronous) {
  BOOST_TEST(!faults.features().can_track_async);
  BOOST_TEST((faults.copy(address, data, kBytes, true) == Error::kNone));
  BOOST_TEST(base[5] == 'd');
  PageFault fault = fault_of(5, true);
  BOOST_TEST(fault.is_protected);
  BOOST_TEST(fault.is_write);
  BOOST_TEST(base[5] == 'd');
  BOOST_TEST((faults.unprotect(address, kBytes) == Error::kNone));
  faults.wake(address, kBytes);
  toucher.join();
  BOOST_TEST(base[5] == 'w');
}

BOOST_FIXTURE_TEST_CASE(poisoned_pages_give_efault_even_where_clean_ones_left_marks, Fixture) {
  BOOST_TEST((faults.copy(address, data, kBytes, true) == Error::kNone));
  BOOST_TEST(::madvise(base, kBytes, MADV_DONTNEED) == 0);
  BOOST_TEST(::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, kBytes) == 0);
  BOOST_TEST((faults.poison(address, kBytes) == Error::kNone));
  int ends[2];
  BOOST_REQUIRE(::pipe(ends) == 0);
  for (size_t page = 0; page < kPages; page++)
    BOOST_TEST(::write(ends[1], base + page * kPageBytes, 10) == -1);
  ::close(ends[0]);
  ::close(ends[1]);
}

BOOST_FIXTURE_TEST_CASE(a_range_has_one_owner_and_must_be_shared_memory, Fixture) {
  Userfault second;
  BOOST_REQUIRE((second.open(true, why) == Error::kNone));
  BOOST_TEST((second.watch(base, kBytes, true) == Error::kInUse));
  void* anonymous = mmap(nullptr, kBytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  BOOST_TEST((second.watch(anonymous, kBytes, true) == Error::kUnsupported));
  munmap(anonymous, kBytes);
  second.close();
}

}  // namespace
}  // namespace btd
