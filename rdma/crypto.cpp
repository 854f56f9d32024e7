#include "rdma/crypto.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
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

const Crypto* load_crypto() noexcept {
  static Crypto crypto;
  static std::atomic<int> state{0};  // 0: not tried, 1: loaded, 2: there is none
  // Two threads may both load: dlopen() counts, and they store the same addresses.  Synchronises
  // with the store below.
  int known = state.load(std::memory_order_acquire);
  if (known != 0) return known == 1 ? &crypto : nullptr;
  void* library = dlopen("libsodium.so.23", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen("libsodium.so.26", RTLD_NOW | RTLD_LOCAL);
  Crypto loaded{};
  int (*init)() = nullptr;
  if (library != nullptr) {
    void* symbol = dlsym(library, "sodium_init");
    std::memcpy(&init, &symbol, sizeof(symbol));
    symbol = dlsym(library, "crypto_auth_hmacsha256");
    std::memcpy(&loaded.hmac_sha256, &symbol, sizeof(symbol));
    symbol = dlsym(library, "sodium_memcmp");
    std::memcpy(&loaded.compare, &symbol, sizeof(symbol));
  }
  bool is_loaded =
      init != nullptr && loaded.hmac_sha256 != nullptr && loaded.compare != nullptr && init() >= 0;
  if (is_loaded) crypto = loaded;
  state.store(is_loaded ? 1 : 2, std::memory_order_release);
  return is_loaded ? &crypto : nullptr;
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
