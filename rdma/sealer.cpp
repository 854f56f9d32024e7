#include "rdma/sealer.hpp"

#include <cstring>

#include "core/base/check.hpp"
#include "rdma/crypto.hpp"

namespace btd {
namespace {

constexpr char kSealLabel[] = "bartender seal 1";  // its NUL ends it

static_assert(sizeof(wire::Seal::nonce) == crypto_aead_aes256gcm_NPUBBYTES);
static_assert(sizeof(wire::Seal::tag) == crypto_aead_aes256gcm_ABYTES);
static_assert(wire::kKeyBytes == crypto_aead_aes256gcm_KEYBYTES);

struct Bound {
  uint64_t extent;
  uint64_t generation;
};

auto* as_bytes(const void* data) { return static_cast<const unsigned char*>(data); }

}  // namespace

bool Sealer::is_possible() noexcept {
  return sodium_init() >= 0 && crypto_aead_aes256gcm_is_available() == 1;
}

void Sealer::open(const uint8_t* seal_key, const uint8_t* arena) noexcept {
  uint8_t named[sizeof(kSealLabel) + wire::kUuidBytes];
  std::memcpy(named, kSealLabel, sizeof(kSealLabel));
  std::memcpy(named + sizeof(kSealLabel), arena, wire::kUuidBytes);
  uint8_t key[wire::kMacBytes];
  hmac_sha256(seal_key, named, sizeof(named), key);
  BTD_CHECK(crypto_aead_aes256gcm_beforenm(&state_, key) == 0);
  explicit_bzero(key, sizeof(key));
}

bool Sealer::seal(const char* plain, uint32_t length_bytes, uint64_t extent, uint64_t generation,
                  char* sealed, wire::Seal& seal) const noexcept {
  seal = {};
  if (!random_bytes(seal.nonce, sizeof(seal.nonce))) return false;
  Bound bound{.extent = extent, .generation = generation};
  return crypto_aead_aes256gcm_encrypt_detached_afternm(
             reinterpret_cast<unsigned char*>(sealed), seal.tag, nullptr, as_bytes(plain),
             length_bytes, as_bytes(&bound), sizeof(bound), nullptr, seal.nonce, &state_) == 0;
}

bool Sealer::unseal(const char* sealed, uint32_t length_bytes, uint64_t extent, uint64_t generation,
                    const wire::Seal& seal, char* plain) const noexcept {
  Bound bound{.extent = extent, .generation = generation};
  return crypto_aead_aes256gcm_decrypt_detached_afternm(
             reinterpret_cast<unsigned char*>(plain), nullptr, as_bytes(sealed), length_bytes,
             seal.tag, as_bytes(&bound), sizeof(bound), seal.nonce, &state_) == 0;
}

}  // namespace btd
