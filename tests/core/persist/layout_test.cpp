// What reaches media.  Invariants checked:
//  1. Sizes and offsets are those of docs/format.md.
//  2. A tag names its epoch as long as epochs span less than 250, also when tags come round.
//  3. Every single changed byte of a descriptor, a large state, a frame header's body and an arena
//  header is seen by its check.
//  4. All zeros is no arena, and is a free frame.
#define BOOST_TEST_MODULE layout
#include "core/persist/layout.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

namespace btd {
namespace {

BOOST_AUTO_TEST_CASE(offsets_are_those_of_the_document) {
  BOOST_TEST(sizeof(ArenaHeader) == 4096u);
  BOOST_TEST(offsetof(ArenaHeader, magic) == 0u);
  BOOST_TEST(offsetof(ArenaHeader, format_version) == 8u);
  BOOST_TEST(offsetof(ArenaHeader, header_bytes) == 12u);
  BOOST_TEST(offsetof(ArenaHeader, sequence) == 16u);
  BOOST_TEST(offsetof(ArenaHeader, uuid) == 24u);
  BOOST_TEST(offsetof(ArenaHeader, base_address) == 40u);
  BOOST_TEST(offsetof(ArenaHeader, file_bytes) == 48u);
  BOOST_TEST(offsetof(ArenaHeader, capacity_bytes) == 56u);
  BOOST_TEST(offsetof(ArenaHeader, page_bytes) == 64u);
  BOOST_TEST(offsetof(ArenaHeader, frame_bytes) == 68u);
  BOOST_TEST(offsetof(ArenaHeader, coarse_frame_count) == 72u);
  BOOST_TEST(offsetof(ArenaHeader, fine_frame_count) == 76u);
  BOOST_TEST(offsetof(ArenaHeader, root_table_offset) == 80u);
  BOOST_TEST(offsetof(ArenaHeader, data_offset) == 128u);
  BOOST_TEST(offsetof(ArenaHeader, coarse_frames_grown) == 136u);
  BOOST_TEST(offsetof(ArenaHeader, fine_frames_grown) == 140u);
  BOOST_TEST(offsetof(ArenaHeader, epoch) == 144u);
  BOOST_TEST(offsetof(ArenaHeader, oldest_epoch) == 152u);
  BOOST_TEST(offsetof(ArenaHeader, state) == 160u);
  BOOST_TEST(offsetof(ArenaHeader, pid) == 164u);
  BOOST_TEST(offsetof(ArenaHeader, pid_start_ticks) == 168u);
  BOOST_TEST(offsetof(ArenaHeader, boot_id) == 176u);
  BOOST_TEST(offsetof(ArenaHeader, created_s) == 192u);
  BOOST_TEST(offsetof(ArenaHeader, opened_s) == 200u);
  BOOST_TEST(offsetof(ArenaHeader, program) == 208u);
  BOOST_TEST(offsetof(ArenaHeader, durability) == 272u);
  BOOST_TEST(offsetof(ArenaHeader, roots_grown) == 276u);
  BOOST_TEST(offsetof(ArenaHeader, lanes_grown) == 280u);
  BOOST_TEST(offsetof(ArenaHeader, far_first_frame) == 284u);
  BOOST_TEST(offsetof(ArenaHeader, far_frames_grown) == 288u);
  BOOST_TEST(offsetof(ArenaHeader, reserved) == 292u);
  BOOST_TEST(offsetof(ArenaHeader, checksum) == 4092u);
  BOOST_TEST(sizeof(FrameHeader) == 64u);
  BOOST_TEST(offsetof(FrameHeader, descriptor) == 0u);
  BOOST_TEST(offsetof(FrameHeader, state) == 8u);
  BOOST_TEST(offsetof(FrameHeader, reserved_a) == 10u);
  BOOST_TEST(offsetof(FrameHeader, epoch) == 16u);
  BOOST_TEST(offsetof(FrameHeader, file_frame) == 24u);
  BOOST_TEST(offsetof(FrameHeader, site) == 32u);
  BOOST_TEST(offsetof(FrameHeader, reserved_b) == 40u);
  BOOST_TEST(offsetof(FrameHeader, checksum) == 60u);
  BOOST_TEST(sizeof(Descriptor) == 8u);
  BOOST_TEST(offsetof(Descriptor, kind) == 0u);
  BOOST_TEST(offsetof(Descriptor, detail) == 1u);
  BOOST_TEST(offsetof(Descriptor, check) == 2u);
  BOOST_TEST(offsetof(Descriptor, frame_count) == 4u);
  BOOST_TEST(std::memcmp(&kArenaMagic, "BARTEND1", 8) == 0);
}

BOOST_AUTO_TEST_CASE(roots_and_log_records_are_where_the_format_says) {
  BOOST_TEST(sizeof(Root) == 128u);
  BOOST_TEST(offsetof(Root, head) == 64u);
  BOOST_TEST(offsetof(Root, value) == 72u);
  BOOST_TEST(kRootCount == 2048u);
  BOOST_TEST(kLaneCount == 64u);
  BOOST_TEST(sizeof(ModuleRecord) == 256u);
  BOOST_TEST(offsetof(ModuleRecord, build_id_bytes) == 24u);
  BOOST_TEST(offsetof(ModuleRecord, build_id) == 28u);
  BOOST_TEST(offsetof(ModuleRecord, path) == 48u);
  BOOST_TEST(offsetof(ModuleRecord, checksum) == 252u);
  BOOST_TEST(kModulesAt == kSiteTableBytes - 16384u);
  BOOST_TEST(sizeof(LogRecord) == 32u);
  BOOST_TEST(offsetof(LogRecord, length_bytes) == 4u);
  BOOST_TEST(offsetof(LogRecord, target) == 8u);
  BOOST_TEST(offsetof(LogRecord, previous) == 16u);
  BOOST_TEST(offsetof(LogRecord, kind) == 24u);
  BOOST_TEST(offsetof(LogRecord, checksum) == 28u);
  BOOST_TEST(offsetof(AllocPayload, size_bytes) == 8u);
  BOOST_TEST(offsetof(AllocPayload, live) == 16u);
  BOOST_TEST(offsetof(AllocPayload, state_bytes) == 18u);
  BOOST_TEST(sizeof(AllocPayload) == 24u);
}

BOOST_AUTO_TEST_CASE(tags_run_from_1_to_250_and_come_round) {
  BOOST_TEST(int{tag_of_epoch(1)} == 1);
  BOOST_TEST(int{tag_of_epoch(250)} == 250);
  BOOST_TEST(int{tag_of_epoch(251)} == 1);
  for (uint64_t epoch = 1; epoch < 2000; epoch++) {
    uint8_t tag = tag_of_epoch(epoch);
    BOOST_REQUIRE(tag >= 1 && tag <= kTagMax);
    BOOST_REQUIRE(tag < kStateReserved);
  }
}

BOOST_AUTO_TEST_CASE(tag_names_the_latest_epoch_not_after_now) {
  for (uint64_t now : {uint64_t{1}, uint64_t{2}, uint64_t{249}, uint64_t{250}, uint64_t{251},
                       uint64_t{252}, uint64_t{500}, uint64_t{501}, uint64_t{1} << 40}) {
    for (uint64_t back = 0; back < kTagMax; back++) {
      if (back >= now) continue;
      BOOST_REQUIRE(epoch_of_tag(tag_of_epoch(now - back), now) == now - back);
    }
  }
  BOOST_TEST(epoch_of_tag(5, 4) == 0u);  // there was no epoch 5 yet
  BOOST_TEST(epoch_of_tag(250, 249) == 0u);
}

BOOST_AUTO_TEST_CASE(descriptor_check_sees_every_changed_byte) {
  for (uint8_t kind : {1, 2}) {
    for (int detail : {0, 1, 3, 17, 43, 255}) {
      for (uint32_t count : {1u, 2u, 4u, 24u, 255u, 256u, 65536u, 0x7FFFFFFFu, 0xFFFFFFFFu}) {
        Descriptor good{kind, static_cast<uint8_t>(detail), 0, count};
        good.check = descriptor_check(good);
        BOOST_REQUIRE(good.check != 0);
        for (size_t byte = 0; byte < sizeof(Descriptor); byte++) {
          for (int change = 1; change < 256; change++) {
            Descriptor bad = good;
            reinterpret_cast<uint8_t*>(&bad)[byte] ^= static_cast<uint8_t>(change);
            BOOST_REQUIRE_MESSAGE(bad.check != descriptor_check(bad),
                                  "kind " << int{kind} << " detail " << detail << " count " << count
                                          << ": byte " << byte << " xor " << change);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(free_descriptor_is_all_zeros_and_no_used_one_is) {
  Descriptor zero{};
  BOOST_TEST(zero.check !=
             descriptor_check(zero));  // a zero word is free by itself, never by its check
}

BOOST_AUTO_TEST_CASE(large_state_sees_every_changed_byte) {
  BOOST_TEST(large_state(kStateFree) == 0u);
  for (int tag = 0; tag < 256; tag++) {
    uint16_t good = large_state(static_cast<uint8_t>(tag));
    BOOST_REQUIRE(is_large_state_valid(good));
    BOOST_REQUIRE(tag_of_large_state(good) == tag);
    for (int byte = 0; byte < 2; byte++) {
      for (int change = 1; change < 256; change++) {
        auto bad = static_cast<uint16_t>(good ^ (change << (8 * byte)));
        BOOST_REQUIRE_MESSAGE(!is_large_state_valid(bad),
                              "tag " << tag << ", byte " << byte << " xor " << change);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(frame_header_checksum_covers_bytes_16_to_59) {
  FrameHeader header{};
  BOOST_TEST(checksum_of(header) == 0u);  // an untouched header is valid as it stands
  header.epoch = 7;
  header.checksum = checksum_of(header);
  for (size_t byte = 0; byte < 60; byte++) {
    FrameHeader bad = header;
    reinterpret_cast<uint8_t*>(&bad)[byte] ^= 0x10;
    BOOST_TEST((checksum_of(bad) != header.checksum) == (byte >= 16), "byte " << byte);
  }
}

BOOST_AUTO_TEST_CASE(arena_header_checksum_covers_all_and_zeros_are_no_header) {
  ArenaHeader header{};
  BOOST_TEST(checksum_of(header) != 0u);
  header.magic = kArenaMagic;
  header.checksum = checksum_of(header);
  for (size_t byte = 0; byte < offsetof(ArenaHeader, checksum); byte++) {
    reinterpret_cast<uint8_t*>(&header)[byte] ^= 0x01;
    BOOST_REQUIRE(checksum_of(header) != header.checksum);
    reinterpret_cast<uint8_t*>(&header)[byte] ^= 0x01;
  }
}

}  // namespace
}  // namespace btd
