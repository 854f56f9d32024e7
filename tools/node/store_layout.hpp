// What a memory node's store looks like on media.  docs/store.md draws it; change both in one
// commit, with the version.
//
//     0        StoreHeader, 4 KiB
//     4 KiB    ArenaEntry, two for each of kArenaCountMax arenas
//     ...      SlotHeader, one for each slot
//     ...      slots of kFarExtentBytes, from a page boundary on
//
// A slot is free or holds one generation of one extent.  Its header is apart from its bytes, so
// that a scan reads a thousandth of the store, and slots are whole pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/units.hpp"
#include "core/spill/node.hpp"
#include "rdma/wire.hpp"

namespace btd::tools {

inline constexpr uint64_t kStoreMagic = 0x3165726F74534442;  // "BDStore1"
inline constexpr uint64_t kArenaMagic = 0x31616E6572414442;  // "BDArena1"
inline constexpr uint64_t kSlotMagic = 0x31746F6C53444442;   // "BDDSlot1"
inline constexpr uint32_t kStoreVersion = 1;
inline constexpr size_t kStoreHeaderBytes = 4 * kKiB;
// An arena's epoch is kept until the arena is forgotten: 1024 arenas are 128 KiB, two slots' worth.
inline constexpr size_t kArenaCountMax = 1024;

struct StoreHeader {
  uint64_t magic;           // kStoreMagic
  uint32_t format_version;  // readers refuse another one
  uint32_t slot_bytes;      // kFarExtentBytes
  uint8_t node[wire::kUuidBytes];
  uint64_t slot_count;
  uint64_t slot_header_offset;
  uint64_t data_offset;
  uint32_t reserved;  // zero
  uint32_t checksum;  // crc32c of the 60 bytes above
};
static_assert(sizeof(StoreHeader) == kCacheLineBytes);

// The highest epoch that an arena's client ever had.  Of an arena's two entries the valid one with
// the higher sequence counts; the other one is overwritten.
struct ArenaEntry {
  uint64_t magic;  // kArenaMagic; 0: free, and the rest is 0 or left by a cut
  uint8_t arena[wire::kUuidBytes];
  uint64_t epoch;
  uint8_t client[wire::kUuidBytes];
  uint64_t sequence;
  wire::ArenaState state;
  uint8_t reserved[3];  // zero
  uint32_t checksum;    // crc32c of the 60 bytes above
};
static_assert(sizeof(ArenaEntry) == kCacheLineBytes);

struct SlotHeader {
  uint64_t magic;  // kSlotMagic; 0: the slot is free, and the rest is 0 or left by a cut
  uint8_t arena[wire::kUuidBytes];
  uint64_t extent;
  uint64_t generation;    // > 0
  uint64_t epoch;         // of the client that wrote it
  uint32_t length_bytes;  // 1 to kFarExtentBytes; the slot's rest is zero
  uint32_t data_crc;      // crc32c of the length_bytes
  wire::Seal seal;        // the client's; zero: none
  uint8_t reserved[36];   // zero
  uint32_t checksum;      // crc32c of the 124 bytes above
};
static_assert(sizeof(SlotHeader) == 2 * kCacheLineBytes);

static_assert(std::has_unique_object_representations_v<StoreHeader> &&
                  std::has_unique_object_representations_v<ArenaEntry> &&
                  std::has_unique_object_representations_v<SlotHeader>,
              "no hidden padding");

inline constexpr uint64_t kArenaTableOffset = kStoreHeaderBytes;
inline constexpr uint64_t kSlotTableOffset =
    kArenaTableOffset + 2 * kArenaCountMax * sizeof(ArenaEntry);

constexpr uint64_t data_offset_of(uint64_t slot_count) {
  return round_up(kSlotTableOffset + slot_count * sizeof(SlotHeader), kFarExtentBytes);
}

constexpr uint64_t store_bytes_of(uint64_t slot_count) {
  return data_offset_of(slot_count) + slot_count * kFarExtentBytes;
}

}  // namespace btd::tools
