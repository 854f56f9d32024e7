// Far memory for whoever follows pointers: extents are copied from the window's file and from
// memory nodes when they are first asked for, at most so many bytes of them at a time, the oldest
// copy going first.  Nothing is written, here or there.
#pragma once

#include <string>
#include <vector>

#include "core/gc/marks.hpp"
#include "tools/far_zone.hpp"

namespace btd::tools {

class FarPages final : public GcFarBytes {
 public:
  // All must outlive it.  `bytes_max`: what the copies may take.  Throws Failure.
  FarPages(const std::string& arena_path, const ArenaView& view, FarZone& far, uint64_t bytes_max);
  FarPages(const FarPages&) = delete;
  FarPages& operator=(const FarPages&) = delete;
  ~FarPages();

  const char* bytes(uint64_t offset) noexcept override;
  bool is_here(uint64_t offset) const noexcept override {
    return slots_[extent_of(offset)] != kNowhere;
  }

  // Throws Failure if anything that was asked for could not be had: then zeros stood for it.
  void require_whole() const;
  uint64_t fetched() const { return fetched_; }  // extents, each as often as it was copied

 private:
  static constexpr uint32_t kNowhere = ~uint32_t{0};

  uint64_t extent_of(uint64_t offset) const { return (offset - begin_) / kFarExtentBytes; }

  const std::string& arena_path_;
  FarZone& far_;
  const uint64_t begin_;         // of the far zone in the data
  std::vector<uint32_t> slots_;  // by extent
  std::vector<uint64_t> held_;   // the extent in each slot, up to the first that was never used
  uint64_t slot_count_;
  uint64_t next_ = 0;  // slot to be used next: round and round
  uint64_t fetched_ = 0;
  char* memory_ = nullptr;
  FarFault fault_ = FarFault::kNone;
  uint64_t fault_extent_ = 0;
};

// What the tools may take for copies of far memory: BARTENDER_NEAR, or 256 MiB where that is not
// set, and no more than a quarter of the machine's memory.
uint64_t near_bytes_wanted();

}  // namespace btd::tools
