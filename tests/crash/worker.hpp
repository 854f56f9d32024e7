// The process that uses an arena while the harness steps through it: announces each operation in
// the log, does it through core's own interface, and tells the result.
//
// Between two operations it stops itself (int3), so that the harness can change from running to
// stepping.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/heap/arena.hpp"
#include "core/recovery/open.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"
#include "tests/crash/model.hpp"

namespace btd::test {

// What a transaction is to do.  Words and roots get new values.
struct Plan {
  const char* what;
  std::vector<uint32_t> added = {};    // words changed in place
  std::vector<uint32_t> written = {};  // words written at commit: pointers to its blocks, if any
  std::vector<uint64_t> sizes = {};    // of blocks to allocate
  uint32_t freed = 0;                  // live blocks to free
  int root = -1;                       // to set
  uint64_t log_bytes = 0;              // of a range that is kept, and not changed
  bool reserves = false;               // blocks are reserved before it begins
  bool aborts = false;
};

class Worker {
 public:
  Worker(Log& log, const char* path, uint64_t capacity_bytes)
      : log_(log), path_(path), capacity_bytes_(capacity_bytes) {}

  // Whether the operations that follow are stepped through or run.
  void step(bool is_stepped) { is_stepped_ = is_stepped; }

  void open();
  void acquire();
  void release();
  // The index of the new block, or kNone.
  static constexpr uint32_t kNone = ~0u;
  uint32_t allocate(uint64_t size_bytes, uint64_t alignment = 16, bool may_reclaim = false);
  void free(uint32_t index);
  bool resize(uint32_t index, uint64_t size_bytes);
  void give_back();

  // The block of the words.  Before the first transaction.
  void make_words();
  // Root 0 leads to the words.
  void publish_words();
  void collect();
  void transact(const Plan& plan);
  // Without a transaction; a null value removes it.
  void set_root(uint32_t root, bool is_set);

  // Live blocks of the log, and blocks of earlier lives.
  uint32_t live_count() const;
  uint32_t some_live(uint64_t random) const;
  uint64_t random();

  Arena& arena() { return arena_; }
  Heap* heap() { return heap_; }
  Log& log() { return log_; }
  FrameHeader* frame_header_of(uint32_t index);

  // For tests of the test: the same records around something else.
  template <typename Operation>
  void around(const char* what, Step step, uint32_t index, uint64_t size_bytes,
              Operation operation) {
    begin(what, step, index, size_bytes);
    operation();
    end();
  }
  uint32_t free_record();
  void fill(uint32_t index);
  void record_block(uint32_t index, void* block, uint64_t size_bytes);

 private:
  void begin(const char* what, Step step, uint32_t index, uint64_t size_bytes,
             bool may_reclaim = false);
  void end();
  void begin_transaction();
  void end_transaction();
  uint64_t* word(uint32_t index) {
    return reinterpret_cast<uint64_t*>(arena_.mapping().address(log_.words_offset)) + index;
  }
  void note_reclaimed(const void* block);

  Log& log_;
  const char* path_;
  uint64_t capacity_bytes_;
  bool is_stepped_ = true;
  Arena arena_;
  Heap* heap_ = nullptr;
  Roots roots_;
  Transactions transactions_;
};

// What one process does from its start to its end.
using Life = void (*)(Worker&);

inline constexpr size_t kLivesMax = 3;

struct Scene {
  const char* name;
  uint64_t capacity_bytes;
  Life lives[kLivesMax];  // one after the other on the same file; nullptr: no more
  bool is_killed_within;  // each life but the last ends at a random instruction of its last
                          // operation, not after it
};

extern const Scene kScenes[];
extern const uint32_t kSceneCount;

// Scenes with commits in the wrong order, on purpose: each must be found out.
extern const Scene kWrongScenes[];
extern const uint32_t kWrongSceneCount;

}  // namespace btd::test
