// Size classes.  Invariants checked:
//  1. Every size has the smallest class that holds it; slack is at most 20 % (a quantum for the
//  smallest).
//  2. Every byte of every slot of every class maps to its slot.
//  3. A superblock holds its slots, within the limits of the bitmap, and wastes little of its
//  frames.
//  4. No two slots share a state byte; zones are chosen by divisibility.
#define BOOST_TEST_MODULE size_class
#include "core/heap/size_class.hpp"

#include <boost/test/unit_test.hpp>

#include "core/persist/layout.hpp"

namespace btd {
namespace {

BOOST_AUTO_TEST_CASE(each_size_to_32k_has_the_smallest_class_that_holds_it) {
  for (size_t size = 0; size <= kSmallBytesMax; size++) {
    size_t size_class = size_class_of(size);
    BOOST_REQUIRE(size_class < kSizeClassCount);
    BOOST_REQUIRE(kSizeClasses[size_class].slot_bytes >= size);
    if (size_class > 0) BOOST_REQUIRE(kSizeClasses[size_class - 1].slot_bytes < size);
  }
}

BOOST_AUTO_TEST_CASE(slack_of_a_slot_is_less_than_a_quantum_or_a_fifth) {
  for (size_t size = 1; size <= kSmallBytesMax; size++) {
    size_t slack = kSizeClasses[size_class_of(size)].slot_bytes - size;
    BOOST_REQUIRE_MESSAGE(
        slack < kQuantumBytes || slack * 5 <= kSizeClasses[size_class_of(size)].slot_bytes,
        size << " bytes have " << slack << " bytes of slack");
  }
}

BOOST_AUTO_TEST_CASE(classes_rise_by_16_to_128_then_four_a_doubling) {
  for (size_t i = 0; i < kSizeClassCount; i++) {
    size_t bytes = kSizeClasses[i].slot_bytes;
    BOOST_TEST(bytes % kQuantumBytes == 0u);
    if (bytes < 128) BOOST_TEST(bytes == (i + 1) * kQuantumBytes);
    if (bytes > 128 && i + 4 < kSizeClassCount)
      BOOST_TEST(kSizeClasses[i + 4].slot_bytes == 2 * bytes);
  }
  BOOST_TEST(kSizeClasses[kSizeClassCount - 1].slot_bytes == kSmallBytesMax);
}

BOOST_AUTO_TEST_CASE(each_byte_of_a_superblock_of_each_class_maps_to_its_slot) {
  for (size_t i = 0; i < kSizeClassCount; i++) {
    const SizeClassInfo& info = kSizeClasses[i];
    BOOST_TEST(info.granules * (info.is_fine ? 16 : 64) == info.slot_bytes);
    auto bytes = static_cast<uint32_t>(info.frame_count * kFrameBytes);
    BOOST_TEST(bytes < 1u << 19);
    for (uint32_t offset = 0; offset < bytes; offset++) {
      BOOST_REQUIRE_MESSAGE(slot_at(info.reciprocal, offset) == offset / info.slot_bytes,
                            "class " << info.slot_bytes << ", offset " << offset);
    }
  }
}

BOOST_AUTO_TEST_CASE(superblock_holds_its_slots_and_wastes_at_most_an_eighth) {
  for (size_t i = 0; i < kSizeClassCount; i++) {
    const SizeClassInfo& info = kSizeClasses[i];
    size_t bytes = info.frame_count * kFrameBytes;
    size_t used = size_t{info.slot_count} * info.slot_bytes;
    BOOST_TEST(info.slot_count >= 8u);
    BOOST_TEST(info.slot_count <= kSlotsMax);
    BOOST_TEST(used <= bytes);
    BOOST_TEST((bytes - used) * 8 <= bytes,
               info.slot_bytes << " B wastes " << bytes - used << " of " << bytes);
    if (info.slot_bytes >= 64)
      BOOST_TEST((bytes - used) * 20 <= bytes,
                 info.slot_bytes << " B wastes " << bytes - used << " of " << bytes);
  }
}

BOOST_AUTO_TEST_CASE(metadata_of_64_byte_blocks_stays_under_3_percent) {
  const SizeClassInfo& info = kSizeClasses[size_class_of(64)];
  double metadata = info.frame_count * double(sizeof(FrameHeader) + kCoarseStatesPerFrame);
  BOOST_TEST(metadata / (info.frame_count * double(kFrameBytes)) < 0.03);
}

BOOST_AUTO_TEST_CASE(class_lives_in_the_coarse_zone_exactly_when_it_is_a_multiple_of_64) {
  for (size_t i = 0; i < kSizeClassCount; i++) {
    BOOST_TEST(kSizeClasses[i].is_fine == (kSizeClasses[i].slot_bytes % 64 != 0));
    size_t coarse = coarse_class_of(i);
    BOOST_TEST(!kSizeClasses[coarse].is_fine);
    BOOST_TEST(kSizeClasses[coarse].slot_bytes >= kSizeClasses[i].slot_bytes);
  }
}

}  // namespace
}  // namespace btd
