// fork().  Invariants checked:
//  1. The child sees every live block as it was at the fork, at its address; later stores of the
//  parent do not show.
//  2. Nothing the child stores or frees reaches the parent's arena, its states or its file.
//  3. The parent's lock ends with the parent, even while children live.
//  4. The child may free each inherited block once; misuse is found out.
#define BOOST_TEST_MODULE snapshot
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

using test::Life;

struct Fixture {
  Fixture() { test::limit_time(60); }
  test::Scratch scratch;
  std::string path = scratch.file("a.arena");
};

// Two processes take turns over a pair of pipes.
struct Turns {
  Turns() { BOOST_REQUIRE(pipe2(fds, O_CLOEXEC) == 0); }
  ~Turns() { ::close(fds[0]), ::close(fds[1]); }
  void signal() {
    if (::write(fds[1], "x", 1) != 1) _exit(99);
  }
  void wait() {
    char byte;
    if (::read(fds[0], &byte, 1) != 1) _exit(98);
  }
  int fds[2];
};

// fork() as preload's handlers wrap it.  The child runs child() and leaves with its result.
template <typename Child>
pid_t fork_arena(Arena& arena, Child child) {
  arena.fork_prepare();
  pid_t pid = ::fork();
  if (pid != 0) {
    arena.fork_parent();
    return pid;
  }
  test::become_child();
  arena.fork_child();
  _exit(child());
}

int status_of(pid_t pid) {
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_TEST(WIFEXITED(status));
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

struct Blocks {
  std::vector<std::pair<char*, size_t>> all;
  explicit Blocks(Life& life) {
    for (size_t size_bytes : {size_t{16}, size_t{48}, size_t{64}, size_t{200}, size_t{5000},
                              32 * kKiB, 33 * kKiB, 3 * kMiB}) {
      for (int i = 0; i < 20; i++) all.emplace_back(life.allocate(size_bytes), size_bytes);
    }
    fill(1);
  }
  void fill(uint64_t mark) {
    for (size_t i = 0; i < all.size(); i++)
      test::fill(all[i].first, all[i].second, mark * 1000 + i);
  }
  bool are_filled(uint64_t mark) const {
    for (size_t i = 0; i < all.size(); i++) {
      if (!test::is_filled(all[i].first, all[i].second, mark * 1000 + i)) return false;
    }
    return true;
  }
};

BOOST_FIXTURE_TEST_CASE(parent_and_child_do_not_see_each_others_stores, Fixture) {
  Life life(path, 256 * kMiB);
  Blocks blocks(life);
  Turns parent_wrote, child_wrote;
  pid_t child = fork_arena(life.arena(), [&] {
    parent_wrote.wait();
    bool is_as_before = blocks.are_filled(1);
    blocks.fill(3);
    bool is_own = blocks.are_filled(3);
    child_wrote.signal();
    parent_wrote.wait();
    return is_as_before && is_own && blocks.are_filled(3) ? 0 : 1;
  });
  BOOST_TEST(blocks.are_filled(1));
  blocks.fill(2);
  parent_wrote.signal();
  child_wrote.wait();
  BOOST_TEST(blocks.are_filled(2));
  blocks.fill(4);
  parent_wrote.signal();
  BOOST_TEST(status_of(child) == 0);
  BOOST_TEST(blocks.are_filled(4));
}

BOOST_FIXTURE_TEST_CASE(child_does_not_see_what_the_parent_frees_and_allocates_later, Fixture) {
  Life life(path, 256 * kMiB);
  Blocks blocks(life);
  Turns parent_wrote;
  pid_t child = fork_arena(life.arena(), [&] {
    parent_wrote.wait();
    for (auto [block, size_bytes] : blocks.all) {
      if (life.arena().usable_size(block) < size_bytes) return 2;
    }
    return blocks.are_filled(1) ? 0 : 1;
  });
  for (auto [block, size_bytes] : blocks.all) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
  life.cache().flush_all();
  life.arena().give_back(0);
  for (int i = 0; i < 1000; i++) std::memset(life.allocate(100 * kKiB), 0x77, 100 * kKiB);
  parent_wrote.signal();
  BOOST_TEST(status_of(child) == 0);
}

BOOST_FIXTURE_TEST_CASE(child_frees_each_inherited_block_once_and_the_parent_keeps_it, Fixture) {
  Life life(path, 256 * kMiB);
  Blocks blocks(life);
  Usage before = life.arena().usage();
  pid_t child = fork_arena(life.arena(), [&] {
    for (auto [block, size_bytes] : blocks.all) {
      if (life.arena().free_inherited(block + 8) == Verdict::kGood) return 1;
      if (life.arena().free_inherited(block) != Verdict::kGood) return 2;
      if (life.arena().free_inherited(block) != Verdict::kNotLive) return 3;
      if (life.arena().usable_size(block) != 0) return 4;
    }
    return 0;
  });
  BOOST_TEST(status_of(child) == 0);
  BOOST_TEST(blocks.are_filled(1));
  BOOST_TEST(life.arena().usage().live_bytes == before.live_bytes);
  for (auto [block, size_bytes] : blocks.all) BOOST_REQUIRE(life.free(block) == Verdict::kGood);
}

BOOST_FIXTURE_TEST_CASE(child_changes_no_byte_of_the_file, Fixture) {
  Life life(path, 16 * kMiB);
  std::vector<char*> mine;
  for (int i = 0; i < 200; i++)
    mine.push_back(life.allocate(3000)), test::fill(mine.back(), 3000, 1);
  std::string before = test::read_all(path);
  pid_t child = fork_arena(life.arena(), [&] {
    for (char* block : mine) {
      std::memset(block, 0, 3000);
      if (life.arena().free_inherited(block) != Verdict::kGood) return 1;
    }
    return 0;
  });
  BOOST_TEST(status_of(child) == 0);
  BOOST_TEST((test::read_all(path) == before));
}

BOOST_FIXTURE_TEST_CASE(grandchild_sees_the_childs_stores_only, Fixture) {
  Life life(path, 64 * kMiB);
  Blocks blocks(life);
  pid_t child = fork_arena(life.arena(), [&] {
    blocks.fill(2);
    pid_t grandchild = ::fork();  // the snapshot is private memory now: the kernel copies it
    if (grandchild == 0) {
      test::become_child();
      bool is_good = blocks.are_filled(2);
      blocks.fill(3);
      _exit(is_good ? 0 : 1);
    }
    int status = -1;
    ::waitpid(grandchild, &status, 0);
    return status == 0 && blocks.are_filled(2) ? 0 : 1;
  });
  BOOST_TEST(status_of(child) == 0);
  BOOST_TEST(blocks.are_filled(1));
}

BOOST_FIXTURE_TEST_CASE(child_does_not_hold_the_lock_after_the_parent_is_gone, Fixture) {
  Turns child_ready, may_end, parent_ready;
  int done[2];
  BOOST_REQUIRE(pipe2(done, O_CLOEXEC) == 0);
  pid_t parent = ::fork();
  if (parent == 0) {
    test::become_child();
    Life life(path);
    char* block = life.allocate(5000);
    test::fill(block, 5000, 9);
    ::close(done[0]);
    fork_arena(life.arena(), [&] {
      child_ready.signal();
      may_end.wait();
      char is_good = test::is_filled(block, 5000, 9) ? 'y' : 'n';
      return ::write(done[1], &is_good, 1) == 1 ? 0 : 1;
    });
    child_ready.wait();
    parent_ready.signal();
    kill(getpid(), SIGKILL);
  }
  ::close(done[1]);
  parent_ready.wait();
  int status;
  BOOST_REQUIRE(::waitpid(parent, &status, 0) == parent);
  {
    Life next(path);
    BOOST_TEST(next.is_open(), next.why());
    BOOST_TEST(next.arena().usage().live_blocks == 1u);
  }
  may_end.signal();
  char is_good = 0;
  BOOST_TEST(::read(done[0], &is_good, 1) == 1);
  BOOST_TEST(is_good == 'y');
  ::close(done[0]);
}

BOOST_FIXTURE_TEST_CASE(snapshots_leave_no_mapping_in_the_parent, Fixture) {
  Life life(path, 64 * kMiB);
  Blocks blocks(life);
  auto count = [] {
    std::string maps = test::read_all("/proc/self/maps");
    return std::count(maps.begin(), maps.end(), '\n');
  };
  BOOST_TEST(status_of(fork_arena(life.arena(), [] { return 0; })) == 0);
  auto before = count();
  for (int i = 0; i < 20; i++)
    BOOST_TEST(status_of(fork_arena(life.arena(), [] { return 0; })) == 0);
  BOOST_TEST(count() <= before + 2);
  BOOST_TEST(life.allocate(kMiB) != nullptr);
}

BOOST_FIXTURE_TEST_CASE(fork_of_an_arena_with_a_host_that_closed_all_descriptors_works, Fixture) {
  Life life(path, 256 * kMiB);
  Blocks blocks(life);
  for (int fd = 400; fd < 420; fd++) ::close(fd);
  pid_t child = fork_arena(life.arena(), [&] { return blocks.are_filled(1) ? 0 : 1; });
  BOOST_TEST(status_of(child) == 0);
  BOOST_TEST(life.allocate(10 * kMiB) != nullptr);  // grows: the file is opened anew
}

}  // namespace
}  // namespace btd
