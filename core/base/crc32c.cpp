#include "core/base/crc32c.hpp"

#include <array>
#include <atomic>
#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <nmmintrin.h>
#endif

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

uint32_t by_tables(const uint8_t* bytes, size_t size_bytes, uint32_t crc) {
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

#if defined(__x86_64__)
// The instruction takes a word a cycle, but its result only after three: so what is long is three
// lanes side by side, joined by what a lane of zeros would make of the sums before it.  After Gopal
// et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction" (Intel, 2011).
// 16 times three lanes are an extent of 64 KiB, but for 256 bytes.
constexpr size_t kLaneBytes = 1360;

constexpr auto kLaneOfZeros = [] {
  std::array<std::array<uint32_t, 256>, 4> tables{};
  for (uint32_t bit = 0; bit < 32; bit++) {
    uint32_t crc = 1U << bit;
    for (size_t i = 0; i < kLaneBytes; i++) crc = (crc >> 8) ^ kTables[0][crc & 0xFF];
    for (uint32_t byte = 0; byte < 256; byte++)
      if ((byte >> bit % 8 & 1) != 0) tables[bit / 8][byte] ^= crc;
  }
  return tables;
}();

uint32_t after_zeros(uint32_t crc) {
  return kLaneOfZeros[0][crc & 0xFF] ^ kLaneOfZeros[1][crc >> 8 & 0xFF] ^
         kLaneOfZeros[2][crc >> 16 & 0xFF] ^ kLaneOfZeros[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t three_lanes(const uint8_t* bytes, uint32_t crc) {
  uint64_t sums[3] = {crc, 0, 0};
  for (size_t i = 0; i < kLaneBytes; i += 8) {
    for (size_t lane = 0; lane < 3; lane++) {
      uint64_t word;
      std::memcpy(&word, bytes + lane * kLaneBytes + i, sizeof(word));
      sums[lane] = _mm_crc32_u64(sums[lane], word);
    }
  }
  crc = after_zeros(static_cast<uint32_t>(sums[0])) ^ static_cast<uint32_t>(sums[1]);
  return after_zeros(crc) ^ static_cast<uint32_t>(sums[2]);
}

// A transaction's records are checked at 8 bytes in 3 cycles instead of 20, extents in one.
__attribute__((target("sse4.2"))) uint32_t by_instruction(const uint8_t* bytes, size_t size_bytes,
                                                          uint32_t crc) {
  for (; size_bytes >= 3 * kLaneBytes; size_bytes -= 3 * kLaneBytes, bytes += 3 * kLaneBytes)
    crc = three_lanes(bytes, crc);
  uint64_t wide = crc;
  for (; size_bytes >= 8; size_bytes -= 8, bytes += 8) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
  }
  crc = static_cast<uint32_t>(wide);
  if (size_bytes >= 4) {
    uint32_t word;
    std::memcpy(&word, bytes, sizeof(word));
    crc = _mm_crc32_u32(crc, word);
    size_bytes -= 4;
    bytes += 4;
  }
  for (; size_bytes > 0; size_bytes--, bytes++) crc = _mm_crc32_u8(crc, *bytes);
  return crc;
}

__attribute__((target("sse4.2"))) uint32_t copy_by_instruction(uint8_t* to, const uint8_t* from,
                                                               size_t size_bytes, uint32_t crc) {
  uint64_t wide = crc;
  uint64_t word;
  for (; size_bytes >= 8; size_bytes -= 8, from += 8, to += 8) {
    std::memcpy(&word, from, sizeof(word));
    wide = _mm_crc32_u64(wide, word);
    std::memcpy(to, &word, sizeof(word));
  }
  if (size_bytes == 0) return static_cast<uint32_t>(wide);
  word = 0;
  std::memcpy(&word, from, size_bytes);
  std::memcpy(to, &word, sizeof(word));
  return by_instruction(reinterpret_cast<const uint8_t*>(&word), size_bytes,
                        static_cast<uint32_t>(wide));
}

bool has_instruction() {
  unsigned eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_SSE4_2) != 0;
}

// CPUID is slow in a virtual machine: asked once.  Threads that race get the same answer.
std::atomic<uint8_t> instruction_state{0};  // 0: not asked; 1: there is none; 2: there is one

bool is_instruction_there() {
  uint8_t state = instruction_state.load(std::memory_order_relaxed);
  if (state == 0) {
    state = has_instruction() ? 2 : 1;
    instruction_state.store(state, std::memory_order_relaxed);
  }
  return state == 2;
}
#endif

uint32_t copy_by_tables(uint8_t* to, const uint8_t* from, size_t size_bytes, uint32_t crc) {
  for (size_t done = 0; done < size_bytes; done += sizeof(uint64_t)) {
    uint64_t word = 0;
    size_t taken = size_bytes - done < sizeof(word) ? size_bytes - done : sizeof(word);
    std::memcpy(&word, from + done, taken);
    std::memcpy(to + done, &word, sizeof(word));
    crc = by_tables(reinterpret_cast<const uint8_t*>(&word), taken, crc);
  }
  return crc;
}

}  // namespace

uint32_t crc32c(const void* data, size_t size_bytes, uint32_t seed) noexcept {
  auto* bytes = static_cast<const uint8_t*>(data);
#if defined(__x86_64__)
  if (is_instruction_there()) return by_instruction(bytes, size_bytes, seed);
#endif
  return by_tables(bytes, size_bytes, seed);
}

uint32_t copy_with_crc32c(void* to, const void* from, size_t size_bytes, uint32_t seed) noexcept {
  auto* target = static_cast<uint8_t*>(to);
  auto* bytes = static_cast<const uint8_t*>(from);
#if defined(__x86_64__)
  if (is_instruction_there()) return copy_by_instruction(target, bytes, size_bytes, seed);
#endif
  return copy_by_tables(target, bytes, size_bytes, seed);
}

namespace test_only {
uint32_t copy_by_tables(void* to, const void* from, size_t size_bytes, uint32_t seed) noexcept {
  return btd::copy_by_tables(static_cast<uint8_t*>(to), static_cast<const uint8_t*>(from),
                             size_bytes, seed);
}
uint32_t crc32c_by_tables(const void* data, size_t size_bytes, uint32_t seed) noexcept {
  return by_tables(static_cast<const uint8_t*>(data), size_bytes, seed);
}
}  // namespace test_only

}  // namespace btd
