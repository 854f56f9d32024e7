// Frames: how an arena takes them, grows by them and gives their memory back.
//
// Growing order: metadata, then the header, which makes the frames part of the zone; only then can
// one be taken, and gets its space.  A crash before the header leaves metadata that is grown again.
#include <sys/mman.h>

#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/heap/arena.hpp"
#include "core/heap/table.hpp"

namespace btd {
namespace {

constexpr uint32_t kGrowFramesMax = 4096;  // 64 MiB: growth by a sixteenth stops being cheap beyond
// As jemalloc's dirty_decay_ms: long enough for a phase to come back.
constexpr uint32_t kDecaySeconds = 10;
constexpr uint32_t kTickSeconds = 2;
constexpr uint32_t kTickExtents = 64;  // bounds the stall of the thread that happens to tick

// How much memory free frames may hold: 16 MiB, which covers a batch of any size that fits a cache,
// and a quarter of what is in use.  What exceeds it goes back by pieces, whose price a thread
// hardly sees, and not faster than 64 MiB a second: a program that comes and goes in short phases
// faults them in again for about a hundredth of its time.
constexpr uint32_t kDirtyFrames = 16 * kMiB / kFrameBytes;
constexpr uint32_t kDirtyShare = 4;
constexpr uint32_t kTrimFrames = kMiB / kFrameBytes;
constexpr int kTrimExtents = 16;  // system calls at a time, at most
constexpr uint32_t kTrimFramesPerSecond = 64 * kMiB / kFrameBytes;
// Less where one zone grows and the other has what it needs: neither can use the other's frames.
constexpr uint32_t kExchangeFrames = 4 * kMiB / kFrameBytes;
constexpr uint32_t kExchangeShare = 8;

}  // namespace

FreeExtent Arena::take_frames(Zone& zone, uint32_t frame_count, size_t alignment) {
  auto alignment_frames = static_cast<uint32_t>(max<uint64_t>(alignment >> kFrameShift, 1));
  auto origin =
      static_cast<uint32_t>(-(geometry_.coarse_base >> kFrameShift) & (alignment_frames - 1));
  FreeExtent extent = zone.extents.take(frame_count, alignment_frames, origin);
  if (!extent.exists()) {
    uint64_t wanted = uint64_t{frame_count} + alignment_frames - 1;
    if (wanted > zone.frame_count || !grow(zone, static_cast<uint32_t>(wanted))) return {};
    extent = zone.extents.take(frame_count, alignment_frames, origin);
  }
  if (extent.exists() && !extent.is_backed) {
    auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
    if (is_refused(frame_count, now_s)) {
      zone.extents.give(extent, now_s);
      return {};
    }
    trim_for_growth(zone, frame_count);
  }
  return extent;
}

bool Arena::grow_roots(uint32_t count) {
  LockGuard guard(extent_lock_);
  count = static_cast<uint32_t>(round_up(count, kRootsPerPage));
  if (count <= header_.roots_grown) return true;
  if (count > kRootCount ||
      mapping_.grow(header_.root_table_offset, count * sizeof(Root)) != Error::kNone)
    return false;
  update_header([&](ArenaHeader& header) { header.roots_grown = count; });
  return true;
}

bool Arena::has_roots() const {
  for (uint32_t index = 0; index < header_.roots_grown; index++) {
    if (root(index)->value != 0) return true;
  }
  return false;
}

bool Arena::grow_lanes(uint32_t count) {
  LockGuard guard(extent_lock_);
  if (count <= header_.lanes_grown) return true;
  if (count > kLaneCount ||
      mapping_.grow(header_.lane_table_offset, count * kLaneBytes) != Error::kNone)
    return false;
  update_header([&](ArenaHeader& header) { header.lanes_grown = count; });
  return true;
}

bool Arena::allocate_space(const FreeExtent& extent, bool touches) {
  uint64_t size_bytes = uint64_t{extent.frame_count} * kFrameBytes;
  return extent.is_backed ||
         mapping_.allocate_resident(frame_offset(extent.first_frame), size_bytes,
                                    touches ? size_bytes : 0) == Error::kNone;
}

// Without the lock: faulting in a large block takes long, and other threads have their own to
// fault.
bool Arena::back(const FreeExtent& extent, bool touches) {
  if (allocate_space(extent, touches)) return true;
  LockGuard guard(extent_lock_);
  take_no_space(zone_of(extent.first_frame), extent);
  return false;
}

void Arena::take_no_space(Zone& zone, const FreeExtent& extent) {
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  note_refusal(extent.frame_count, now_s);
  zone.extents.give(extent, now_s);
}

// A file system that has just refused is not asked for as much again at once; for less it may be.
bool Arena::is_refused(uint32_t frame_count, uint32_t now_s) const {
  return now_s < refused_until_s_ && frame_count >= frames_refused_;
}

void Arena::note_refusal(uint32_t frame_count, uint32_t now_s) {
  refused_until_s_ = now_s + 1;
  frames_refused_ = frame_count;
}

// Adds frames so that `frames_wanted` free ones stand at the zone's end, without space in the file:
// each extent gets its own when it is taken, by one call for all its pages.
bool Arena::grow(Zone& zone, uint32_t frames_wanted) {
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  if (is_refused(frames_wanted, now_s)) return false;
  if (&zone != &far_) {
    zone.extents.forget_backing(zone.first_frame + zone.frames_grown - zone.extents.free_tail(),
                                now_s);
  }
  uint32_t missing = frames_wanted - min(frames_wanted, zone.extents.free_tail());
  auto least = static_cast<uint32_t>(round_up(max(missing, 1u), kGrowFrames));
  uint64_t left = zone.frame_count - zone.frames_grown;
  if (&zone != &far_) {
    uint64_t near = uint64_t{coarse_.frames_grown} + fine_.frames_grown;
    left = min(left, capacity_frames_ - min(capacity_frames_, near));
  }
  if (least > left) return false;
  uint32_t step = max(
      least,
      min(kGrowFramesMax, static_cast<uint32_t>(round_up(zone.frames_grown / 16, kGrowFrames))));
  step = static_cast<uint32_t>(min<uint64_t>(step, round_down(left, kGrowFrames)));
  for (uint32_t count : {step, least}) {
    uint32_t first = zone.first_frame + zone.frames_grown;
    if (grow_metadata(zone, first, count) != Error::kNone) continue;
    if (&zone != &far_ &&
        mapping_.open_access(frame_offset(first), uint64_t{count} * kFrameBytes) != Error::kNone)
      continue;
    std::atomic_ref(zone.frames_grown).store(zone.frames_grown + count, std::memory_order_relaxed);
    if (is_open_) show_grown();
    update_header([&](ArenaHeader& header) {
      header.coarse_frames_grown = coarse_.frames_grown;
      header.far_frames_grown = far_.frames_grown;
      header.fine_frames_grown = fine_.frames_grown;
    });
    zone.extents.extend(count);
    bool is_far = &zone == &far_;
    bool is_zero = !is_far && mapping_.backend() != Backend::kDevdax;
    zone.extents.give({first, count, is_far, is_zero}, now_s);
    return true;
  }
  note_refusal(frames_wanted, now_s);
  return false;
}

// Who frees a block in a frame got it from a thread that saw this before.
void Arena::show_grown() {
  auto show = [](uint64_t& granules, uint64_t value) {
    std::atomic_ref(granules).store(value, std::memory_order_relaxed);
  };
  show(geometry_.coarse_granules, uint64_t{coarse_.frames_grown} * kCoarseStatesPerFrame);
  show(geometry_.fine_granules, uint64_t{fine_.frames_grown} * kFineStatesPerFrame);
}

// Frame headers, states and DRAM tables of [first, first + count).
Error Arena::grow_metadata(Zone& zone, uint32_t first, uint32_t count) {
  if (!back_table(frame_bins_, first, count, page_bytes_)) return Error::kNoMemory;
  if (!back_table(superblock_indices_, first, count, page_bytes_)) return Error::kNoMemory;
  if (!back_table(nodes_, first, count, page_bytes_)) return Error::kNoMemory;
  uint64_t header_offset =
      static_cast<uint64_t>(reinterpret_cast<char*>(frame_header(first)) - mapping_.address());
  uint32_t states_per_frame = &zone == &fine_ ? kFineStatesPerFrame : kCoarseStatesPerFrame;
  uint8_t* states = states_of(first);
  auto state_offset = static_cast<uint64_t>(reinterpret_cast<char*>(states) - mapping_.address());
  uint64_t header_bytes = uint64_t{count} * sizeof(FrameHeader);
  uint64_t state_bytes = uint64_t{count} * states_per_frame;
  if (Error error = mapping_.grow(header_offset, header_bytes); error != Error::kNone) return error;
  if (Error error = mapping_.grow(state_offset, state_bytes); error != Error::kNone) return error;
  if (mapping_.backend() == Backend::kDevdax && first >= zone.first_frame + zone.frames_grown &&
      is_open_) {
    std::memset(static_cast<void*>(frame_header(first)), 0, header_bytes);
    std::memset(states, 0, state_bytes);
    // Before the header says that they are grown: what the device held before looks like anything.
    persist_->flush(frame_header(first), header_bytes);
    persist_->persist(states, state_bytes);
  }
  return Error::kNone;
}

void Arena::persist_metadata() {
  persist_->flush(root(0), header_.roots_grown * sizeof(Root));
  persist_->flush(lane(0), header_.lanes_grown * kLaneBytes);
  for (const Zone* zone : {&coarse_, &far_, &fine_}) {
    uint64_t grown = zone->frames_grown;
    uint32_t states_per_frame = zone == &fine_ ? kFineStatesPerFrame : kCoarseStatesPerFrame;
    persist_->flush(frame_header(zone->first_frame), grown * sizeof(FrameHeader));
    state_persist_->flush(states_of(zone->first_frame), grown * states_per_frame);
  }
  persist_->drain();
}

void Arena::give_frames(uint32_t first_frame, uint32_t frame_count) {
  Zone& zone = zone_of(first_frame);
  if (&zone == &far_) return give_far(first_frame, frame_count);
  zone.extents.give({first_frame, frame_count, true, false},
                    static_cast<uint32_t>(sys::steady_clock_s()));
}

// --- The far zone: its free extents all count as backed and not zero, so that they join; what is
// zero the backing knows.

void Arena::set_far(FarBacking& backing, uint64_t near_bytes, bool small_too) {
  far_backing_ = &backing;
  is_small_far_ = small_too;
  capacity_frames_ = min(capacity_frames_, near_bytes / kFrameBytes);
}

FreeExtent Arena::take_far(uint32_t frame_count, size_t alignment) {
  if (far_backing_ == nullptr) return {};
  // Large ones share no unit with others: so no fetch brings what nobody asked for.
  if (frame_count >= kFarUnitFrames)
    alignment = max<size_t>(alignment, kFarUnitFrames * kFrameBytes);
  FreeExtent extent = take_frames(far_, frame_count, alignment);
  if (!extent.exists()) return extent;
  uint64_t last = far_unit_of(extent.first_frame + frame_count - 1);
  extent.is_zero = true;
  for (uint64_t unit = far_unit_of(extent.first_frame); unit <= last && extent.is_zero; unit++)
    extent.is_zero = far_backing_->is_zero(unit);
  return extent;
}

void Arena::give_far(uint32_t first_frame, uint32_t frame_count) {
  FreeExtent free = far_.extents.give({first_frame, frame_count, true, false},
                                      static_cast<uint32_t>(sys::steady_clock_s()));
  // The units that became free as a whole: those that these frames are part of.
  uint64_t begin = (free.first_frame - far_.first_frame + kFarUnitFrames - 1) / kFarUnitFrames;
  uint64_t end = (free.first_frame - far_.first_frame + free.frame_count) / kFarUnitFrames;
  begin = max(begin, far_unit_of(first_frame));
  end = min(end, far_unit_of(first_frame + frame_count - 1) + 1);
  if (far_backing_ != nullptr && begin < end) far_backing_->discard(begin, end - begin);
}

// Free frames that may hold memory beyond the floor and that share of the frames in use.
uint32_t Arena::dirty_excess(uint32_t floor_frames, uint32_t share) const {
  uint32_t dirty = coarse_.extents.dirty_frames() + fine_.extents.dirty_frames();
  uint32_t used = coarse_.frames_grown + fine_.frames_grown - coarse_.extents.free_frames() -
                  fine_.extents.free_frames();
  uint32_t bound = floor_frames + used / share;
  return dirty > bound ? dirty - bound : 0;
}

// Gives pieces of the zone's largest such extents back to the file system; returns their frames.
uint32_t Arena::trim(Zone& zone, uint32_t frames_max) {
  uint32_t trimmed = 0;
  for (int i = 0; i < kTrimExtents && can_give_back_ && trimmed < frames_max; i++) {
    FreeExtent extent = zone.extents.take_dirty(frames_max - trimmed);
    if (!extent.exists()) break;
    can_give_back_ = mapping_.give_back(frame_offset(extent.first_frame),
                                        uint64_t{extent.frame_count} * kFrameBytes);
    if (can_give_back_) extent.is_backed = false, extent.is_zero = true;
    zone.extents.give(extent, static_cast<uint32_t>(sys::steady_clock_s()));
    trimmed += extent.frame_count;
  }
  if (trimmed > 0) refused_until_s_ = 0;  // the file system has space again
  return trimmed;
}

// So many frames of the zone are about to get fresh memory: as much of the other's goes.
void Arena::trim_for_growth(Zone& zone, uint32_t frame_count) {
  Zone& other = &zone == &coarse_ ? fine_ : coarse_;
  frames_to_exchange_ = min(frames_to_exchange_ + frame_count, other.extents.dirty_frames());
  if (can_give_back_ && frames_to_exchange_ >= kTrimFrames &&
      dirty_excess(kExchangeFrames, kExchangeShare) >= kTrimFrames)
    frames_to_exchange_ -= trim(other, frames_to_exchange_);
}

void Arena::tick() {
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  if (now_s != trim_s_) {
    trim_s_ = now_s;
    trim_frames_left_ = kTrimFramesPerSecond;
  }
  if (can_give_back_ && trim_frames_left_ > 0 &&
      dirty_excess(kDirtyFrames, kDirtyShare) >= kTrimFrames) {
    Zone& zone = coarse_.extents.dirty_frames() >= fine_.extents.dirty_frames() ? coarse_ : fine_;
    trim_frames_left_ -= trim(zone, min(kTrimFrames, trim_frames_left_));
  }
  if (now_s < next_tick_s_) return;
  next_tick_s_ = now_s + kTickSeconds;
  give_back_locked(kDecaySeconds, kTickExtents);
}

bool Arena::give_back(uint32_t age_s) {
  LockGuard guard(extent_lock_);
  return give_back_locked(age_s, ~0u);
}

bool Arena::give_back_locked(uint32_t age_s, uint32_t extents_max) {
  if (!can_give_back_) return false;
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  if (now_s < age_s) return false;
  bool is_any = false;
  for (Zone* zone : {&coarse_, &fine_}) {
    for (uint32_t i = 0; i < extents_max; i++) {
      FreeExtent extent = zone->extents.take_stale(now_s - age_s);
      if (!extent.exists()) break;
      can_give_back_ = mapping_.give_back(frame_offset(extent.first_frame),
                                          uint64_t{extent.frame_count} * kFrameBytes);
      if (can_give_back_) extent.is_backed = false, extent.is_zero = true;
      zone->extents.give(extent, now_s);
      if (!can_give_back_) return is_any;
      is_any = true;
    }
  }
  if (is_any) refused_until_s_ = 0;  // the file system has space again
  return is_any;
}

// Takes an extent on media.  What recovery sees: before the last store a free frame with some words
// that mean nothing; after it the whole head.
void Arena::publish_head(uint32_t frame, ExtentKind kind, uint8_t detail, uint32_t frame_count) {
  FrameHeader* media = frame_header(frame);
  // 1. The body, while the descriptor is 0.
  FrameHeader body{};
  body.epoch = header().epoch;
  body.file_frame = media->file_frame;
  body.checksum = checksum_of(body);
  std::memcpy(reinterpret_cast<char*>(media) + sizeof(Descriptor),
              reinterpret_cast<char*>(&body) + sizeof(Descriptor),
              sizeof(body) - sizeof(Descriptor));
  persist_->persist(media, sizeof(*media));
  // 2. The descriptor.
  publish_descriptor(frame, kind, detail, frame_count);
}

// One store takes an extent, or gives it its new length.
void Arena::publish_descriptor(uint32_t frame, ExtentKind kind, uint8_t detail,
                               uint32_t frame_count) {
  Descriptor descriptor{static_cast<uint8_t>(kind), detail, 0, frame_count};
  descriptor.check = descriptor_check(descriptor);
  publish(&frame_header(frame)->descriptor, descriptor);
  persist_->persist(&frame_header(frame)->descriptor, sizeof(descriptor));
}

// Takes [first_frame, + frame_count), if free, for the extent that ends there; at the zone's end
// the zone grows for it.
bool Arena::take_after(uint32_t first_frame, uint32_t frame_count) {
  if (is_too_large(uint64_t{frame_count} * kFrameBytes)) return false;
  Zone& zone = zone_of(first_frame - 1);
  FreeExtent more = zone.extents.take_at(first_frame, frame_count);
  if (!more.exists() && &zone != &far_) {
    zone.extents.forget_backing(first_frame, static_cast<uint32_t>(sys::steady_clock_s()));
    more = zone.extents.take_at(first_frame, frame_count);
  }
  uint32_t grown_end = zone.first_frame + zone.frames_grown;
  if (!more.exists() && first_frame + zone.extents.free_tail() == grown_end &&
      grow(zone, frame_count))
    more = zone.extents.take_at(first_frame, frame_count);
  if (!more.exists()) return false;
  if (allocate_space(more, true)) return true;
  take_no_space(zone, more);
  return false;
}

}  // namespace btd
