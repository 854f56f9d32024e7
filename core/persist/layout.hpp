// Everything that reaches media.  docs/format.md draws it by offset; change both in one commit,
// with kFormatVersion.
//
//   arena header A, B | root table | lanes | site table | frame headers | coarse states | fine
//   states | data
//
// Data is one contiguous run of frames: first those of the coarse zone, then those of the fine
// zone.  All offsets are recorded in the arena header.  Integers are little-endian.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/crc32c.hpp"
#include "core/base/units.hpp"

namespace btd {

inline constexpr uint64_t kArenaMagic = 0x31444E4554524142;  // "BARTEND1"
inline constexpr uint32_t kFormatVersion = 1;
inline constexpr size_t kArenaHeaderBytes = 4096;
inline constexpr size_t kRootTableBytes = 256 * kKiB;  // 2,048 roots of 128 B
inline constexpr size_t kLaneTableBytes = 1 * kMiB;    // 64 lanes of 16 KiB
inline constexpr size_t kSiteTableBytes = 1 * kMiB;    // 4,096 sites of 256 B
inline constexpr size_t kRegionAlignment =
    2 * kMiB;  // every region starts on one: devdax maps nothing smaller
// States start so much after their region does.  Else the first block of a frame and its state
// agree in their low 12 address bits, and the CPU takes a store to one for a store to the other: 13
// ns a pair instead of 6.
inline constexpr size_t kStateSkewBytes = 0x6C0;

// --- A block's state
// ---------------------------------------------------------------------------------------------

inline constexpr uint8_t kStateFree = 0;
inline constexpr uint8_t kTagMax = 250;         // 1..250: live, allocated in the epoch of this tag
inline constexpr uint8_t kStateReserved = 251;  // 251..254: reserved
inline constexpr uint8_t kStateKept = 255;      // live: reachable from a root, or adopted

constexpr bool is_live(uint8_t state) {
  return (state != kStateFree && state <= kTagMax) || state == kStateKept;
}

// Epochs count the opens of an arena from 1.  250 tags are enough because recovery retires an epoch
// before its tag comes round again (see Recovery).
constexpr uint8_t tag_of_epoch(uint64_t epoch) {
  return static_cast<uint8_t>(1 + (epoch - 1) % kTagMax);
}

// The latest epoch not after `epoch_now` with this tag; 0: there was none.
constexpr uint64_t epoch_of_tag(uint8_t tag, uint64_t epoch_now) {
  uint64_t back = (epoch_now - 1 + kTagMax - (tag - 1u)) % kTagMax;
  return back < epoch_now ? epoch_now - back : 0;
}

// --- Arena header: two copies of 4 KiB
// ---------------------------------------------------------------------------------

enum class ArenaState : uint32_t {
  kOpen = 1,   // a process owns it, or died owning it
  kClean = 2,  // closed in good order
};

struct ArenaHeader {
  uint64_t magic;           // kArenaMagic
  uint32_t format_version;  // readers refuse a newer one
  uint32_t header_bytes;    // kArenaHeaderBytes
  uint64_t sequence;      // count of header updates; the valid copy with the higher one is in force
  uint8_t uuid[16];       // random, of this arena
  uint64_t base_address;  // where byte 0 of the file is mapped; multiple of 2 MiB
  uint64_t file_bytes;    // length of the file or device that the arena uses
  uint64_t capacity_bytes;  // the coarse and the fine zone together grow to this many data bytes
  uint32_t page_bytes;      // OS page size at creation
  uint32_t frame_bytes;     // kFrameBytes
  uint32_t coarse_frame_count;  // frames of the coarse zone, the far zone's included
  uint32_t fine_frame_count;    // frames of the fine zone
  uint64_t root_table_offset;   // bytes from the start of the file, as all offsets
  uint64_t lane_table_offset;
  uint64_t site_table_offset;
  uint64_t frame_header_offset;
  uint64_t coarse_state_offset;
  uint64_t fine_state_offset;
  uint64_t data_offset;
  uint32_t coarse_frames_grown;  // frames of the zone whose space and metadata are backed; the rest
                                 // was never used
  uint32_t fine_frames_grown;
  uint64_t epoch;         // count of opens
  uint64_t oldest_epoch;  // no live block has an older one (kept blocks aside)
  uint32_t state;         // ArenaState
  uint32_t pid;           // last owner
  uint64_t
      pid_start_ticks;  // start time of that process, /proc/PID/stat field 22: tells a reused pid
  uint8_t boot_id[16];  // of the last open: tells the death of a process from that of a machine
  uint64_t created_s;   // seconds since 1970
  uint64_t opened_s;
  char program[64];           // name of the last owner's executable, NUL-terminated
  uint32_t durability;        // Durability of the last open
  uint32_t roots_grown;       // roots whose space is backed; a multiple of 32
  uint32_t lanes_grown;       // lanes whose space is backed
  uint32_t far_first_frame;   // of the coarse zone's frames, where the far zone begins; 0: nowhere
  uint32_t far_frames_grown;  // frames of the far zone in use at some time
  uint8_t reserved[kArenaHeaderBytes - 296];  // zero
  uint32_t checksum;                          // crc32c of everything above
};
static_assert(sizeof(ArenaHeader) == kArenaHeaderBytes);
static_assert(offsetof(ArenaHeader, checksum) == kArenaHeaderBytes - 4);
static_assert(std::has_unique_object_representations_v<ArenaHeader>, "no hidden padding");

// A run of frames that grows at its end, as the header has it.  The frames of the coarse zone from
// far_first_frame on are a zone of their own: alike, but their bytes are not in this file
// (core/spill).
struct ZoneFrames {
  uint64_t first;
  uint64_t count;
  uint64_t grown;
  bool is_fine;
  bool is_far;

  uint64_t end_grown() const { return first + grown; }
};

// By rising frame; those that are empty too.
struct ZoneList {
  ZoneFrames zones[3];

  const ZoneFrames* begin() const { return zones; }
  const ZoneFrames* end() const { return zones + 3; }
};

inline ZoneList zones_of(const ArenaHeader& header) {
  uint64_t coarse = header.coarse_frame_count;
  uint64_t near = header.far_first_frame == 0 ? coarse : header.far_first_frame;
  return {{{0, near, header.coarse_frames_grown, false, false},
           {near, coarse - near, header.far_frames_grown, false, true},
           {coarse, header.fine_frame_count, header.fine_frames_grown, true, false}}};
}

inline uint32_t checksum_of(const ArenaHeader& header) {
  return crc32c(&header, offsetof(ArenaHeader, checksum)) ^
         0xFFFFFFFF;  // never valid when all zero
}

// --- Frame headers: 64 B a frame
// -----------------------------------------------------------------------------------
//
// Invariant: a frame's descriptor word is not 0 exactly when the frame is the head of an extent in
// use.  Frames inside an extent and free frames have descriptor 0.  So one 8-byte store takes an
// extent, gives it back, or resizes it.

enum class ExtentKind : uint8_t {
  kFree = 0,
  kSuperblock = 1,
  kLarge = 2,
};

// The descriptor word: one aligned 8-byte store, which neither a kill nor media can tear.
struct Descriptor {
  uint8_t kind;    // ExtentKind
  uint8_t detail;  // superblock: size class, index into kSizeClasses; large: whole OS pages at the
                   // end that are not the block's
  uint16_t check;  // descriptor_check() of the other fields
  uint32_t frame_count;  // of the extent, > 0
};
static_assert(sizeof(Descriptor) == 8);

struct FrameHeader {
  Descriptor descriptor;
  uint16_t state;         // large: LargeState of the block; superblock: 0
  uint8_t reserved_a[6];  // zero
  uint64_t epoch;         // of the carve; checked only for heads
  uint64_t file_frame;    // where this frame's bytes are: 0: at the file frame of the same index;
                          // else that index + 1
  uint64_t site;          // call site of a large block: index into the site table + 1; 0: not known
  uint8_t reserved_b[20];  // zero
  uint32_t checksum;       // crc32c of bytes 16..59
};
static_assert(sizeof(FrameHeader) == kCacheLineBytes);
static_assert(offsetof(FrameHeader, epoch) == 16);
static_assert(offsetof(FrameHeader, checksum) == 60);
static_assert(std::has_unique_object_representations_v<FrameHeader>, "no hidden padding");

inline uint32_t checksum_of(const FrameHeader& header) {
  return crc32c(&header.epoch, offsetof(FrameHeader, checksum) - offsetof(FrameHeader, epoch));
}

// Folds the crc of the other fields to 16 bits; a single flipped bit or byte always changes it.
inline uint16_t descriptor_check(Descriptor descriptor) {
  descriptor.check = 0;
  uint32_t crc = crc32c(&descriptor, sizeof(descriptor));
  return static_cast<uint16_t>((crc ^ (crc >> 16)) | 1);
}

// A large block's state is its tag and a second byte that follows from it (an odd factor: one to
// one, and 0 for 0 alone), in one 2-byte store: free is 0, and no single flipped byte makes another
// valid state.
constexpr uint16_t large_state(uint8_t tag) {
  return static_cast<uint16_t>(tag | ((tag * 0x9D & 0xFF) << 8));
}
constexpr uint8_t tag_of_large_state(uint16_t state) { return static_cast<uint8_t>(state); }
constexpr bool is_large_state_valid(uint16_t state) {
  return state == large_state(static_cast<uint8_t>(state));
}

// --- Roots: 128 B each
// ---------------------------------------------------------------------------------------------
//
// A root is in use when its head fits its name.  Its value alone says whether it is set: one
// aligned 8-byte store sets, changes or removes it.

inline constexpr size_t kRootNameMax = 63;  // bytes, without the NUL

struct Root {
  char name[kRootNameMax + 1];  // NUL-padded
  uint64_t head;                // root_head(name); 0: not in use
  uint64_t value;        // bytes from the start of the file to what it points to; 0: null, not set
  uint8_t reserved[48];  // zero
};
static_assert(sizeof(Root) == 128);
static_assert(offsetof(Root, head) == kCacheLineBytes);
inline constexpr uint32_t kRootCount = kRootTableBytes / sizeof(Root);
inline constexpr uint32_t kRootsPerPage = 4096 / sizeof(Root);

// Never 0.
inline uint64_t root_head(const char (&name)[kRootNameMax + 1]) {
  return uint64_t{crc32c(name, sizeof(name))} << 32 | 1;
}

// --- Modules: 256 B each, the last 64 of the site table
// -----------------------------------------------------------------------------------------------------
//
// What `paranoid` saw pointers into.  A record is in use when its checksum is stored, which comes
// last; the first that is not in use ends the table.

inline constexpr size_t kModuleCount = 64;

struct ModuleRecord {
  uint64_t first;  // addresses that it was mapped at: [first, end)
  uint64_t end;
  uint64_t epoch;           // of the process
  uint32_t build_id_bytes;  // 0: it has none; of a longer one the first 20 bytes
  uint8_t build_id[20];
  char path[204];     // its end, if it is longer; padded with zeros
  uint32_t checksum;  // crc32c of the 252 bytes above, inverted (so that zeros are no record)
};
static_assert(sizeof(ModuleRecord) == 256);
static_assert(offsetof(ModuleRecord, checksum) == 252);
static_assert(std::has_unique_object_representations_v<ModuleRecord>, "no hidden padding");
inline constexpr size_t kModulesAt = kSiteTableBytes - kModuleCount * sizeof(ModuleRecord);

inline uint32_t checksum_of(const ModuleRecord& record) {
  return crc32c(&record, offsetof(ModuleRecord, checksum)) ^ 0xFFFFFFFF;
}

// --- Lanes: 16 KiB each, the log of one transaction at a time
// ------------------------------------------------------
//
// Line 0 is the lane's header, the log follows it.  A record is valid if its sequence is that of
// the lane's transaction and its checksum follows from the record before it: so a valid record
// means that all before it are.

inline constexpr size_t kLaneBytes = 16 * kKiB;
inline constexpr uint32_t kLaneCount = kLaneTableBytes / kLaneBytes;

struct LaneHeader {
  uint64_t finished;  // sequence of the last transaction that needs no recovery; the one that may
                      // be open is the next
  uint8_t reserved[kCacheLineBytes - 8];  // zero
};
static_assert(sizeof(LaneHeader) == kCacheLineBytes);

enum class RecordKind : uint32_t {
  kUndo = 1,    // payload: the bytes at target before the transaction
  kRedo = 2,    // payload: the bytes that target gets at commit
  kAlloc = 3,   // payload: AllocPayload; target: the state, which becomes live at commit
  kFree = 4,    // payload: AllocPayload; target: the state, which becomes free at commit
  kCommit = 5,  // no payload: the transaction is committed
  kLink = 6,    // no payload; target: where the log goes on, in an extent without a live block
};

struct LogRecord {
  uint32_t sequence;      // of the transaction, its low 32 bits
  uint32_t length_bytes;  // of the payload, which follows, padded with zeros to 8 bytes
  uint64_t target;        // bytes from the start of the file, as the next
  uint64_t previous;      // the record before this one; 0: it is the first
  uint32_t kind;          // RecordKind
  uint32_t checksum;      // of the record before it, the 28 bytes above and the payload
};
static_assert(sizeof(LogRecord) == 32);
static_assert(offsetof(LogRecord, checksum) == 28);

struct AllocPayload {
  uint64_t block;        // bytes from the start of the file
  uint64_t size_bytes;   // as asked for; kFree: 0
  uint16_t live;         // kAlloc: the state that commits the block
  uint16_t state_bytes;  // 1: small, 2: large
  uint32_t reserved;     // zero
};
static_assert(sizeof(AllocPayload) == 24);

// --- Geometry
// ----------------------------------------------------------------------------------------------------------

// The fine zone has a quarter of the coarse zone's frames; when it is full, its classes are served
// by the next coarse ones.
inline constexpr uint32_t kCoarseFramesPerFine = 4;
// Space is grown in units of 64 frames: their headers fill one 4 KiB page, so that all regions grow
// by whole pages.
inline constexpr uint32_t kGrowFrames = 64;

// The states of a frame.
inline constexpr uint32_t kCoarseStatesPerFrame = kFrameBytes >> 6;
inline constexpr uint32_t kFineStatesPerFrame = kFrameBytes >> 4;

// Where the states of the frame start, from the start of the file.
inline uint64_t state_offset(const ArenaHeader& header, uint64_t frame) {
  return frame < header.coarse_frame_count
             ? header.coarse_state_offset + frame * kCoarseStatesPerFrame
             : header.fine_state_offset + (frame - header.coarse_frame_count) * kFineStatesPerFrame;
}

}  // namespace btd
