// Recovers an arena as a kill left it and compares what came back with the log of the process that
// used it.
//
// For every file it checks:
//   1. the arena opens (or, before its first block, is made anew);
//   2. every block that was returned and not freed is live, of the same size and epoch, with its
//   contents; no other is, save for the operation
//      in progress, which may be done or not;
//   Words, roots and blocks that a transaction changes are all as before it, or all as after it;
//   3. no two blocks overlap, and blocks allocated in the recovered arena overlap none;
//   4. the recovered arena checks clean, both copies of its header good;
//   5. recovering it again gives the same blocks and the same frame headers and states.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/heap/arena.hpp"
#include "core/recovery/view.hpp"
#include "tests/crash/file_image.hpp"
#include "tests/crash/model.hpp"

namespace btd::test {

class Oracle {
 public:
  // Works on a copy at `copy_path`.
  Oracle(std::string copy_path, const Log& log) : copy_path_(std::move(copy_path)), log_(log) {}

  // "": all is well; else the first thing that is not.  Every 4th also allocates in the recovered
  // arena.
  std::string check(const FileImage& image);
  // The same on the file itself.
  std::string check_file(const std::string& path);

  // After a check: settles how the operation in progress went, as a kill at this point would.
  void settle(Log& log) const;

  uint64_t checks() const { return checks_; }

 private:
  struct Opening;
  std::string open_and_compare(const std::string& path, bool has_exercise);
  std::string read_blocks(const std::string& path, std::vector<Block>& blocks);
  std::string compare(const std::string& path);
  std::string compare_block(uint32_t index, const BlockRecord& record, const Block& block,
                            int descriptor, const ArenaHeader& header) const;
  std::string compare_words(Arena& arena);
  std::string compare_transaction(std::unordered_map<uint64_t, const Block*>& by_address);
  std::string overlaps() const;
  std::string recover_again(const std::string& path);

  std::string copy_path_;
  const Log& log_;
  uint64_t checks_ = 0;
  ArenaHeader header_{};
  // Of the words and roots, then of the blocks too: they are as before the transaction in progress;
  // as after it.
  bool is_before_ = true;
  bool is_after_ = false;
  std::vector<Block> found_;       // by rising offset
  std::vector<Block> unexpected_;  // found, not in the log
  std::vector<uint32_t> missing_;  // in the log, not found
};

}  // namespace btd::test
