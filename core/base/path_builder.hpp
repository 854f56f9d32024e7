// A path, put together without an allocation.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

// Text into a buffer of fixed size; remembers whether it fitted.
class PathBuilder {
 public:
  PathBuilder(char* out, size_t out_bytes) : out_(out), left_(out_bytes) {}
  PathBuilder& text(const char* text, size_t length) {
    for (size_t i = 0; i < length; i++) put(text[i]);
    return *this;
  }
  PathBuilder& text(const char* text) {
    while (*text != '\0') put(*text++);
    return *this;
  }
  PathBuilder& number(unsigned value) {
    if (value >= 10) number(value / 10);
    return put(static_cast<char>('0' + value % 10));
  }
  PathBuilder& put(char character) {
    if (left_ > 1) {
      *out_++ = character;
      left_--;
    } else {
      fits_ = false;
    }
    return *this;
  }
  PathBuilder& hex(uint8_t byte) {
    constexpr char kDigits[] = "0123456789abcdef";
    return put(kDigits[byte >> 4]).put(kDigits[byte & 15]);
  }
  [[nodiscard]] bool finish() {
    *out_ = '\0';
    return fits_;
  }

 private:
  char* out_;
  size_t left_;
  bool fits_ = true;
};

}  // namespace btd
