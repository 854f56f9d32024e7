// An arena file mapped to be read, anywhere: for what follows pointers, which no pread(2) can.
//
// Only what is below the grown marks is touched, and of that only live blocks and metadata, so no
// hole is allocated.  Far blocks are not in the file: they are copied as they are come to.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/gc/mark.hpp"
#include "core/recovery/view.hpp"
#include "tools/far_pages.hpp"
#include "tools/progress.hpp"

namespace btd::tools {

class MappedArena {
 public:
  // Throws Failure.  All must outlive it.  `far`: nullptr: no far block is asked for.
  MappedArena(const std::string& path, const ArenaView& view, FarZone* far = nullptr);
  MappedArena(const MappedArena&) = delete;
  MappedArena& operator=(const MappedArena&) = delete;
  ~MappedArena();

  GcImage image() const;

  // Marks from the roots, with all CPUs unless blocks are far.  `live_blocks`: for the progress.
  // Throws Failure, also if a far block that was come to cannot be had.
  void mark(Marks& marks, MarkTotals& totals, uint64_t live_blocks,
            bool trusts_states = true) const;
  // After bytes were read through the marks.  Throws Failure if some of them were not had.
  void require_whole() const {
    if (far_ != nullptr) far_->require_whole();
  }

 private:
  const std::string& path_;
  const ArenaView& view_;
  std::unique_ptr<FarPages> far_;
  char* bytes_;
};

struct RootEntry {
  std::string name;
  uint64_t address;
};
// Those that are set.
std::vector<RootEntry> roots_of(const ArenaView& view);

// Transactions whose lanes wait for recovery.
struct OpenTransactions {
  uint64_t committed = 0;  // recovery completes them
  uint64_t open = 0;       // recovery undoes them
  uint64_t records = 0;
};
OpenTransactions transactions_of(const MappedArena& arena);

}  // namespace btd::tools
