// fork(): the child gets copy semantics, although the arena is a shared mapping.
//
// Before the fork the parent copies every live frame, and the metadata, to private memory.  fork()
// then gives the child that copy as it gives it all other private memory, and the child moves it to
// the arena's address; the parent drops it.  Nobody waits for anybody, and no store of one is ever
// seen by the other.
//
// In the child the snapshot only shrinks: new blocks come from DRAM, a free is checked against the
// copied states and then done with.
#include <sys/mman.h>
#include <sys/sysinfo.h>

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/heap/arena.hpp"

namespace btd {

// One call for many faults pays from here on.
constexpr size_t kPopulateBytesMin = 4 * kFrameBytes;
constexpr uint64_t kFarShareOfFree = 2;
// What the kernel can map by one entry, where it is allowed to: a fault for 512 pages.
constexpr size_t kHugeBytes = 2 * kMiB;

// Copies live parts of one range of the arena.  Pages in between are never touched and take no
// memory.
class Arena::SnapshotRange {
 public:
  SnapshotRange(PrivateRange& range, const void* home, size_t size_bytes, size_t page_bytes)
      : range_(range) {
    uint64_t first = round_down(reinterpret_cast<uintptr_t>(home), page_bytes);
    size_t whole_bytes =
        round_up(reinterpret_cast<uintptr_t>(home) + size_bytes, page_bytes) - first;
    range_ = {nullptr, reinterpret_cast<char*>(first), whole_bytes};
    intptr_t got = sys::map(nullptr, whole_bytes + kHugeBytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (got < 0) return;
    // As far from a multiple of kHugeBytes as home is, so that the move keeps huge pages whole.
    uint64_t skip_bytes = (first - static_cast<uint64_t>(got)) % kHugeBytes;
    range_.copy = reinterpret_cast<char*>(got) + skip_bytes;
    if (skip_bytes > 0) sys::unmap(reinterpret_cast<char*>(got), skip_bytes);
    sys::unmap(range_.copy + whole_bytes, kHugeBytes - skip_bytes);
  }

  bool is_there() const { return range_.copy != nullptr; }

  void copy(const void* from, size_t size_bytes) {
    if (!is_there()) return;
    char* to = range_.copy + (static_cast<const char*>(from) - range_.home);
    uint64_t huge_first = round_up(reinterpret_cast<uintptr_t>(to), kHugeBytes);
    uint64_t huge_end = round_down(reinterpret_cast<uintptr_t>(to) + size_bytes, kHugeBytes);
    // Only where the whole of it is live: the rest of a huge page would take memory for nothing.
    if (huge_end > huge_first)
      sys::advise(reinterpret_cast<void*>(huge_first), huge_end - huge_first, MADV_HUGEPAGE);
    if (size_bytes >= kPopulateBytesMin)
      sys::advise(to, round_down(size_bytes, kFrameBytes), MADV_POPULATE_WRITE);
    std::memcpy(to, from, size_bytes);
  }

 private:
  PrivateRange& range_;
};

// Whether the far zone's blocks come along as all others do, fetched for it.  Of more than memory
// has room for the child gets each extent when it touches it, as the parent has it by then.
bool Arena::can_copy_far() {
  struct sysinfo machine {};
  if (::sysinfo(&machine) != 0) return false;
  uint64_t used_bytes = uint64_t{far_.frames_grown - far_.extents.free_frames()} * kFrameBytes;
  return used_bytes <= machine.freeram * uint64_t{machine.mem_unit} / kFarShareOfFree;
}

void Arena::fork_prepare() {
  extent_lock_.lock();
  copies_far_ = far_backing_ != nullptr && can_copy_far();
  int used = 0;
  bool is_complete = true;
  for (Zone* zone : {&coarse_, &far_, &fine_}) {
    uint64_t grown = zone->frames_grown;
    if (grown == 0) continue;
    const uint8_t* state_table = states_of(zone->first_frame);
    uint64_t state_bytes = grown * (zone == &fine_ ? kFineStatesPerFrame : kCoarseStatesPerFrame);
    SnapshotRange states(snapshot_[used++], state_table, state_bytes, page_bytes_);
    states.copy(state_table, state_bytes);
    FrameHeader* first = frame_header(zone->first_frame);
    SnapshotRange headers(snapshot_[used++], first, grown * sizeof(FrameHeader), page_bytes_);
    headers.copy(first, grown * sizeof(FrameHeader));
    is_complete = is_complete && states.is_there() && headers.is_there();
    if (zone == &far_ && !copies_far_) continue;
    SnapshotRange data(snapshot_[used++], frame_address(zone->first_frame), grown * kFrameBytes,
                       page_bytes_);
    is_complete = is_complete && data.is_there();
    // Extents that follow each other are copied as one: a system call for each would cost more than
    // the copy.
    uint32_t run_first = zone->first_frame;
    uint32_t run_end = run_first;
    auto copy_run = [&] {
      if (run_end > run_first)
        data.copy(frame_address(run_first), uint64_t{run_end - run_first} * kFrameBytes);
    };
    for_each_extent_of(*zone, [&](uint32_t frame, Descriptor descriptor) {
      bool is_free = descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge) &&
                     frame_header(frame)->state == 0;
      if (is_free) return;
      if (frame != run_end) {
        copy_run();
        run_first = frame;
      }
      run_end = frame + descriptor.frame_count;
    });
    copy_run();
  }
  if (!is_complete) {
    Line()
        .text(
            "fork: no memory for a snapshot of the arena; the child cannot use blocks of the "
            "arena, and dies if it tries")
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

bool Arena::fork_child() {
  // First of all nothing here may reach the parent's file, and no mapping may keep the parent's
  // lock.
  char* base = mapping_.address();
  uint64_t length_bytes = mapping_.length_bytes();
  intptr_t hidden = sys::map(base, length_bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  if (hidden < 0) BTD_CHECK(sys::unmap(base, length_bytes) == 0);
  for (PrivateRange& range : snapshot_) {
    if (range.copy != nullptr)
      ::mremap(range.copy, range.size_bytes, range.size_bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
               range.home);
    range = {};
  }
  mapping_.forget();
  // free() takes the slow path for blocks of the snapshot; they are still known by their address.
  geometry_.coarse_granules = geometry_.fine_granules = 0;
  extent_lock_.reset();
  orphans_.lock().reset();
  relief_lock_.reset();
  deferred_.reset_after_fork();
  return copies_far_;
}

Verdict Arena::free_inherited(void* pointer) {
  // Freed by this child: marked apart from what was free at the fork.
  constexpr uint8_t kFreedHere = kStateReserved;
  Verdict verdict = look_up(pointer);
  if (Superblock* superblock = verdict == Verdict::kNoBlock ? nullptr : superblock_of(pointer)) {
    if (verdict == Verdict::kMiddle) return verdict;
    uint8_t* state = superblock->state(superblock->slot_of(pointer));
    // Another thread of the parent may have got the block between the copy and the fork: what was
    // free then is no proof of misuse.
    if (*state == kFreedHere) return Verdict::kNotLive;
    *state = kFreedHere;
    return Verdict::kGood;
  }
  FrameHeader* header = frame_header(frame_of(pointer));
  if (verdict == Verdict::kNotLive)
    return tag_of_large_state(header->state) == kFreedHere ? verdict : Verdict::kGood;
  if (verdict != Verdict::kGood) return verdict;
  header->state = large_state(kFreedHere);
  // A large block's copy is memory that the child can have back.
  uint64_t size_bytes = uint64_t{header->descriptor.frame_count} * kFrameBytes;
  sys::map(pointer, size_bytes, PROT_READ | PROT_WRITE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
  return Verdict::kGood;
}

}  // namespace btd
