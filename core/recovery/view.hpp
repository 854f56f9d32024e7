// A read-only look at an arena file, for tools and tests: safe whatever the file holds, and while
// its owner runs.
//
// The idea: nothing of the file is trusted before it is checked, and nothing is read through a
// mapping.  pread(2) cannot raise SIGBUS when the file is cut short under us, and gives zeros for a
// hole without allocating it.  (A devdax device knows no pread; it is mapped, but it has neither
// holes nor a length that changes.)
//
// Invariants:
//   1. The view never writes to the file, takes no lock and allocates no memory.
//   2. header() has passed its checksum, and every region it names lies inside the file.
//   3. Every Extent and Block handed out lies inside its zone; offsets can be read back with
//   read_data().
//
// A live arena changes while it is read.  What fails its check is read again before it is called
// damaged, and a superblock whose header changed while its states were read is left out: each block
// reported was live at some moment of the walk.
//
// Thread safety: none; one view a thread.  The path and callbacks are the caller's, valid for the
// call only.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/result.hpp"
#include "core/heap/size_class.hpp"
#include "core/persist/layout.hpp"

namespace btd {

// Why open() refused, finer than Error; fault_text() says it in words.
enum class OpenFault : uint8_t {
  kNone,
  kNotFound,
  kPermission,
  kSymlink,
  kDirectory,
  kSpecialFile,  // FIFO, socket, terminal, ...
  kEmpty,
  kTruncated,  // shorter than the arena header says, or than an arena header
  kForeign,
  kNewer,
  kPageSize,  // made on a machine with other OS pages, or other frames
  kHeaders,   // both copies of the arena header are bad
  kGeometry,  // a checksummed header that contradicts itself
  kSystem,    // anything else the kernel said
};

// "it is a directory", "both copies of its header are damaged", ...
const char* fault_text(OpenFault fault) noexcept;

struct Extent {
  uint64_t first_frame;  // counted through all zones
  uint64_t frame_count;  // > 0
  ExtentKind kind;
  bool is_fine;         // in the fine zone
  uint8_t detail;       // as in Descriptor
  uint16_t state;       // large: as in FrameHeader
  uint32_t size_class;  // superblock: index into kSizeClasses
  uint64_t epoch;       // of the carve; 0: the header's body is damaged and says nothing
};

struct Block {
  uint64_t id;          // offset / 16
  uint64_t offset;      // bytes from the start of the data
  uint64_t address;     // where its owner saw it
  uint64_t size_bytes;  // of the slot, or the whole OS pages of a large block
  uint64_t epoch;       // of its malloc; 0: kept, or a tag of no known epoch
  uint8_t tag;          // 1..kTagMax, or kStateKept
  bool is_large;
};

// Who can say what the bytes of the far zone are: they are not in the arena's file, where holes
// would read as zeros.
class FarReader {
 public:
  // The true bytes from `offset`, counted from the far zone's first, or false: then the buffer's
  // content means nothing.
  virtual bool read(uint64_t offset, void* buffer, size_t size_bytes) noexcept = 0;

 protected:
  ~FarReader() = default;  // nobody deletes one through this interface
};

class ArenaView {
 public:
  enum class CopyState : uint8_t { kGood, kStale, kBad };

  ArenaView() = default;
  ArenaView(const ArenaView&) = delete;
  ArenaView& operator=(const ArenaView&) = delete;
  ~ArenaView() { close(); }

  // Opens the arena at `path`, following no symbolic link and waiting for nothing.
  // ERRORS: kNotFound; kPermission; kUnsupported: a directory, FIFO, ... or link; kForeign: empty,
  // or no arena; kNewer;
  //   kMismatch: other page size; kCorrupt: truncated, or no usable header copy; kIo.  view.fault()
  //   says which precisely.
  [[nodiscard]] static Error open(const char* path, ArenaView& view) noexcept;
  // The same for an open file, which the view then owns, whatever is returned.
  [[nodiscard]] static Error open_file(int descriptor, ArenaView& view) noexcept;
  void close() noexcept;

  OpenFault fault() const { return fault_; }
  const ArenaHeader& header() const { return header_; }
  uint64_t file_size_bytes() const { return file_size_bytes_; }
  int descriptor() const { return descriptor_; }  // owned by the view
  // A device has neither holes nor a length that changes.
  bool is_device() const { return mapping_ != nullptr; }

  CopyState copy_state(int copy) const { return copy_states_[copy]; }
  // 0 or 1: that copy of the header is bad or older than the other; -1: both are good.
  int damaged_copy() const;

  // Whether a process holds the arena's lock now.
  bool is_live() const noexcept;

  uint64_t frame_count() const {
    return uint64_t{header_.coarse_frame_count} + header_.fine_frame_count;
  }
  uint64_t frame_header_offset(uint64_t frame) const {
    return header_.frame_header_offset + frame * sizeof(FrameHeader);
  }
  bool is_fine_frame(uint64_t frame) const { return frame >= header_.coarse_frame_count; }

  // Calls f(const Extent&) for each extent in use, by rising frame.  Damaged heads are left out;
  // check() names them.
  template <typename F>
  void for_each_extent(F&& f) const {
    ExtentCursor cursor(*this);
    Extent extent;
    while (cursor.next(extent)) f(static_cast<const Extent&>(extent));
  }

  // Calls f(const Block&) for each live block, by rising offset.
  template <typename F>
  void for_each_block(F&& f) const {
    ExtentCursor cursor(*this);
    Extent extent;
    while (cursor.next(extent)) for_each_block_of(extent, f);
  }

  // The same for one extent of this view.
  template <typename F>
  void for_each_block_of(const Extent& extent, F&& f) const {
    Block block;
    if (extent.kind == ExtentKind::kLarge) {
      if (large_block(extent, block)) f(static_cast<const Block&>(block));
      return;
    }
    uint8_t states[kStatesOfSuperblockMax];
    if (!read_states(extent, states)) return;
    const SizeClassInfo& info = kSizeClasses[extent.size_class];
    for (uint32_t slot = 0; slot < info.slot_count; slot++) {
      if (slot_block(extent, slot, states[slot * info.granules], block))
        f(static_cast<const Block&>(block));
    }
  }

  // Finds the live block with this id.
  bool find_block(uint64_t id, Block& block) const noexcept;

  // Where read_data() gets the far zone from; nullptr, as at first: nowhere.
  void set_far(FarReader* far) { far_ = far; }
  // Of the data.  Empty: there is no far zone.
  uint64_t far_begin() const { return uint64_t{header_.far_first_frame} * kFrameBytes; }
  uint64_t far_end() const {
    return far_begin() == 0 ? 0 : uint64_t{header_.coarse_frame_count} * kFrameBytes;
  }

  // Reads data bytes [offset, offset + size_bytes), through each frame's file_frame.  False:
  // outside the data, far without a reader that has them, or the kernel refused; then the rest of
  // the buffer is zero, and stands for nothing.
  bool read_data(uint64_t offset, void* buffer, size_t size_bytes) const noexcept;

  // Reads bytes of the file.  False: outside of it, or the kernel refused; what could not be read
  // is zero.
  bool read_file(uint64_t offset, void* buffer, size_t size_bytes) const noexcept;

  // nullptr: the frame heads an extent that may be trusted, and `extent` describes it; else what is
  // wrong.
  const char* parse(const FrameHeader& header, uint64_t frame, uint64_t zone_end,
                    Extent& extent) const noexcept;
  // The same for what the descriptor does not say: nullptr, or what is wrong.
  const char* body_fault(const FrameHeader& header) const noexcept;

 private:
  static constexpr uint64_t kStatesOfSuperblockMax = [] {
    uint64_t most = 0;
    for (size_t i = 0; i < kSizeClassCount; i++) {
      const SizeClassInfo& info = kSizeClasses[i];
      most = max<uint64_t>(most, uint64_t{info.frame_count} *
                                     (info.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame));
    }
    return most;
  }();

  // Walks the heads.  Its buffer holds the headers of 64 frames.
  class ExtentCursor {
   public:
    explicit ExtentCursor(const ArenaView& view) : view_(view) {}
    bool next(Extent& extent) noexcept;

   private:
    const FrameHeader& load(uint64_t frame, uint64_t end) noexcept;

    const ArenaView& view_;
    uint64_t frame_ = 0;
    uint64_t buffer_first_ = 0;
    uint64_t buffer_end_ = 0;
    FrameHeader buffer_[kGrowFrames];
  };

  Error refuse(OpenFault fault, Error error) noexcept;
  Error take(int descriptor) noexcept;
  Error inspect_file() noexcept;
  Error read_headers() noexcept;
  OpenFault geometry_fault() const noexcept;
  bool reparse(uint64_t frame, uint64_t zone_end, Extent& extent) const noexcept;
  bool read_states(const Extent& extent, uint8_t* states) const noexcept;
  bool large_block(const Extent& extent, Block& block) const noexcept;
  bool slot_block(const Extent& extent, uint32_t slot, uint8_t state, Block& block) const noexcept;
  void fill_block(uint64_t offset, uint64_t size_bytes, uint8_t tag, Block& block) const noexcept;

  int descriptor_ = -1;
  const uint8_t* mapping_ = nullptr;  // devdax only
  uint64_t file_size_bytes_ = 0;
  FarReader* far_ = nullptr;
  OpenFault fault_ = OpenFault::kNone;
  CopyState copy_states_[2] = {CopyState::kGood, CopyState::kGood};
  ArenaHeader header_{};
  ArenaHeader copies_[2]{};  // scratch of open(): too large for the stack of a small thread
};

}  // namespace btd
