// Sealing.  Invariants checked: what was sealed comes back; with any byte changed, or as another
// extent, generation, arena or key, nothing comes back; nonces do not repeat; the bytes are those
// that docs/wire.md promises.
#define BOOST_TEST_MODULE sealer
#include "rdma/sealer.hpp"

#include <boost/test/unit_test.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "rdma/crypto.hpp"

namespace btd {
namespace {

struct Fixture {
  uint8_t key[wire::kKeyBytes]{1, 2, 3};
  uint8_t arena[wire::kUuidBytes]{9, 8, 7};
  Sealer sealer;
  Fixture() {
    BOOST_REQUIRE(Sealer::is_possible());
    sealer.open(key, arena);
  }
};

constexpr uint32_t kLength = 300;

BOOST_FIXTURE_TEST_CASE(every_changed_byte_is_noticed, Fixture) {
  std::string plain(kLength, 'p'), sealed(kLength, '\0'), out(kLength, '\0');
  wire::Seal seal;
  BOOST_REQUIRE(sealer.seal(plain.data(), kLength, 5, 6, sealed.data(), seal));
  BOOST_TEST(sealed != plain);
  BOOST_REQUIRE(sealer.unseal(sealed.data(), kLength, 5, 6, seal, out.data()));
  BOOST_TEST(out == plain);
  for (uint32_t at = 0; at < kLength; at++) {
    std::string changed = sealed;
    changed[at] = static_cast<char>(changed[at] ^ 1 << at % 8);
    BOOST_REQUIRE(!sealer.unseal(changed.data(), kLength, 5, 6, seal, out.data()));
    BOOST_REQUIRE(out.find('p') == std::string::npos);
  }
  for (size_t at = 0; at < sizeof(seal.nonce) + sizeof(seal.tag); at++) {
    wire::Seal changed = seal;
    reinterpret_cast<uint8_t*>(&changed)[at] ^= 0x20;
    BOOST_REQUIRE(!sealer.unseal(sealed.data(), kLength, 5, 6, changed, out.data()));
  }
  for (uint32_t length = 0; length < kLength; length++)
    BOOST_REQUIRE(!sealer.unseal(sealed.data(), length, 5, 6, seal, out.data()));
  BOOST_TEST(!sealer.unseal(sealed.data(), kLength, 6, 6, seal, out.data()));
  BOOST_TEST(!sealer.unseal(sealed.data(), kLength, 5, 7, seal, out.data()));
  BOOST_TEST(!sealer.unseal(plain.data(), kLength, 5, 6, wire::Seal{}, out.data()));
}

BOOST_FIXTURE_TEST_CASE(arenas_and_keys_are_apart, Fixture) {
  char sealed[8], out[8];
  wire::Seal seal;
  BOOST_REQUIRE(sealer.seal("secret!", 8, 1, 1, sealed, seal));
  Sealer other;
  for (int i = 0; i < 2; i++) {
    (i == 0 ? key : arena)[15] ^= 1;
    other.open(key, arena);
    BOOST_TEST(!other.unseal(sealed, 8, 1, 1, seal, out));
    (i == 0 ? key : arena)[15] ^= 1;
  }
  other.open(key, arena);
  BOOST_TEST(other.unseal(sealed, 8, 1, 1, seal, out));
}

BOOST_FIXTURE_TEST_CASE(nonces_differ_though_extent_and_generation_do_not, Fixture) {
  std::set<std::string> nonces;
  char sealed[1];
  for (int i = 0; i < 10000; i++) {
    wire::Seal seal;
    BOOST_REQUIRE(sealer.seal("x", 1, 1, 1, sealed, seal));
    nonces.insert(std::string(reinterpret_cast<char*>(seal.nonce), sizeof(seal.nonce)));
  }
  BOOST_TEST(nonces.size() == 10000u);
}

// Unsealed by hand, from docs/wire.md.
BOOST_FIXTURE_TEST_CASE(the_bytes_are_those_that_are_documented, Fixture) {
  char sealed[4], out[4];
  wire::Seal seal;
  BOOST_REQUIRE(sealer.seal("abc", 4, 0x0102030405060708, 9, sealed, seal));
  std::string named("bartender seal 1\0", 17);
  named.append(reinterpret_cast<char*>(arena), sizeof(arena));
  uint8_t derived[32];
  hmac_sha256(key, named.data(), named.size(), derived);
  const unsigned char bound[16] = {8, 7, 6, 5, 4, 3, 2, 1, 9};
  BOOST_REQUIRE(
      crypto_aead_aes256gcm_decrypt_detached(reinterpret_cast<unsigned char*>(out), nullptr,
                                             reinterpret_cast<unsigned char*>(sealed), 4, seal.tag,
                                             bound, sizeof(bound), seal.nonce, derived) == 0);
  BOOST_TEST(std::string(out) == "abc");
}

BOOST_FIXTURE_TEST_CASE(what_it_costs, Fixture) {
  std::vector<char> plain(kFarExtentBytes, 'x'), sealed(kFarExtentBytes);
  wire::Seal seal;
  auto microseconds = [](auto work) {
    double best = 1e9;
    for (int i = 0; i < 200; i++) {
      auto began = std::chrono::steady_clock::now();
      work();
      std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - began;
      best = std::min(best, took.count());
    }
    return best;
  };
  double seal_us = microseconds([&] {
    BOOST_REQUIRE(sealer.seal(plain.data(), kFarExtentBytes, 1, 1, sealed.data(), seal));
  });
  double unseal_us = microseconds([&] {
    BOOST_REQUIRE(sealer.unseal(sealed.data(), kFarExtentBytes, 1, 1, seal, plain.data()));
  });
  std::printf("64 KiB: seal %.0f us, unseal %.0f us\n", seal_us, unseal_us);
}

}  // namespace
}  // namespace btd
