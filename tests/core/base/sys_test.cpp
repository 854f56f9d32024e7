// System calls as values.  Invariants checked: failures come back as negative errno values, errno
// stays as it was, descriptors are closed on exec; a failed check says where and aborts.
#define BOOST_TEST_MODULE sys
#include "core/base/sys.hpp"

#include <fcntl.h>
#include <sys/mman.h>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() { test::limit_time(30); }
  test::Scratch scratch;
};

BOOST_FIXTURE_TEST_CASE(failures_are_negative_errno_values_and_errno_is_kept, Fixture) {
  errno = 777;
  int none = sys::open(scratch.file("none").c_str(), O_RDONLY);
  int closed = sys::close(-1);
  long unreadable = sys::read(-1, &none, 1);
  intptr_t unmapped = sys::map(nullptr, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  int unlinked = sys::unlink(scratch.file("none").c_str());
  int after = errno;
  BOOST_TEST(after == 777);
  BOOST_TEST(none == -ENOENT);
  BOOST_TEST(closed == -EBADF);
  BOOST_TEST(unreadable == -EBADF);
  BOOST_TEST(unmapped == -EINVAL);
  BOOST_TEST(unlinked == -ENOENT);
}

BOOST_FIXTURE_TEST_CASE(files_are_made_written_read_and_removed, Fixture) {
  std::string name = scratch.file("file");
  int fd = sys::open(name.c_str(), O_RDWR | O_CREAT, 0600);
  BOOST_REQUIRE(fd >= 0);
  BOOST_TEST((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
  BOOST_TEST(sys::write(fd, "hello", 5) == 5);
  char buffer[8] = {};
  BOOST_TEST(sys::pread(fd, buffer, 4, 1) == 4);
  BOOST_TEST(std::string(buffer) == "ello");
  BOOST_TEST(sys::truncate(fd, 1 << 20) == 0);
  struct stat status {};
  BOOST_TEST(sys::stat_of(fd, &status) == 0);
  BOOST_TEST(status.st_size == 1 << 20);
  BOOST_TEST(sys::close(fd) == 0);
  BOOST_TEST(sys::unlink(name.c_str()) == 0);
}

BOOST_FIXTURE_TEST_CASE(small_files_are_read_whole_and_terminated, Fixture) {
  std::string name = scratch.file("file");
  std::ofstream(name) << "abcdef";
  char buffer[32];
  BOOST_TEST(sys::read_file(name.c_str(), buffer, sizeof(buffer)) == 6);
  BOOST_TEST(std::string(buffer) == "abcdef");
  BOOST_TEST(sys::read_file(name.c_str(), buffer, 4) == 3);
  BOOST_TEST(std::string(buffer) == "abc");
  BOOST_TEST(sys::read_file(scratch.file("none").c_str(), buffer, 4) == -ENOENT);
}

BOOST_FIXTURE_TEST_CASE(memory_is_mapped_protected_and_unmapped, Fixture) {
  intptr_t got = sys::map(nullptr, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  BOOST_REQUIRE(got > 0);
  auto* bytes = reinterpret_cast<volatile char*>(got);
  BOOST_TEST(bytes[0] == 0);
  BOOST_TEST(sys::protect(reinterpret_cast<void*>(got), 8192, PROT_READ | PROT_WRITE) == 0);
  bytes[0] = 1;
  BOOST_TEST(sys::advise(reinterpret_cast<void*>(got), 8192, MADV_DONTNEED) == 0);
  BOOST_TEST(bytes[0] == 0);
  BOOST_TEST(sys::unmap(reinterpret_cast<void*>(got), 8192) == 0);
}

BOOST_AUTO_TEST_CASE(clocks_go_forward) {
  uint64_t wall = sys::wall_clock_s(), steady = sys::steady_clock_s();
  BOOST_TEST(wall > 1700000000u);
  BOOST_TEST(sys::wall_clock_s() >= wall);
  BOOST_TEST(sys::steady_clock_s() >= steady);
}

BOOST_AUTO_TEST_CASE(failed_check_names_the_place_and_aborts) {
  int pipes[2];
  BOOST_REQUIRE(pipe2(pipes, O_CLOEXEC) == 0);
  pid_t pid = ::fork();
  if (pid == 0) {
    dup2(pipes[1], 2);
    signal(SIGABRT, SIG_DFL);
    BTD_CHECK(1 + 1 == 3);
    _exit(0);
  }
  close(pipes[1]);
  int status = 0;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_TEST(WIFSIGNALED(status));
  BOOST_TEST(WTERMSIG(status) == SIGABRT);
  char buffer[1024];
  ssize_t length = ::read(pipes[0], buffer, sizeof(buffer));
  close(pipes[0]);
  std::string line(buffer, length > 0 ? static_cast<size_t>(length) : 0);
  BOOST_TEST(line.find("1 + 1 == 3") != std::string::npos, line);
  BOOST_TEST(line.find("sys_test.cpp:") != std::string::npos, line);
}

}  // namespace
}  // namespace btd
