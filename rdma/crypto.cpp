#include "rdma/crypto.hpp"

#include <fcntl.h>
#include <sodium.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>

#include "core/base/sys.hpp"

namespace btd {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool parse_key(const char* text, long length, uint8_t (&key)[wire::kKeyBytes]) {
  constexpr long kDigits = 2 * wire::kKeyBytes;
  if (length == kDigits + 1 && text[kDigits] == '\n') length--;
  if (length != kDigits) return false;
  for (size_t i = 0; i < wire::kKeyBytes; i++) {
    int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    key[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return true;
}

// Root may let a group read it, or one user through an access list, which shows as a group's right:
// that is how systemd hands credentials to a service.
bool is_exposed(const struct stat& status) {
  bool is_granted = status.st_uid == 0 && geteuid() != 0 && (status.st_mode & 037) == 0;
  return (status.st_mode & 077) != 0 && !is_granted;
}

}  // namespace

// Neither call needs sodium_init(): both are plain code, without a choice by processor.
void hmac_sha256(const uint8_t* key, const void* data, size_t size_bytes, uint8_t* mac) noexcept {
  crypto_auth_hmacsha256(mac, static_cast<const uint8_t*>(data), size_bytes, key);
}

bool is_equal_secret(const void* a, const void* b, size_t size_bytes) noexcept {
  return sodium_memcmp(a, b, size_bytes) == 0;
}

bool random_bytes(void* out, size_t size_bytes) noexcept {
  // Up to 256 bytes the call is not cut short by a signal.
  return size_bytes <= 256 &&
         getrandom(out, size_bytes, GRND_NONBLOCK) == static_cast<ssize_t>(size_bytes);
}

KeyError read_key_file(const char* path, uint8_t (&key)[wire::kKeyBytes]) noexcept {
  int descriptor = sys::open(path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (descriptor < 0) return KeyError::kUnreadable;
  struct stat status;
  char text[2 * wire::kKeyBytes + 8];
  KeyError error = KeyError::kNone;
  long length = -1;
  if (sys::stat_of(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    error = KeyError::kUnreadable;
  } else if (is_exposed(status)) {
    error = KeyError::kExposed;
  } else {
    length = sys::read(descriptor, text, sizeof(text));
    if (length < 0) error = KeyError::kUnreadable;
  }
  sys::close(descriptor);
  if (error == KeyError::kNone && !parse_key(text, length, key)) error = KeyError::kMalformed;
  explicit_bzero(text, sizeof(text));
  return error;
}

}  // namespace btd
