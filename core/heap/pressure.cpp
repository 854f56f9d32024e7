// What an arena does when it is full: first it looks at what recovery left unexamined, then it
// gives up survivors, the oldest epoch first.
//
// Survivors are blocks of earlier epochs that no pointer of this process leads to.  They stay for
// `bartender salvage` until their space is needed.
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/heap/arena.hpp"

namespace btd {

bool Arena::relieve(ThreadCache* cache) {
  if (cache != nullptr && cache->release_warm()) return true;
  LockGuard guard(relief_lock_);
  // A full arena is asked again and again; it answers fast.
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  if (now_s < next_relief_s_) return false;
  if (scan_orphans()) return true;
  if (give_back(0) || join_extents()) return true;
  // With roots set survivors are the program's data.  The collector would know which of them no
  // root leads to, but only while nobody moves a pointer, which cannot be had in the middle of a
  // malloc.
  if (may_have_survivors_ && may_reclaim_survivors && !has_roots()) {
    uint64_t epoch = survivors().oldest_epoch;
    if (epoch != 0) {
      Reclaimed reclaimed = retag(tag_of_epoch(epoch), Retag::kReclaim);
      Line()
          .text("the arena ")
          .text(path())
          .text(" is full: dropped ")
          .number(reclaimed.blocks)
          .text(" blocks (")
          .size(reclaimed.bytes)
          .text(") that survived epoch ")
          .number(epoch)
          .text("; to keep survivors, set BARTENDER_ON_RESTART=keep or a larger BARTENDER_SIZE")
          .write(LogLevel::kError);
      if (reclaimed.any()) return true;
    }
    may_have_survivors_ = false;
  }
  next_relief_s_ = now_s + 1;
  return false;
}

// Free extents that are backed and ones that are not do not join.  Calling them all not backed
// costs a system call at their next use, and joins them.
bool Arena::join_extents() {
  LockGuard guard(extent_lock_);
  bool is_any = false;
  for (Zone* zone : {&coarse_, &fine_}) {
    for (;;) {
      FreeExtent extent = zone->extents.take_backed();
      if (!extent.exists()) break;
      extent.is_backed = false;
      zone->extents.give(extent, static_cast<uint32_t>(sys::steady_clock_s()));
      is_any = true;
    }
  }
  return is_any;
}

// Retires recovered superblocks that turn out to be empty.
bool Arena::scan_orphans() {
  bool is_any = false;
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    LockGuard guard(orphans_.lock());
    while (Superblock* superblock = orphans_.unscanned(size_class)) {
      orphans_.remove(*superblock);
      superblock->scan();
      if (superblock->is_empty()) {
        retire(*superblock);
        is_any = true;
      } else {
        orphans_.add(*superblock);
      }
    }
    // Orphans keep one empty superblock a class; not when space is short.
    for (Superblock* superblock = orphans_.partial(size_class); superblock != nullptr;) {
      Superblock* next = superblock->next;
      if (superblock->is_empty()) {
        orphans_.remove(*superblock);
        retire(*superblock);
        is_any = true;
      }
      superblock = next;
    }
  }
  return is_any;
}

Arena::Survivors Arena::survivors() {
  Survivors found{};
  auto consider = [&](uint8_t tag) {
    if (tag == kStateKept) found.has_kept = true;
    if (tag == kStateFree || tag > kTagMax || tag == tag_) return;
    uint64_t epoch = epoch_of_tag(tag, header_.epoch);
    if (epoch != 0 && (found.oldest_epoch == 0 || epoch < found.oldest_epoch))
      found.oldest_epoch = epoch;
  };
  LockGuard guard(extent_lock_);
  for_each_extent([&](uint32_t frame, Descriptor descriptor) {
    if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
      consider(tag_of_large_state(frame_header(frame)->state));
      return;
    }
    const Superblock* superblock = superblock_of(frame_address(frame));
    if (superblock == nullptr) return;  // carved this moment
    for (uint32_t slot = 0; slot < superblock->info().slot_count; slot++)
      consider(*superblock->state(slot));
  });
  return found;
}

// Each block by its own commit: a crash in the middle leaves some of them as they were.
Arena::Reclaimed Arena::retag(uint8_t tag, Retag what) {
  uint8_t new_state = what == Retag::kKeep ? kStateKept : kStateFree;
  Reclaimed reclaimed{};
  for (uint32_t index = 0; index < superblock_end_; index++) {
    Superblock& superblock = superblocks_[index];
    Heap* owner = lock_owner(superblock);
    if (owner == nullptr) continue;
    bool is_retired = false;
    for (uint32_t slot = 0; slot < superblock.info().slot_count && !is_retired; slot++) {
      uint8_t* state = superblock.state(slot);
      if (*state != tag) continue;
      publish(state, new_state);
      state_persist_->persist(state, 1);
      reclaimed.blocks++;
      reclaimed.bytes += superblock.info().slot_bytes;
      is_retired = what == Retag::kReclaim && owner->give(superblock, slot);
    }
    if (is_retired) retire(superblock);
    owner->lock().unlock();
  }
  for_each_large([&](uint32_t frame) {
    if (frame_header(frame)->state != large_state(tag)) return;
    reclaimed.blocks++;
    reclaimed.bytes += uint64_t{frame_header(frame)->descriptor.frame_count} * kFrameBytes;
    if (what == Retag::kReclaim) {
      free_large(nullptr, frame_address(frame), frame);
    } else {
      publish(&frame_header(frame)->state, large_state(new_state));
      state_persist_->persist(&frame_header(frame)->state, sizeof(uint16_t));
    }
  });
  return reclaimed;
}

Usage Arena::usage() {
  Usage usage{};
  LockGuard guard(extent_lock_);
  for_each_extent([&](uint32_t frame, Descriptor descriptor) {
    if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
      if (frame_header(frame)->state == 0) return;
      usage.live_large_blocks++;
      usage.live_large_bytes +=
          uint64_t{descriptor.frame_count} * kFrameBytes - descriptor.detail * page_bytes_;
      return;
    }
    const Superblock* superblock = superblock_of(frame_address(frame));
    if (superblock == nullptr) return;
    for (uint32_t slot = 0; slot < superblock->info().slot_count; slot++) {
      if (*superblock->state(slot) == kStateFree) continue;
      usage.live_blocks++;
      usage.live_bytes += superblock->info().slot_bytes;
    }
  });
  usage.live_blocks += usage.live_large_blocks;
  usage.live_bytes += usage.live_large_bytes;
  for (const Zone* zone : {&coarse_, &far_, &fine_}) {
    usage.grown_bytes += uint64_t{zone->frames_grown} * kFrameBytes;
    usage.free_bytes += uint64_t{zone->extents.free_frames()} * kFrameBytes;
  }
  usage.far_bytes = uint64_t{far_.frames_grown - far_.extents.free_frames()} * kFrameBytes;
  return usage;
}

void Arena::retire_epochs(uint64_t span_max, uint64_t span_kept) {
  uint64_t epoch = header_.epoch;
  if (!may_have_survivors_) {
    header_.oldest_epoch = epoch + 1;  // reaches media with the header update that raises the epoch
    return;
  }
  if (epoch - min(header_.oldest_epoch, epoch) < span_max) return;
  bool may_drop = may_reclaim_survivors && !has_roots();
  Reclaimed retired{};
  uint64_t oldest = survivors().oldest_epoch;
  uint64_t first = oldest;
  while (oldest != 0 && epoch - oldest >= span_kept) {
    Reclaimed more = retag(tag_of_epoch(oldest), may_drop ? Retag::kReclaim : Retag::kKeep);
    retired.blocks += more.blocks;
    retired.bytes += more.bytes;
    oldest = survivors().oldest_epoch;
  }
  header_.oldest_epoch = oldest == 0 ? epoch + 1 : oldest;
  if (!retired.any()) return;
  Line()
      .text(path())
      .text(": ")
      .number(retired.blocks)
      .text(" blocks (")
      .size(retired.bytes)
      .text(") of epochs from ")
      .number(first)
      .text(" on ")
      .text(may_drop ? "were dropped" : "are kept for ever")
      .text(": that was so many restarts ago that their tags come round")
      .write(LogLevel::kError);
}

bool Arena::discard() {
  Survivors left = may_have_survivors_ ? survivors() : Survivors{};
  if (left.oldest_epoch == 0 && !left.has_kept) {
    mapping_.unlink();
    return true;
  }
  // Other threads may still run, and use their blocks: none may be given to anybody else.
  retag(tag_, Retag::kAbandon);
  close_in_good_order();
  return false;
}

void Arena::close_in_good_order() {
  LockGuard guard(extent_lock_);
  update_header(
      [](ArenaHeader& header) { header.state = static_cast<uint32_t>(ArenaState::kClean); });
}

}  // namespace btd
