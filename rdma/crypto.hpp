// The little cryptography that the handshake needs, by libsodium: no algorithm of our own.
//
// Inside libbartender.so nothing but libc may be a dependency, so libsodium is loaded when a memory
// node is first asked for, with RTLD_LOCAL: the program's own libsodium, if any, is not disturbed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rdma/wire.hpp"

namespace btd {

struct Crypto {
  // crypto_auth_hmacsha256: mac of kMacBytes, key of kKeyBytes; 0 is good.
  int (*hmac_sha256)(unsigned char* mac, const unsigned char* data, unsigned long long size_bytes,
                     const unsigned char* key);
  // sodium_memcmp, in constant time: 0 is equal.
  int (*compare)(const void* a, const void* b, size_t size_bytes);
};

// Loads libsodium once; nullptr when there is none.  Allocates: never with a heap lock held.
// Thread safety: all may call.
const Crypto* load_crypto() noexcept;

// From the kernel; false: it has none to give yet, or a sandbox forbids the call.
[[nodiscard]] bool random_bytes(void* out, size_t size_bytes) noexcept;

enum class KeyError : uint8_t { kNone = 0, kUnreadable, kExposed, kMalformed };

// A key file holds 64 hexadecimal digits and perhaps a line end, and only its owner (and root) may
// read it; or root owns it and lets a group read it.  ERRORS: kUnreadable no such file or access refused, kExposed others may read or write
// it, kMalformed anything but such a key.
[[nodiscard]] KeyError read_key_file(const char* path, uint8_t (&key)[wire::kKeyBytes]) noexcept;

}  // namespace btd
