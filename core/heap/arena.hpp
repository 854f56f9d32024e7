// An open arena: its file, its zones of frames, its superblocks and large blocks.
//
// What media holds is truth; all the rest here is DRAM and rebuilt at open.  A block is live
// exactly when its state says so: one store commits malloc, one store commits free, one 8-byte
// store of a descriptor takes, resizes or gives back an extent.
//
// What a crash leaves, between any two stores:
//   - a header update: two copies, one after the other; the valid one with the higher sequence
//   counts, and nothing relies on an update before both are
//     written.
//   - grown space that the header does not know of yet: it is grown again, and was never used.
//   - an extent with a descriptor, no live block in it: recovery gives it back.
//
// Thread safety: all public functions may run concurrently unless they say otherwise.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "core/base/lock.hpp"
#include "core/base/result.hpp"
#include "core/heap/extent_map.hpp"
#include "core/heap/far_backing.hpp"
#include "core/heap/heap.hpp"
#include "core/heap/superblock.hpp"
#include "core/heap/thread_cache.hpp"
#include "core/persist/deferred.hpp"
#include "core/persist/layout.hpp"
#include "core/persist/mapping.hpp"
#include "core/persist/persist.hpp"

namespace btd {

// What free() and realloc() found.
enum class Verdict : uint8_t {
  kGood,
  kNotLive,  // in a slot or large block of ours that is free: a double free, or never allocated
  kMiddle,   // inside a block, not at its start
  kNoBlock,  // in the arena, where no block is
};

struct Usage {
  uint64_t live_bytes;
  uint64_t live_blocks;
  uint64_t live_large_bytes;
  uint64_t live_large_blocks;
  uint64_t far_bytes;    // extents of the far zone in use
  uint64_t grown_bytes;  // data frames backed at some time
  uint64_t free_bytes;   // of those, in free extents
};

// A block that is taken, but not live yet: storing `live` at `state` commits it.
struct Reservation {
  void* block;  // nullptr: none
  void* state;  // of a small block one byte, of a large one two
  uint16_t live;
  uint16_t state_bytes;
};

// Number of the heap that owns superblocks of no thread.
inline constexpr uint16_t kOrphanHeap = 1;

// One zone of frames.
struct Zone {
  uint32_t first_frame;
  uint32_t frame_count;
  uint32_t frames_grown;
  ExtentMap extents;  // protected by the extent lock
};

class Arena {
 public:
  // --- Life
  // ------------------------------------------------------------------------------------------------------------

  // Makes a new arena in a file that holds nothing.  ERRORS: kNoSpace, kNoMemory: try a smaller
  // capacity.
  // `far_bytes`: address space for a far zone, if it is to have one.
  Error create(const Mapping& mapping, uint64_t capacity_bytes, bool keep_from_children = false,
               uint64_t far_bytes = 0);

  // Maps an arena whose header has been checked.  Nothing is known of its frames until recovery
  // says it. ERRORS: kAddressTaken, kNoMemory, kNoSpace.
  Error attach(const Mapping& mapping, const ArenaHeader& header, bool keep_from_children = false);

  // From recovery, for each extent in use and each run of free frames.  REQUIRES: no other thread.
  // False: the kernel refuses DRAM.
  [[nodiscard]] bool adopt_superblock(uint32_t first_frame, uint32_t size_class);
  void adopt_large(uint32_t first_frame) { *superblock_index(first_frame) = kLargeBlock; }
  void adopt_free(uint32_t first_frame, uint32_t frame_count);
  // There may be survivors; if not, the first look will tell.
  void note_survivors() { may_have_survivors_ = true; }
  // If the epochs of live blocks may span more than `span_max`, gives up the oldest until they span
  // `span_kept` (or keeps their blocks for ever, where survivors must not be reclaimed), so that no
  // tag comes round while it is in use.
  void retire_epochs(uint64_t span_max, uint64_t span_kept);

  // Changes the header by fill(ArenaHeader&) and writes both copies.  REQUIRES: the extent lock, or
  // no other thread.
  template <typename Fill>
  void update_header(Fill fill) {
    fill(header_);
    write_header();
  }

  // From recovery: makes copy B of the header equal to copy A, which is in force.  REQUIRES:
  // attached, and not updated yet.
  void mend_header_copy();

  // From recovery, where earlier lives persisted less than this one will: makes all that they left
  // durable, in no order.  The header update that records the new level comes after it.
  void persist_metadata();

  // First of all.  What the arena's structures, roots and logs go through, and what the states of
  // blocks do: in `lazy` durability nothing, and recovery after power loss does not trust them.
  void set_persist(Persist& structures, Persist& states) {
    persist_ = &structures;
    state_persist_ = &states;
    is_strict_ = &states != &process_persist();
  }
  // Before start(): from now on what does not fit near goes to the far zone, which `backing` has
  // mapped at far_address().  At most `near_bytes` of data are kept near, in what grows from now
  // on; `small_too`: superblocks may go far as well, else only large blocks of kFarUnitFrames do.
  void set_far(FarBacking& backing, uint64_t near_bytes, bool small_too);
  // Where the far zone's bytes belong, and how many; none: 0.
  char* far_address() const { return frame_address(far_.first_frame); }
  uint64_t far_bytes() const { return uint64_t{far_.frame_count} * kFrameBytes; }

  // REQUIRES: update_header() has set the epoch of this open.
  void start();

  bool is_open() const { return is_open_; }
  uint64_t data_bytes() const { return data_bytes_; }
  // Such a block is not taken near, however much room the arena has: Mapping::at_once_bytes_max().
  bool is_too_large(uint64_t size_bytes) const { return size_bytes > mapping_.at_once_bytes_max(); }
  // At a good end: the blocks of this epoch are given up, and the file too when it holds no others:
  // true.
  bool discard();
  // At any end by exit(): the header says so.
  void close_in_good_order();
  // Unmaps everything.  REQUIRES: no other thread uses the arena.
  void close();

  // --- Threads
  // ---------------------------------------------------------------------------------------------------------

  // A heap for the calling thread; nullptr: the kernel refuses DRAM.
  Heap* acquire_heap();
  // Flushes the cache and hands the superblocks to the orphan heap.
  void release_heap(Heap& heap);

  // --- Blocks
  // ----------------------------------------------------------------------------------------------------------

  bool contains(const void* pointer) const {
    return reinterpret_cast<uintptr_t>(pointer) - geometry_.coarse_base < data_bytes_;
  }

  // Any size and alignment.  *is_zero tells whether all its bytes are zero; it may be nullptr.
  // nullptr: the arena is full.  REQUIRES: alignment is a power of two.
  void* allocate(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero);

  // malloc and free of large blocks that the thread keeps warm, and of nothing else.  nullptr,
  // false: nothing was done.  REQUIRES: size_bytes > kSmallBytesMax; not strict, or an empty cache.
  void* allocate_warm(ThreadCache& cache, size_t size_bytes);
  bool free_warm(ThreadCache& cache, void* pointer);

  // The two halves of allocate().  In between the block belongs to the caller; after a crash it is
  // free.
  Reservation reserve(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero);
  void commit(const Reservation& reservation);
  // Instead of the second half: the block is free again.
  void cancel(ThreadCache& cache, const Reservation& reservation);

  // The two halves of free().  First: where the state is, and what it says.  REQUIRES:
  // contains(pointer).
  Verdict prepare_free(const void* pointer, Reservation& found);
  // Second: takes a block whose state the caller has set to free.
  void take_back(ThreadCache& cache, void* pointer);

  // Frees whatever ThreadCache::free() would not.  REQUIRES: contains(pointer).
  Verdict free(ThreadCache& cache, void* pointer);

  // Size the program may use; 0: not a live block.  REQUIRES: contains(pointer).
  size_t usable_size(const void* pointer) const;
  Verdict look_up(const void* pointer) const;

  // Makes the block hold size_bytes where it is.  False: it cannot; the block is as it was.
  bool resize_in_place(void* pointer, size_t size_bytes);

  // --- Memory
  // ----------------------------------------------------------------------------------------------------------

  // Returns the memory of free extents to the file system: those free for at least `age_s`.  True
  // if any was.
  bool give_back(uint32_t age_s);

  Usage usage();
  const ArenaHeader& header() const { return header_; }
  Mapping& mapping() { return mapping_; }
  const Geometry& geometry() const { return geometry_; }
  uint8_t tag() const { return tag_; }
  const char* path() const { return mapping_.path(); }
  Persist& persist() const { return *persist_; }
  // Every malloc and free is durable on return.
  bool is_strict() const { return is_strict_; }
  Deferred& deferred() { return deferred_; }

  // An extent without a live block, for the log of a transaction: recovery gives it back.
  // nullptr: the arena is full.
  void* take_log_extent(size_t size_bytes) {
    return reserve_large(size_bytes, kFrameBytes, nullptr, nullptr).block;
  }
  void release_log_extent(void* extent) { release_extent(frame_of(extent)); }
  // Whether any root is set.  Survivors are then the program's data, and never dropped by
  // themselves.
  bool has_roots() const;

  // Backs the first `count` roots or lanes.  False: no space.
  [[nodiscard]] bool grow_roots(uint32_t count);
  [[nodiscard]] bool grow_lanes(uint32_t count);
  Root* root(uint32_t index) const {
    return reinterpret_cast<Root*>(mapping_.address(header_.root_table_offset)) + index;
  }
  char* lane(uint32_t index) const {
    return mapping_.address(header_.lane_table_offset) + index * kLaneBytes;
  }
  // Bytes from the start of the file, as media has it.
  uint64_t offset_of(const void* address) const {
    return static_cast<uint64_t>(static_cast<const char*>(address) - mapping_.address());
  }

  // --- The collector's (core/heap/sweep.cpp)
  // ---------------------------------------------------------------------------------------

  using IsReached = bool (*)(const void* context, const void* block);
  struct Swept {
    uint64_t kept_blocks;
    uint64_t kept_bytes;
    uint64_t freed_blocks;
    uint64_t freed_bytes;
  };
  // Of the blocks of earlier epochs keeps those that are reached, and frees the others.
  Swept sweep(IsReached is_reached, const void* context);

  // --- Fork (core/heap/snapshot.cpp)
  // ---------------------------------------------------------------------------------------

  // Around fork(): a private copy of every live frame is made before, and takes the arena's place
  // in the child.
  void fork_prepare();
  void fork_parent();
  // False: but for the far zone's, which the child must get elsewhere.
  bool fork_child();
  // In the child: frees a block of the snapshot.
  Verdict free_inherited(void* pointer);

  // --- For the heap and its caches
  // ------------------------------------------------------------------------------------------

  // Gives `heap` a superblock with free slots: an orphan, else a fresh one.  False: no space.
  bool provide(size_t size_class, Heap& heap);
  // So many threads are alive that one must earn its superblocks.  Until then it gets its blocks
  // one by one from orphans, which it shares with others, and frees them home at once: so what many
  // hardly busy threads keep is next to nothing.  The price is a lock each, and false sharing.
  bool is_crowded() const {
    return live_heaps_.load(std::memory_order_relaxed) > kUncrowdedHeapsMax;
  }
  // A free block of an orphan, for a thread to use at once.  {nullptr, nullptr}: no space.
  CachedBlock take_orphan_block(size_t size_class);
  // Returns what grant_warm() granted to a cache.
  void return_warm(uint32_t frame_count) {
    if (frame_count > 0) warm_frames_.fetch_sub(frame_count, std::memory_order_relaxed);
  }
  // Gives the frames of an empty superblock back.  REQUIRES: it is in no list.
  void retire(Superblock& superblock);
  // Gives the frames of a large block back.  REQUIRES: its state is free.
  void release_extent(uint32_t first_frame);
  // Sends blocks with state 0 to the heaps they belong to.
  void give_remote(void* const* blocks, uint32_t count);

  // nullptr: no superblock there.  REQUIRES: contains(pointer).
  Superblock* superblock_of(const void* pointer) const {
    uint32_t index = *superblock_index(frame_of(pointer));
    return index == 0 || index == kLargeBlock ? nullptr : &superblocks_[index - 1];
  }

 private:
  struct Reclaimed {
    uint64_t blocks;
    uint64_t bytes;
    bool any() const { return blocks > 0; }
  };
  struct PrivateRange {
    char* copy;
    char* home;
    size_t size_bytes;
  };
  class SnapshotRange;
  bool can_copy_far();
  static constexpr int kPrivateRanges = 9;  // three a zone
  // A thread keeps up to 1 MiB, a superblock in each of 16 classes: so many keep 64 MiB.
  static constexpr uint32_t kUncrowdedHeapsMax = 32;
  // 24 MiB: six threads with the 4 MiB that one may keep at most.
  static constexpr uint32_t kWarmFramesMax = 24 * kMiB / kFrameBytes;

  void write_header();
  void copy_header(int copy);
  Error prepare(const Mapping& mapping, const ArenaHeader& header);
  Error reserve_tables();
  void release_tables();

  FrameHeader* frame_header(uint32_t frame) const { return frame_headers_ + frame; }
  // Of the frame: index into superblocks_ + 1; 0: none; kLargeBlock: the first frame of a large
  // block.
  uint32_t* superblock_index(uint32_t frame) const { return superblock_indices_ + frame; }
  static constexpr uint32_t kLargeBlock = 0xFFFFFFFF;
  uint32_t frame_of(const void* pointer) const {
    return static_cast<uint32_t>((reinterpret_cast<uintptr_t>(pointer) - geometry_.coarse_base) >>
                                 kFrameShift);
  }
  char* frame_address(uint32_t frame) const {
    return reinterpret_cast<char*>(geometry_.coarse_base) + (uint64_t{frame} << kFrameShift);
  }
  uint64_t frame_offset(uint32_t frame) const {
    return data_offset_ + (uint64_t{frame} << kFrameShift);
  }
  const Zone& zone_of(uint32_t frame) const {
    if (frame >= fine_.first_frame) return fine_;
    return frame < far_.first_frame ? coarse_ : far_;
  }
  Zone& zone_of(uint32_t frame) {
    return const_cast<Zone&>(static_cast<const Arena*>(this)->zone_of(frame));
  }
  uint8_t* states_of(uint32_t frame) const {
    return frame < fine_.first_frame
               ? geometry_.coarse_states + uint64_t{frame} * kCoarseStatesPerFrame
               : geometry_.fine_states + uint64_t{frame - fine_.first_frame} * kFineStatesPerFrame;
  }

  // REQUIRES: the extent lock.
  // What is taken may have no space in the file yet: see back().
  FreeExtent take_frames(Zone& zone, uint32_t frame_count, size_t alignment);
  void take_no_space(Zone& zone, const FreeExtent& extent);
  bool grow(Zone& zone, uint32_t frames_wanted);
  bool is_refused(uint32_t frame_count, uint32_t now_s) const;
  void note_refusal(uint32_t frame_count, uint32_t now_s);
  bool take_after(uint32_t first_frame, uint32_t frame_count);
  void show_grown();
  Error grow_metadata(Zone& zone, uint32_t first, uint32_t count);
  void give_frames(uint32_t first_frame, uint32_t frame_count);
  FreeExtent take_far(uint32_t frame_count, size_t alignment);
  void give_far(uint32_t first_frame, uint32_t frame_count);
  uint64_t far_unit_of(uint32_t frame) const { return (frame - far_.first_frame) / kFarUnitFrames; }
  void tick();
  uint32_t dirty_excess(uint32_t floor_frames, uint32_t share) const;
  uint32_t trim(Zone& zone, uint32_t frames_max);
  void trim_for_growth(Zone& zone, uint32_t frame_count);
  bool give_back_locked(uint32_t age_s, uint32_t extents_max);

  // Allocates the space of an extent just taken, if it has none.  False: the file system refuses;
  // the extent is free again.  REQUIRES: not the extent lock.
  // `touches`: the caller will write to all of it soon; otherwise the pages are left unmapped until
  // they are touched.
  bool back(const FreeExtent& extent, bool touches);
  bool allocate_space(const FreeExtent& extent, bool touches);

  void publish_descriptor(uint32_t frame, ExtentKind kind, uint8_t detail, uint32_t frame_count);
  void publish_head(uint32_t frame, ExtentKind kind, uint8_t detail, uint32_t frame_count);
  Superblock* new_superblock();
  void put_spare(Superblock& superblock);
  void place(Superblock& superblock, uint32_t first_frame, size_t size_class);
  void set_owner(Superblock& superblock, uint16_t owner);
  Superblock* carve(size_t size_class);
  bool adopt_orphan(size_t size_class, Heap& heap);
  void scan_orphan_of(size_t size_class);
  // A large block's length as media has it: frames, and pages at the end that are not the block's.
  struct LargeShape {
    uint32_t frame_count;
    uint8_t tail_pages;
  };
  uint32_t try_reserve_large(LargeShape shape, size_t alignment, bool* is_zero);
  Verdict free_orphan(Superblock& superblock, uint32_t slot);
  LargeShape shape_of(size_t size_bytes) const;
  void publish_shape(uint32_t frame, LargeShape shape);
  Reservation reserve_small(ThreadCache& cache, size_t size_bytes);
  Reservation reserve_large(size_t size_bytes, size_t alignment, bool* is_zero, ThreadCache* cache);
  uint32_t take_warm(ThreadCache& cache, size_t size_bytes);
  Reservation large_reservation(uint32_t frame) const;
  void keep_extent(ThreadCache* cache, uint32_t frame);
  bool grant_warm(uint32_t frame_count);
  void free_state(void* state, size_t state_bytes);
  Verdict free_large(ThreadCache* cache, void* pointer, uint32_t frame);
  void give_home(void* block);
  Heap* lock_owner(Superblock& superblock);

  // Memory pressure (core/heap/pressure.cpp): retires empty recovered superblocks, then the blocks
  // of the oldest epoch.  True: try again. The caller's own warm extents go first.
  bool relieve(ThreadCache* cache);
  bool join_extents();
  bool scan_orphans();
  struct Survivors {
    uint64_t oldest_epoch;  // 0: none
    bool has_kept;
  };
  Survivors survivors();
  // What becomes of the blocks with a tag: free and ready for use; free, but left where they are;
  // kept for ever.
  enum class Retag : uint8_t { kReclaim, kAbandon, kKeep };
  Reclaimed retag(uint8_t tag, Retag what);
  template <typename Visit>
  void for_each_extent_of(const Zone& zone, Visit visit) const;
  template <typename Visit>
  void for_each_extent(Visit visit) const {
    for (const Zone* zone : {&coarse_, &far_, &fine_}) for_each_extent_of(*zone, visit);
  }
  // visit(frame) for each frame that heads a large block.
  template <typename Visit>
  void for_each_large(Visit visit) const {
    for (const Zone* zone : {&coarse_, &far_}) {
      for (uint32_t i = 0; i < zone->frames_grown; i++)
        if (*superblock_index(zone->first_frame + i) == kLargeBlock) visit(zone->first_frame + i);
    }
  }

  // Constant after open.
  Mapping mapping_;
  Persist* persist_ = nullptr;
  Persist* state_persist_ = nullptr;
  bool is_strict_ = false;
  FarBacking* far_backing_ = nullptr;  // none: nothing goes to the far zone
  bool is_small_far_ = false;
  Geometry geometry_{};
  FrameHeader* frame_headers_ = nullptr;
  uint64_t data_offset_ = 0;
  uint64_t data_bytes_ = 0;
  uint64_t capacity_frames_ = 0;
  uint64_t page_bytes_ = 0;
  uint8_t tag_ = 0;
  bool is_open_ = false;
  Bin** frame_bins_ = nullptr;  // by frame, as the next two
  uint32_t* superblock_indices_ = nullptr;
  ExtentNode* nodes_ = nullptr;
  Superblock* superblocks_ = nullptr;
  char* tables_ = nullptr;
  size_t tables_bytes_ = 0;

 public:
  // Set by the opener before start(): survivors may be reclaimed under pressure.
  bool may_reclaim_survivors = true;

 private:
  // Protected by extent_lock_.
  Lock extent_lock_;
  ArenaHeader header_{};  // what both copies on media say
  Zone coarse_{};
  Zone far_{};  // alike, but its bytes are the backing's
  Zone fine_{};
  uint32_t superblock_end_ = 0;  // of the used part of superblocks_
  uint32_t superblocks_backed_ = 0;
  uint32_t spare_superblock_ = 0;  // index + 1 of the first unused one; linked by reserved_b
  uint32_t next_tick_s_ = 0;
  uint32_t refused_until_s_ = 0;  // until then the file system is not asked for this much again
  uint32_t frames_refused_ = 0;
  bool can_give_back_ = true;
  uint32_t trim_s_ = 0;              // the second that trim_frames_left_ is for
  uint32_t trim_frames_left_ = 0;    // that frees may still give back in it
  uint32_t frames_to_exchange_ = 0;  // backed freshly, and not yet made good by another zone
  PrivateRange snapshot_[kPrivateRanges] = {};
  bool copies_far_ = false;  // the snapshot, or the next one

  Deferred deferred_;  // locks itself

  // Protected by relief_lock_ (taken with no other lock held).
  Lock relief_lock_;
  bool may_have_survivors_ = false;
  uint32_t next_relief_s_ = 0;

  // The orphan heap and its lock; the list of idle heaps and the count of all.
  Heap orphans_;
  Heap* idle_heaps_ = nullptr;
  Heap** heaps_ = nullptr;  // by id; written under the orphan heap's lock, read without
  uint32_t heap_count_ = 0;
  // Written under the orphan heap's lock, read without: a hint.
  std::atomic<uint32_t> live_heaps_ = 0;

  // Of kWarmFramesMax, what threads' caches have been granted.  A count, which orders nothing else.
  std::atomic<uint32_t> warm_frames_ = 0;
};

// One after the other, heads of extents in use below the grown marks.  visit(frame, descriptor).
template <typename Visit>
void Arena::for_each_extent_of(const Zone& zone, Visit visit) const {
  uint32_t end = zone.first_frame + zone.frames_grown;
  for (uint32_t frame = zone.first_frame; frame < end;) {
    Descriptor descriptor = frame_header(frame)->descriptor;
    if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kFree)) {
      frame++;
      continue;
    }
    visit(frame, descriptor);
    frame += descriptor.frame_count;
  }
}

}  // namespace btd
