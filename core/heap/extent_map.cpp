#include "core/heap/extent_map.hpp"

#include <bit>

#include "core/base/check.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

// How many extents of the request's own list are tried before the next list, whose every extent
// fits.
constexpr int kOwnListTries = 8;
// The same for each list that take_dirty() looks at.
constexpr int kDirtyTries = 32;
constexpr uint32_t kFreedMask = (1u << 29) - 1;

}  // namespace

uint32_t ExtentMap::list_of(uint32_t frame_count) noexcept {
  if (frame_count < 4) return frame_count;
  auto doubling = static_cast<uint32_t>(std::bit_width(frame_count) - 1);
  return 4 * (doubling - 1) + ((frame_count >> (doubling - 2)) & 3);
}

void ExtentMap::insert(uint32_t first, uint32_t count, uint32_t flags, uint32_t freed_s) noexcept {
  uint32_t list = list_of(count);
  ExtentNode& node = nodes_[first];
  node.frame_count = count;
  node.flags = (flags | kIsFree) & kFlags;
  node.freed_s = freed_s & kFreedMask;
  node.previous = kNoIndex;
  node.next = heads_[list];
  if (node.next != kNoIndex) nodes_[node.next].previous = first;
  heads_[list] = first;
  non_empty_[list / 64] |= uint64_t{1} << (list % 64);
  nodes_[first + count - 1].first = first;
  free_frames_ += count;
  if (!(flags & kIsZero)) dirty_frames_ += count;
}

void ExtentMap::remove(uint32_t first) noexcept {
  ExtentNode& node = nodes_[first];
  BTD_CHECK(node.flags & kIsFree);
  uint32_t list = list_of(node.frame_count);
  if (node.previous != kNoIndex) {
    nodes_[node.previous].next = node.next;
  } else {
    heads_[list] = node.next;
    if (node.next == kNoIndex) non_empty_[list / 64] &= ~(uint64_t{1} << (list % 64));
  }
  if (node.next != kNoIndex) nodes_[node.next].previous = node.previous;
  free_frames_ -= node.frame_count;
  if (!(node.flags & kIsZero)) dirty_frames_ -= node.frame_count;
  node.flags = node.flags & (kIsBacked | kIsZero);
}

uint32_t ExtentMap::find(uint32_t frame_count) const noexcept {
  uint32_t list = list_of(frame_count);
  uint32_t candidate = heads_[list];
  for (int i = 0; i < kOwnListTries && candidate != kNoIndex; i++) {
    if (nodes_[candidate].frame_count >= frame_count) return candidate;
    candidate = nodes_[candidate].next;
  }
  for (uint32_t word = (list + 1) / 64; word < 2; word++) {
    uint64_t lists = non_empty_[word];
    if (word == (list + 1) / 64) lists &= ~uint64_t{0} << ((list + 1) % 64);
    if (lists != 0) return heads_[word * 64 + static_cast<uint32_t>(std::countr_zero(lists))];
  }
  // The last hope: the rest of the own list.
  for (; candidate != kNoIndex; candidate = nodes_[candidate].next) {
    if (nodes_[candidate].frame_count >= frame_count) return candidate;
  }
  return kNoIndex;
}

// Takes [first + skipped, + frame_count) out of the free extent at `first`; both ends stay free.
FreeExtent ExtentMap::cut(uint32_t first, uint32_t skipped_frames, uint32_t frame_count) noexcept {
  ExtentNode whole = nodes_[first];
  remove(first);
  uint32_t flags = whole.flags & (kIsBacked | kIsZero);
  uint32_t rest = whole.frame_count - skipped_frames - frame_count;
  if (skipped_frames > 0) insert(first, skipped_frames, flags, whole.freed_s);
  if (rest > 0) insert(first + skipped_frames + frame_count, rest, flags, whole.freed_s);
  return {first + skipped_frames, frame_count, (flags & kIsBacked) != 0, (flags & kIsZero) != 0};
}

FreeExtent ExtentMap::take(uint32_t frame_count, uint32_t frame_alignment,
                           uint32_t alignment_origin) noexcept {
  uint64_t asked = uint64_t{frame_count} + frame_alignment - 1;
  if (asked > free_frames_) return {};
  uint32_t first = find(static_cast<uint32_t>(asked));
  if (first == kNoIndex) return {};
  uint32_t from_origin = first - alignment_origin;
  auto skipped = static_cast<uint32_t>(round_up(from_origin, frame_alignment) - from_origin);
  return cut(first, skipped, frame_count);
}

FreeExtent ExtentMap::take_at(uint32_t first_frame, uint32_t frame_count) noexcept {
  if (first_frame >= end_frame_) return {};
  const ExtentNode& node = nodes_[first_frame];
  if (!(node.flags & kIsFree) || node.frame_count < frame_count) return {};
  return cut(first_frame, 0, frame_count);
}

FreeExtent ExtentMap::give(FreeExtent extent, uint32_t now_s) noexcept {
  uint32_t first = extent.first_frame;
  uint32_t count = extent.frame_count;
  BTD_CHECK(first >= first_frame_ && count > 0 && count <= end_frame_ - first);
  uint32_t flags = (extent.is_backed ? kIsBacked : 0) | (extent.is_zero ? kIsZero : 0);
  auto joins = [&](uint32_t neighbour) { return ((neighbour ^ flags) & kIsBacked) == 0; };
  if (first > first_frame_) {
    // The tag of the frame before may be stale; it counts only if the extent it names is free and
    // ends here.
    uint32_t left = nodes_[first - 1].first;
    if (left >= first_frame_ && left < first && (nodes_[left].flags & kIsFree) &&
        left + nodes_[left].frame_count == first && joins(nodes_[left].flags)) {
      flags &= nodes_[left].flags;
      count += nodes_[left].frame_count;
      remove(left);
      first = left;
    }
  }
  uint32_t right = first + count;
  if (right < end_frame_ && (nodes_[right].flags & kIsFree) && joins(nodes_[right].flags)) {
    flags &= nodes_[right].flags;
    count += nodes_[right].frame_count;
    remove(right);
  }
  insert(first, count, flags, now_s);
  return {first, count, (flags & kIsBacked) != 0, (flags & kIsZero) != 0};
}

void ExtentMap::forget_backing(uint32_t first_frame, uint32_t now_s) noexcept {
  if (first_frame >= end_frame_) return;
  const ExtentNode& node = nodes_[first_frame];
  if ((node.flags & (kIsFree | kIsBacked)) != (kIsFree | kIsBacked)) return;
  FreeExtent extent = cut(first_frame, 0, node.frame_count);
  extent.is_backed = false;
  give(extent, now_s);
}

FreeExtent ExtentMap::take_stale(uint32_t freed_s_max) noexcept {
  for (uint32_t list = 0; list < kListCount && dirty_frames_ > 0; list++) {
    for (uint32_t first = heads_[list]; first != kNoIndex; first = nodes_[first].next) {
      const ExtentNode& node = nodes_[first];
      if (!(node.flags & kIsZero) && node.freed_s <= freed_s_max) {
        remove(first);
        return {first, node.frame_count, (node.flags & kIsBacked) != 0, false};
      }
    }
  }
  return {};
}

FreeExtent ExtentMap::take_dirty(uint32_t frames_max) noexcept {
  for (uint32_t list = kListCount; list-- > 0 && dirty_frames_ > 0;) {
    uint32_t first = heads_[list];
    for (int i = 0; i < kDirtyTries && first != kNoIndex; i++, first = nodes_[first].next) {
      const ExtentNode& node = nodes_[first];
      if (node.flags & kIsZero) continue;
      uint32_t count = min(node.frame_count, frames_max);
      return cut(first, node.frame_count - count, count);
    }
  }
  return {};
}

FreeExtent ExtentMap::take_backed() noexcept {
  for (uint32_t first : heads_) {
    for (; first != kNoIndex; first = nodes_[first].next) {
      const ExtentNode& node = nodes_[first];
      if (!(node.flags & kIsBacked)) continue;
      remove(first);
      return {first, node.frame_count, true, (node.flags & kIsZero) != 0};
    }
  }
  return {};
}

uint32_t ExtentMap::largest_free() const noexcept {
  for (uint32_t list = kListCount; list-- > 0;) {
    uint32_t largest = 0;
    for (uint32_t first = heads_[list]; first != kNoIndex; first = nodes_[first].next) {
      largest = max(largest, nodes_[first].frame_count);
    }
    if (largest > 0) return largest;
  }
  return 0;
}

uint32_t ExtentMap::free_tail() const noexcept {
  if (end_frame_ == first_frame_) return 0;
  uint32_t first = nodes_[end_frame_ - 1].first;
  if (first < first_frame_ || first >= end_frame_ || !(nodes_[first].flags & kIsFree)) return 0;
  return first + nodes_[first].frame_count == end_frame_ ? nodes_[first].frame_count : 0;
}

}  // namespace btd
