// One line to stderr, with write(2) alone: built in a buffer on the stack, never in memory that
// malloc gives.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

enum class LogLevel : uint8_t { kOff = 0, kError = 1, kInfo = 2, kDebug = 3 };

// Lines above this level are not written.  Set once from the settings; lines of kOff level are
// always written.
extern LogLevel log_level;

// Builds "bartender: ...\n".  What does not fit is cut, never overrun.
class Line {
 public:
  Line() { text("bartender: "); }

  Line& text(const char* text);
  Line& text(const char* text, size_t length);
  Line& number(uint64_t value);
  Line& hex(uint64_t value);
  Line& size(uint64_t size_bytes);  // "64K", "1.5G"
  Line& error_name(int error_number);

  // Writes the line to stderr if the level asks for it.  errno is kept.
  void write(LogLevel level);

  const char* c_str();

 private:
  static constexpr size_t kCapacity = 1000;
  char buffer_[kCapacity + 2];
  size_t length_ = 0;
};

}  // namespace btd
