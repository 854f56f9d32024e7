// The window's file: frames of near extents, and the words that say what each extent is.
//
//   0          header, one page
//   4 KiB      one ExtentWord an extent
//   64 KiB *   the window: extent i at window_offset + i * 64 KiB, sparse
//   behind it  64 KiB that are never anybody's data: the doorbell
//
// It lies in a tmpfs under a name, so that frames outlive a killed process.  They do not outlive
// the machine's restart: the header holds the boot id, and a file of another boot is worth nothing.
//
// Frames are read and written here through the descriptor, not through a second mapping: pread()
// of a hole does not fill it, as a load through a mapping would, and frames that no second page
// table maps are punched in half the time.
//
// Thread safety: constant after open(); the rest may run concurrently on different extents.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "core/spill/extent_word.hpp"
#include "core/spill/node.hpp"

namespace btd {

inline constexpr size_t kBootIdBytes = 40;  // 36 characters, padded with zeros
inline constexpr size_t kPagesPerExtent = kFarExtentBytes / 4096;
inline constexpr uint32_t kAllPages = (1U << kPagesPerExtent) - 1;

struct FarFileHeader {
  uint64_t magic;  // kFarFileMagic, or 0: not made to the end
  uint32_t format_version;
  uint32_t reserved_a;  // zero
  uint64_t extent_count;
  uint8_t arena_uuid[16];
  char boot_id[kBootIdBytes];
  uint8_t reserved_b[44];  // zero
  uint32_t checksum;       // crc32c of the 124 bytes above
};
static_assert(sizeof(FarFileHeader) == 128);

inline constexpr uint64_t kFarFileMagic = 0x5241464452414254;  // "TBARDFAR"
inline constexpr uint32_t kFarFileVersion = 1;

class FarFile {
 public:
  FarFile() = default;
  FarFile(const FarFile&) = delete;
  FarFile& operator=(const FarFile&) = delete;

  // Opens or makes the file and takes its lock.  `is_found`: it was there, whole, of this boot and
  // this arena; its words are what the last owner left.  Otherwise it is empty now, and found by
  // nobody until confirm(): a kill before that leaves a file without data.  ERRORS: kNotFound it is
  // not there, or damaged, and `may_make` is false, kInUse another process has it, kUnsupported not
  // a tmpfs, kForeign a file of something else, kMismatch of this boot but another arena or size,
  // kNewer, kIo.
  Error open(const char* path, uint64_t extent_count, const uint8_t (&arena_uuid)[16],
             bool may_make, bool* is_found, Line& why) noexcept;
  // The words of a new file are what they must be.
  Error confirm() noexcept;
  // The file stays where it is.
  void close() noexcept;

  ExtentTable& table() { return table_; }
  const ExtentTable& table() const { return table_; }
  int descriptor() const { return descriptor_; }
  uint64_t window_offset() const { return window_offset_; }
  uint64_t doorbell_offset() const { return window_offset_ + table_.count() * kFarExtentBytes; }

  // A whole extent, or a page of one.
  bool read(uint64_t extent, char* out) const noexcept;
  bool write(uint64_t extent, const char* from) noexcept;
  bool write_page(uint64_t extent, uint32_t page, const char* from) noexcept;
  // Gives the frames back.  The extent behind the last one is the doorbell.
  bool punch(uint64_t extent) noexcept;
  // Which of the extent's pages have frames, a bit each.
  uint32_t frames(uint64_t extent) const noexcept;

 private:
  Error check(FarFileHeader* header, const FarFileHeader& wanted, bool* is_found,
              Line& why) noexcept;
  Error make(const FarFileHeader& wanted) noexcept;

  int descriptor_ = -1;
  void* words_ = nullptr;
  uint64_t words_bytes_ = 0;
  uint64_t window_offset_ = 0;
  ExtentTable table_;
};

// As /proc/sys/kernel/random/boot_id says it; false: unknown, and then no file is of this boot.
bool read_boot_id(char (&out)[kBootIdBytes]) noexcept;

}  // namespace btd
