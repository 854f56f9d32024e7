#include "core/heap/arena.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "core/base/check.hpp"
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/heap/table.hpp"

namespace btd {
namespace {

constexpr uint32_t kHeapsMax = 65535;
constexpr uint32_t kSuperblockBatch = 372;  // backed at a time: 64 KiB of them

template <typename T>
T* map_dram(size_t size_bytes, int protection) {
  intptr_t got =
      sys::map(nullptr, size_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return got < 0 ? nullptr : reinterpret_cast<T*>(got);
}

}  // namespace

// --- Life
// ---------------------------------------------------------------------------------------------------------------

Error Arena::create(const Mapping& mapping, uint64_t capacity_bytes, bool keep_from_children,
                    uint64_t far_bytes) {
  ArenaHeader header{};
  header.format_version = kFormatVersion;
  header.header_bytes = kArenaHeaderBytes;
  header.page_bytes = static_cast<uint32_t>(sysconf(_SC_PAGESIZE));
  header.frame_bytes = kFrameBytes;
  if (::getentropy(header.uuid, sizeof(header.uuid)) != 0) return Error::kIo;
  uint64_t seed;
  std::memcpy(&seed, header.uuid, sizeof(seed));

  bool is_device = mapping.backend() == Backend::kDevdax;
  uint64_t near = round_down(capacity_bytes / kFrameBytes, kGrowFrames);
  uint64_t far = is_device ? 0 : round_down(far_bytes / kFrameBytes, kGrowFrames);
  for (;;) {
    uint64_t coarse = near + far;
    uint64_t fine = round_up(divide_up(near, kCoarseFramesPerFine), kGrowFrames);
    if (near < kGrowFrames || coarse + fine > kNoIndex / 2) return Error::kNoSpace;
    header.coarse_frame_count = static_cast<uint32_t>(coarse);
    header.far_first_frame = far == 0 ? 0 : static_cast<uint32_t>(near);
    header.fine_frame_count = static_cast<uint32_t>(fine);
    header.capacity_bytes = near * kFrameBytes;
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
    // A device holds both zones in full.
    near = round_down(near - divide_up(near, 64), kGrowFrames);
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
    persist_->persist(mapping_.address(), header.frame_header_offset);
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
  if (Error error = mapping_.open_access(header.root_table_offset,
                                         uint64_t{header.roots_grown} * sizeof(Root));
      header.roots_grown > 0 && error != Error::kNone)
    return error;
  if (Error error =
          mapping_.open_access(header.lane_table_offset, uint64_t{header.lanes_grown} * kLaneBytes);
      header.lanes_grown > 0 && error != Error::kNone)
    return error;
  header_ = header;
  for (const ZoneFrames& media : zones_of(header)) {
    if (media.grown == 0) continue;
    Zone& zone = zone_of(static_cast<uint32_t>(media.first));
    auto grown = static_cast<uint32_t>(media.grown);
    if (Error error = grow_metadata(zone, zone.first_frame, grown); error != Error::kNone)
      return error;
    if (Error error = &zone == &far_ ? Error::kNone
                                     : mapping_.open_access(frame_offset(zone.first_frame),
                                                            media.grown * kFrameBytes);
        error != Error::kNone) {
      return error;
    }
    zone.frames_grown = grown;
    zone.extents.extend(grown);
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
  for (const ZoneFrames& media : zones_of(header)) {
    Zone& zone = media.is_fine ? fine_ : media.is_far ? far_ : coarse_;
    zone.first_frame = static_cast<uint32_t>(media.first);
    zone.frame_count = static_cast<uint32_t>(media.count);
    zone.frames_grown = 0;
  }
  // Behind its window lies what only the pager touches.
  far_.frame_count -= min(far_.frame_count, kGrowFrames);
  if (Error error = reserve_tables(); error != Error::kNone) return error;
  for (Zone* zone : {&coarse_, &far_, &fine_}) zone->extents.init(nodes_, zone->first_frame);
  frame_headers_ = reinterpret_cast<FrameHeader*>(mapping.address(header.frame_header_offset));
  geometry_.coarse_base = reinterpret_cast<uintptr_t>(mapping.address(header.data_offset));
  geometry_.coarse_granules = 0;
  geometry_.coarse_states = reinterpret_cast<uint8_t*>(mapping.address(header.coarse_state_offset));
  geometry_.bins = frame_bins_;
  geometry_.coarse_bytes = uint64_t{fine_.first_frame} * kFrameBytes;
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
  uint64_t frames = uint64_t{fine_.first_frame} + fine_.frame_count;
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
// zero.  Power loss would keep any of its lines, so there the magic is made durable first.
void Arena::copy_header(int copy) {
  char* media = mapping_.address(static_cast<uint64_t>(copy) * kArenaHeaderBytes);
  bool is_made = std::memcmp(media, &header_, sizeof(uint64_t)) != 0;
  for (size_t at = 0; at < sizeof(header_); at += sizeof(uint64_t)) {
    uint64_t word;
    std::memcpy(&word, reinterpret_cast<const char*>(&header_) + at, sizeof(word));
    publish(reinterpret_cast<uint64_t*>(media + at), word);
    if (at == 0 && is_made) persist_->persist(media, sizeof(word));
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
    sys::unmap(heaps_[id], sizeof(Heap) + kBinBlocks * sizeof(CachedBlock));
  }
  release_tables();
  is_open_ = false;
}

void Arena::release_tables() {
  if (tables_ != nullptr) sys::unmap(tables_, tables_bytes_);
  tables_ = nullptr;
  heaps_ = nullptr;
}

// Where its blocks and their states are.
void Arena::place(Superblock& superblock, uint32_t first_frame, size_t size_class) {
  superblock.first_frame = first_frame;
  superblock.size_class = static_cast<uint8_t>(size_class);
  superblock.data = frame_address(first_frame);
  superblock.states = states_of(first_frame);
}

bool Arena::adopt_superblock(uint32_t first_frame, uint32_t size_class) {
  Superblock* superblock = new_superblock();
  if (superblock == nullptr) return false;
  place(*superblock, first_frame, size_class);
  superblock->is_scanned = false;
  superblock->free_count = 0;
  set_owner(*superblock, kOrphanHeap);
  orphans_.add(*superblock);
  return true;
}

void Arena::adopt_free(uint32_t first_frame, uint32_t frame_count) {
  Zone& zone = zone_of(first_frame);
  if (&zone == &far_) return give_far(first_frame, frame_count);
  zone.extents.give({first_frame, frame_count, false, false},
                    static_cast<uint32_t>(sys::steady_clock_s()));
}

// --- Threads
// --------------------------------------------------------------------------------------------------------------

Heap* Arena::acquire_heap() {
  LockGuard guard(orphans_.lock());
  if (Heap* heap = idle_heaps_; heap != nullptr) {
    idle_heaps_ = heap->next_idle;
    live_heaps_.store(live_heaps_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    return heap;
  }
  if (heap_count_ == kHeapsMax) return nullptr;
  auto* heap =
      map_dram<Heap>(sizeof(Heap) + kBinBlocks * sizeof(CachedBlock), PROT_READ | PROT_WRITE);
  if (heap == nullptr) return nullptr;
  uint32_t id = ++heap_count_;
  live_heaps_.store(live_heaps_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
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
  live_heaps_.store(live_heaps_.load(std::memory_order_relaxed) - 1, std::memory_order_relaxed);
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
    uint64_t frames = uint64_t{fine_.first_frame} + fine_.frame_count;
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

CachedBlock Arena::take_orphan_block(size_t size_class) {
  for (;;) {
    {
      LockGuard guard(orphans_.lock());
      if (orphans_.partial(size_class) == nullptr) scan_orphan_of(size_class);
      CachedBlock block;
      if (orphans_.take(size_class, &block, 1) == 1) return block;
    }
    Superblock* superblock = carve(size_class);
    if (superblock == nullptr) return {};
    LockGuard guard(orphans_.lock());
    set_owner(*superblock, kOrphanHeap);
    orphans_.add(*superblock);
  }
}

// Until one has a free slot.  REQUIRES: the orphan heap's lock.
void Arena::scan_orphan_of(size_t size_class) {
  while (Superblock* superblock = orphans_.unscanned(size_class)) {
    orphans_.remove(*superblock);
    superblock->scan();
    orphans_.add(*superblock);
    if (!superblock->is_full()) break;
  }
}

bool Arena::adopt_orphan(size_t size_class, Heap& heap) {
  LockGuard guard(heap.lock());
  LockGuard orphan_guard(orphans_.lock());
  scan_orphan_of(size_class);
  Superblock* superblock = orphans_.partial(size_class);
  if (superblock == nullptr) return false;
  orphans_.remove(*superblock);
  set_owner(*superblock, heap.id());
  heap.add(*superblock);
  return true;
}

// REQUIRES: the extent lock, or no other thread.
void Arena::put_spare(Superblock& superblock) {
  superblock.next_spare = spare_superblock_;
  spare_superblock_ = static_cast<uint32_t>(&superblock - superblocks_) + 1;
}

// Between taking and publishing no lock is held: the frames are nobody else's.
Superblock* Arena::carve(size_t size_class) {
  const SizeClassInfo& info = kSizeClasses[size_class];
  Superblock* superblock;
  FreeExtent extent;
  {
    LockGuard guard(extent_lock_);
    tick();
    superblock = new_superblock();
    if (superblock == nullptr) return nullptr;
    extent = take_frames(info.is_fine ? fine_ : coarse_, info.frame_count, 1);
    if (!extent.exists() && !info.is_fine && is_small_far_) extent = take_far(info.frame_count, 1);
    if (!extent.exists()) {
      put_spare(*superblock);
      return nullptr;
    }
  }
  if (!back(extent, true)) {
    LockGuard guard(extent_lock_);
    put_spare(*superblock);
    return nullptr;
  }
  place(*superblock, extent.first_frame, size_class);
  for (uint64_t& word : superblock->free_bits) word = 0;
  superblock->mark_all_free();
  // The states are all 0: so they were when the file grew, and so they are when a superblock is
  // retired.  Not while a fork copies what is published.
  LockGuard guard(extent_lock_);
  publish_head(extent.first_frame, ExtentKind::kSuperblock, static_cast<uint8_t>(size_class),
               info.frame_count);
  return superblock;
}

void Arena::retire(Superblock& superblock) {
  uint32_t frame = superblock.first_frame;
  // From this store on the frames are free; before it they are a superblock without live blocks.
  publish(&frame_header(frame)->descriptor, Descriptor{});
  persist_->persist(frame_header(frame), sizeof(Descriptor));
  set_owner(superblock, 0);
  uint32_t frame_count = superblock.info().frame_count;
  LockGuard guard(extent_lock_);
  put_spare(superblock);
  give_frames(frame, frame_count);
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
  for (uint32_t i = 0; i < count;) {
    Superblock& superblock = *superblock_of(blocks[i]);
    if (locked == nullptr || superblock.owner.load(std::memory_order_relaxed) != locked->id()) {
      if (locked != nullptr) locked->lock().unlock();
      locked = lock_owner(superblock);
      BTD_CHECK(locked != nullptr);  // a superblock with a block on its way home is not empty
    }
    // Neighbours come home together; of mixed sizes each block is mostly alone.
    bool is_alone = i + 1 == count || !superblock.contains(blocks[i + 1]);
    Heap::Given given =
        is_alone ? Heap::Given{1, locked->give(superblock, superblock.slot_of(blocks[i]))}
                 : locked->give(superblock, blocks + i, count - i);
    if (given.is_spare) retire(superblock);
    i += given.count;
  }
  if (locked != nullptr) locked->lock().unlock();
}

}  // namespace btd
