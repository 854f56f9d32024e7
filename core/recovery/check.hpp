// Verifies everything that an arena file says about itself, and names each fault by offset.
//
// It reads through ArenaView, so it never writes and survives any content.  A fault is what no
// kill, no power cut and no correct program leaves behind; what may be found after a kill
// (docs/format.md) is none.
//
// Thread safety: none; one view a thread.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/recovery/view.hpp"

namespace btd {

enum class Fault : uint8_t {
  kHeaderCopy,      // a copy of the arena header; the other one is good
  kReservedRegion,  // something in the site table, or in roots and lanes never used
  kRoot,            // a root that is set, but whose name or value cannot be right
  kLane,            // a lane's header
  kDescriptor,      // the frame does not say what it holds: its extent is lost
  kInterior,        // a frame inside an extent claims to be a head
  kBody,            // the head's descriptor is good, the rest of its header is not
  kLargeState,      // neither free nor live: the block is lost
  kStrayState,      // a state where no slot starts
  kStateValue,      // a slot's state that no store of ours writes, or a tag of no epoch
  kUnreadable,      // the kernel would not read this part of the file
};

struct Finding {
  Fault fault;
  const char* what;     // a sentence's end: "the descriptor fails its check"
  uint64_t offset;      // of the first bad byte, from the start of the file
  uint64_t size_bytes;  // how many bytes from there are concerned
  uint64_t frame;       // kNoFrame: none
};
inline constexpr uint64_t kNoFrame = ~uint64_t{0};

struct CheckListener {
  virtual void found(const Finding& finding) = 0;
  virtual void progressed(uint64_t done, uint64_t total) = 0;

 protected:
  ~CheckListener() = default;
};
void check_arena(const ArenaView& view, CheckListener& listener);

// Verifies everything below the grown marks: calls report(const Finding&) for each fault, at most
// one a frame and kind, and progress(done, total) now and then, in frames.  REQUIRES:
// !view.is_live(), or findings may be no more than the owner's work in progress.
template <typename Report, typename Progress>
void check_arena(const ArenaView& view, Report report, Progress progress) {
  struct Callbacks final : CheckListener {
    Callbacks(Report& on_found, Progress& on_progress) : report(on_found), progress(on_progress) {}
    void found(const Finding& finding) override { report(finding); }
    void progressed(uint64_t done, uint64_t total) override { progress(done, total); }
    Report& report;
    Progress& progress;
  } callbacks(report, progress);
  check_arena(view, static_cast<CheckListener&>(callbacks));
}
template <typename Report>
requires(!std::is_base_of_v<CheckListener, Report>) void check_arena(const ArenaView& view,
                                                                     Report report) {
  check_arena(view, report, [](uint64_t, uint64_t) {});
}

}  // namespace btd
