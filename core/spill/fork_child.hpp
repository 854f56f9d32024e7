// The window in a forked child: memory of the child's own, filled when it is touched with what the
// parent has.
//
// The parent's mapping does not come along (MADV_DONTFORK): a child that read one of its missing
// pages would fill the hole with zeros, for the parent too, and its writes would be the parent's.
// Instead the child maps private memory at the same address, with a userfaultfd and a thread of its
// own, and each extent is copied at its first touch: from the parent's file if the frames are
// there, from a node if not.
//
// Invariants: 1. the child writes nothing that the parent or a node can see; its connections only
// read.  2. it never reads zeros for data: what cannot be had is poisoned.  3. an extent is copied
// from one state of it: if the parent's word has changed meanwhile, it is copied again.
//
// It is not a frozen picture: an extent is as the parent has it at the child's first touch, not as
// it was at the fork.  Nothing of it is ever evicted: the child keeps all it touches.  And it needs
// the parent's file: when the parent ends in good order and removes it, the child has what it
// opened.
//
// Thread safety: open() once, in the child, before it has other threads.
#pragma once

#include <pthread.h>

#include <cstdint>

#include "core/spill/far_file.hpp"
#include "core/spill/pager.hpp"
#include "core/spill/userfault.hpp"

namespace btd {

class ForkChild {
 public:
  ForkChild() = default;
  ForkChild(const ForkChild&) = delete;
  ForkChild& operator=(const ForkChild&) = delete;

  // `base`, `window_bytes`: of the parent's window.  `nodes`: connections made for the child.
  // REQUIRES: FarWindow::forget_in_child() was called, before anything was mapped in the child: the
  // next mapping of the size would come to lie where the program believes its data.  ERRORS: as
  // Userfault::open; kIo the parent's file cannot be read, kNoMemory, kSandboxed.  On failure the
  // addresses stay such that they may not be touched.
  Error open(const char* path, char* base, uint64_t window_bytes, Node* const* nodes,
             uint32_t node_count, Line& why) noexcept;

 private:
  static void* main(void* child) noexcept;
  Error set_up() noexcept;
  void run() noexcept;
  void serve(uint64_t extent) noexcept;
  bool copy_frames(uint64_t extent, ExtentWord word) noexcept;
  const char* fetch(uint64_t extent, ExtentWord word) noexcept;
  ExtentWord load(uint64_t extent) const noexcept;
  void report(Error error) noexcept;

  const char* path_ = nullptr;  // until open() returns
  Line* why_ = nullptr;         // the same
  char* base_ = nullptr;
  uint64_t window_bytes_ = 0;
  Node* const* nodes_ = nullptr;
  uint32_t node_count_ = 0;
  int file_ = -1;
  uint64_t window_offset_ = 0;
  uint64_t* words_ = nullptr;  // the parent's, read only
  Userfault faults_;
  pthread_t thread_{};
  Error result_ = Error::kNone;
  Call started_;
  alignas(kPageBytes) char buffer_[kFarExtentBytes];
};

}  // namespace btd
