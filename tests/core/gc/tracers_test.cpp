// The registry of tracers: one a name, bounded, and each refusal by name.
#define BOOST_TEST_MODULE tracers
#include "core/gc/tracers.hpp"

#include "tests/core/support/scratch.hpp"

namespace btd {
namespace {

void first(void*, const void*, size_t, GcVisitor&) {}
void second(void*, const void*, size_t, GcVisitor&) {}

const GcTracer* find(const Tracers& tracers, const char* name) {
  char padded[kRootNameMax + 1] = {};
  std::strcpy(padded, name);
  return tracers.of(padded);
}

BOOST_AUTO_TEST_CASE(a_name_has_the_tracer_set_last) {
  static Tracers tracers;
  BOOST_TEST(find(tracers, "a") == nullptr);
  BOOST_TEST((tracers.set("a", {first, nullptr}) == Error::kNone));
  BOOST_TEST((tracers.set("ab", {second, nullptr}) == Error::kNone));
  BOOST_TEST(find(tracers, "a")->trace == first);
  BOOST_TEST((tracers.set("a", {second, nullptr}) == Error::kNone));
  BOOST_TEST(find(tracers, "a")->trace == second);
  BOOST_TEST((tracers.set("a", {}) == Error::kNone));
  BOOST_TEST(find(tracers, "a") == nullptr);
  BOOST_TEST(find(tracers, "ab")->trace == second);
}

BOOST_AUTO_TEST_CASE(names_and_room_are_bounded) {
  static Tracers tracers;
  BOOST_TEST((tracers.set("", {first, nullptr}) == Error::kInvalid));
  BOOST_TEST((tracers.set(std::string(63, 'x').c_str(), {first, nullptr}) == Error::kNone));
  BOOST_TEST((tracers.set(std::string(64, 'x').c_str(), {first, nullptr}) == Error::kTooLong));
  for (uint32_t i = 1; i < Tracers::kCapacity; i++)
    BOOST_REQUIRE((tracers.set(std::to_string(i).c_str(), {first, nullptr}) == Error::kNone));
  BOOST_TEST((tracers.set("more", {first, nullptr}) == Error::kNoSpace));
  tracers.set("7", {});
  BOOST_TEST((tracers.set("more", {first, nullptr}) == Error::kNone));
}

}  // namespace
}  // namespace btd
