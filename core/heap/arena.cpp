#include "core/heap/arena.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr uint16_t kOrphanHeap = 1;
constexpr uint32_t kHeapsMax = 65535;
constexpr uint32_t kGrowFramesMax = 4096;  // 64 MiB: growth by an eighth stops being cheap beyond
constexpr uint32_t kDecaySeconds =
    10;  // as jemalloc's dirty_decay_ms: long enough for a phase to come back
constexpr uint32_t kTickSeconds = 2;
constexpr uint32_t kTickExtents = 64;       // bounds the stall of the thread that happens to tick
constexpr uint32_t kSuperblockBatch = 372;  // backed at a time: 64 KiB of them

void* none() { return nullptr; }

template <typename T>
T* map_dram(size_t size_bytes, int protection) {
  intptr_t got =
      sys::map(nullptr, size_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return got < 0 ? nullptr : reinterpret_cast<T*>(got);
}

// Makes table[first, first + count) accessible.
template <typename T>
bool back_table(T* table, uint64_t first, uint64_t count, uint64_t page_bytes) {
  uint64_t from = round_down(reinterpret_cast<uintptr_t>(table + first), page_bytes);
  uint64_t to = round_up(reinterpret_cast<uintptr_t>(table + first + count), page_bytes);
  return sys::protect(reinterpret_cast<void*>(from), to - from, PROT_READ | PROT_WRITE) == 0;
}

}  // namespace

// --- Life
// ---------------------------------------------------------------------------------------------------------------

Error Arena::create(const Mapping& mapping, uint64_t capacity_bytes, bool keep_from_children) {
  ArenaHeader header{};
  header.format_version = kFormatVersion;
  header.header_bytes = kArenaHeaderBytes;
  header.page_bytes = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  header.frame_bytes = kFrameBytes;
  if (::getentropy(header.uuid, sizeof(header.uuid)) != 0) return Error::kIo;
  uint64_t seed;
  std::memcpy(&seed, header.uuid, sizeof(seed));

  bool is_device = mapping.backend() == Backend::kDevdax;
  uint64_t coarse = round_down(capacity_bytes / kFrameBytes, kGrowFrames);
  for (;;) {
    uint64_t fine = round_up(divide_up(coarse, kCoarseFramesPerFine), kGrowFrames);
    if (coarse < kGrowFrames || coarse + fine > kNoIndex / 2) return Error::kNoSpace;
    header.coarse_frame_count = static_cast<uint32_t>(coarse);
    header.fine_frame_count = static_cast<uint32_t>(fine);
    header.capacity_bytes = coarse * kFrameBytes;
    uint64_t at = 2 * kArenaHeaderBytes;
    auto region = [&at](uint64_t size_bytes) {
      uint64_t offset = round_up(at, kRegionAlignment);
      at = offset + size_bytes;
      return offset;
    };
    header.root_table_offset = region(kRootTableBytes);
    header.lane_table_offset = region(kLaneTableBytes);
    header.site_table_offset = region(kSiteTableBytes);
    header.frame_header_offset = region((coarse + fine) * sizeof(FrameHeader));
    header.coarse_state_offset =
        region(coarse * kCoarseStatesPerFrame + header.page_bytes) + kStateSkewBytes;
    header.fine_state_offset =
        region(fine * kFineStatesPerFrame + header.page_bytes) + kStateSkewBytes;
    header.data_offset = region((coarse + fine) * kFrameBytes);
    header.file_bytes = round_up(at, kRegionAlignment);
    if (!is_device || header.file_bytes <= mapping.length_bytes()) break;
    coarse = round_down(coarse - divide_up(coarse, 64),
                        kGrowFrames);  // a device holds both zones in full
  }

  mapping_ = mapping;
  if (Error error = mapping_.set_length(header.file_bytes); error != Error::kNone) return error;
  if (Error error = mapping_.map(0, seed, keep_from_children); error != Error::kNone) return error;
  header.base_address = reinterpret_cast<uintptr_t>(mapping_.address());
  header.created_s = sys::wall_clock_s();
  header.oldest_epoch = 1;
  Error error = prepare(mapping_, header);
  if (error == Error::kNone) error = mapping_.grow(0, 2 * kArenaHeaderBytes);
  if (error != Error::kNone) {  // the caller may try a smaller one
    release_tables();
    mapping_.unmap();
    return error;
  }
  if (is_device) {  // which held something else before
    error = mapping_.open_access(0, header.frame_header_offset);
    if (error != Error::kNone) return error;
    std::memset(mapping_.address(), 0, header.frame_header_offset);
  }
  // Nothing is written yet: the opener's first update_header() sets the magic, and with it the
  // arena begins to exist.
  header_ = header;
  return Error::kNone;
}

Error Arena::attach(const Mapping& mapping, const ArenaHeader& header, bool keep_from_children) {
  mapping_ = mapping;
  if (Error error = mapping_.map(header.base_address, 0, keep_from_children); error != Error::kNone)
    return error;
  if (Error error = prepare(mapping_, header); error != Error::kNone) return error;
  if (Error error = mapping_.open_access(0, 2 * kArenaHeaderBytes); error != Error::kNone)
    return error;
  header_ = header;
  for (Zone* zone : {&coarse_, &fine_}) {
    uint32_t grown = zone == &coarse_ ? header.coarse_frames_grown : header.fine_frames_grown;
    if (grown == 0) continue;
    if (Error error = grow_metadata(*zone, zone->first_frame, grown); error != Error::kNone)
      return error;
    if (Error error =
            mapping_.open_access(frame_offset(zone->first_frame), uint64_t{grown} * kFrameBytes);
        error != Error::kNone) {
      return error;
    }
    zone->frames_grown = grown;
    zone->extents.extend(grown);
  }
  return Error::kNone;
}

// Everything that follows from the header and needs no media.
Error Arena::prepare(const Mapping& mapping, const ArenaHeader& header) {
  page_bytes_ = header.page_bytes;
  data_offset_ = header.data_offset;
  capacity_frames_ = header.capacity_bytes / kFrameBytes;
  if (mapping.backend() == Backend::kDevdax)
    capacity_frames_ = uint64_t{header.coarse_frame_count} + header.fine_frame_count;
  data_bytes_ = (uint64_t{header.coarse_frame_count} + header.fine_frame_count) * kFrameBytes;
  coarse_.first_frame = 0;
  coarse_.frame_count = header.coarse_frame_count;
  fine_.first_frame = header.coarse_frame_count;
  fine_.frame_count = header.fine_frame_count;
  coarse_.frames_grown = fine_.frames_grown = 0;
  if (Error error = reserve_tables(); error != Error::kNone) return error;
  coarse_.extents.init(nodes_, coarse_.first_frame);
  fine_.extents.init(nodes_, fine_.first_frame);
  frame_headers_ = reinterpret_cast<FrameHeader*>(mapping.address(header.frame_header_offset));
  geometry_.coarse_base = reinterpret_cast<uintptr_t>(mapping.address(header.data_offset));
  geometry_.coarse_granules = 0;
  geometry_.coarse_states = reinterpret_cast<uint8_t*>(mapping.address(header.coarse_state_offset));
  geometry_.bins = frame_bins_;
  geometry_.coarse_bytes = uint64_t{coarse_.frame_count} * kFrameBytes;
  geometry_.data_bytes = 0;
  geometry_.fine_granules = 0;
  geometry_.fine_states = reinterpret_cast<uint8_t*>(mapping.address(header.fine_state_offset));
  geometry_.fine_bins = frame_bins_ + fine_.first_frame;
  orphans_.init(*this, kOrphanHeap, 0, nullptr);
  heaps_[kOrphanHeap] = &orphans_;
  heap_count_ = 1;
  return Error::kNone;
}

// DRAM tables indexed by frame, reserved for the whole arena and backed as it grows (so that
// mlockall() locks only what is used).
Error Arena::reserve_tables() {
  uint64_t frames = uint64_t{coarse_.frame_count} + fine_.frame_count;
  uint64_t bin_bytes = round_up(frames * sizeof(Bin*), page_bytes_);
  uint64_t index_bytes = round_up(frames * sizeof(uint32_t), page_bytes_);
  uint64_t node_bytes = round_up(frames * sizeof(ExtentNode), page_bytes_);
  uint64_t superblock_bytes = round_up(frames * sizeof(Superblock), page_bytes_);
  uint64_t heap_bytes = round_up((kHeapsMax + 1) * sizeof(Heap*), page_bytes_);
  tables_bytes_ = bin_bytes + index_bytes + node_bytes + superblock_bytes + heap_bytes;
  tables_ = map_dram<char>(tables_bytes_, PROT_NONE);
  if (tables_ == nullptr) return Error::kNoMemory;
  char* at = tables_;
  frame_bins_ = reinterpret_cast<Bin**>(at);
  superblock_indices_ = reinterpret_cast<uint32_t*>(at += bin_bytes);
  nodes_ = reinterpret_cast<ExtentNode*>(at += index_bytes);
  superblocks_ = reinterpret_cast<Superblock*>(at += node_bytes);
  heaps_ = reinterpret_cast<Heap**>(at += superblock_bytes);
  return back_table(heaps_, 0, kHeapsMax + 1, page_bytes_) ? Error::kNone : Error::kNoMemory;
}

void Arena::start() {
  tag_ = tag_of_epoch(header().epoch);
  // Until here every free() would have found an empty arena.
  geometry_.data_bytes = data_bytes_;
  show_grown();
  mapping_.close_descriptor();
  is_open_ = true;
}

// Word by word from the first, the magic: a copy cut short in its making begins with it or is all
// zero.
void Arena::copy_header(int copy) {
  char* media = mapping_.address(static_cast<uint64_t>(copy) * kArenaHeaderBytes);
  for (size_t at = 0; at < sizeof(header_); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, reinterpret_cast<const char*>(&header_) + at, sizeof(word));
    publish(reinterpret_cast<uint64_t*>(media + at), word);
  }
  persist_->persist(media, sizeof(header_));
}

void Arena::write_header() {
  // 1. Copy A: if this is cut, copy B holds the header as it was, and nothing has used the change
  // yet.
  // 2. Copy B: if this is cut, copy A is valid and has the higher sequence.
  header_.sequence++;
  header_.checksum = checksum_of(header_);
  copy_header(0);
  copy_header(1);
}

void Arena::mend_header_copy() { copy_header(1); }

void Arena::close() {
  mapping_.close();
  for (uint32_t id = kOrphanHeap + 1; heaps_ != nullptr && id <= heap_count_; id++) {
    sys::unmap(heaps_[id], sizeof(Heap) + total_bin_capacity() * sizeof(CachedBlock));
  }
  release_tables();
  is_open_ = false;
}

void Arena::release_tables() {
  if (tables_ != nullptr) sys::unmap(tables_, tables_bytes_);
  tables_ = nullptr;
  heaps_ = nullptr;
}

bool Arena::adopt_superblock(uint32_t first_frame, uint32_t size_class) {
  Superblock* superblock = new_superblock();
  if (superblock == nullptr) return false;
  superblock->first_frame = first_frame;
  superblock->size_class = static_cast<uint8_t>(size_class);
  superblock->is_scanned = false;
  superblock->free_count = 0;
  superblock->data = frame_address(first_frame);
  superblock->states =
      zone_of(first_frame).first_frame == 0
          ? geometry_.coarse_states + uint64_t{first_frame} * kCoarseStatesPerFrame
          : geometry_.fine_states + uint64_t{first_frame - fine_.first_frame} * kFineStatesPerFrame;
  set_owner(*superblock, kOrphanHeap);
  orphans_.add(*superblock);
  return true;
}

void Arena::adopt_free(uint32_t first_frame, uint32_t frame_count) {
  Zone& zone = zone_of(first_frame);
  zone.extents.give({first_frame, frame_count, false, false},
                    static_cast<uint32_t>(sys::steady_clock_s()));
}

// --- Threads
// --------------------------------------------------------------------------------------------------------------

Heap* Arena::acquire_heap() {
  LockGuard guard(orphans_.lock());
  if (Heap* heap = idle_heaps_; heap != nullptr) {
    idle_heaps_ = heap->next_idle;
    return heap;
  }
  if (heap_count_ == kHeapsMax) return nullptr;
  auto* heap = map_dram<Heap>(sizeof(Heap) + total_bin_capacity() * sizeof(CachedBlock),
                              PROT_READ | PROT_WRITE);
  if (heap == nullptr) return nullptr;
  uint32_t id = ++heap_count_;
  heap->init(*this, static_cast<uint16_t>(id), tag_, reinterpret_cast<CachedBlock*>(heap + 1));
  std::atomic_ref(heaps_[id]).store(heap, std::memory_order_release);
  return heap;
}

void Arena::release_heap(Heap& heap) {
  heap.cache().flush_all();
  LockGuard guard(heap.lock());
  for (size_t size_class = 0; size_class < kSizeClassCount; size_class++) {
    for (;;) {
      Superblock* superblock = heap.partial(size_class);
      if (superblock == nullptr) superblock = heap.full(size_class);
      if (superblock == nullptr) break;
      heap.remove(*superblock);
      if (superblock->is_empty()) {
        retire(*superblock);
        continue;
      }
      LockGuard orphan_guard(orphans_.lock());
      set_owner(*superblock, kOrphanHeap);
      orphans_.add(*superblock);
    }
  }
  LockGuard orphan_guard(orphans_.lock());
  heap.next_idle = idle_heaps_;
  idle_heaps_ = &heap;
}

// --- Superblocks
// ----------------------------------------------------------------------------------------------------------

// REQUIRES: the extent lock, or no other thread.
Superblock* Arena::new_superblock() {
  if (spare_superblock_ != 0) {
    Superblock* spare = &superblocks_[spare_superblock_ - 1];
    spare_superblock_ = spare->next_spare;
    return spare;
  }
  if (superblock_end_ == superblocks_backed_) {
    uint64_t frames = uint64_t{coarse_.frame_count} + fine_.frame_count;
    auto more = static_cast<uint32_t>(min<uint64_t>(kSuperblockBatch, frames - superblock_end_));
    if (!back_table(superblocks_, superblock_end_, more, page_bytes_)) return nullptr;
    superblocks_backed_ += more;
  }
  return &superblocks_[superblock_end_++];
}

// REQUIRES: the locks of the old and the new owner; the new owner's entries are read by its thread
// without a lock, but only after it got the superblock.
void Arena::set_owner(Superblock& superblock, uint16_t owner) {
  superblock.owner.store(owner, std::memory_order_relaxed);
  // Orphans' bins stay empty: nobody's free() takes the fast path to them.
  Bin* bin = owner == 0 ? nullptr : heaps_[owner]->cache().bin(superblock.size_class);
  uint32_t index = owner == 0 ? 0 : static_cast<uint32_t>(&superblock - superblocks_) + 1;
  for (uint32_t i = 0; i < superblock.info().frame_count; i++) {
    frame_bins_[superblock.first_frame + i] = bin;
    *superblock_index(superblock.first_frame + i) = index;
  }
}

bool Arena::provide(size_t size_class, Heap& heap) {
  if (adopt_orphan(size_class, heap)) return true;
  Superblock* superblock = carve(size_class);
  if (superblock == nullptr) return false;
  LockGuard guard(heap.lock());
  set_owner(*superblock, heap.id());
  heap.add(*superblock);
  return true;
}

bool Arena::adopt_orphan(size_t size_class, Heap& heap) {
  LockGuard guard(heap.lock());
  LockGuard orphan_guard(orphans_.lock());
  while (Superblock* superblock = orphans_.unscanned(size_class)) {
    orphans_.remove(*superblock);
    superblock->scan();
    orphans_.add(*superblock);
    if (!superblock->is_full()) break;
  }
  Superblock* superblock = orphans_.partial(size_class);
  if (superblock == nullptr) return false;
  orphans_.remove(*superblock);
  set_owner(*superblock, heap.id());
  heap.add(*superblock);
  return true;
}

Superblock* Arena::carve(size_t size_class) {
  const SizeClassInfo& info = kSizeClasses[size_class];
  Zone& zone = info.is_fine ? fine_ : coarse_;
  LockGuard guard(extent_lock_);
  tick();
  Superblock* superblock = new_superblock();
  if (superblock == nullptr) return nullptr;
  FreeExtent extent = take_frames(zone, info.frame_count, 1, true);
  if (!extent.exists()) {
    superblock->next_spare = spare_superblock_;
    spare_superblock_ = static_cast<uint32_t>(superblock - superblocks_) + 1;
    return nullptr;
  }
  superblock->first_frame = extent.first_frame;
  superblock->size_class = static_cast<uint8_t>(size_class);
  superblock->data = frame_address(extent.first_frame);
  superblock->states =
      info.is_fine ? geometry_.fine_states +
                         uint64_t{extent.first_frame - fine_.first_frame} * kFineStatesPerFrame
                   : geometry_.coarse_states + uint64_t{extent.first_frame} * kCoarseStatesPerFrame;
  for (uint64_t& word : superblock->free_bits) word = 0;
  superblock->mark_all_free();
  // The states are all 0: so they were when the file grew, and so they are when a superblock is
  // retired.
  publish_head(extent.first_frame, ExtentKind::kSuperblock, static_cast<uint8_t>(size_class),
               info.frame_count);
  return superblock;
}

void Arena::retire(Superblock& superblock) {
  LockGuard guard(extent_lock_);
  uint32_t frame = superblock.first_frame;
  // From this store on the frames are free; before it they are a superblock without live blocks.
  publish(&frame_header(frame)->descriptor, Descriptor{});
  persist_->persist(frame_header(frame), sizeof(Descriptor));
  set_owner(superblock, 0);
  superblock.next_spare = spare_superblock_;
  spare_superblock_ = static_cast<uint32_t>(&superblock - superblocks_) + 1;
  give_frames(frame, superblock.info().frame_count, false);
  tick();
}

// Locks the heap that owns the superblock.  nullptr, nothing locked: it is owned by none (retired).
Heap* Arena::lock_owner(Superblock& superblock) {
  for (;;) {
    uint16_t id = superblock.owner.load(std::memory_order_relaxed);
    if (id == 0) return nullptr;
    Heap* owner = std::atomic_ref(heaps_[id]).load(std::memory_order_acquire);
    owner->lock().lock();
    if (superblock.owner.load(std::memory_order_relaxed) == id) return owner;
    owner->lock().unlock();
  }
}

void Arena::give_remote(void* const* blocks, uint32_t count) {
  Heap* locked = nullptr;
  for (uint32_t i = 0; i < count; i++) {
    Superblock& superblock = *superblock_of(blocks[i]);
    if (locked == nullptr || superblock.owner.load(std::memory_order_relaxed) != locked->id()) {
      if (locked != nullptr) locked->lock().unlock();
      locked = lock_owner(superblock);
      BTD_CHECK(locked != nullptr);  // a superblock with a block on its way home is not empty
    }
    if (locked->give(superblock, superblock.slot_of(blocks[i]))) retire(superblock);
  }
  if (locked != nullptr) locked->lock().unlock();
}

// --- Extents
// --------------------------------------------------------------------------------------------------------------

FreeExtent Arena::take_frames(Zone& zone, uint32_t frame_count, size_t alignment, bool touches) {
  auto alignment_frames = static_cast<uint32_t>(max<uint64_t>(alignment >> kFrameShift, 1));
  auto origin =
      static_cast<uint32_t>(-(geometry_.coarse_base >> kFrameShift) & (alignment_frames - 1));
  FreeExtent extent = zone.extents.take(frame_count, alignment_frames, origin);
  if (!extent.exists()) {
    uint64_t wanted = uint64_t{frame_count} + alignment_frames - 1;
    if (wanted > zone.frame_count || !grow(zone, static_cast<uint32_t>(wanted), touches)) return {};
    extent = zone.extents.take(frame_count, alignment_frames, origin);
  }
  if (extent.exists() && !extent.is_backed) {
    uint64_t size_bytes = uint64_t{frame_count} * kFrameBytes;
    if (mapping_.allocate_resident(frame_offset(extent.first_frame), size_bytes,
                                   touches ? size_bytes : 0) != Error::kNone) {
      zone.extents.give(extent, static_cast<uint32_t>(sys::steady_clock_s()));
      return {};
    }
    extent.is_backed = true;
  }
  return extent;
}

// Adds frames so that `frames_wanted` free ones stand at the zone's end.
bool Arena::grow(Zone& zone, uint32_t frames_wanted, bool touches) {
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
  if (now_s < next_growth_s_) return false;
  uint32_t missing = frames_wanted - min(frames_wanted, zone.extents.free_tail());
  uint64_t left =
      min<uint64_t>(zone.frame_count - zone.frames_grown,
                    capacity_frames_ -
                        min<uint64_t>(capacity_frames_, coarse_.frames_grown + fine_.frames_grown));
  // The free tail may be of another kind (not backed), which does not join: then all of it must
  // come fresh.
  for (uint32_t least : {missing, frames_wanted}) {
    least = static_cast<uint32_t>(round_up(max(least, 1u), kGrowFrames));
    if (least > left) return false;
    uint32_t step = max(
        least,
        min(kGrowFramesMax, static_cast<uint32_t>(round_up(zone.frames_grown / 8, kGrowFrames))));
    step = static_cast<uint32_t>(min<uint64_t>(step, round_down(left, kGrowFrames)));
    bool is_grown = false;
    for (uint32_t count : {step, least}) {
      uint32_t first = zone.first_frame + zone.frames_grown;
      if (grow_metadata(zone, first, count) != Error::kNone) continue;
      uint64_t size_bytes = uint64_t{count} * kFrameBytes;
      uint64_t resident_bytes = touches ? uint64_t{least} * kFrameBytes : 0;
      if (mapping_.open_access(frame_offset(first), size_bytes) != Error::kNone) continue;
      if (mapping_.allocate_resident(frame_offset(first), size_bytes, resident_bytes) !=
          Error::kNone)
        continue;
      std::atomic_ref(zone.frames_grown)
          .store(zone.frames_grown + count, std::memory_order_relaxed);
      if (is_open_) show_grown();
      update_header([&](ArenaHeader& header) {
        header.coarse_frames_grown = coarse_.frames_grown;
        header.fine_frames_grown = fine_.frames_grown;
      });
      zone.extents.extend(count);
      bool is_zero = mapping_.backend() != Backend::kDevdax;
      zone.extents.give({first, count, true, is_zero},
                        static_cast<uint32_t>(sys::steady_clock_s()));
      is_grown = true;
      break;
    }
    if (!is_grown) {
      next_growth_s_ = now_s + 1;
      return false;
    }
    if (zone.extents.free_tail() >= frames_wanted) return true;
    left -= min<uint64_t>(left, step);
  }
  return true;
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
  bool is_fine = &zone == &fine_;
  uint64_t header_offset =
      static_cast<uint64_t>(reinterpret_cast<char*>(frame_header(first)) - mapping_.address());
  uint32_t states_per_frame = is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame;
  uint8_t* states = (is_fine ? geometry_.fine_states : geometry_.coarse_states) +
                    uint64_t{first - zone.first_frame} * states_per_frame;
  auto state_offset = static_cast<uint64_t>(reinterpret_cast<char*>(states) - mapping_.address());
  uint64_t header_bytes = uint64_t{count} * sizeof(FrameHeader);
  uint64_t state_bytes = uint64_t{count} * states_per_frame;
  if (Error error = mapping_.grow(header_offset, header_bytes); error != Error::kNone) return error;
  if (Error error = mapping_.grow(state_offset, state_bytes); error != Error::kNone) return error;
  if (mapping_.backend() == Backend::kDevdax && first >= zone.first_frame + zone.frames_grown &&
      is_open_) {
    std::memset(static_cast<void*>(frame_header(first)), 0, header_bytes);
    std::memset(states, 0, state_bytes);
  }
  return Error::kNone;
}

void Arena::give_frames(uint32_t first_frame, uint32_t frame_count, bool is_zero) {
  zone_of(first_frame)
      .extents.give({first_frame, frame_count, true, is_zero},
                    static_cast<uint32_t>(sys::steady_clock_s()));
}

void Arena::tick() {
  auto now_s = static_cast<uint32_t>(sys::steady_clock_s());
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
  Descriptor descriptor{static_cast<uint8_t>(kind), detail, 0, frame_count};
  descriptor.check = descriptor_check(descriptor);
  publish(&media->descriptor, descriptor);
  persist_->persist(&media->descriptor, sizeof(descriptor));
}

// --- Blocks
// ---------------------------------------------------------------------------------------------------------------

void* Arena::allocate_small(ThreadCache& cache, size_t size_bytes) {
  size_t size_class = size_class_of(size_bytes);
  do {
    if (cache.refill(size_class)) return cache.allocate(size_bytes, none);
    // The fine zone may be full while the coarse one is not.
    if (kSizeClasses[size_class].is_fine) {
      size_t coarse_bytes = kSizeClasses[coarse_class_of(size_class)].slot_bytes;
      if (void* block = cache.allocate(coarse_bytes, none)) return block;
      if (cache.refill(size_class_of(coarse_bytes))) return cache.allocate(coarse_bytes, none);
    }
  } while (relieve(&cache));
  return nullptr;
}

Arena::LargeShape Arena::shape_of(size_t size_bytes) const {
  uint64_t block_bytes = round_up(max<size_t>(size_bytes, 1), page_bytes_);
  auto frames = static_cast<uint32_t>(divide_up(block_bytes, kFrameBytes));
  return {frames,
          static_cast<uint8_t>((uint64_t{frames} * kFrameBytes - block_bytes) / page_bytes_)};
}

// One store gives a large block its length, old or new.
void Arena::publish_shape(uint32_t frame, LargeShape shape) {
  Descriptor descriptor{static_cast<uint8_t>(ExtentKind::kLarge), shape.tail_pages, 0,
                        shape.frame_count};
  descriptor.check = descriptor_check(descriptor);
  publish(&frame_header(frame)->descriptor, descriptor);
  persist_->persist(&frame_header(frame)->descriptor, sizeof(descriptor));
}

// Until this store recovery gives the extent back.
void Arena::commit_large(uint32_t frame) {
  publish(&frame_header(frame)->state, large_state(tag_));
  persist_->persist(&frame_header(frame)->state, sizeof(uint16_t));
}

void* Arena::allocate_large(size_t size_bytes, size_t alignment, bool* is_zero,
                            ThreadCache* cache) {
  if (size_bytes > data_bytes_ || alignment > data_bytes_) return nullptr;
  LargeShape shape = shape_of(size_bytes);
  do {
    if (void* block = try_allocate_large(shape, alignment, is_zero)) return block;
  } while (relieve(cache));
  return nullptr;
}

void* Arena::try_allocate_large(LargeShape shape, size_t alignment, bool* is_zero) {
  uint32_t frame;
  {
    LockGuard guard(extent_lock_);
    tick();
    FreeExtent extent = take_frames(coarse_, shape.frame_count, alignment, is_zero == nullptr);
    if (!extent.exists()) return nullptr;
    if (is_zero != nullptr) *is_zero = extent.is_zero;
    frame = extent.first_frame;
    *superblock_index(frame) = kLargeBlock;
    publish_head(frame, ExtentKind::kLarge, shape.tail_pages, shape.frame_count);
  }
  commit_large(frame);
  return frame_address(frame);
}

// A block that this thread freed lately and that has just the right length; nullptr: there is none.
void* Arena::allocate_warm(ThreadCache& cache, size_t size_bytes) {
  if (size_bytes > data_bytes_) return nullptr;
  LargeShape shape = shape_of(size_bytes);
  WarmExtent extent = cache.warm().take(shape.frame_count);
  if (extent.frame_count == 0) return nullptr;
  if (frame_header(extent.first_frame)->descriptor.detail != shape.tail_pages)
    publish_shape(extent.first_frame, shape);
  commit_large(extent.first_frame);
  return frame_address(extent.first_frame);
}

void* Arena::allocate(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero) {
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
      void* block = cache.allocate(rounded, [&] { return allocate_small(cache, rounded); });
      if (block == nullptr || (reinterpret_cast<uintptr_t>(block) & (alignment - 1)) == 0)
        return block;
      free(cache, block);  // a coarse slot in place of a fine one, less aligned
    }
  }
  if (alignment <= kFrameBytes) {
    if (void* block = allocate_warm(cache, size_bytes)) return block;
  }
  return allocate_large(size_bytes, alignment, is_zero, &cache);
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
  std::atomic_ref(*state).store(kStateFree, std::memory_order_relaxed);  // the commit
  persist_->persist(state, 1);
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
    publish(state, kStateFree);  // the commit
    persist_->persist(state, 1);
    if (owner->give(superblock, slot)) retire(superblock);
    verdict = Verdict::kGood;
  }
  owner->lock().unlock();
  return verdict;
}

// `cache`: may keep the extent; nullptr: it is released.
Verdict Arena::free_large(ThreadCache* cache, void* pointer, uint32_t frame) {
  FrameHeader* media = frame_header(frame);
  if (pointer != frame_address(frame)) return Verdict::kMiddle;
  uint16_t state = media->state;
  if (!is_live(tag_of_large_state(state)) || !is_large_state_valid(state)) return Verdict::kNotLive;
  // The commit: from here on the block is free, its extent still in use.
  publish<uint16_t>(&media->state, 0);
  persist_->persist(&media->state, sizeof(uint16_t));
  WarmExtent extent{frame, media->descriptor.frame_count};
  if (cache == nullptr || !WarmExtents::fits(extent.frame_count)) {
    release_extent(frame);
    return Verdict::kGood;
  }
  while (!cache->warm().keep(extent)) release_extent(cache->warm().take_oldest().first_frame);
  return Verdict::kGood;
}

void Arena::release_extent(uint32_t first_frame) {
  LockGuard guard(extent_lock_);
  FrameHeader* media = frame_header(first_frame);
  uint32_t frames = media->descriptor.frame_count;
  *superblock_index(first_frame) = 0;
  // From this store on the frames are free; before it they are an extent without a block.
  publish(&media->descriptor, Descriptor{});
  persist_->persist(&media->descriptor, sizeof(Descriptor));
  give_frames(first_frame, frames, false);
  tick();
}

Verdict Arena::look_up(const void* pointer) const {
  uint32_t frame = frame_of(pointer);
  const Zone& zone = frame < fine_.first_frame ? coarse_ : fine_;
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
    give_frames(frame + shape.frame_count, frames_now - shape.frame_count, false);
  return true;
}

// Takes [first_frame, + frame_count) of the coarse zone, if free; at the zone's end the zone grows
// for it.
bool Arena::take_after(uint32_t first_frame, uint32_t frame_count) {
  FreeExtent more = coarse_.extents.take_at(first_frame, frame_count);
  if (!more.exists() && first_frame + coarse_.extents.free_tail() == coarse_.frames_grown) {
    if (!grow(coarse_, frame_count, true)) return false;
    more = coarse_.extents.take_at(first_frame, frame_count);
  }
  if (!more.exists()) return false;
  if (more.is_backed || mapping_.allocate(frame_offset(first_frame),
                                          uint64_t{frame_count} * kFrameBytes) == Error::kNone)
    return true;
  coarse_.extents.give(more, static_cast<uint32_t>(sys::steady_clock_s()));
  return false;
}

}  // namespace btd
