// What the pager knows of one extent, in one word, so that every change of owner is one compare and
// exchange and whoever is killed in the middle leaves one of the states below.
//
// The words lie in the window's file beside the frames (core/spill/far_file.hpp), so they outlive
// the process as the frames do.  "Frames" are the extent's 16 pages in the file; "mapped" means in
// the program's page table.
//
//   state       frames   mapped  owner      what a kill leaves; the next open makes of it
//   kZero       none     no      -          never written, or given back; zero
//   kNear       all      yes     -          the frames win; idle and dirty
//   kIdle       all      no      -          the frames win; idle, clean if it was
//   kFar        none     no      -          the nodes have `generation`; far
//   kFetching   some     some    handler    frames that are there may have been written to and win;
//                                           the others come from the nodes (dirty: are zero)
//   kMapping    all      some    handler    as kNear
//   kUnmapping  all      some    evictor    as kNear
//   kEvicting   all      no      evictor    as kNear: `generation` may or may not be on the nodes
//   kPunching   some     no      evictor    `generation` is durable on all holders; far
//   kDiscarding some     some    program    given back; zero
//   kPoisoned   none     no      -          lost; stays so
//
//        kZero --fault--> kFetching ----> kNear <-----------+------------------+
//          ^                 ^              | hand          | fault            | fault
//          |                 | fault        v               |                  |
//          |               kFar        kUnmapping ----> kIdle ----> kEvicting -+
//          |                 ^                            | clean        | durable
//          |                 |                            v              |
//          +--- all zero ----+------------------------ kPunching <-------+
//
// A page is mapped only by the owner of kFetching or kMapping, and frames go only in kPunching and
// kDiscarding: so no frame goes while it can be written to.
#pragma once

#include <atomic>
#include <cstdint>

namespace btd {

enum class ExtentState : uint8_t {
  kZero = 0,
  kNear = 1,
  kIdle = 2,
  kFar = 3,
  kFetching = 4,
  kMapping = 5,
  kUnmapping = 6,
  kEvicting = 7,
  kPunching = 8,
  kDiscarding = 9,
  kPoisoned = 10,
};

inline constexpr uint32_t kFarNodesMax = 8;  // a bit each in `holders`

struct ExtentWord {
  uint64_t bits = 0;

  static constexpr uint64_t kStateMask = 0xF;
  static constexpr uint64_t kDirtyBit = 1 << 4;
  static constexpr uint64_t kPrefetchedBit = 1 << 5;
  static constexpr uint64_t kQueuedBit = 1 << 6;
  static constexpr uint64_t kWantedBit = 1 << 7;
  static constexpr unsigned kHoldersShift = 8;
  static constexpr unsigned kVisitsShift = 16;
  static constexpr unsigned kGenerationShift = 24;

  constexpr ExtentState state() const { return static_cast<ExtentState>(bits & kStateMask); }
  // The frames may differ from `generation` on the holders.  In kNear only a hint: the page table
  // knows of writes that this bit does not.  In kIdle exact.
  constexpr bool is_dirty() const { return (bits & kDirtyBit) != 0; }
  // First of a run that is or was fetched ahead, and not touched since.
  constexpr bool is_prefetched() const { return (bits & kPrefetchedBit) != 0; }
  // Idle, and in the evictor's queue.
  constexpr bool is_queued() const { return (bits & kQueuedBit) != 0; }
  // Being fetched, and somebody waits for it.
  constexpr bool is_wanted() const { return (bits & kWantedBit) != 0; }
  // Nodes, by index.  Far or clean: those that have `generation`; none: it is all zero.  Dirty or
  // given back: those that may have anything of the extent.
  constexpr uint32_t holders() const { return (bits >> kHoldersShift) & 0xFF; }
  // How often it came near, modulo 256: two looks that see the same word have seen the same frames.
  constexpr uint32_t visits() const { return (bits >> kVisitsShift) & 0xFF; }
  // The greatest ever given to a node, 40 bits: 1,000 write-backs a second for 34 years.
  constexpr uint64_t generation() const { return bits >> kGenerationShift; }

  constexpr ExtentWord with(ExtentState state) const {
    return {(bits & ~kStateMask) | static_cast<uint64_t>(state)};
  }
  constexpr ExtentWord with_dirty(bool is_dirty) const {
    return {(bits & ~kDirtyBit) | (is_dirty ? kDirtyBit : 0)};
  }
  constexpr ExtentWord with_prefetched(bool is_prefetched) const {
    return {(bits & ~kPrefetchedBit) | (is_prefetched ? kPrefetchedBit : 0)};
  }
  constexpr ExtentWord with_queued(bool is_queued) const {
    return {(bits & ~kQueuedBit) | (is_queued ? kQueuedBit : 0)};
  }
  constexpr ExtentWord with_wanted(bool is_wanted) const {
    return {(bits & ~kWantedBit) | (is_wanted ? kWantedBit : 0)};
  }
  // In a state in which nobody knows anything more of it.
  constexpr ExtentWord at_rest(ExtentState state) const {
    return with(state).with_prefetched(false).with_queued(false).with_wanted(false);
  }
  constexpr ExtentWord with_holders(uint32_t holders) const {
    return {(bits & ~(uint64_t{0xFF} << kHoldersShift)) | (uint64_t{holders} << kHoldersShift)};
  }
  constexpr ExtentWord with_generation(uint64_t generation) const {
    return {(bits & 0xFFFFFF) | (generation << kGenerationShift)};
  }
  // Far no more.
  constexpr ExtentWord fetching() const {
    uint64_t visits = (this->visits() + 1) & 0xFF;
    return ExtentWord{(bits & ~(uint64_t{0xFF} << kVisitsShift)) | visits << kVisitsShift}.with(
        ExtentState::kFetching);
  }
  constexpr bool operator==(const ExtentWord&) const = default;
};

// The words of a window.  Loads acquire and changes release: whoever sees a state sees what its
// maker did before.
class ExtentTable {
 public:
  ExtentTable() = default;
  ExtentTable(uint64_t* words, uint64_t count) : words_(words), count_(count) {}

  uint64_t count() const { return count_; }
  ExtentWord load(uint64_t extent) const noexcept {
    return {std::atomic_ref{words_[extent]}.load(std::memory_order_acquire)};
  }
  // By the owner of the extent only, or before there is one.
  void store(uint64_t extent, ExtentWord word) noexcept {
    std::atomic_ref{words_[extent]}.store(word.bits, std::memory_order_release);
  }
  bool change(uint64_t extent, ExtentWord from, ExtentWord to) noexcept {
    return std::atomic_ref{words_[extent]}.compare_exchange_strong(from.bits, to.bits,
                                                                   std::memory_order_acq_rel);
  }

 private:
  uint64_t* words_ = nullptr;
  uint64_t count_ = 0;
};

}  // namespace btd
