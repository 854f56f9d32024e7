// What the collector does to an arena in use, once it knows what the roots lead to.
//
// Each block by its own commit: a crash in the middle leaves some of them as they were, and the
// next collection decides over them again.
#include "core/heap/arena.hpp"

namespace btd {

// Order, for each superblock: all states, one drain, and only then slots and frames are free for
// use; else frames could be durably free while a state in them is not.
Arena::Swept Arena::sweep(IsReached is_reached, const void* context) {
  Swept swept{};
  auto count = [&](bool is_kept, uint64_t size_bytes) {
    (is_kept ? swept.kept_blocks : swept.freed_blocks)++;
    (is_kept ? swept.kept_bytes : swept.freed_bytes) += size_bytes;
  };
  deferred_.settle(*persist_);
  for (uint32_t index = 0; index < superblock_end_; index++) {
    Superblock& superblock = superblocks_[index];
    Heap* owner = lock_owner(superblock);
    if (owner == nullptr) continue;
    uint64_t freed_bits[kSlotsMax / 64] = {};
    bool is_changed = false;
    for (uint32_t slot = 0; slot < superblock.info().slot_count; slot++) {
      uint8_t* state = superblock.state(slot);
      uint8_t before = *state;
      if (!is_live(before) || before == tag_) continue;
      bool is_kept = is_reached(context, superblock.block(slot));
      count(is_kept, superblock.info().slot_bytes);
      if (is_kept && before == kStateKept) continue;
      publish(state, is_kept ? kStateKept : kStateFree);
      state_persist_->flush(state, sizeof(*state));
      if (!is_kept) freed_bits[slot / 64] |= uint64_t{1} << (slot % 64);
      is_changed = true;
    }
    if (is_changed) state_persist_->drain();
    bool is_retired = false;
    for (uint32_t slot = 0; is_changed && slot < superblock.info().slot_count; slot++) {
      bool is_freed = (freed_bits[slot / 64] >> (slot % 64) & 1) != 0;
      // An empty superblock is told of with its last slot.
      if (is_freed && owner->give(superblock, slot)) is_retired = true;
    }
    if (is_retired) retire(superblock);
    owner->lock().unlock();
  }
  for_each_large([&](uint32_t frame) {
    FrameHeader* media = frame_header(frame);
    uint16_t before = media->state;
    if (!is_large_state_valid(before) || !is_live(tag_of_large_state(before)) ||
        before == large_state(tag_))
      return;
    bool is_kept = is_reached(context, frame_address(frame));
    count(is_kept, uint64_t{media->descriptor.frame_count} * kFrameBytes -
                       media->descriptor.detail * page_bytes_);
    if (!is_kept) {
      free_large(nullptr, frame_address(frame), frame);
    } else if (before != large_state(kStateKept)) {
      publish(&media->state, large_state(kStateKept));
      state_persist_->persist(&media->state, sizeof(uint16_t));
    }
  });
  return swept;
}

}  // namespace btd
