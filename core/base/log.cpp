#include "core/base/log.hpp"

#include <cerrno>
#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {

LogLevel log_level = LogLevel::kError;

Line& Line::text(const char* text, size_t length) {
  length = min(length, kCapacity - length_);
  std::memcpy(buffer_ + length_, text, length);
  length_ += length;
  return *this;
}

Line& Line::text(const char* text) { return this->text(text, std::strlen(text)); }

Line& Line::number(uint64_t value) {
  char digits[20];
  size_t at = sizeof(digits);
  do {
    digits[--at] = static_cast<char>('0' + value % 10);
    value /= 10;
  } while (value != 0);
  return text(digits + at, sizeof(digits) - at);
}

Line& Line::hex(uint64_t value) {
  char digits[18];
  size_t at = sizeof(digits);
  do {
    digits[--at] = "0123456789abcdef"[value % 16];
    value /= 16;
  } while (value != 0);
  digits[--at] = 'x';
  digits[--at] = '0';
  return text(digits + at, sizeof(digits) - at);
}

Line& Line::size(uint64_t size_bytes) {
  static constexpr const char* kUnits[] = {" B", "K", "M", "G", "T", "P"};
  size_t unit = 0;
  uint64_t tenths = 0;
  while (size_bytes >= 1024 && unit + 1 < 6) {
    tenths = (size_bytes % 1024) * 10 / 1024;
    size_bytes /= 1024;
    unit++;
  }
  number(size_bytes);
  if (tenths != 0) text(".").number(tenths);
  return text(kUnits[unit]);
}

Line& Line::error_name(int error_number) {
  const char* description = strerrordesc_np(error_number);
  return text(description != nullptr ? description : "unknown error");
}

void Line::write(LogLevel level) {
  if (level > log_level) return;
  int kept = errno;
  buffer_[length_] = '\n';
  sys::write(2, buffer_, length_ + 1);
  errno = kept;
}

const char* Line::c_str() {
  buffer_[length_] = '\0';
  return buffer_;
}

}  // namespace btd
