// What the mark finds out: for any word, which block it points into; for each block, whether it was
// reached.
//
// Three tables in DRAM, in one reservation.  By frame, 4 bytes that say what the frame belongs to,
// so that a word costs no look at a frame header: 0.02 % of the grown data.  A bit for each granule
// of data, the same granules as those of states: the mark of a block is the bit of its first one:
// 0.2 % of the coarse zone, 0.8 % of the fine one.  And as many bits for blocks that are marked but
// still to be scanned, because a stack was full; their pages are touched only then.
//
// Blocks are named by data offsets: bytes from the start of the arena's data.
//
// Thread safety: find() may run concurrently with everything; mark() and postpone() with themselves
// if `is_shared`.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/base/attributes.hpp"
#include "core/base/result.hpp"
#include "core/heap/size_class.hpp"
#include "core/persist/layout.hpp"

namespace btd {

// Who has the bytes of the far zone of a file that is only read, where they are not.
class GcFarBytes {
 public:
  // Those at a data offset in the far zone, to the end of its frame; good until the next call.
  // Zeros, if they cannot be had: whoever marks asks afterwards whether that happened.
  virtual const char* bytes(uint64_t offset) noexcept = 0;
  // Whether they can be given without fetching them.
  virtual bool is_here(uint64_t offset) const noexcept = 0;

 protected:
  ~GcFarBytes() = default;  // nobody deletes one through this interface
};

// An arena as the collector sees it: one in use, one in recovery, or a file that is only read.
struct GcImage {
  const ArenaHeader* header;
  const char* file;  // byte 0 of the file, readable as far as it is grown
  // After power loss in `lazy` the states on media say nothing: any slot may hold a block.
  bool trusts_states = true;
  // The file as it is: a frame's bytes are where its header's file_frame says.  An open arena's
  // mapping is arranged already.
  bool is_raw = false;
  // Blocks with this state are reachable by themselves: those of the program that runs.  0: none.
  uint8_t own_tag = kStateFree;
  // Of a raw image whose far zone was in use.  One thread marks it.
  GcFarBytes* far = nullptr;
};

struct GcBlock {
  uint64_t offset;
  uint64_t size_bytes;
  uint64_t bit;          // its mark
  const uint8_t* state;  // nullptr: its state need not be asked
};

class Marks {
 public:
  // Reads the frame headers.  ERRORS: kNoMemory.
  [[nodiscard]] Error open(const GcImage& image);
  void close();

  const GcImage& image() const { return image_; }
  // DRAM that the tables may take, those for postponed blocks included.
  uint64_t size_bytes() const { return tables_bytes_; }

  // The block that data offset `offset` is in, whose state is still to be asked (is_block).  False:
  // there can be none.
  bool find(uint64_t offset, GcBlock& block) const {
    uint64_t frame = offset >> kFrameShift;
    uint32_t entry;
    if (frame < coarse_frames_) {
      entry = frames_[frame];
    } else {
      uint64_t entry_index = index_of(frame);
      if (entry_index == kNoEntry) return false;
      entry = frames_[entry_index];
    }
    if ((entry & kSmall) == 0) return entry != 0 && find_large(entry - 1, offset, block);
    const SizeClassInfo& info = kSizeClasses[entry & kClassMask];
    uint64_t first = (frame - (entry >> kWithinShift & kWithinMask)) << kFrameShift;
    auto slot = static_cast<uint32_t>(slot_at(info.reciprocal, offset - first));
    if (slot >= info.slot_count) return false;
    uint64_t granule = first_granule(first, info.is_fine) + uint64_t{slot} * info.granules;
    block.offset = first + uint64_t{slot} * info.slot_bytes;
    block.size_bytes = info.slot_bytes;
    block.bit = bit_of(granule, info.is_fine);
    block.state =
        image_.trusts_states ? (info.is_fine ? fine_states_ : coarse_states_) + granule : nullptr;
    return true;
  }

  // Whether it is one: free slots are none, where states can be trusted.
  static bool is_block(const GcBlock& block) {
    return block.state == nullptr || is_live(*block.state);
  }

  bool is_marked(uint64_t bit) const { return (marks_[bit / 64] >> (bit % 64) & 1) != 0; }
  // Whether the block that starts at the offset was reached.
  bool is_reached(uint64_t offset) const {
    GcBlock block;
    return find(offset, block) && is_marked(block.bit);
  }

  // True: it was not marked before.
  bool mark(uint64_t bit, bool is_shared) { return set(marks_, bit, is_shared); }

  // The same if `condition`, without a branch: 1 or 0.  REQUIRES: no other thread marks.
  uint64_t mark_if(uint64_t bit, bool condition) {
    uint64_t& word = marks_[bit / 64];
    uint64_t is_fresh = ~(word >> (bit % 64)) & static_cast<uint64_t>(condition);
    word |= is_fresh << (bit % 64);
    return is_fresh;
  }
  // note_postponed() comes after them.
  void postpone_if(uint64_t bit, uint64_t condition) {
    postponed_[bit / 64] |= condition << (bit % 64);
  }
  void note_postponed() { has_postponed_.store(true, std::memory_order_relaxed); }

  void postpone(uint64_t bit, bool is_shared) {
    set(postponed_, bit, is_shared);
    note_postponed();
  }
  // Takes a postponed block, looking from *cursor on (a bit; it moves).  False: there is none up to
  // the end.  REQUIRES: no other thread postpones or takes.
  bool take_postponed(uint64_t* cursor, GcBlock& block);
  bool has_postponed() const { return has_postponed_.load(std::memory_order_relaxed); }
  void forget_postponed() { has_postponed_.store(false, std::memory_order_relaxed); }

  // Calls visit(const GcBlock&) for each block that was reached, by rising offset.
  template <typename Visit>
  void for_each_reached(Visit visit) const {
    for (uint64_t bit = 0; bit < bit_count(); bit++) {
      uint64_t word = marks_[bit / 64] >> (bit % 64);
      if (word == 0) {
        bit |= 63;
        continue;
      }
      bit += static_cast<uint64_t>(__builtin_ctzll(word));
      GcBlock block;
      if (find(offset_of_bit(bit), block)) visit(static_cast<const GcBlock&>(block));
    }
  }

  // Calls visit(first_frame, descriptor) for each extent whose descriptor is sound.
  template <typename Visit>
  void for_each_extent(Visit visit) const {
    for (const ZoneFrames& zone : zones_) {
      for (uint64_t frame = zone.first, end = zone.end_grown(); frame < end;) {
        Descriptor descriptor = frame_headers_[frame].descriptor;
        if (!is_sound(descriptor, end - frame, zone.is_fine)) {
          frame++;
          continue;
        }
        visit(frame, descriptor);
        frame += descriptor.frame_count;
      }
    }
  }

  const FrameHeader& frame_header(uint64_t frame) const { return frame_headers_[frame]; }
  // Where the states of the frame start.
  const uint8_t* states_of(uint64_t frame) const {
    return reinterpret_cast<const uint8_t*>(image_.file + state_offset(*image_.header, frame));
  }
  uint64_t fine_first() const { return fine_first_; }

  // The bytes at a data offset; in a raw image up to the frame's end.
  const char* data(uint64_t offset) const {
    return image_.is_raw ? raw_data(offset) : data_ + offset;
  }
  const char* data() const { return data_; }
  // The same, to be prefetched: nullptr where that would fetch them from elsewhere.
  const char* data_ahead(uint64_t offset) const { return is_away(offset) ? nullptr : data(offset); }
  // Far, and to be fetched before they are read.
  bool is_away(uint64_t offset) const {
    return image_.far != nullptr && is_far_frame(offset >> kFrameShift) &&
           !image_.far->is_here(offset);
  }
  const uint64_t* mark_word(uint64_t bit) const { return marks_ + bit / 64; }

 private:
  // A frame's entry: 0: nothing there; kSmall: a superblock's, with its class and the frames of the
  // superblock before it; else its large block's first frame + 1.
  static constexpr uint32_t kSmall = 1u << 31;
  static constexpr uint32_t kClassMask = 63;
  static constexpr unsigned kWithinShift = 8;
  static constexpr uint32_t kWithinMask = 255;
  static_assert(kSizeClassCount <= kClassMask + 1);

  uint64_t first_granule(uint64_t offset, bool is_fine) const {
    return is_fine ? (offset - (fine_first_ << kFrameShift)) >> kFineShift : offset >> kCoarseShift;
  }
  uint64_t bit_count() const { return coarse_bits_ + fine_frames_ * kFineStatesPerFrame; }
  // The zones' grown parts follow each other in the tables.
  static constexpr uint64_t kNoEntry = ~uint64_t{0};
  uint64_t index_of(uint64_t frame) const {
    if (frame < coarse_frames_) return frame;
    uint64_t far_frame =
        frame - far_first_;  // wraps to a large number before its zone, as the next
    if (far_frame < far_frames_) return coarse_frames_ + far_frame;
    uint64_t fine_frame = frame - fine_first_;
    return fine_frame < fine_frames_ ? coarse_frames_ + far_frames_ + fine_frame : kNoEntry;
  }
  uint64_t bit_of(uint64_t granule, bool is_fine) const {
    if (is_fine) return coarse_bits_ + granule;
    return granule < coarse_frames_ * kCoarseStatesPerFrame
               ? granule
               : granule - (far_first_ - coarse_frames_) * kCoarseStatesPerFrame;
  }
  uint64_t offset_of_bit(uint64_t bit) const {
    if (bit >= coarse_bits_)
      return (fine_first_ << kFrameShift) + ((bit - coarse_bits_) << kFineShift);
    if (bit >= coarse_frames_ * kCoarseStatesPerFrame)
      bit += (far_first_ - coarse_frames_) * kCoarseStatesPerFrame;
    return bit << kCoarseShift;
  }
  bool is_far_frame(uint64_t frame) const { return frame - far_first_ < far_frames_; }
  bool find_large(uint64_t frame, uint64_t offset, GcBlock& block) const;
  bool is_sound(Descriptor descriptor, uint64_t frames_left, bool is_fine) const;
  const char* raw_data(uint64_t offset) const;

  static bool set(uint64_t* bits, uint64_t bit, bool is_shared) {
    uint64_t mask = uint64_t{1} << (bit % 64);
    std::atomic_ref word(bits[bit / 64]);
    uint64_t before = word.load(std::memory_order_relaxed);
    if ((before & mask) != 0) return false;
    if (!is_shared) {
      word.store(before | mask, std::memory_order_relaxed);
      return true;
    }
    return (word.fetch_or(mask, std::memory_order_relaxed) & mask) == 0;
  }

  GcImage image_{};
  uint32_t* frames_ = nullptr;
  uint64_t* marks_ = nullptr;
  uint64_t* postponed_ = nullptr;
  const char* data_ = nullptr;
  const FrameHeader* frame_headers_ = nullptr;
  const uint8_t* coarse_states_ = nullptr;
  const uint8_t* fine_states_ = nullptr;
  ZoneList zones_{};            // as the header had them
  uint64_t coarse_frames_ = 0;  // grown
  uint64_t far_first_ = 0;
  uint64_t far_frames_ = 0;   // grown
  uint64_t fine_frames_ = 0;  // grown
  uint64_t fine_first_ = 0;
  uint64_t coarse_bits_ = 0;
  char* tables_ = nullptr;
  uint64_t tables_bytes_ = 0;
  std::atomic<bool> has_postponed_{false};
};

}  // namespace btd
