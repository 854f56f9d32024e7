// CRC-32C (Castagnoli), as in RFC 3720 appendix B.4, but seeded with 0 and not inverted, so that a
// run of zero bytes has checksum 0: an untouched, all-zero record of the arena is valid as it
// stands.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

// Thread safety: pure.  `seed`: the checksum of what comes before.
uint32_t crc32c(const void* data, size_t size_bytes, uint32_t seed = 0) noexcept;

// The same while it copies: each byte is read once, so the checksum is that of the copy whoever
// writes to `from` meanwhile.  What `to` gets is written by words of 8 bytes; the last one is
// padded with zeros, which the checksum does not cover.
uint32_t copy_with_crc32c(void* to, const void* from, size_t size_bytes, uint32_t seed) noexcept;

}  // namespace btd
