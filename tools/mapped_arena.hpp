// An arena file mapped to be read, anywhere: for what follows pointers, which no pread(2) can.
//
// Only what is below the grown marks is touched, and of that only live blocks and metadata, so no
// hole is allocated.
#pragma once

#include <string>
#include <vector>

#include "core/gc/mark.hpp"
#include "core/recovery/view.hpp"
#include "tools/progress.hpp"

namespace btd::tools {

class MappedArena {
 public:
  // Throws Failure.  The view must outlive it.
  MappedArena(const std::string& path, const ArenaView& view);
  MappedArena(const MappedArena&) = delete;
  MappedArena& operator=(const MappedArena&) = delete;
  ~MappedArena();

  GcImage image() const;

  // Marks from the roots with all CPUs.  Throws Failure.
  void mark(Marks& marks, MarkTotals& totals, uint64_t live_blocks) const;

 private:
  const std::string& path_;
  const ArenaView& view_;
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
