// fork(): the child gets copy semantics, although the arena is a shared mapping.
//
// Before the fork the parent makes a private mapping of its own file, elsewhere, and has the kernel copy every live frame in it.  fork() then gives
// the child that copy as it gives it all other private memory, and the child moves it to the arena's address.  The parent drops it.  Nobody waits for
// anybody, and no store of one is ever seen by the other.
//
// In the child the snapshot only shrinks: new blocks come from DRAM, a free is checked against the copied states and then done with.
#include <sys/mman.h>

#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/heap/arena.hpp"

namespace btd {

void Arena::fork_prepare() {
  extent_lock_.lock();
  int at = 0;
  bool is_complete = true;
  auto copy = [&](uint64_t offset, uint64_t size_bytes) {
    if (size_bytes == 0) return;
    snapshot_[at] = {mapping_.map_private(offset, size_bytes), offset, size_bytes};
    if (snapshot_[at].copy == nullptr) is_complete = false;
    at++;
  };
  auto populate = [&](int range, uint64_t offset, uint64_t size_bytes) {
    if (snapshot_[range].copy == nullptr) return;
    char* from = static_cast<char*>(snapshot_[range].copy) + (offset - snapshot_[range].offset);
    if (sys::advise(from, size_bytes, MADV_POPULATE_WRITE) == 0) return;
    // Kernels before 5.14: break the sharing page by page.
    for (uint64_t page = 0; page < size_bytes; page += page_bytes_) {
      volatile char* byte = from + page;
      *byte = *byte;
    }
  };
  auto offset_of = [&](const void* address) {
    return static_cast<uint64_t>(static_cast<const char*>(address) - mapping_.address());
  };
  for (Zone* zone : {&coarse_, &fine_}) {
    bool is_fine = zone == &fine_;
    uint64_t grown = zone->frames_grown;
    if (grown == 0) continue;
    int states = at;
    const uint8_t* state_table = is_fine ? geometry_.fine_states : geometry_.coarse_states;
    uint64_t state_bytes = grown * (is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame);
    copy(offset_of(state_table), state_bytes);
    populate(states, offset_of(state_table), state_bytes);
    int data = at;
    copy(frame_offset(zone->first_frame), grown * kFrameBytes);
    for (uint32_t frame = zone->first_frame; frame < zone->first_frame + grown;) {
      Descriptor descriptor = frame_header(frame)->descriptor;
      uint32_t frames = max(descriptor.frame_count, 1u);
      bool is_large = descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge);
      bool is_live = descriptor.kind == static_cast<uint8_t>(ExtentKind::kSuperblock) || (is_large && frame_header(frame)->state != 0);
      if (is_live) populate(data, frame_offset(frame), uint64_t{frames} * kFrameBytes);
      frame += frames;
    }
  }
  // Frame headers of both zones, with the unused ones between them: only pages that are used are copied.
  uint64_t last = fine_.frames_grown > 0 ? fine_.first_frame + fine_.frames_grown : coarse_.frames_grown;
  if (last > 0) {
    int headers = at;
    copy(offset_of(frame_headers_), last * sizeof(FrameHeader));
    for (Zone* zone : {&coarse_, &fine_}) {
      if (zone->frames_grown == 0) continue;
      populate(headers, offset_of(frame_header(zone->first_frame)), uint64_t{zone->frames_grown} * sizeof(FrameHeader));
    }
  }
  if (!is_complete) {
    Line().text("fork: no memory for a snapshot of the arena; the child cannot use blocks of the arena, and dies if it tries")
        .write(LogLevel::kError);
  }
}

void Arena::fork_parent() {
  for (PrivateRange& range : snapshot_) {
    if (range.copy != nullptr) sys::unmap(range.copy, range.size_bytes);
    range = {};
  }
  extent_lock_.unlock();
}

void Arena::fork_child() {
  mapping_.forget_descriptor();
  // The header first: nothing in the child may reach the parent's file, and no mapping may keep the parent's lock.
  sys::map(mapping_.address(), 2 * kArenaHeaderBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  for (PrivateRange& range : snapshot_) {
    if (range.size_bytes == 0) continue;
    char* home = mapping_.address(range.offset);
    if (range.copy == nullptr) {
      sys::map(home, range.size_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    } else {
      ::mremap(range.copy, range.size_bytes, range.size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED, home);
    }
    range = {};
  }
  extent_lock_.reset();
  orphans_.lock().reset();
  relief_lock_.reset();
}

Verdict Arena::free_inherited(void* pointer) {
  Verdict verdict = look_up(pointer);
  if (verdict != Verdict::kGood) return verdict;
  if (Superblock* superblock = superblock_of(pointer)) {
    *superblock->state(superblock->slot_of(pointer)) = kStateFree;
    return Verdict::kGood;
  }
  FrameHeader* header = frame_header(frame_of(pointer));
  header->state = 0;
  // A large block's copy is memory that the child can have back.
  uint64_t size_bytes = uint64_t{header->descriptor.frame_count} * kFrameBytes;
  sys::map(pointer, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return Verdict::kGood;
}

}  // namespace btd
