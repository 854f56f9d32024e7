// CRC-32C.  Invariants checked: it is the Castagnoli polynomial of RFC 3720 (with that text's seed
// and inversion taken away), zeros have checksum 0, and every single flipped bit or byte of a
// record is seen.
#define BOOST_TEST_MODULE crc32c
#include "core/base/crc32c.hpp"

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace btd {

namespace test_only {
uint32_t crc32c_by_tables(const void* data, size_t size_bytes, uint32_t seed) noexcept;
uint32_t copy_by_tables(void* to, const void* from, size_t size_bytes, uint32_t seed) noexcept;
}  // namespace test_only

namespace {

// Bit by bit, from the definition.
uint32_t reference(const void* data, size_t size_bytes, uint32_t crc = 0) {
  auto* bytes = static_cast<const uint8_t*>(data);
  for (size_t i = 0; i < size_bytes; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++) crc = (crc & 1) ? (crc >> 1) ^ 0x82F63B78 : crc >> 1;
  }
  return crc;
}

BOOST_AUTO_TEST_CASE(reference_agrees_with_rfc_3720_b4) {
  std::vector<uint8_t> zeros(32, 0), ones(32, 0xFF), rising(32);
  for (uint8_t i = 0; i < 32; i++) rising[i] = i;
  BOOST_TEST((reference(zeros.data(), 32, ~0u) ^ ~0u) == 0x8A9136AAu);
  BOOST_TEST((reference(ones.data(), 32, ~0u) ^ ~0u) == 0x62A8AB43u);
  BOOST_TEST((reference(rising.data(), 32, ~0u) ^ ~0u) == 0x46DD794Eu);
  BOOST_TEST((reference("123456789", 9, ~0u) ^ ~0u) == 0xE3069283u);
}

BOOST_AUTO_TEST_CASE(all_lengths_and_offsets_agree_with_the_reference) {
  uint64_t seed = std::random_device{}();
  std::printf("seed: %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(5000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t offset = 0; offset < 8; offset++) {
    for (size_t length = 0; length < 300; length++) {
      BOOST_REQUIRE(crc32c(bytes.data() + offset, length) ==
                    reference(bytes.data() + offset, length));
    }
    BOOST_TEST(crc32c(bytes.data() + offset, 4092) == reference(bytes.data() + offset, 4092));
  }
}

// Long ones are summed in three lanes of 1360 bytes.
BOOST_AUTO_TEST_CASE(long_runs_agree_with_the_reference) {
  std::mt19937_64 random(3);
  std::vector<uint8_t> bytes(70000);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (size_t length : {1360, 4079, 4080, 4081, 5440, 8160, 12239, 12240, 65536, 65543}) {
    for (uint32_t seed : {0U, 1U, 0xDEADBEEFU}) {
      BOOST_TEST(crc32c(bytes.data() + length % 7, length, seed) ==
                 reference(bytes.data() + length % 7, length, seed));
    }
  }
}

BOOST_AUTO_TEST_CASE(pieces_and_machines_without_the_instruction_agree) {
  std::mt19937_64 random(2);
  std::vector<uint8_t> bytes(600);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  uint32_t whole = crc32c(bytes.data(), bytes.size());
  for (size_t cut = 0; cut <= bytes.size(); cut++) {
    uint32_t first = crc32c(bytes.data(), cut);
    BOOST_REQUIRE(crc32c(bytes.data() + cut, bytes.size() - cut, first) == whole);
    BOOST_REQUIRE(test_only::crc32c_by_tables(bytes.data(), cut, 7) ==
                  crc32c(bytes.data(), cut, 7));
  }
}

BOOST_AUTO_TEST_CASE(a_copy_is_whole_padded_with_zeros_and_has_the_checksum_of_its_source) {
  std::mt19937_64 random(3);
  std::vector<uint8_t> bytes(300);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  for (auto* copy : {copy_with_crc32c, test_only::copy_by_tables}) {
    for (size_t length = 1; length < 270; length++) {
      std::vector<uint8_t> to(304, 0xEE);
      const uint8_t* from = bytes.data() + length % 3;
      BOOST_REQUIRE(copy(to.data(), from, length, 5) == crc32c(from, length, 5));
      BOOST_REQUIRE(std::memcmp(to.data(), from, length) == 0);
      size_t padded = (length + 7) / 8 * 8;
      for (size_t i = length; i < to.size(); i++) BOOST_REQUIRE(to[i] == (i < padded ? 0 : 0xEE));
    }
  }
}

BOOST_AUTO_TEST_CASE(zeros_of_any_length_have_checksum_0) {
  std::vector<uint8_t> zeros(5000);
  for (size_t length : {0, 1, 3, 4, 44, 4092, 5000}) BOOST_TEST(crc32c(zeros.data(), length) == 0u);
}

BOOST_AUTO_TEST_CASE(each_single_bit_and_byte_of_a_header_changes_the_checksum) {
  std::mt19937_64 random(1);
  std::vector<uint8_t> bytes(4092);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  uint32_t good = crc32c(bytes.data(), bytes.size());
  for (size_t i = 0; i < bytes.size(); i++) {
    for (int bit = 0; bit < 8; bit++) {
      bytes[i] ^= static_cast<uint8_t>(1 << bit);
      BOOST_REQUIRE(crc32c(bytes.data(), bytes.size()) != good);
      bytes[i] ^= static_cast<uint8_t>(1 << bit);
    }
    uint8_t kept = bytes[i];
    bytes[i] = static_cast<uint8_t>(~kept);
    BOOST_REQUIRE(crc32c(bytes.data(), bytes.size()) != good);
    bytes[i] = kept;
  }
}

}  // namespace
}  // namespace btd
