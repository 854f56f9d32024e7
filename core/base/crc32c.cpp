#include "core/base/crc32c.hpp"

#include <array>
#include <cstring>

namespace btd {
namespace {

constexpr uint32_t kPolynomialReversed = 0x82F63B78;

// Four tables: the classic one and its three shifts, so that a step eats four bytes.
constexpr auto kTables = [] {
  std::array<std::array<uint32_t, 256>, 4> tables{};
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ ((crc & 1) ? kPolynomialReversed : 0);
    tables[0][byte] = crc;
  }
  for (uint32_t byte = 0; byte < 256; byte++) {
    for (size_t shift = 1; shift < 4; shift++) {
      uint32_t before = tables[shift - 1][byte];
      tables[shift][byte] = (before >> 8) ^ tables[0][before & 0xFF];
    }
  }
  return tables;
}();

}  // namespace

uint32_t crc32c(const void* data, size_t size_bytes) noexcept {
  auto* bytes = static_cast<const uint8_t*>(data);
  uint32_t crc = 0;
  for (; size_bytes >= 4; size_bytes -= 4, bytes += 4) {
    uint32_t word;
    std::memcpy(&word, bytes, sizeof(word));
    crc ^= word;
    crc = kTables[3][crc & 0xFF] ^ kTables[2][(crc >> 8) & 0xFF] ^ kTables[1][(crc >> 16) & 0xFF] ^
          kTables[0][crc >> 24];
  }
  for (; size_bytes > 0; size_bytes--, bytes++)
    crc = (crc >> 8) ^ kTables[0][(crc ^ *bytes) & 0xFF];
  return crc;
}

}  // namespace btd
