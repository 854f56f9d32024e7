// The little cryptography that the handshake needs, by libsodium: no algorithm of our own.
//
// It is linked statically and its symbols are hidden: inside libbartender.so nothing but libc may
// be a dependency, and the program's own libsodium, if any, is not disturbed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "rdma/wire.hpp"

namespace btd {

// HMAC-SHA256 under a key of kKeyBytes; kMacBytes of it.
void hmac_sha256(const uint8_t* key, const void* data, size_t size_bytes, uint8_t* mac) noexcept;
// In time that does not depend on where they differ.
[[nodiscard]] bool is_equal_secret(const void* a, const void* b, size_t size_bytes) noexcept;

// From the kernel; false: it has none to give yet, or a sandbox forbids the call.
[[nodiscard]] bool random_bytes(void* out, size_t size_bytes) noexcept;

enum class KeyError : uint8_t { kNone = 0, kUnreadable, kExposed, kMalformed };

// A key file holds 64 hexadecimal digits and perhaps a line end, and only its owner (and root) may
// read it; or root owns it and lets a group read it.  ERRORS: kUnreadable no such file or access
// refused, kExposed others may read or write it, kMalformed anything but such a key.
[[nodiscard]] KeyError read_key_file(const char* path, uint8_t (&key)[wire::kKeyBytes]) noexcept;

}  // namespace btd
