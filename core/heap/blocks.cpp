// Blocks: malloc and free as the arena sees them, small and large, and the verdict on every
// pointer.
#include <bit>
#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/heap/arena.hpp"

namespace btd {
// --- malloc
// ------------------------------------------------------------------------------------------------------------

Arena::LargeShape Arena::shape_of(size_t size_bytes) const {
  uint64_t block_bytes = round_up(max<size_t>(size_bytes, 1), page_bytes_);
  auto frames = static_cast<uint32_t>(divide_up(block_bytes, kFrameBytes));
  return {frames, static_cast<uint8_t>((uint64_t{frames} * kFrameBytes - block_bytes) >>
                                       std::countr_zero(page_bytes_))};
}

void Arena::publish_shape(uint32_t frame, LargeShape shape) {
  publish_descriptor(frame, ExtentKind::kLarge, shape.tail_pages, shape.frame_count);
}

Reservation Arena::large_reservation(uint32_t frame) const {
  return {frame_address(frame), &frame_header(frame)->state, large_state(tag_), sizeof(uint16_t)};
}

Reservation Arena::reserve_small(ThreadCache& cache, size_t size_bytes) {
  size_t size_class = size_class_of(size_bytes);
  do {
    for (;;) {
      CachedBlock taken = cache.take(size_class);
      if (taken.block == nullptr && cache.refill(size_class)) taken = cache.take(size_class);
      if (taken.block != nullptr) return {taken.block, taken.state, tag_, sizeof(uint8_t)};
      // The fine zone may be full while the coarse one is not.
      if (!kSizeClasses[size_class].is_fine) break;
      size_class = coarse_class_of(size_class);
    }
    size_class = size_class_of(size_bytes);
  } while (relieve(&cache));
  return {};
}

Reservation Arena::reserve_large(size_t size_bytes, size_t alignment, bool* is_zero,
                                 ThreadCache* cache) {
  if (size_bytes > data_bytes_ || alignment > data_bytes_) return {};
  LargeShape shape = shape_of(size_bytes);
  do {
    uint32_t frame = try_reserve_large(shape, alignment, is_zero);
    if (frame != kNoIndex) return large_reservation(frame);
  } while (!is_too_large(size_bytes) && relieve(cache));
  return {};
}

// The first frame; kNoIndex: the arena is full.
uint32_t Arena::try_reserve_large(LargeShape shape, size_t alignment, bool* is_zero) {
  FreeExtent extent;
  {
    LockGuard guard(extent_lock_);
    tick();
    if (!is_too_large(uint64_t{shape.frame_count} * kFrameBytes))
      extent = take_frames(coarse_, shape.frame_count, alignment);
    if (!extent.exists() && (is_small_far_ || shape.frame_count >= kFarUnitFrames))
      extent = take_far(shape.frame_count, alignment);
  }
  if (!extent.exists() || !back(extent, is_zero == nullptr)) return kNoIndex;
  if (is_zero != nullptr) *is_zero = extent.is_zero;
  LockGuard guard(extent_lock_);  // not while a fork copies what is published
  *superblock_index(extent.first_frame) = kLargeBlock;
  // Until its state is stored recovery gives the extent back.
  publish_head(extent.first_frame, ExtentKind::kLarge, shape.tail_pages, shape.frame_count);
  return extent.first_frame;
}

// The first frame of a block that this thread freed lately and that has just the right length;
// kNoIndex: it keeps none.
inline uint32_t Arena::take_warm(ThreadCache& cache, size_t size_bytes) {
  if (size_bytes > data_bytes_) return kNoIndex;
  LargeShape shape = shape_of(size_bytes);
  WarmExtent extent = cache.warm().take(shape.frame_count);
  if (extent.frame_count == 0) return kNoIndex;
  if (frame_header(extent.first_frame)->descriptor.detail != shape.tail_pages) [[unlikely]]
    publish_shape(extent.first_frame, shape);
  return extent.first_frame;
}

BTD_HOT void* Arena::allocate_warm(ThreadCache& cache, size_t size_bytes) {
  uint32_t frame = take_warm(cache, size_bytes);
  if (frame == kNoIndex) return nullptr;
  publish(&frame_header(frame)->state, large_state(tag_));  // the commit
  return frame_address(frame);
}

Reservation Arena::reserve(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero) {
  if (is_zero != nullptr) *is_zero = false;
  if (size_bytes <= kSmallBytesMax && alignment <= kFrameBytes) {
    // Slots of a superblock start at a frame: one whose size is a multiple of the alignment is
    // aligned.
    size_t rounded =
        alignment <= kQuantumBytes ? size_bytes : round_up(max<size_t>(size_bytes, 1), alignment);
    while (rounded <= kSmallBytesMax &&
           kSizeClasses[size_class_of(rounded)].slot_bytes % alignment != 0) {
      rounded = kSizeClasses[size_class_of(rounded)].slot_bytes + 1;
      rounded = round_up(rounded, alignment);
    }
    if (rounded <= kSmallBytesMax) {
      Reservation taken = reserve_small(cache, rounded);
      if ((reinterpret_cast<uintptr_t>(taken.block) & (alignment - 1)) == 0) return taken;
      cancel(cache, taken);  // a coarse slot in place of a fine one, less aligned
    }
  }
  if (alignment <= kFrameBytes) {
    uint32_t warm = take_warm(cache, size_bytes);
    if (warm != kNoIndex) return large_reservation(warm);
  }
  return reserve_large(size_bytes, alignment, is_zero, &cache);
}

void Arena::commit(const Reservation& reservation) {
  if (is_strict_) deferred_.settle(*persist_);
  publish_state(reservation.state, reservation.state_bytes, reservation.live);
  if (is_strict_) state_persist_->persist(reservation.state, reservation.state_bytes);
}

void Arena::cancel(ThreadCache& cache, const Reservation& reservation) {
  if (reservation.block != nullptr) take_back(cache, reservation.block);
}

void* Arena::allocate(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero) {
  Reservation taken = reserve(cache, size_bytes, alignment, is_zero);
  if (taken.block != nullptr) commit(taken);
  return taken.block;
}

// --- free
// --------------------------------------------------------------------------------------------------------------

// The commit of a free.
void Arena::free_state(void* state, size_t state_bytes) {
  if (is_strict_) deferred_.settle(*persist_);
  publish_state(state, state_bytes, kStateFree);
  if (is_strict_) state_persist_->persist(state, state_bytes);
}

Verdict Arena::prepare_free(const void* pointer, Reservation& found) {
  Verdict verdict = look_up(pointer);
  if (verdict != Verdict::kGood) return verdict;
  auto* block = const_cast<void*>(pointer);
  uint32_t frame = frame_of(pointer);
  if (*superblock_index(frame) == kLargeBlock) {
    found = {block, &frame_header(frame)->state, frame_header(frame)->state, sizeof(uint16_t)};
    return Verdict::kGood;
  }
  Superblock& superblock = *superblock_of(pointer);
  // A scan between the store and take_back() would count the block, and take_back() count it again:
  // so the scan comes first.
  Heap* owner = lock_owner(superblock);
  if (owner == nullptr) return Verdict::kNotLive;
  if (!superblock.is_scanned) {
    owner->remove(superblock);
    superblock.scan();
    owner->add(superblock);
  }
  owner->lock().unlock();
  uint8_t* state = superblock.state(superblock.slot_of(pointer));
  found = {block, state, *state, sizeof(uint8_t)};
  return is_live(*state) ? Verdict::kGood : Verdict::kNotLive;
}

void Arena::take_back(ThreadCache& cache, void* pointer) {
  uint32_t frame = frame_of(pointer);
  if (*superblock_index(frame) == kLargeBlock) {
    keep_extent(&cache, frame);
    return;
  }
  Superblock& superblock = *superblock_of(pointer);
  if (superblock.owner.load(std::memory_order_relaxed) == cache.heap()->id()) {
    cache.keep(superblock, pointer, superblock.state(superblock.slot_of(pointer)));
  } else {
    cache.keep_remote(pointer);
  }
}

Verdict Arena::free(ThreadCache& cache, void* pointer) {
  uint32_t frame = frame_of(pointer);
  Zone& zone = zone_of(frame);
  if (frame - zone.first_frame >=
      std::atomic_ref(zone.frames_grown).load(std::memory_order_relaxed))
    return Verdict::kNoBlock;
  if (*superblock_index(frame) == kLargeBlock) return free_large(&cache, pointer, frame);
  Superblock* superblock = superblock_of(pointer);
  if (superblock == nullptr) return look_up(pointer);
  uint32_t slot = superblock->slot_of(pointer);
  if (superblock->block(slot) != pointer || slot >= superblock->info().slot_count)
    return Verdict::kMiddle;
  uint8_t* state = superblock->state(slot);
  if (!is_live(*state)) return Verdict::kNotLive;
  if (superblock->owner.load(std::memory_order_relaxed) == kOrphanHeap)
    return free_orphan(*superblock, slot);
  free_state(state, sizeof(*state));
  if (superblock->owner.load(std::memory_order_relaxed) == cache.heap()->id()) {
    cache.keep(*superblock, pointer, state);
  } else {
    cache.keep_remote(pointer);
  }
  return Verdict::kGood;
}

// A block of an orphan goes home at once, its state and its bit under one lock: a scan between the
// two would count it twice.
Verdict Arena::free_orphan(Superblock& superblock, uint32_t slot) {
  Heap* owner = lock_owner(superblock);
  if (owner == nullptr) return Verdict::kNotLive;
  uint8_t* state = superblock.state(slot);
  Verdict verdict = Verdict::kNotLive;
  if (*state != kStateFree) {
    free_state(state, sizeof(*state));
    if (owner->give(superblock, slot)) retire(superblock);
    verdict = Verdict::kGood;
  }
  owner->lock().unlock();
  return verdict;
}

// An empty cache has no room, and none of the arena is looked at: in a child it may be missing.  A
// rotation puts the low bits of a pointer that is no frame's on top: one comparison for both.
BTD_HOT bool Arena::free_warm(ThreadCache& cache, void* pointer) {
  if (!cache.warm().has_room(1)) return false;
  uint64_t frame =
      std::rotr(reinterpret_cast<uintptr_t>(pointer) - geometry_.coarse_base, kFrameShift);
  if (frame >= std::atomic_ref(coarse_.frames_grown).load(std::memory_order_relaxed)) return false;
  auto index = static_cast<uint32_t>(frame);
  if (*superblock_index(index) != kLargeBlock) return false;
  FrameHeader* media = frame_header(index);
  if (media->state != large_state(tag_)) return false;
  WarmExtent extent{index, media->descriptor.frame_count};
  if (!cache.warm().has_room(extent.frame_count)) return false;
  publish(&media->state, uint16_t{kStateFree});  // the commit
  cache.warm().keep(extent);
  return true;
}

// `cache`: may keep the extent; nullptr: it is released.
Verdict Arena::free_large(ThreadCache* cache, void* pointer, uint32_t frame) {
  FrameHeader* media = frame_header(frame);
  if (pointer != frame_address(frame)) return Verdict::kMiddle;
  uint16_t state = media->state;
  if (!is_live(tag_of_large_state(state)) || !is_large_state_valid(state)) return Verdict::kNotLive;
  // The commit: from here on the block is free, its extent still in use.
  free_state(&media->state, sizeof(uint16_t));
  keep_extent(cache, frame);
  return Verdict::kGood;
}

void Arena::keep_extent(ThreadCache* cache, uint32_t frame) {
  WarmExtent extent{frame, frame_header(frame)->descriptor.frame_count};
  if (cache != nullptr && extent.frame_count <= kWarmFramesMax) {
    WarmExtents& warm = cache->warm();
    if (warm.keep(extent)) return;
    if (uint32_t missing = warm.missing(extent.frame_count); missing > 0 && grant_warm(missing))
      warm.grant(missing);
    if (warm.fits(extent.frame_count)) {
      while (!warm.keep(extent)) release_extent(warm.take_oldest().first_frame);
      return;
    }
  }
  release_extent(frame);
}

bool Arena::grant_warm(uint32_t frame_count) {
  uint32_t granted = warm_frames_.load(std::memory_order_relaxed);
  do {
    if (frame_count > kWarmFramesMax - granted) return false;
  } while (!warm_frames_.compare_exchange_weak(granted, granted + frame_count,
                                               std::memory_order_relaxed));
  return true;
}

void Arena::release_extent(uint32_t first_frame) {
  LockGuard guard(extent_lock_);
  FrameHeader* media = frame_header(first_frame);
  uint32_t frames = media->descriptor.frame_count;
  *superblock_index(first_frame) = 0;
  // From this store on the frames are free; before it they are an extent without a block.
  publish(&media->descriptor, Descriptor{});
  persist_->persist(&media->descriptor, sizeof(Descriptor));
  give_frames(first_frame, frames);
  tick();
}

Verdict Arena::look_up(const void* pointer) const {
  uint32_t frame = frame_of(pointer);
  const Zone& zone = zone_of(frame);
  if (frame - zone.first_frame >= zone.frames_grown) return Verdict::kNoBlock;
  if (*superblock_index(frame) == kLargeBlock) {
    if (pointer != frame_address(frame)) return Verdict::kMiddle;
    uint16_t state = frame_header(frame)->state;
    return is_live(tag_of_large_state(state)) && is_large_state_valid(state) ? Verdict::kGood
                                                                             : Verdict::kNotLive;
  }
  if (const Superblock* superblock = superblock_of(pointer)) {
    uint32_t slot = superblock->slot_of(pointer);
    if (superblock->block(slot) != pointer || slot >= superblock->info().slot_count)
      return Verdict::kMiddle;
    uint8_t state = *superblock->state(slot);
    return is_live(state) ? Verdict::kGood : Verdict::kNotLive;
  }
  // A frame inside a large block has no entry: look for the head before it.  Only misuse comes
  // here, so the walk may take its time.
  for (uint32_t head = frame; head-- > zone.first_frame;) {
    if (*superblock_index(head) == 0) continue;
    if (*superblock_index(head) != kLargeBlock) break;
    Descriptor descriptor = frame_header(head)->descriptor;
    return frame - head < descriptor.frame_count ? Verdict::kMiddle : Verdict::kNoBlock;
  }
  // A large block's head that is free now has no entry any more; the pointer may well have been
  // one.
  return pointer == frame_address(frame) ? Verdict::kNotLive : Verdict::kNoBlock;
}

size_t Arena::usable_size(const void* pointer) const {
  if (look_up(pointer) != Verdict::kGood) return 0;
  if (const Superblock* superblock = superblock_of(pointer)) return superblock->info().slot_bytes;
  Descriptor descriptor = frame_header(frame_of(pointer))->descriptor;
  return uint64_t{descriptor.frame_count} * kFrameBytes - descriptor.detail * page_bytes_;
}

bool Arena::resize_in_place(void* pointer, size_t size_bytes) {
  if (superblock_of(pointer) != nullptr) {
    size_t slot_bytes = superblock_of(pointer)->info().slot_bytes;
    // Down to half a slot a move would gain less than it costs.
    return size_bytes <= slot_bytes &&
           (size_bytes >= slot_bytes / 2 || slot_bytes <= 4 * kQuantumBytes);
  }
  if (size_bytes <= kSmallBytesMax || size_bytes > data_bytes_) return false;
  uint32_t frame = frame_of(pointer);
  LargeShape shape = shape_of(size_bytes);
  LockGuard guard(extent_lock_);
  uint32_t frames_now = frame_header(frame)->descriptor.frame_count;
  if (shape.frame_count > frames_now &&
      !take_after(frame + frames_now, shape.frame_count - frames_now))
    return false;
  // One store resizes the extent.  Frames added were free until now, frames cut off are free from
  // now on: none has a descriptor of its own.
  publish_shape(frame, shape);
  if (shape.frame_count < frames_now)
    give_frames(frame + shape.frame_count, frames_now - shape.frame_count);
  return true;
}

}  // namespace btd
