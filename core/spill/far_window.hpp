// A window of memory that is larger than what it keeps here: what has not been touched for a while
// lies on memory nodes, and comes back when it is touched, whoever touches it, the kernel for a
// system call included.
//
// Invariants:
// 1. Frames of an extent go only when nobody can write to them and every replica that lives has
//    them (core/spill/evictor.hpp).
// 2. What a node gives is let in only if it is the very generation that was written back and its
//    checksum is right; else another replica is asked; without one the extent is poisoned.  Nobody
//    ever reads zeros for data.
// 3. The descriptors lie in a table of the pager's own, so the program cannot close them: a closed
//    userfaultfd would let missing pages read as zeros.
// 4. A forked child does not have the window: see fork_child.hpp.
//
// What it cannot see: a page that the kernel has pinned for a device (O_DIRECT, io_uring's fixed
// buffers, ibv_reg_mr) and that is evicted while the device writes into it.  Such a page must be
// locked by mlock(2) before: what is locked is not evicted.
//
// Thread safety: open() and close() by one thread; the rest may run concurrently in between.
#pragma once

#include <pthread.h>

#include <cstdint>

#include "core/spill/evictor.hpp"
#include "core/spill/fault_handler.hpp"
#include "core/spill/pager.hpp"
#include "core/spill/reattach.hpp"

namespace btd {

inline constexpr uint32_t kFarHandlersMax = 4;

struct FarRequest {
  const char* path = nullptr;  // of a file in a tmpfs; made if there is none
  uint64_t window_bytes = 0;   // > 0, multiple of kFarExtentBytes
  uint64_t near_bytes = 0;     // at most this much is kept here; at least 16 extents
  // Of the window; nullptr: anywhere.  What is mapped there is replaced, and an extent behind it.
  void* address = nullptr;
  uint8_t arena_uuid[16] = {};  //
  bool has_data = false;        // it was in use before: nodes may have what the file has not
  bool must_be_found = false;   // and the machine has run since: so the file must be there
  uint32_t node_count = 0;      // at most kFarNodesMax
  uint32_t replica_count = 2;   // nodes that have each extent
  uint32_t handler_count = 1;   // threads that serve faults
  Node* const* handler_nodes[kFarHandlersMax] = {};  // node_count connections for each handler
  Node* const* evictor_nodes = nullptr;              // and for the evictor
  uint32_t lost_wait_ms = 0;  // how long a fault waits for its last holder to come back
  bool may_prefetch = true;   //
  bool tracks_async = true;   // false: as on kernels before 6.7, by a fault for each first write
};

class FarWindow {
 public:
  FarWindow() = default;
  FarWindow(const FarWindow&) = delete;
  FarWindow& operator=(const FarWindow&) = delete;

  // Makes the window, or takes over what the file and the nodes have of it, and starts the threads.
  // ERRORS: those of FarFile::open, Userfault::open and reattach; kSandboxed the threads cannot
  // have descriptors of their own, kNoMemory.
  Error open(const FarRequest& request, Line& why) noexcept;
  // Stops the threads and unmaps the window; addresses that it was given stay taken, by a mapping
  // that may not be touched.  File and nodes keep all, for the next open().
  // REQUIRES: nobody touches the window any more.
  void close() noexcept;

  char* base() const { return pager_.base; }
  uint64_t size_bytes() const { return pager_.window_bytes; }
  const ReattachCounts& reattached() const { return reattached_; }
  const FarStats& stats() const { return pager_.stats; }
  bool tracks_async() const { return pager_.tracks_async; }
  uint64_t near_bytes() const { return pager_.near_count.load() * kFarExtentBytes; }

  // The extent reads as zeros from now on, and nothing of it is kept: not here, and on nodes as
  // soon as they can be told.  A kill leaves it zero or as it was.
  void discard(uint64_t extent) noexcept;
  // Whether the extent reads as zeros, without a fault.
  bool is_zero(uint64_t extent) const noexcept;

  // In a forked child, whose pager's threads do not exist: forgets them.  The window's addresses
  // are taken by a mapping that may not be touched, so that no other mapping comes to lie there.
  // First thing in the child, before anything is mapped.
  void forget_in_child() noexcept;

  // For tests and tools that look inside.
  Pager& pager() { return pager_; }

 private:
  struct HandlerThread {
    FaultHandler handler;
    pthread_t thread;
    bool is_running;
  };

  static void* pager_main(void* window) noexcept;
  static void* handler_main(void* handler) noexcept;
  static void* evictor_main(void* evictor) noexcept;
  Error set_up() noexcept;
  Error map_window() noexcept;
  void tear_down() noexcept;
  void reserve_addresses(int how) noexcept;
  void report(Error error) noexcept;
  uint64_t count_near() noexcept;

  FarRequest request_;  // constant after open()
  Pager pager_;
  Evictor evictor_;
  HandlerThread handlers_[kFarHandlersMax] = {};
  pthread_t evictor_thread_{};
  pthread_t pager_thread_{};
  bool has_evictor_ = false;
  bool is_open_ = false;
  uint64_t* queue_ = nullptr;
  uint64_t queue_count_ = 0;
  ReattachCounts reattached_;
  Line* why_ = nullptr;  // of open(), while it waits
  Error result_ = Error::kNone;
  Call started_;
  bool is_serving_ = false;            // set_up() is through; owned by the pager's first thread
  std::atomic<bool> has_rung_{false};  // close() touches nothing of the mapping any more
  Call rung_;
};

}  // namespace btd
