// Lines on stderr.  Invariants checked: a line begins with "bartender: ", ends with one newline, is
// cut and never overrun, is written by one write(2), and keeps errno; what is above the level is
// not written.
#define BOOST_TEST_MODULE log
#include "core/base/log.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cerrno>
#include <functional>
#include <string>

namespace btd {
namespace {

// What work() writes to stderr.
std::string written(const std::function<void()>& work) {
  int pipes[2];
  BOOST_REQUIRE(pipe2(pipes, O_CLOEXEC | O_NONBLOCK) == 0);
  int kept = dup(2);
  dup2(pipes[1], 2);
  work();
  dup2(kept, 2);
  close(kept);
  char buffer[4096];
  ssize_t length = read(pipes[0], buffer, sizeof(buffer));
  close(pipes[0]);
  close(pipes[1]);
  return length <= 0 ? "" : std::string(buffer, static_cast<size_t>(length));
}

struct Level {
  explicit Level(LogLevel level) : kept(log_level) { log_level = level; }
  ~Level() { log_level = kept; }
  LogLevel kept;
};

std::string text_of(Line& line) {
  return std::string(line.c_str()).substr(std::string("bartender: ").size());
}

BOOST_AUTO_TEST_CASE(line_has_prefix_and_newline) {
  BOOST_TEST(written([] { Line().text("hello ").number(42).write(LogLevel::kError); }) ==
             "bartender: hello 42\n");
}

BOOST_AUTO_TEST_CASE(numbers_of_all_widths_are_exact) {
  for (uint64_t value : {uint64_t{0}, uint64_t{9}, uint64_t{10}, uint64_t{18446744073709551615u}}) {
    Line line;
    BOOST_TEST(text_of(line.number(value)) == std::to_string(value));
  }
  Line a, b, c;
  BOOST_TEST(text_of(a.hex(0)) == "0x0");
  BOOST_TEST(text_of(b.hex(0xDEADBEEF)) == "0xdeadbeef");
  BOOST_TEST(text_of(c.hex(~uint64_t{0})) == "0xffffffffffffffff");
}

BOOST_AUTO_TEST_CASE(sizes_are_cut_to_a_tenth) {
  auto size = [](uint64_t value) {
    Line line;
    return text_of(line.size(value));
  };
  BOOST_TEST(size(0) == "0 B");
  BOOST_TEST(size(1023) == "1023 B");
  BOOST_TEST(size(1024) == "1K");
  BOOST_TEST(size(1536) == "1.5K");
  BOOST_TEST(size(64ull << 30) == "64G");
  BOOST_TEST(size((3ull << 20) + 1) == "3M");
  BOOST_TEST(size(~0ull) == "16383.9P");
}

BOOST_AUTO_TEST_CASE(error_numbers_are_named) {
  Line a, b;
  BOOST_TEST(text_of(a.error_name(ENOSPC)) == "No space left on device");
  BOOST_TEST(text_of(b.error_name(99999)) == "unknown error");
}

BOOST_AUTO_TEST_CASE(line_that_is_too_long_is_cut_and_still_ends_with_a_newline) {
  std::string long_text(700, 'x');
  std::string line = written([&] {
    Line().text(long_text.c_str()).text(long_text.c_str()).number(12345).write(LogLevel::kError);
  });
  BOOST_TEST(line.size() <= 1001u);
  BOOST_TEST(line.size() >= 900u);
  BOOST_TEST(line.back() == '\n');
  BOOST_TEST(line.find('\n') == line.size() - 1);
}

BOOST_AUTO_TEST_CASE(lines_above_the_level_are_not_written) {
  Level level(LogLevel::kError);
  BOOST_TEST(written([] { Line().text("x").write(LogLevel::kInfo); }) == "");
  BOOST_TEST(written([] { Line().text("x").write(LogLevel::kDebug); }) == "");
  BOOST_TEST(written([] { Line().text("x").write(LogLevel::kError); }) == "bartender: x\n");
}

BOOST_AUTO_TEST_CASE(level_off_silences_all_but_what_must_be_said) {
  Level level(LogLevel::kOff);
  BOOST_TEST(written([] { Line().text("x").write(LogLevel::kError); }) == "");
  BOOST_TEST(written([] { Line().text("x").write(LogLevel::kOff); }) == "bartender: x\n");
}

BOOST_AUTO_TEST_CASE(errno_is_kept_even_when_stderr_is_closed) {
  int kept = dup(2);
  close(2);
  errno = 1234;
  Line().text("nobody reads this").write(LogLevel::kError);
  int after = errno;
  dup2(kept, 2);
  close(kept);
  BOOST_TEST(after == 1234);
}

}  // namespace
}  // namespace btd
