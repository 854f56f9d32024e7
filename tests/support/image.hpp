// Builds a small, valid arena in a file, byte by byte, without the allocator: so the readers of
// arenas are tested against the format as documented, not against the writer's habits.
//
//   ArenaImage image(path);                          // 256 coarse and 64 fine frames, all grown
//   image.superblock(0, size_class_of(64), 3);       // heads an extent at frame 0, carved in epoch
//   3 image.slot(0, 5, tag_of_epoch(3));               // slot 5 is live image.large(100, 4, 1,
//   tag_of_epoch(3));         // frames 100..103 without the last page
//
// The file is complete after each call.  Regions keep the distances of the real format; the file is
// sparse.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/heap/size_class.hpp"
#include "core/persist/layout.hpp"

namespace btd::test {

// Of this machine: the image's owner has died, not its machine.
inline void read_boot_id(uint8_t (&id)[16]) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  for (uint8_t& byte : id) {
    char digits[3] = {};
    for (int i = 0; i < 2; i++) {
      while (file.get(digits[i]) && digits[i] == '-') {
      }
    }
    byte = static_cast<uint8_t>(std::strtoul(digits, nullptr, 16));
  }
}

class ArenaImage {
 public:
  static constexpr uint32_t kCoarseFrames = 256;
  static constexpr uint32_t kFineFrames = 64;
  static constexpr uint64_t kEpoch = 5;
  static constexpr uint64_t kOldestEpoch = 2;

  explicit ArenaImage(const std::string& path)
      : path_(path), file_(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {
    if (file_ < 0) throw std::runtime_error("cannot create " + path);
    fill_header();
    if (::ftruncate(file_, static_cast<off_t>(header.file_bytes)) != 0)
      throw std::runtime_error("ftruncate");
    write_headers();
  }
  ArenaImage(const ArenaImage&) = delete;
  ArenaImage& operator=(const ArenaImage&) = delete;
  ~ArenaImage() { ::close(file_); }

  // Seals `header` and writes both copies, or one.
  void write_headers() {
    write_header_copy(0);
    write_header_copy(1);
  }
  void write_header_copy(int copy) {
    header.checksum = checksum_of(header);
    put(static_cast<uint64_t>(copy) * kArenaHeaderBytes, &header, sizeof(header));
  }

  void superblock(uint64_t frame, size_t size_class, uint64_t epoch) {
    head(frame, ExtentKind::kSuperblock, static_cast<uint8_t>(size_class),
         kSizeClasses[size_class].frame_count, epoch, 0);
  }
  void slot(uint64_t frame, uint32_t index, uint8_t state) {
    put(slot_state_offset(frame, index), &state, 1);
  }
  // A large block without its last `unused_pages` pages; tag 0: not live.
  void large(uint64_t frame, uint32_t frame_count, uint8_t unused_pages, uint8_t tag) {
    head(frame, ExtentKind::kLarge, unused_pages, frame_count,
         epoch_of_tag(tag == 0 ? 1 : tag, kEpoch), large_state(tag));
  }
  void data(uint64_t offset, const std::string& bytes) {
    put(header.data_offset + offset, bytes.data(), bytes.size());
  }

  uint64_t slot_state_offset(uint64_t frame, uint32_t index) {
    const SizeClassInfo& info = kSizeClasses[frame_header(frame).descriptor.detail];
    return state_offset(frame) + uint64_t{index} * info.granules;
  }
  uint64_t state_offset(uint64_t frame) const {
    if (frame < kCoarseFrames) return header.coarse_state_offset + frame * kCoarseStatesPerFrame;
    return header.fine_state_offset + (frame - kCoarseFrames) * kFineStatesPerFrame;
  }
  uint64_t frame_header_offset(uint64_t frame) const {
    return header.frame_header_offset + frame * sizeof(FrameHeader);
  }
  FrameHeader frame_header(uint64_t frame) const {
    FrameHeader result;
    get(frame_header_offset(frame), &result, sizeof(result));
    return result;
  }
  // Writes the header as it stands, damage and all.
  void write_frame_header(uint64_t frame, const FrameHeader& value) {
    put(frame_header_offset(frame), &value, sizeof(value));
  }

  uint8_t byte(uint64_t offset) const {
    uint8_t value;
    get(offset, &value, 1);
    return value;
  }
  void set_byte(uint64_t offset, uint8_t value) { put(offset, &value, 1); }

  uint64_t allocated_bytes() const {
    struct stat status {};
    ::fstat(file_, &status);
    return static_cast<uint64_t>(status.st_blocks) * 512;
  }

  const std::string& path() const { return path_; }
  int file() const { return file_; }

  ArenaHeader header{};

 private:
  void head(uint64_t frame, ExtentKind kind, uint8_t detail, uint32_t frame_count, uint64_t epoch,
            uint16_t state) {
    FrameHeader value{};
    value.descriptor = {static_cast<uint8_t>(kind), detail, 0, frame_count};
    value.descriptor.check = descriptor_check(value.descriptor);
    value.state = state;
    value.epoch = epoch;
    value.checksum = checksum_of(value);
    write_frame_header(frame, value);
  }

  void fill_header() {
    header.magic = kArenaMagic;
    header.format_version = kFormatVersion;
    header.header_bytes = kArenaHeaderBytes;
    header.sequence = 7;
    for (uint8_t i = 0; i < 16; i++) header.uuid[i] = static_cast<uint8_t>(0xA0 + i);
    header.base_address = 0x300000000000;
    header.capacity_bytes = uint64_t{kCoarseFrames + kFineFrames} * kFrameBytes;
    header.page_bytes = static_cast<uint32_t>(::sysconf(_SC_PAGESIZE));
    header.frame_bytes = kFrameBytes;
    header.coarse_frame_count = kCoarseFrames;
    header.fine_frame_count = kFineFrames;
    uint64_t at = 0;
    auto take = [&](uint64_t size_bytes) {
      uint64_t offset = at;
      at = round_up(at + size_bytes, kRegionAlignment);
      return offset;
    };
    take(2 * kArenaHeaderBytes);
    header.root_table_offset = take(kRootTableBytes);
    header.lane_table_offset = take(kLaneTableBytes);
    header.site_table_offset = take(kSiteTableBytes);
    header.frame_header_offset = take((kCoarseFrames + kFineFrames) * sizeof(FrameHeader));
    header.coarse_state_offset = take(kCoarseFrames * kCoarseStatesPerFrame);
    header.fine_state_offset = take(kFineFrames * kFineStatesPerFrame);
    header.data_offset = take(header.capacity_bytes);
    header.file_bytes = at;
    header.coarse_frames_grown = kCoarseFrames;
    header.fine_frames_grown = kFineFrames;
    header.epoch = kEpoch;
    header.oldest_epoch = kOldestEpoch;
    header.state = static_cast<uint32_t>(ArenaState::kOpen);
    header.pid = 1;
    read_boot_id(header.boot_id);
    header.created_s = 1700000000;
    header.opened_s = 1700000100;
    std::strcpy(header.program, "image");
  }

  void put(uint64_t offset, const void* bytes, size_t size_bytes) {
    if (::pwrite(file_, bytes, size_bytes, static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(size_bytes)) {
      throw std::runtime_error("pwrite");
    }
  }
  void get(uint64_t offset, void* bytes, size_t size_bytes) const {
    if (::pread(file_, bytes, size_bytes, static_cast<off_t>(offset)) !=
        static_cast<ssize_t>(size_bytes)) {
      throw std::runtime_error("pread");
    }
  }

  std::string path_;
  int file_;
};

}  // namespace btd::test
