// The far tier of an arena: its window, where the nodes come from, and what becomes of it at a fork
// and at the end.
//
// The window's file lies beside the arena if that is in a tmpfs, else in /dev/shm, under the
// arena's uuid.  It holds what is near of the far zone, so for as long as the machine runs it is as
// much a part of the arena as the arena's own file.
//
// Thread safety: open(), leave_nothing(), close() and the fork functions by one thread at a time;
// discard() and is_zero() as FarBacking says.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "core/heap/far_backing.hpp"
#include "core/spill/far_window.hpp"
#include "core/spill/fork_child.hpp"

namespace btd {

// Sets of connections, one a thread that uses them.
enum NodeSet : uint32_t {
  kHandlerSet = 0,  // and the next kFarHandlersMax - 1
  kEvictorSet = kFarHandlersMax,
  kChildSet,  // a forked child's
  kNodeSets,
};

// Who knows the transports, and what the settings say of nodes.
class NodeSource {
 public:
  // Makes the connections for an arena in one of its epochs, unconnected.  False: `why` says what
  // is wrong with the settings.
  virtual bool open(const uint8_t (&arena_uuid)[16], uint64_t epoch, Line& why) noexcept = 0;
  virtual uint32_t count() const noexcept = 0;                  // of nodes, at most kFarNodesMax
  virtual Node* const* set(uint32_t index) const noexcept = 0;  // of NodeSet
  // Tells the nodes to drop all they have of the arena when its last connection goes.
  virtual void forget() noexcept = 0;

 protected:
  ~NodeSource() = default;
};

struct FarSettings {
  uint64_t near_bytes = 0;     // of all data, what is kept on this machine
  uint32_t replica_count = 2;  //
  bool small_too = true;       // blocks of less than kFarExtentBytes go far too
};

// Of an arena that has, or may have, a far zone.
struct FarPlace {
  const char* arena_path;
  bool is_tmpfs;  // the arena's file is in one
  char* address;  // of the far zone; what is mapped there is replaced
  uint64_t size_bytes;
  uint8_t uuid[16];
  uint64_t epoch;     // of this opening; greater than that of all before
  bool has_data;      // the far zone was in use before
  bool is_same_boot;  // since its last use
};

class FarTier final : public FarBacking {
 public:
  // Before open().
  void configure(NodeSource& nodes, const FarSettings& settings) {
    nodes_ = &nodes;
    settings_ = settings;
  }
  // An arena that is made by this process gets no far zone.
  void keep_from_new_arenas() { is_for_new_arenas_ = false; }
  bool is_for_new_arenas() const { return is_for_new_arenas_; }
  bool is_configured() const { return nodes_ != nullptr; }
  const FarSettings& settings() const { return settings_; }

  // Takes over what the file and the nodes have, and starts the pager.  On an error the addresses
  // may not be touched, and `why` says what happened and what to do.  ERRORS: of FarWindow::open();
  // kNotFound the window's file is gone although the machine has run since; kInvalid settings.
  Error open(const FarPlace& place, Line& why) noexcept;
  bool is_open() const { return is_open_; }

  // What may be in the arena's own file; the rest of near_bytes is the window's.
  uint64_t near_zone_bytes() const { return settings_.near_bytes - window_near_bytes(); }

  void discard(uint64_t first_unit, uint64_t unit_count) noexcept override;
  bool is_zero(uint64_t unit) const noexcept override { return window_.is_zero(unit); }

  // First thing in a forked child; then, if it is to have the parent's data, open_in_child().
  void forget_in_child() noexcept { window_.forget_in_child(); }
  void open_in_child() noexcept;

  // The arena is discarded: nothing is left here nor on the nodes once the process is gone.  The
  // window stays as it is until then.
  void leave_nothing() noexcept;
  // For tests and tools: the arena is closed, file and nodes keep all.
  void close() noexcept;

  const FarWindow& window() const { return window_; }
  const char* path() const { return path_; }

 private:
  uint64_t window_near_bytes() const;

  NodeSource* nodes_ = nullptr;
  FarSettings settings_;
  bool is_for_new_arenas_ = true;
  bool is_open_ = false;
  FarWindow window_;
  ForkChild child_;
  char path_[512] = {};
};

// The path of the window's file.  False: it does not fit.
bool far_file_path(const char* arena_path, bool is_tmpfs, const uint8_t (&uuid)[16], char* out,
                   size_t out_bytes) noexcept;

}  // namespace btd
