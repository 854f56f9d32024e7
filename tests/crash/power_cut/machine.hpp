// The process that makes a program's calls, and tells the trace what each of them promises.
#pragma once

#include <set>

#include "core/recovery/open.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"
#include "tests/crash/power_cut/program.hpp"

namespace btd::test {

class Machine {
 public:
  Machine(const Program& program, const std::string& path, Trace& trace, Sites& sites)
      : program_(program), path_(path), sim_(path, arena_, trace, sites) {}

  void make(const Call& call, uint16_t number);

 private:
  static constexpr uint32_t kSlots = 24;
  static constexpr uint32_t kThreads = 2;
  static constexpr uint64_t kAnchorBytes = 32 * kKiB;
  static constexpr uint64_t kDataAt =
      4096;  // of the data words, in the anchor; each thread its own
  static constexpr uint32_t kDataWords = 1536;

  struct Owned {
    char* block;
    size_t size_bytes;
    uint64_t life = 0;           // of the process that allocated it
    uint64_t* second = nullptr;  // a data word that points to it as well
  };
  struct Open {  // a transaction
    Transaction* transaction = nullptr;
    std::vector<std::function<void()>> at_commit, at_abort;
    uint32_t data_words = 0;  // a transaction changes no word twice
  };

  void open(bool is_process);
  void reopen();
  void anchor(bool is_root);
  void allocate(uint32_t size_bytes);
  void free(uint32_t index);
  void resize(uint32_t size_bytes);
  void root_set(uint32_t root);
  void root_remove(uint32_t root);
  void begin();
  void add(uint32_t words);
  void write(uint32_t words);
  void tx_allocate(uint32_t size_bytes);
  void tx_free();
  void tx_root_set(uint32_t root);
  void link(const Owned& owned, uint32_t slot);
  void adopt(uint32_t size_bytes, uint32_t slots);
  void commit();
  void abort();
  void collect_all();
  void store();
  void wrong(uint32_t number);

  Open& mine() { return open_[thread_]; }
  ThreadCache& cache() { return heaps_[thread_]->cache(); }
  uint64_t* slot(uint32_t index);
  uint64_t* data(uint32_t index) {
    return reinterpret_cast<uint64_t*>(anchor_ + kDataAt) + thread_ * kDataWords +
           index % kDataWords;
  }
  bool is_told(uint32_t index, uint32_t words, uint32_t first);
  bool take_data(uint32_t words, uint32_t& first);
  uint32_t free_slot() const;
  uint32_t filled_slot() const;
  uint64_t fresh_value() { return ++value_ << 8 | 1; }  // points nowhere
  void prepare(char* block, size_t size_bytes, bool persists);
  void block_effect(const Owned& owned);
  void word_effect(const void* word, uint64_t value);
  void must(Error error);

  const Program& program_;
  std::string path_;
  Arena arena_;
  SimPersist sim_;
  Roots roots_;
  Transactions transactions_;
  Heap* heaps_[kThreads] = {};
  uint32_t thread_ = 0;
  char* anchor_ = nullptr;
  std::vector<Owned> loose_;
  Owned slots_[kSlots] = {};
  bool is_slot_busy_[kSlots] = {};  // by an open transaction
  uint64_t slot_order_[kSlots] = {};
  Owned root_blocks_[kRoots] = {};
  bool is_root_busy_[kRoots] = {};
  Open open_[kThreads];
  uint64_t value_ = 0;
  uint64_t life_ = 0;
  bool was_process_ = false;  // the level of this life
  uint32_t next_data_[kThreads] = {};
  std::set<uint64_t*> told_;
};

}  // namespace btd::test
