// Invariants checked: words that point into the stack, the heap, code and data of a module, and a
// mapping made after the first look are found, with where they point; numbers and pointers to what
// is persistent are not.
#define BOOST_TEST_MODULE paranoia
#include "core/api/paranoia.hpp"

#include <sys/mman.h>

#include <boost/test/unit_test.hpp>
#include <cstdlib>
#include <string>

namespace btd::test {
namespace {

uintptr_t persistent_first = 0;
bool is_persistent(uintptr_t address) { return address - persistent_first < 4096; }
int a_static = 0;

struct Fixture {
  uint64_t find(const void* address, size_t size_bytes) {
    return map.find(address, size_bytes, is_persistent, found, 4);
  }
  VolatileMap map;
  VolatilePointer found[4] = {};
};

BOOST_FIXTURE_TEST_CASE(finds_each_kind, Fixture) {
  int here = 0;
  void* heap = std::malloc(10);
  auto* function = &std::abort;
  uintptr_t words[] = {reinterpret_cast<uintptr_t>(&here), reinterpret_cast<uintptr_t>(heap),
                       reinterpret_cast<uintptr_t>(function),
                       reinterpret_cast<uintptr_t>(&a_static)};
  BOOST_TEST(find(words, sizeof(words)) == 4u);
  BOOST_TEST(std::string(found[0].into) == "[stack]");
  BOOST_TEST(std::string(found[1].into) == "[heap]");
  BOOST_TEST(std::string(found[2].into).find("libc") == 0u);
  BOOST_TEST(found[2].is_code);
  BOOST_TEST(std::string(found[3].into).find("paranoia") != std::string::npos);
  BOOST_TEST(!found[3].is_code);
  for (int i = 0; i < 4; i++) BOOST_TEST(found[i].where == &words[i]);
  std::free(heap);
}

BOOST_FIXTURE_TEST_CASE(leaves_numbers_and_the_arena_alone, Fixture) {
  uintptr_t words[] = {0, 1, 4096, ~uintptr_t{0}, uintptr_t{1} << 50, 0x123456789ABC};
  persistent_first = reinterpret_cast<uintptr_t>(words) & ~uintptr_t{4095};
  words[1] = reinterpret_cast<uintptr_t>(words);
  BOOST_TEST(find(words, sizeof(words)) == 0u);
  persistent_first = 0;
  BOOST_TEST(find(words, sizeof(words)) == 1u);
}

BOOST_FIXTURE_TEST_CASE(sees_mappings_that_come_and_go, Fixture) {
  uintptr_t word = 1;
  BOOST_TEST(find(&word, sizeof(word)) == 0u);
  void* mapped = mmap(nullptr, 1 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  word = reinterpret_cast<uintptr_t>(mapped) + 5000;
  BOOST_TEST(find(&word, sizeof(word)) == 1u);
  munmap(mapped, 1 << 20);
  BOOST_TEST(find(&word, sizeof(word)) == 0u);
}

BOOST_FIXTURE_TEST_CASE(counts_past_the_room_and_looks_at_whole_words_alone, Fixture) {
  uintptr_t words[10];
  for (uintptr_t& word : words) word = reinterpret_cast<uintptr_t>(words);
  BOOST_TEST(find(words, sizeof(words)) == 10u);
  BOOST_TEST(find(reinterpret_cast<char*>(words) + 1, 14) == 0u);
  BOOST_TEST(find(reinterpret_cast<char*>(words) + 1, 15) == 1u);
}

}  // namespace
}  // namespace btd::test
