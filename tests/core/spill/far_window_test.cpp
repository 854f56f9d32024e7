// The window as a program sees it.  Invariants checked: what was written reads back, whoever reads
// it and however often it went far and came back; what is kept here stays within its limit; fresh
// and discarded extents are zero and cost no network; system calls see what loads see; the
// program's close() of every descriptor harms nothing; a forked child cannot touch the window.
#define BOOST_TEST_MODULE far_window
#include "core/spill/far_window.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <thread>

#include "tests/core/support/far.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() { test::limit_time(50); }

  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(2);
};

BOOST_FIXTURE_TEST_CASE(a_fresh_window_is_zero_and_asks_no_node, Fixture) {
  test::Far far(scratch.file("far"), stores, 32, 16);
  far.must_open();
  BOOST_TEST(far.window->is_zero(3));
  BOOST_TEST(test::is_all_zero(far.at(3), kFarExtentBytes));
  far.at(4)[100] = 'x';
  BOOST_TEST(!far.window->is_zero(4));
  BOOST_TEST(far.at(4)[99] == 0);
  BOOST_TEST(stores[0]->reads + stores[1]->reads == 0U);
  BOOST_TEST(far.stats().zeroed.load() == 2U);
}

BOOST_FIXTURE_TEST_CASE(what_was_written_comes_back_and_near_stays_within_its_limit, Fixture) {
  constexpr uint64_t kExtents = 256;
  test::Far far(scratch.file("far"), stores, kExtents, 32);
  far.must_open();
  for (uint64_t i = 0; i < kExtents; i++) {
    test::fill(far.at(i), kFarExtentBytes, i);
    BOOST_TEST(far.window->near_bytes() <= 33 * kFarExtentBytes);
  }
  BOOST_TEST(test::file_blocks(scratch.file("far")) * 512 < 40 * kFarExtentBytes);
  BOOST_TEST(far.stats().written_back.load() >= kExtents - 33);
  for (int round = 0; round < 2; round++) {
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  }
  // Read only, the second time around: nothing to write back.
  BOOST_TEST(far.stats().dropped_clean.load() >= kExtents - 64);
  BOOST_TEST(far.stats().over_limit.load() == 0U);
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(zeros_that_were_only_read_are_dropped_without_a_write, Fixture) {
  test::Far far(scratch.file("far"), stores, 128, 16);
  far.must_open();
  for (uint64_t i = 0; i < 128; i++) BOOST_TEST(far.word(i) == 0U);
  BOOST_TEST(stores[0]->writes + stores[1]->writes == 0U);
  BOOST_TEST(far.stats().dropped_clean.load() > 64U);
  BOOST_TEST(far.window->is_zero(0));
}

BOOST_FIXTURE_TEST_CASE(one_word_written_to_a_clean_extent_is_not_lost, Fixture) {
  test::Far far(scratch.file("far"), stores, 128, 16);
  far.must_open();
  for (uint64_t i = 0; i < 128; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (uint64_t i = 0; i < 128; i++) {
    far.touch(i);                  // near and clean
    far.word(i, 1024) = i ^ 0x77;  // its third page: no fault that we serve
  }
  for (uint64_t i = 0; i < 128; i++) BOOST_TEST(far.word(i, 1024) == (i ^ 0x77));
  BOOST_TEST(far.stats().written_back.load() > 200U);
}

BOOST_FIXTURE_TEST_CASE(synchronous_tracking_keeps_every_write_too, Fixture) {
  test::Far far(scratch.file("far"), stores, 128, 16);
  far.request.tracks_async = false;
  far.must_open();
  BOOST_TEST(!far.window->tracks_async());
  for (uint64_t i = 0; i < 128; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (uint64_t i = 0; i < 128; i++) {
    BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
    far.word(i, 1024) = i ^ 0x77;
  }
  for (uint64_t i = 0; i < 128; i++) BOOST_TEST(far.word(i, 1024) == (i ^ 0x77));
  uint64_t written = far.stats().written_back;
  for (uint64_t i = 0; i < 128; i++) far.touch(i);
  for (uint64_t i = 0; i < 128; i++) far.touch(i);
  BOOST_TEST(far.stats().written_back.load() < written + 64);  // reading makes nothing dirty
}

BOOST_FIXTURE_TEST_CASE(several_handlers_serve_several_threads, Fixture) {
  constexpr uint64_t kExtents = 192;
  test::Far far(scratch.file("far"), stores, kExtents, 32);
  far.request.handler_count = 3;
  far.must_open();
  std::vector<std::thread> threads;
  std::atomic<uint64_t> wrong{0};
  for (uint64_t t = 0; t < 3; t++) {
    threads.emplace_back([&, t] {
      for (uint64_t i = t; i < kExtents; i += 3) test::fill(far.at(i), kFarExtentBytes, i);
      for (uint64_t i = t; i < kExtents; i += 3)
        wrong += !test::is_filled(far.at(i), kFarExtentBytes, i);
    });
  }
  for (auto& thread : threads) thread.join();
  BOOST_TEST(wrong == 0U);
}

BOOST_FIXTURE_TEST_CASE(a_discarded_extent_is_zero_and_the_nodes_give_its_space_back, Fixture) {
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i);
  far.push_out(0, 32, 32);
  BOOST_TEST(stores[0]->has(0));
  uint64_t reads = stores[0]->reads + stores[1]->reads;
  far.window->discard(0);
  BOOST_TEST(far.window->is_zero(0));
  BOOST_TEST(test::is_all_zero(far.at(0), kFarExtentBytes));
  BOOST_TEST(stores[0]->reads + stores[1]->reads == reads);
  far.window->discard(63);  // near
  BOOST_TEST(test::is_all_zero(far.at(63), kFarExtentBytes));
  for (uint64_t i = 0; i < 64; i++) far.window->discard(i);
  BOOST_TEST(far.window->near_bytes() == 0U);
  test::Far::wait_until([&] {
    far.window->pager().evictor_call.raise();
    return stores[0]->size() + stores[1]->size() == 0;
  });
  // And used again.
  for (uint64_t i = 0; i < 64; i++) test::fill(far.at(i), kFarExtentBytes, i + 7);
  for (uint64_t i = 0; i < 64; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i + 7));
}

BOOST_FIXTURE_TEST_CASE(a_discarded_extent_is_zero_even_if_it_was_locked, Fixture) {
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  test::fill(far.at(3), kFarExtentBytes, 3);
  BOOST_REQUIRE(::mlock(far.at(3) + 4096, 8192) == 0);
  far.window->discard(3);
  BOOST_TEST(far.window->is_zero(3));
  BOOST_TEST(test::is_all_zero(far.at(3), kFarExtentBytes));
}

BOOST_FIXTURE_TEST_CASE(parts_of_extents_may_be_locked, Fixture) {
  constexpr uint64_t kExtents = 64;
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  for (uint64_t i = 0; i < kExtents; i++) test::fill(far.at(i), kFarExtentBytes, i);
  for (uint64_t i = 0; i < 4; i++) BOOST_REQUIRE(::mlock(far.at(i) + 20480, 4096) == 0);
  for (int round = 0; round < 2; round++) {
    for (uint64_t i = 0; i < kExtents; i++)
      BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  }
  BOOST_TEST(far.stats().poisoned.load() == 0U);
}

BOOST_FIXTURE_TEST_CASE(a_discarded_extent_may_be_evicted_at_the_same_time, Fixture) {
  test::Far far(scratch.file("far"), stores, 64, 16);
  far.must_open();
  std::mt19937_64 random(test::seed());
  for (int i = 0; i < 3000; i++) {
    uint64_t extent = random() % 64;
    if (random() % 4 == 0) {
      far.window->discard(extent);
      BOOST_TEST(far.word(extent, 8000) == 0U);
    }
    far.word(extent, 8000) = extent + 1;
  }
  for (uint64_t i = 0; i < 64; i++)
    BOOST_TEST((far.word(i, 8000) == i + 1 || far.word(i, 8000) == 0));
}

// far-memory.md, section 2g: each of these on a range whose pages are far.
struct Matrix : Fixture {
  static constexpr uint64_t kOthers = 64;
  Matrix() : far(scratch.file("far"), stores, kOthers + 8, 16) {
    far.must_open();
    refresh();
  }
  // Extents 0 to 3 filled and far.
  void refresh() {
    for (uint64_t i = 0; i < 4; i++) test::fill(far.at(i), kFarExtentBytes, i);
    for (uint64_t i = 0; i < 4; i++) far.push_out(i, 8, kOthers);
    for (uint64_t i = 0; i < 4; i++) BOOST_TEST_REQUIRE(far.state(i).state() == ExtentState::kFar);
  }
  test::Far far;
};

BOOST_FIXTURE_TEST_CASE(read_and_write_take_far_pages, Matrix) {
  std::string name = scratch.file("data");
  int fd = ::open(name.c_str(), O_RDWR | O_CREAT, 0600);
  BOOST_TEST(::write(fd, far.at(0), 2 * kFarExtentBytes) == 2 * long(kFarExtentBytes));
  far.push_out(2, 8, kOthers);
  BOOST_TEST(::pread(fd, far.at(2), kFarExtentBytes, 0) == long(kFarExtentBytes));
  BOOST_TEST(test::is_filled(far.at(2), kFarExtentBytes, 0));
  // What the kernel wrote is dirty like any other.
  far.push_out(2, 8, kOthers);
  BOOST_TEST(test::is_filled(far.at(2), kFarExtentBytes, 0));
  ::close(fd);
}

BOOST_FIXTURE_TEST_CASE(send_and_receive_take_far_pages, Matrix) {
  int ends[2];
  BOOST_REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
  BOOST_TEST(::send(ends[0], far.at(0), kFarExtentBytes, 0) == long(kFarExtentBytes));
  BOOST_TEST(::recv(ends[1], far.at(1), kFarExtentBytes, MSG_WAITALL) == long(kFarExtentBytes));
  BOOST_TEST(test::is_filled(far.at(1), kFarExtentBytes, 0));
  far.push_out(1, 8, kOthers);
  BOOST_TEST(test::is_filled(far.at(1), kFarExtentBytes, 0));
  ::close(ends[0]);
  ::close(ends[1]);
}

BOOST_FIXTURE_TEST_CASE(direct_io_takes_far_pages, Matrix) {
  // Not in a tmpfs: there O_DIRECT copies.
  char name[] = "far-direct-XXXXXX";
  int fd = ::mkostemp(name, O_DIRECT);
  if (fd < 0) fd = ::open(name, O_RDWR | O_CREAT, 0600);
  BOOST_REQUIRE(fd >= 0);
  ::unlink(name);
  BOOST_TEST(::pwrite(fd, far.at(0), kFarExtentBytes, 0) == long(kFarExtentBytes));
  far.push_out(3, 8, kOthers);
  BOOST_TEST(::pread(fd, far.at(3), kFarExtentBytes, 0) == long(kFarExtentBytes));
  BOOST_TEST(test::is_filled(far.at(3), kFarExtentBytes, 0));
  far.push_out(3, 8, kOthers);
  BOOST_TEST(test::is_filled(far.at(3), kFarExtentBytes, 0));
  ::close(fd);
}

BOOST_FIXTURE_TEST_CASE(another_process_reads_and_writes_far_pages, Matrix) {
  ::prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
  pid_t parent = getpid();
  pid_t child = fork();
  if (child == 0) {
    test::become_child();
    far.window->forget_in_child();
    static char copy[kFarExtentBytes];
    iovec mine{copy, sizeof(copy)};
    iovec theirs{far.at(1), sizeof(copy)};
    if (::process_vm_readv(parent, &mine, 1, &theirs, 1, 0) != long(sizeof(copy))) _exit(1);
    if (!test::is_filled(copy, sizeof(copy), 1)) _exit(2);
    theirs.iov_base = far.at(2);
    if (::process_vm_writev(parent, &mine, 1, &theirs, 1, 0) != long(sizeof(copy))) _exit(3);
    _exit(0);
  }
  int status = 0;
  BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
  BOOST_TEST(status == 0);
  BOOST_TEST(test::is_filled(far.at(2), kFarExtentBytes, 1));
}

BOOST_FIXTURE_TEST_CASE(locked_pages_come_near_and_stay, Matrix) {
  BOOST_REQUIRE(::mlock(far.at(0), kFarExtentBytes) == 0);
  for (int round = 0; round < 4; round++)
    for (uint64_t i = 0; i < kOthers; i++) far.touch(8 + i);
  BOOST_TEST((far.state(0).state() == ExtentState::kNear));
  BOOST_TEST(test::is_filled(far.at(0), kFarExtentBytes, 0));
  BOOST_REQUIRE(::munlock(far.at(0), kFarExtentBytes) == 0);
  far.push_out(0, 8, kOthers);
  BOOST_TEST(test::is_filled(far.at(0), kFarExtentBytes, 0));
}

BOOST_FIXTURE_TEST_CASE(populate_paths_and_structures_may_be_far, Matrix) {
  BOOST_TEST(::madvise(far.at(0), kFarExtentBytes, 22 /* MADV_POPULATE_READ */) == 0);
  BOOST_TEST(::madvise(far.at(1), kFarExtentBytes, 23 /* MADV_POPULATE_WRITE */) == 0);
  BOOST_TEST(test::is_filled(far.at(1), kFarExtentBytes, 1));
  std::strcpy(far.at(2), scratch.path().c_str());
  far.push_out(2, 8, kOthers);
  struct stat status {};
  BOOST_TEST(::stat(far.at(2), &status) == 0);
  BOOST_TEST(S_ISDIR(status.st_mode));
  far.push_out(3, 8, kOthers);
  BOOST_TEST(::stat(scratch.path().c_str(), reinterpret_cast<struct stat*>(far.at(3))) == 0);
  BOOST_TEST(reinterpret_cast<struct stat*>(far.at(3))->st_ino == status.st_ino);
  auto* waiting = reinterpret_cast<pollfd*>(far.at(0));
  waiting[0] = {2, 0, 0};
  far.push_out(0, 8, kOthers);
  BOOST_TEST(::poll(waiting, 1, 0) >= 0);
  auto* word = reinterpret_cast<uint32_t*>(far.at(0) + 128);
  *word = 5;
  far.push_out(0, 8, kOthers);
  BOOST_TEST(::syscall(SYS_futex, word, 0 /* FUTEX_WAIT */, 4, nullptr) == -1);
  BOOST_TEST(errno == EAGAIN);
}

BOOST_FIXTURE_TEST_CASE(closing_every_descriptor_harms_nothing, Matrix) {
  pid_t child = fork();  // the parent of what follows needs its descriptors
  if (child == 0) {
    test::become_child();
    far.window->forget_in_child();
    test::Far mine(scratch.file("mine"), stores, 64, 16);
    for (auto& store : stores) store->clear();
    if (mine.open() != Error::kNone) _exit(1);
    for (uint64_t i = 0; i < 64; i++) test::fill(mine.at(i), kFarExtentBytes, i);
    if (::syscall(SYS_close_range, 0U, ~0U, 0U) != 0) _exit(2);
    for (uint64_t i = 0; i < 64; i++)
      if (!test::is_filled(mine.at(i), kFarExtentBytes, i)) _exit(3);
    if (mine.stats().fetched == 0) _exit(4);
    mine.window->close();
    _exit(0);
  }
  int status = 0;
  BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
  BOOST_TEST(WEXITSTATUS(status) == 0);
  BOOST_TEST(WIFEXITED(status));
}

BOOST_FIXTURE_TEST_CASE(the_pager_keeps_no_pipe_of_the_program_open, Fixture) {
  int ends[2];
  BOOST_REQUIRE(::pipe(ends) == 0);
  test::Far far(scratch.file("far"), stores, 32, 16);
  far.must_open();
  ::close(ends[1]);
  pollfd waiting{ends[0], POLLIN, 0};
  BOOST_TEST(::poll(&waiting, 1, 10'000) == 1);
  BOOST_TEST((waiting.revents & POLLHUP) != 0);
  ::close(ends[0]);
}

BOOST_FIXTURE_TEST_CASE(a_forked_child_dies_of_the_window_and_changes_nothing, Matrix) {
  for (bool has_forgotten : {false, true}) {
    refresh();
    pid_t child = fork();
    if (child == 0) {
      test::become_child();
      if (has_forgotten) far.window->forget_in_child();
      far.word(1) = 99;
      _exit(0);
    }
    int status = 0;
    BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
    BOOST_TEST(WIFSIGNALED(status));
    BOOST_TEST(WTERMSIG(status) == SIGSEGV);
    for (uint64_t i = 0; i < 4; i++) BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  }
}

BOOST_FIXTURE_TEST_CASE(without_full_userfaultfd_it_says_what_to_do, Fixture) {
  // Written to a pipe: the child has no privileges, and no messages of ours to read.
  int ends[2];
  BOOST_REQUIRE(::pipe(ends) == 0);
  int sysctl = ::open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY);
  char allowed = '0';
  if (sysctl >= 0) BOOST_REQUIRE(::read(sysctl, &allowed, 1) == 1);
  ::close(sysctl);
  ::chmod(scratch.path().c_str(), 0777);
  pid_t child = fork();
  if (child == 0) {
    test::become_child();
    if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) _exit(9);
    if (allowed != '0' || ::access("/dev/userfaultfd", R_OK) == 0) _exit(8);
    test::Far far(scratch.file("far"), stores, 32, 16);
    Error error = far.open();
    std::string text = far.why.c_str();
    _exit(error == Error::kPermission && text.find("/dev/userfaultfd") != std::string::npos ? 0
                                                                                            : 1);
  }
  int status = 0;
  BOOST_REQUIRE(::waitpid(child, &status, 0) == child);
  if (WEXITSTATUS(status) == 8) {
    BOOST_TEST_MESSAGE("here every user may use userfaultfd");
  } else {
    BOOST_TEST(status == 0);
  }
  ::close(ends[0]);
  ::close(ends[1]);
}

BOOST_FIXTURE_TEST_CASE(a_second_owner_is_refused, Fixture) {
  test::Far first(scratch.file("far"), stores, 32, 16);
  first.must_open();
  test::Far second(scratch.file("far"), stores, 32, 16);
  BOOST_TEST(second.open() == Error::kInUse);
  first.window->close();
  second.must_open();
}

BOOST_FIXTURE_TEST_CASE(a_file_outside_a_tmpfs_is_refused, Fixture) {
  char name[] = "far-disk-XXXXXX";
  int fd = ::mkstemp(name);
  BOOST_REQUIRE(fd >= 0);
  ::close(fd);
  test::Far far(name, stores, 32, 16);
  BOOST_TEST(far.open() == Error::kUnsupported);
  ::unlink(name);
}

}  // namespace
}  // namespace btd
