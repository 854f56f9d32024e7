// CRC-32C (Castagnoli), as in RFC 3720 appendix B.4, but seeded with 0 and not inverted, so that a
// run of zero bytes has checksum 0: an untouched, all-zero record of the arena is valid as it
// stands.
#pragma once

#include <cstddef>
#include <cstdint>

namespace btd {

// Thread safety: pure.  `seed`: the checksum of what comes before.
uint32_t crc32c(const void* data, size_t size_bytes, uint32_t seed = 0) noexcept;

}  // namespace btd
