// One file at one address.  Invariants checked:
//  1. What is not grown cannot be touched; what is grown is allocated in the file first, so that a
//  full file system is an error value.
//  2. One owner: a second open of the file is refused until the first is gone.  The lock needs no
//  descriptor, and none is kept.
//  3. Nothing is opened through a link, and what is no file is refused.
//  4. An occupied address is never replaced.
#define BOOST_TEST_MODULE mapping
#include "core/persist/mapping.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>

#include "core/base/units.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() { test::limit_time(60); }
  ~Fixture() { mapping.close(); }
  test::Scratch scratch;
  std::string path = scratch.file("file");
  Mapping mapping;

  void prepare(uint64_t length_bytes = 64 * kMiB) {
    BOOST_REQUIRE(mapping.open(path.c_str(), true) == Error::kNone);
    BOOST_REQUIRE(mapping.set_length(length_bytes) == Error::kNone);
    BOOST_REQUIRE(mapping.map(0, test::seed(), false) == Error::kNone);
  }
  bool is_accessible(const char* address) {
    int pipes[2];
    BOOST_REQUIRE(pipe2(pipes, O_CLOEXEC) == 0);
    bool result = ::write(pipes[1], address, 1) == 1;  // EFAULT, not a signal
    ::close(pipes[0]);
    ::close(pipes[1]);
    return result;
  }
  // Descriptors of the file that this process has open.
  int descriptors() {
    struct stat file {};
    BOOST_REQUIRE(::stat(path.c_str(), &file) == 0);
    int count = 0;
    for (int fd = 0; fd < 1024; fd++) {
      struct stat status {};
      count +=
          ::fstat(fd, &status) == 0 && status.st_ino == file.st_ino && status.st_dev == file.st_dev;
    }
    return count;
  }
};

BOOST_FIXTURE_TEST_CASE(mapped_range_is_aligned_inaccessible_and_takes_no_space, Fixture) {
  prepare(kGiB);
  BOOST_TEST((mapping.backend() == Backend::kTmpfs));
  BOOST_TEST(reinterpret_cast<uintptr_t>(mapping.address()) % (2 * kMiB) == 0u);
  BOOST_TEST(!is_accessible(mapping.address()));
  BOOST_TEST(!is_accessible(mapping.address(kGiB - 1)));
  BOOST_TEST(test::file_blocks(path) == 0u);
}

BOOST_FIXTURE_TEST_CASE(grown_part_is_allocated_zero_and_nothing_beside_it_is_accessible, Fixture) {
  prepare();
  BOOST_REQUIRE(mapping.grow(4 * kMiB, kMiB) == Error::kNone);
  BOOST_TEST(test::file_blocks(path) * 512 >= kMiB);
  BOOST_TEST(is_accessible(mapping.address(4 * kMiB)));
  BOOST_TEST(is_accessible(mapping.address(5 * kMiB - 1)));
  BOOST_TEST(!is_accessible(mapping.address(4 * kMiB - 1)));
  BOOST_TEST(!is_accessible(mapping.address(5 * kMiB)));
  BOOST_TEST(*mapping.address(4 * kMiB + 12345) == 0);
  std::strcpy(mapping.address(4 * kMiB), "text");
  std::ifstream in(path, std::ios::binary);
  in.seekg(4 * kMiB);
  char buffer[5] = {};
  in.read(buffer, 4);
  BOOST_TEST(std::string(buffer) == "text");
}

BOOST_FIXTURE_TEST_CASE(growth_of_parts_of_pages_keeps_what_is_there, Fixture) {
  prepare();
  BOOST_REQUIRE(mapping.grow(100, 5000) == Error::kNone);
  std::memset(mapping.address(100), 5, 5000);
  BOOST_REQUIRE(mapping.grow(5100, 5000) == Error::kNone);
  for (uint64_t at = 100; at < 5100; at++) BOOST_REQUIRE(*mapping.address(at) == 5);
  BOOST_TEST(*mapping.address(5100) == 0);
  BOOST_TEST(is_accessible(mapping.address(10099)));
}

BOOST_FIXTURE_TEST_CASE(hole_is_known_without_looking_at_its_bytes, Fixture) {
  std::ofstream(path, std::ios::binary).seekp(8 * kMiB).write("x", 1);
  BOOST_REQUIRE(::truncate(path.c_str(), 64 * kMiB) == 0);
  BOOST_REQUIRE(mapping.open(path.c_str(), false) == Error::kNone);
  BOOST_TEST(mapping.length_bytes() == 64 * kMiB);
  BOOST_TEST(!mapping.is_hole_from(0));
  BOOST_TEST(!mapping.is_hole_from(8 * kMiB));
  BOOST_TEST(mapping.is_hole_from(9 * kMiB));
  BOOST_TEST(mapping.is_hole_from(100 * kMiB));
  char byte = 0;
  BOOST_TEST(mapping.read(8 * kMiB, &byte, 1));
  BOOST_TEST(byte == 'x');
  char buffer[4];
  BOOST_TEST(!mapping.read(64 * kMiB - 2, buffer, 4));
}

BOOST_FIXTURE_TEST_CASE(given_back_part_leaves_the_file_and_reads_as_zeros, Fixture) {
  prepare();
  BOOST_REQUIRE(mapping.grow(0, 4 * kMiB) == Error::kNone);
  std::memset(mapping.address(), 7, 4 * kMiB);
  uint64_t before = test::file_blocks(path);
  BOOST_REQUIRE(mapping.give_back(kMiB, kMiB));
  BOOST_TEST((before - test::file_blocks(path)) * 512 == kMiB);
  BOOST_TEST(*mapping.address(kMiB) == 0);
  BOOST_TEST(*mapping.address(kMiB - 1) == 7);
  BOOST_TEST(*mapping.address(2 * kMiB) == 7);
  BOOST_REQUIRE(mapping.allocate(kMiB, kMiB) == Error::kNone);
  BOOST_TEST(test::file_blocks(path) == before);
}

BOOST_FIXTURE_TEST_CASE(second_open_is_refused_until_the_first_is_closed, Fixture) {
  prepare();
  Mapping second;
  BOOST_TEST(second.open(path.c_str(), true) == Error::kInUse);
  mapping.close();
  BOOST_TEST(second.open(path.c_str(), false) == Error::kNone);
  second.close();
}

BOOST_FIXTURE_TEST_CASE(lock_needs_no_descriptor_and_none_is_kept, Fixture) {
  prepare();
  mapping.close_descriptor();
  BOOST_TEST(descriptors() == 0);
  Mapping second;
  BOOST_TEST(second.open(path.c_str(), true) == Error::kInUse);
  BOOST_TEST(descriptors() == 0);
  BOOST_TEST(mapping.grow(kMiB, kMiB) == Error::kNone);
  *mapping.address(kMiB) = 1;
}

BOOST_FIXTURE_TEST_CASE(file_replaced_under_its_name_is_neither_grown_nor_removed, Fixture) {
  prepare();
  std::filesystem::remove(path);
  std::ofstream(path) << "somebody else's";
  BOOST_TEST(mapping.grow(kMiB, kMiB) == Error::kNone);  // our file goes on without a name
  *mapping.address(kMiB) = 1;
  mapping.unlink();
  BOOST_TEST(test::read_all(path) == "somebody else's");
}

BOOST_FIXTURE_TEST_CASE(unlink_removes_our_file_only, Fixture) {
  prepare();
  mapping.unlink();
  BOOST_TEST(!std::filesystem::exists(path));
  mapping.unlink();
}

BOOST_FIXTURE_TEST_CASE(fixed_address_is_taken_or_refused_never_replaced, Fixture) {
  prepare();
  auto base = reinterpret_cast<uint64_t>(mapping.address());
  mapping.close();
  BOOST_REQUIRE(mapping.open(path.c_str(), false) == Error::kNone);
  auto* in_the_way = reinterpret_cast<void*>(base + 2 * kMiB);
  BOOST_REQUIRE(::mmap(in_the_way, 4096, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == in_the_way);
  *static_cast<char*>(in_the_way) = 5;
  BOOST_TEST(mapping.map(base, 0, false) == Error::kAddressTaken);
  BOOST_TEST(*static_cast<char*>(in_the_way) == 5);
  ::munmap(in_the_way, 4096);
  BOOST_TEST(mapping.map(base, 0, false) == Error::kNone);
  BOOST_TEST(reinterpret_cast<uint64_t>(mapping.address()) == base);
}

BOOST_FIXTURE_TEST_CASE(address_space_that_is_refused_is_an_error_and_a_smaller_one_may_be_tried,
                        Fixture) {
  pid_t pid = ::fork();
  if (pid == 0) {
    test::become_child();
    rlimit limit{2 * kGiB, 2 * kGiB};
    Mapping limited;
    if (limited.open(path.c_str(), true) != Error::kNone || ::setrlimit(RLIMIT_AS, &limit) != 0)
      _exit(1);
    if (limited.set_length(4 * kGiB) != Error::kNone ||
        limited.map(0, 1, false) != Error::kNoMemory)
      _exit(2);
    if (limited.set_length(64 * kMiB) != Error::kNone || limited.map(0, 1, false) != Error::kNone)
      _exit(3);
    _exit(limited.grow(0, kMiB) == Error::kNone ? 0 : 4);
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_TEST(status == 0);
}

BOOST_FIXTURE_TEST_CASE(links_and_what_is_no_file_are_refused, Fixture) {
  std::ofstream(scratch.file("target")) << "x";
  BOOST_REQUIRE(::symlink(scratch.file("target").c_str(), path.c_str()) == 0);
  BOOST_TEST(mapping.open(path.c_str(), true) == Error::kUnsupported);
  BOOST_TEST(mapping.open(scratch.path().c_str(), true) == Error::kUnsupported);
  BOOST_TEST(mapping.open("/dev/zero", true) == Error::kUnsupported);
  BOOST_TEST(mapping.open(scratch.file("no/such").c_str(), true) == Error::kNotFound);
  BOOST_TEST(mapping.open(scratch.file("none").c_str(), false) == Error::kNotFound);
  BOOST_TEST(mapping.open(std::string(600, 'x').c_str(), true) == Error::kUnsupported);
  BOOST_TEST(test::read_all(scratch.file("target")) == "x");
}

BOOST_FIXTURE_TEST_CASE(file_size_limit_is_an_error_not_a_signal, Fixture) {
  pid_t pid = ::fork();
  if (pid == 0) {
    test::become_child();
    rlimit limit{kMiB, kMiB};
    Mapping limited;
    bool is_refused = ::setrlimit(RLIMIT_FSIZE, &limit) == 0 &&
                      limited.open(path.c_str(), true) == Error::kNone &&
                      limited.set_length(64 * kMiB) == Error::kNoSpace;
    _exit(is_refused ? 0 : 1);
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_TEST(status == 0);
}

BOOST_FIXTURE_TEST_CASE(children_do_not_inherit_what_is_kept_from_them, Fixture) {
  BOOST_REQUIRE(mapping.open(path.c_str(), true) == Error::kNone);
  BOOST_REQUIRE(mapping.set_length(4 * kMiB) == Error::kNone);
  BOOST_REQUIRE(mapping.map(0, 1, true) == Error::kNone);
  BOOST_REQUIRE(mapping.grow(0, kMiB) == Error::kNone);
  pid_t pid = ::fork();
  if (pid == 0) {
    test::become_child();
    unsigned char state;
    _exit(::mincore(mapping.address(), 4096, &state) == -1 && errno == ENOMEM ? 0 : 1);
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_TEST(status == 0);
}

// In a child with a file system of 8 MiB of its own.
BOOST_FIXTURE_TEST_CASE(full_file_system_is_an_error_value_and_what_is_grown_stays_usable,
                        Fixture) {
  std::string mount_point = scratch.file("small");
  BOOST_REQUIRE(::mkdir(mount_point.c_str(), 0700) == 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    test::become_child();
    bool is_mounted =
        test::own_mounts() && ::mount("tmpfs", mount_point.c_str(), "tmpfs", 0, "size=8m") == 0;
    if (!is_mounted) _exit(77);
    Mapping small;
    if (small.open((mount_point + "/a").c_str(), true) != Error::kNone) _exit(1);
    if (small.set_length(64 * kMiB) != Error::kNone || small.map(0, 1, false) != Error::kNone)
      _exit(2);
    if (small.grow(0, 6 * kMiB) != Error::kNone) _exit(3);
    if (small.grow(6 * kMiB, 6 * kMiB) != Error::kNoSpace) _exit(4);
    std::memset(small.address(), 1, 6 * kMiB);
    if (small.grow(6 * kMiB, kMiB) != Error::kNone) _exit(5);
    if (!small.give_back(6 * kMiB, 2 * kMiB)) _exit(6);
    // Refused as a whole, it leaves room for what is smaller.
    for (size_t resident_bytes : {size_t{0}, 8 * kMiB}) {
      if (small.open_access(10 * kMiB, 8 * kMiB) != Error::kNone) _exit(7);
      if (small.allocate_resident(10 * kMiB, 8 * kMiB, resident_bytes) != Error::kNoSpace) _exit(8);
      if (small.grow(30 * kMiB, kMiB) != Error::kNone) _exit(9);
    }
    _exit(0);
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_REQUIRE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 77) std::printf("skipped: no mount namespace here\n");
  BOOST_TEST((WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 77),
             "exit status " << WEXITSTATUS(status));
}

BOOST_FIXTURE_TEST_CASE(backend_of_an_open_file_is_what_open_found, Fixture) {
  prepare();
  int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  BOOST_TEST((backend_of(file) == Backend::kTmpfs));
  ::close(file);
  int zero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  BOOST_TEST((backend_of(zero) == Backend::kDevdax));  // whoever asks has looked at the size
  ::close(zero);
}

BOOST_FIXTURE_TEST_CASE(name_is_made_durable_in_any_directory_that_may_be_searched, Fixture) {
  prepare();
  BOOST_TEST((mapping.make_name_durable() == Error::kNone));
  mapping.close();
  BOOST_REQUIRE(::chmod(scratch.path().c_str(), 0300) == 0);
  BOOST_REQUIRE(mapping.open(path.c_str(), false) == Error::kNone);
  BOOST_TEST((mapping.make_name_durable() == Error::kNone));
  ::chmod(scratch.path().c_str(), 0700);
}

BOOST_FIXTURE_TEST_CASE(name_without_a_directory_is_of_the_current_one, Fixture) {
  std::string before = std::filesystem::current_path();
  std::filesystem::current_path(scratch.path());
  BOOST_REQUIRE(mapping.open("file", true) == Error::kNone);
  BOOST_TEST((mapping.make_name_durable() == Error::kNone));
  std::filesystem::current_path(before);
}

BOOST_FIXTURE_TEST_CASE(arenas_beside_the_process_arena_never_lie_where_it_may, Fixture) {
  auto address_of = [&](bool is_beside, uint64_t seed) {
    Mapping one;
    if (is_beside) one.stand_beside();
    BOOST_REQUIRE(one.open(path.c_str(), true) == Error::kNone);
    BOOST_REQUIRE(one.set_length(64 * kMiB) == Error::kNone);
    BOOST_REQUIRE(one.map(0, seed, false) == Error::kNone);
    auto address = reinterpret_cast<uintptr_t>(one.address());
    one.close();
    return address;
  };
  uintptr_t own_max = 0, beside_min = UINTPTR_MAX;
  std::mt19937_64 random(test::seed());
  for (int i = 0; i < 200; i++) {
    own_max = max(own_max, address_of(false, random()));
    beside_min = min(beside_min, address_of(true, random()));
  }
  BOOST_TEST(own_max < beside_min);
}

BOOST_FIXTURE_TEST_CASE(a_tmpfs_is_not_asked_for_most_of_memory_at_once, Fixture) {
  prepare();
  BOOST_REQUIRE(available_memory_bytes() != UINT64_MAX);
  uint64_t total_bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * 4096;
  bool is_tmpfs = mapping.backend() == Backend::kTmpfs;
  BOOST_TEST(mapping.at_once_bytes_max() > (is_tmpfs ? kMiB : total_bytes));
  if (is_tmpfs) BOOST_TEST(mapping.at_once_bytes_max() <= total_bytes / 2);
}

}  // namespace
}  // namespace btd
