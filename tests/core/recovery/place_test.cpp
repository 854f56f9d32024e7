// Where arenas lie.  Invariants checked:
//  1. A pattern expands to exactly what it says, or is refused; nothing overruns the buffer.
//  2. %n takes the first name that no live process holds; a name whose owner is gone is opened
//  again.
//  3. The default directory is made 0700 and is used only if nobody else could write to it; else
//  the user's state directory serves, else one
//     line says why not.
#define BOOST_TEST_MODULE place
#include "core/recovery/place.hpp"

#include <sys/mount.h>

#include <functional>

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

struct Fixture {
  Fixture() {
    test::limit_time(60);
    default_config(config);
    config.size_bytes = 16 * kMiB;
  }
  test::Scratch scratch;
  Config config;

  void set_pattern(const std::string& pattern) {
    BOOST_REQUIRE(pattern.size() < sizeof(config.arena));
    std::strcpy(config.arena, pattern.c_str());
  }
};

std::string expand(const char* pattern, unsigned number = 0, size_t room = 512) {
  std::string out(room + 8, '#');
  if (!expand_pattern(pattern, "prog", number, out.data(), room)) return "refused";
  BOOST_TEST(out.substr(room) == "########");
  return out.c_str();
}

BOOST_AUTO_TEST_CASE(pattern_expands_to_what_it_says) {
  BOOST_TEST(expand("/a/b") == "/a/b");
  BOOST_TEST(expand("/x/%e%n.arena") == "/x/prog.arena");
  BOOST_TEST(expand("/x/%e%n.arena", 1) == "/x/prog.1.arena");
  BOOST_TEST(expand("/x/%e%n.arena", 120) == "/x/prog.120.arena");
  BOOST_TEST(expand("%e%e") == "progprog");
  BOOST_TEST(expand("%p") == std::to_string(getpid()));
  BOOST_TEST(expand("%u") == std::to_string(geteuid()));
  BOOST_TEST(expand("100%%") == "100%");
  BOOST_TEST(expand("") == "");
}

BOOST_AUTO_TEST_CASE(unknown_escape_is_refused) {
  BOOST_TEST(expand("/x/%z") == "refused");
  BOOST_TEST(expand("/x/%E") == "refused");
}

BOOST_AUTO_TEST_CASE(path_that_does_not_fit_is_refused_at_every_length) {
  std::string whole = expand("/x/%e/%p/%u%n%%", 7);
  for (size_t room = 1; room <= whole.size() + 2; room++) {
    BOOST_TEST(expand("/x/%e/%p/%u%n%%", 7, room) == (room > whole.size() ? whole : "refused"));
  }
}

BOOST_FIXTURE_TEST_CASE(number_takes_the_first_name_that_no_process_holds, Fixture) {
  set_pattern(scratch.file("%e%n.arena"));
  Arena arenas[3];
  const char* names[] = {"prog.arena", "prog.1.arena", "prog.2.arena"};
  for (int i = 0; i < 3; i++) {
    Line why;
    BOOST_REQUIRE_MESSAGE(open_by_config(config, "prog", nullptr, arenas[i], why) == Error::kNone,
                          why.c_str());
    BOOST_TEST(std::string(arenas[i].path()) == scratch.file(names[i]));
  }
  arenas[1].close();
  Arena again;
  Line why;
  BOOST_REQUIRE(open_by_config(config, "prog", nullptr, again, why) == Error::kNone);
  BOOST_TEST(std::string(again.path()) == scratch.file("prog.1.arena"));
  BOOST_TEST(again.header().epoch == 2u);
  again.close();
  arenas[0].close();
  arenas[2].close();
}

BOOST_FIXTURE_TEST_CASE(pattern_without_number_is_refused_while_its_arena_is_in_use, Fixture) {
  set_pattern(scratch.file("one.arena"));
  Arena first, second;
  Line why;
  BOOST_REQUIRE(open_by_config(config, "prog", nullptr, first, why) == Error::kNone);
  Line refusal;
  BOOST_TEST(open_by_config(config, "prog", nullptr, second, refusal) == Error::kInUse);
  BOOST_TEST(std::strstr(refusal.c_str(), "in use by process") != nullptr, refusal.c_str());
  first.close();
}

BOOST_FIXTURE_TEST_CASE(settings_reach_the_arena, Fixture) {
  set_pattern(scratch.file("a.arena"));
  Arena arena;
  Line why;
  config.on_restart = OnRestart::kKeep;
  BOOST_REQUIRE(open_by_config(config, "a-program-of-this-name", nullptr, arena, why) == Error::kNone);
  BOOST_TEST(arena.header().capacity_bytes == config.size_bytes);
  BOOST_TEST(std::string(arena.header().program) == "a-program-of-this-name");
  arena.close();
  Arena again;
  BOOST_REQUIRE(open_by_config(config, "x", nullptr, again, why) == Error::kNone);
  BOOST_TEST(!again.may_reclaim_survivors);
  again.close();
}

BOOST_FIXTURE_TEST_CASE(directory_of_an_explicit_pattern_is_not_made, Fixture) {
  set_pattern(scratch.file("missing/a.arena"));
  Arena arena;
  Line why;
  BOOST_TEST(open_by_config(config, "prog", nullptr, arena, why) == Error::kNotFound);
  BOOST_TEST(!std::filesystem::exists(scratch.file("missing")));
}

// The default place has a fixed name: each case runs in a child that sees an empty /dev/shm of its
// own.
int in_own_dev_shm(const std::function<int()>& work) {
  pid_t pid = ::fork();
  if (pid == 0) {
    test::become_child();
    bool is_alone =
        test::own_mounts() && ::mount("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777") == 0;
    _exit(is_alone ? work() : 77);
  }
  int status = -1;
  BOOST_REQUIRE(::waitpid(pid, &status, 0) == pid);
  BOOST_REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

struct OwnShm : Fixture {
  std::string directory = "/dev/shm/bartender-" + std::to_string(geteuid());

  // The path of the arena that opens; its error's line if none does.  In the child only.
  std::string open_default() {
    Config defaults;
    default_config(defaults);
    defaults.size_bytes = 16 * kMiB;
    auto arena = std::make_unique<Arena>();
    Line why;
    if (open_by_config(defaults, "prog", nullptr, *arena, why) != Error::kNone)
      return std::string("error: ") + why.c_str();
    return arena->path();
  }
  // 77: this machine lets nobody have a /dev/shm of his own.
  void expect(const std::function<bool()>& work) {
    int status = in_own_dev_shm([&] { return work() ? 0 : 1; });
    if (status == 77) {
      BOOST_TEST_MESSAGE("skipped: no mount namespace here");
      std::printf("skipped: no mount namespace here\n");
      return;
    }
    BOOST_TEST(status == 0);
  }
};

BOOST_FIXTURE_TEST_CASE(default_directory_is_made_for_this_user_alone, OwnShm) {
  expect([&] {
    ::umask(0);
    struct stat status {};
    return open_default() == directory + "/prog.arena" && ::stat(directory.c_str(), &status) == 0 &&
           (status.st_mode & 07777) == 0700;
  });
}

BOOST_FIXTURE_TEST_CASE(default_directory_that_others_can_write_gives_way_to_the_state_directory,
                        OwnShm) {
  for (mode_t mode : {0770, 0777, 0720, 0702}) {
    expect([&] {
      // The state home is made with its parents, in the test's own directory below another mount.
      std::string home = "/dev/shm/home-" + std::to_string(mode);
      ::setenv("XDG_STATE_HOME", (home + "/state").c_str(), 1);
      if (::mkdir(directory.c_str(), 0700) != 0 || ::chmod(directory.c_str(), mode) != 0)
        return false;
      return open_default() == home + "/state/bartender/prog.arena" &&
             std::filesystem::is_empty(directory);
    });
  }
}

BOOST_FIXTURE_TEST_CASE(default_directory_that_is_a_link_is_not_followed, OwnShm) {
  expect([&] {
    ::setenv("XDG_STATE_HOME", "/dev/shm/state", 1);
    if (::mkdir("/dev/shm/elsewhere", 0700) != 0 ||
        ::symlink("/dev/shm/elsewhere", directory.c_str()) != 0)
      return false;
    return open_default() == "/dev/shm/state/bartender/prog.arena" &&
           std::filesystem::is_empty("/dev/shm/elsewhere");
  });
}

BOOST_FIXTURE_TEST_CASE(default_directory_of_another_user_is_not_used, OwnShm) {
  expect([&] {
    ::setenv("XDG_STATE_HOME", "/dev/shm/state", 1);
    if (::mkdir(directory.c_str(), 0755) != 0) return false;
    if (::chown(directory.c_str(), 12345, 12345) != 0) return true;  // not root: nothing to check
    return open_default() == "/dev/shm/state/bartender/prog.arena";
  });
}

BOOST_FIXTURE_TEST_CASE(home_serves_without_a_state_home, OwnShm) {
  expect([&] {
    ::unsetenv("XDG_STATE_HOME");
    ::setenv("HOME", "/dev/shm/home", 1);
    if (::mkdir(directory.c_str(), 0700) != 0 || ::chmod(directory.c_str(), 0777) != 0)
      return false;
    return open_default() == "/dev/shm/home/.local/state/bartender/prog.arena";
  });
}

BOOST_FIXTURE_TEST_CASE(no_place_at_all_is_one_line, OwnShm) {
  expect([&] {
    if (::mkdir(directory.c_str(), 0700) != 0 || ::chmod(directory.c_str(), 0777) != 0)
      return false;
    ::unsetenv("XDG_STATE_HOME");
    ::unsetenv("HOME");
    std::string first = open_default();
    ::setenv("XDG_STATE_HOME", "relative/is/not/accepted", 1);
    std::string second = open_default();
    ::setenv("XDG_STATE_HOME", "/proc/no/such/place", 1);
    std::string third = open_default();
    for (const std::string& line : {first, second, third}) {
      if (line.rfind("error: ", 0) != 0 || line.find("set BARTENDER_ARENA") == std::string::npos)
        return false;
    }
    return true;
  });
}

}  // namespace
}  // namespace btd
