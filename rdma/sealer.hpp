// Seals extents before they leave the machine, with a key that the nodes do not have: AES-256-GCM
// by libsodium.
//
// Each write has a random nonce: a generation may be written twice with different bytes (a node
// that was away comes back), so a nonce made of it would be used twice.  By chance two of 2^32
// writes (256 TiB) have the same one with a probability of 2^-33.  Extent and generation are under
// the tag, so bytes cannot be passed off as those of another extent or of another time; an older
// generation that is whole is found out by generation_min.  Each arena has a key of its own.
//
// Not hidden: which extents there are, how long they are, and when they are written and read.
#pragma once

#include <sodium.h>

#include "rdma/wire.hpp"

namespace btd {

// Thread safety: after open() all may seal and unseal.
class Sealer {
 public:
  // Whether the processor has the instructions.  Neither this nor open() allocates.
  [[nodiscard]] static bool is_possible() noexcept;

  // The arena's key is HMAC-SHA256 under the seal key of a label and its uuid.
  // REQUIRES: is_possible().
  void open(const uint8_t* seal_key, const uint8_t* arena) noexcept;

  // false: the kernel gives no random bytes.
  [[nodiscard]] bool seal(const char* plain, uint32_t length_bytes, uint64_t extent,
                          uint64_t generation, char* sealed, wire::Seal& seal) const noexcept;
  // false: this is not what was sealed as this generation of this extent.  `plain` then holds
  // nothing of it.
  [[nodiscard]] bool unseal(const char* sealed, uint32_t length_bytes, uint64_t extent,
                            uint64_t generation, const wire::Seal& seal,
                            char* plain) const noexcept;

 private:
  crypto_aead_aes256gcm_state state_;
};

}  // namespace btd
