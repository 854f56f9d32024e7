// Remote keys of others.  Invariant checked: with a key that is another client's, or guessed, or
// its own but beyond its own buffers, an accepted client reads and writes nothing of anybody's.
#include "tests/vm/raw_client.hpp"

namespace btd::test {
namespace {

constexpr uint32_t kLength = 4096;

// Each attempt is a connection of its own: the device ends it for the attempt.
uint64_t attempt_count() {
  const char* text = std::getenv("BTD_FOREIGN_TRIES");
  return text == nullptr ? 1000 : std::strtoull(text, nullptr, 10);
}

BOOST_FIXTURE_TEST_CASE(foreign_keys_open_nothing, Fixture) {
  auto owner = accepted_client(daemon->address(), client_of(1));
  RawClient& victim = *owner;
  std::memset(victim.buffer(), 'v', kLength);
  BOOST_REQUIRE(victim.writes(kLength, victim.address(), victim.key()));
  NodeClient other = client_of(1, 2);
  other.arena[0] = 2;

  std::mt19937_64 random(7);
  const uint64_t attempts = attempt_count();
  uint64_t refused = 0, untouched = 0;
  for (uint64_t i = 0; i < attempts; i++) {
    auto stranger = accepted_client(daemon->address(), other);
    RawClient& attacker = *stranger;
    std::memset(attacker.buffer(), 'a', kLength);
    // What is its own it may have, so what follows fails for no other reason.
    BOOST_REQUIRE(attacker.writes(kLength, attacker.address(), attacker.key()));
    BOOST_REQUIRE(attacker.reads(kLength, attacker.address(), attacker.key()));
    // Keys are handed out one after the other with a changing last byte: near ones are good
    // guesses.
    uint32_t guess = i % 8 < 4 ? victim.key() ^ (1 + static_cast<uint32_t>(random() % 255))
                               : static_cast<uint32_t>(random());
    uint32_t key = i % 3 == 0 ? victim.key() : i % 3 == 1 ? guess : attacker.key();
    bool has_passed = i % 2 == 0 ? attacker.reads(kLength, victim.address(), key)
                                 : attacker.writes(kLength, victim.address(), key);
    refused += !has_passed;
    untouched += std::string(attacker.buffer(), kLength) == std::string(kLength, 'a');
  }
  std::printf("%llu of %llu foreign keys were refused\n", static_cast<unsigned long long>(refused),
              static_cast<unsigned long long>(attempts));
  BOOST_TEST(refused == attempts);
  BOOST_TEST(untouched == attempts);
  std::memset(victim.buffer(), 0, kLength);
  BOOST_REQUIRE(victim.reads(kLength, victim.address(), victim.key()));
  BOOST_TEST(std::string(victim.buffer(), kLength) == std::string(kLength, 'v'));
}

}  // namespace
}  // namespace btd::test
