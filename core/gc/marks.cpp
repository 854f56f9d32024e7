#include "core/gc/marks.hpp"

#include <sys/mman.h>

#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {

Error Marks::open(const GcImage& image) {
  const ArenaHeader& header = *image.header;
  image_ = image;
  // A live arena may grow meanwhile; what it grows by holds nothing that existed when this began.
  zones_ = zones_of(header);
  const auto& [coarse, far, fine] = zones_.zones;
  coarse_frames_ = coarse.grown;
  far_first_ = far.first;
  far_frames_ = far.grown;
  fine_first_ = fine.first;
  fine_frames_ = fine.grown;
  coarse_bits_ = (coarse_frames_ + far_frames_) * kCoarseStatesPerFrame;
  data_ = image.file + header.data_offset;
  frame_headers_ = reinterpret_cast<const FrameHeader*>(image.file + header.frame_header_offset);
  coarse_states_ = reinterpret_cast<const uint8_t*>(image.file + header.coarse_state_offset);
  fine_states_ = reinterpret_cast<const uint8_t*>(image.file + header.fine_state_offset);
  has_postponed_.store(false, std::memory_order_relaxed);

  uint64_t bitmap_bytes = round_up(divide_up(bit_count(), 8), kCacheLineBytes);
  uint64_t frame_bytes =
      round_up((coarse_frames_ + far_frames_ + fine_frames_) * sizeof(uint32_t), kCacheLineBytes);
  tables_bytes_ = max<uint64_t>(2 * bitmap_bytes + frame_bytes, 1);
  intptr_t got = sys::map(nullptr, tables_bytes_, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (got < 0 && got > -4096) return Error::kNoMemory;
  tables_ = reinterpret_cast<char*>(got);
  marks_ = reinterpret_cast<uint64_t*>(tables_);
  postponed_ = reinterpret_cast<uint64_t*>(tables_ + bitmap_bytes);
  frames_ = reinterpret_cast<uint32_t*>(tables_ + 2 * bitmap_bytes);

  for_each_extent([this](uint64_t frame, Descriptor descriptor) {
    uint32_t* entries = frames_ + index_of(frame);
    if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kSuperblock)) {
      for (uint32_t i = 0; i < descriptor.frame_count; i++)
        entries[i] = kSmall | i << kWithinShift | descriptor.detail;
      return;
    }
    uint16_t state = frame_headers_[frame].state;
    bool may_be_live = !image_.trusts_states ||
                       (is_large_state_valid(state) && is_live(tag_of_large_state(state)));
    if (!may_be_live) return;
    for (uint32_t i = 0; i < descriptor.frame_count; i++)
      entries[i] = static_cast<uint32_t>(frame + 1);
  });
  return Error::kNone;
}

void Marks::close() {
  if (tables_ != nullptr) sys::unmap(tables_, tables_bytes_);
  tables_ = nullptr;
}

// The view's rules (core/recovery/view.cpp): a file that is only looked at may hold anything.
bool Marks::is_sound(Descriptor descriptor, uint64_t frames_left, bool is_fine) const {
  if (descriptor.frame_count == 0 || descriptor.frame_count > frames_left ||
      descriptor.check != descriptor_check(descriptor))
    return false;
  if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
    return uint64_t{descriptor.detail} * image_.header->page_bytes <
           uint64_t{descriptor.frame_count} * kFrameBytes;
  }
  return descriptor.kind == static_cast<uint8_t>(ExtentKind::kSuperblock) &&
         descriptor.detail < kSizeClassCount &&
         kSizeClasses[descriptor.detail].is_fine == is_fine &&
         kSizeClasses[descriptor.detail].frame_count == descriptor.frame_count;
}

bool Marks::find_large(uint64_t frame, uint64_t offset, GcBlock& block) const {
  Descriptor descriptor = frame_headers_[frame].descriptor;
  block.offset = frame << kFrameShift;
  block.size_bytes = uint64_t{descriptor.frame_count} * kFrameBytes -
                     uint64_t{descriptor.detail} * image_.header->page_bytes;
  // Large blocks are in the coarse zone, but a file that is only looked at may claim otherwise.
  block.bit = frame < fine_first_
                  ? bit_of(block.offset >> kCoarseShift, false)
                  : coarse_bits_ + ((frame - fine_first_) * uint64_t{kFineStatesPerFrame});
  block.state = nullptr;
  return offset - block.offset < block.size_bytes;
}

const char* Marks::raw_data(uint64_t offset) const {
  uint64_t frame = offset >> kFrameShift;
  if (image_.far != nullptr && is_far_frame(frame)) return image_.far->bytes(offset);
  uint64_t moved = frame_headers_[frame].file_frame;
  if (moved != 0 && frame_headers_[frame].checksum == checksum_of(frame_headers_[frame]) &&
      moved <= fine_first_ + image_.header->fine_frame_count)
    frame = moved - 1;
  return data_ + (frame << kFrameShift) + offset % kFrameBytes;
}

bool Marks::take_postponed(uint64_t* cursor, GcBlock& block) {
  uint64_t end = bit_count();
  for (uint64_t bit = *cursor; bit < end; bit = (bit | 63) + 1) {
    uint64_t word = postponed_[bit / 64] >> (bit % 64);
    if (word == 0) continue;
    bit += static_cast<uint64_t>(__builtin_ctzll(word));
    postponed_[bit / 64] &= ~(uint64_t{1} << (bit % 64));
    *cursor = bit + 1;
    // A block was found here when it was postponed.
    if (find(offset_of_bit(bit), block)) return true;
  }
  *cursor = end;
  return false;
}

}  // namespace btd
