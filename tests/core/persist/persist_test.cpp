// The persistence interface.  Invariants checked: persist() is flush() of the range and then
// drain(); publish() stores exactly its object, in one piece; process durability has nothing to do.
#define BOOST_TEST_MODULE persist
#include "core/persist/persist.hpp"

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <string>
#include <thread>
#include <vector>

namespace btd {
namespace {

class Recorder final : public Persist {
 public:
  void flush(const void* address, size_t size_bytes) noexcept override {
    log += "flush ";
    last_address = address;
    last_bytes = size_bytes;
  }
  void drain() noexcept override { log += "drain "; }
  std::string log;
  const void* last_address = nullptr;
  size_t last_bytes = 0;
};

BOOST_AUTO_TEST_CASE(persist_flushes_the_range_and_then_drains) {
  Recorder recorder;
  char bytes[100];
  recorder.persist(bytes + 3, 50);
  BOOST_TEST(recorder.log == "flush drain ");
  BOOST_TEST(recorder.last_address == bytes + 3);
  BOOST_TEST(recorder.last_bytes == 50u);
}

BOOST_AUTO_TEST_CASE(process_persist_is_one_object_and_does_nothing) {
  char byte = 1;
  process_persist().persist(&byte, 1);
  BOOST_TEST(&process_persist() == &process_persist());
  BOOST_TEST(byte == 1);
}

BOOST_AUTO_TEST_CASE(publish_stores_its_object_and_nothing_beside_it) {
  alignas(8) uint8_t bytes[24];
  std::memset(bytes, 0xAA, sizeof(bytes));
  publish(reinterpret_cast<uint64_t*>(bytes + 8), uint64_t{0x1122334455667788});
  for (int i = 0; i < 8; i++) BOOST_TEST((bytes[i] == 0xAA && bytes[16 + i] == 0xAA));
  publish(reinterpret_cast<uint16_t*>(bytes + 10), uint16_t{0});
  publish(bytes + 15, uint8_t{9});
  uint64_t word;
  std::memcpy(&word, bytes + 8, 8);
  BOOST_TEST(word == 0x0922334400007788u);
}

// Both halves of a descriptor-sized object are always of one store.
BOOST_AUTO_TEST_CASE(reader_of_a_published_word_never_sees_half_of_it) {
  struct Pair {
    uint32_t a, b;
  };
  alignas(8) Pair shared{0, 0};
  std::atomic<bool> is_done{false};
  std::thread writer([&] {
    for (uint32_t i = 1; i <= 2000000; i++) publish(&shared, Pair{i, ~i});
    is_done = true;
  });
  uint64_t torn = 0;
  while (!is_done) {
    uint64_t word =
        std::atomic_ref(reinterpret_cast<uint64_t&>(shared)).load(std::memory_order_acquire);
    auto a = static_cast<uint32_t>(word), b = static_cast<uint32_t>(word >> 32);
    if (word != 0 && b != ~a) torn++;
  }
  writer.join();
  BOOST_TEST(torn == 0u);
}

}  // namespace
}  // namespace btd
