// What does durability cost?  Each level of bartender beside libpmemobj and beside the floor: that
// many stores, flushes and drains on fresh lines, and nothing else.
//
//   durable [--operations N] [--rounds N] [--directory DIR]
//     everything in one process, in turn, round by round; each line is the median of the rounds
//   durable pair|batch|transaction --level process|lazy|strict|libpmemobj [...]
//     that one, and the floor, in turn; for scripts/bench
//
//   pair         malloc and free of 64 B, one after the other
//   batch        1,000 of them allocated, then freed; per operation
//   transaction  one allocation of 64 B, one range of 64 B changed, one root set
//
// Set PMEM_IS_PMEM_FORCE=1, so that libpmemobj flushes a file on tmpfs as it does pmem.

#include <libpmemobj.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "core/persist/durability.hpp"
#include "core/recovery/open.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"
#include "support.hpp"

namespace {

constexpr uint64_t kBatch = 1000;
constexpr size_t kBlockBytes = 64;

// Lines flushed and drains made, on their way to the real one.
class Counter final : public btd::Persist {
 public:
  explicit Counter(btd::Persist& below) : below_(below) {}
  void flush(const void* address, size_t size_bytes) noexcept override {
    uintptr_t first = reinterpret_cast<uintptr_t>(address) / 64;
    lines += (reinterpret_cast<uintptr_t>(address) + size_bytes - 1) / 64 - first + 1;
    below_.flush(address, size_bytes);
  }
  void drain() noexcept override {
    drains++;
    below_.drain();
  }
  uint64_t lines = 0;
  uint64_t drains = 0;

 private:
  btd::Persist& below_;
};

class Level {
 public:
  Level(const std::string& path, btd::Durability durability) : arena_(new btd::Arena) {
    btd::OpenRequest request{path.c_str(), 512 * bench::kMiB};
    request.durability = durability;
    btd::Line why;
    if (btd::open_arena(request, *arena_, why) != btd::Error::kNone) bench::fail(why.c_str());
    unlink(path.c_str());
    heap_ = arena_->acquire_heap();
    transactions_.reset(new btd::Transactions);
    transactions_->open(*arena_);
    roots_.reset(new btd::Roots);
    roots_->open(*arena_);
    range_ = static_cast<uint64_t*>(allocate());
    roots_->set("bench", range_, nullptr);
  }

  // As preload does it: by the thread's cache, or in strict by the arena.
  void* allocate() {
    if (arena_->is_strict()) return arena_->allocate(heap_->cache(), kBlockBytes, 16, nullptr);
    return heap_->cache().allocate(
        kBlockBytes, [&] { return arena_->allocate(heap_->cache(), kBlockBytes, 16, nullptr); });
  }
  void release(void* block) {
    btd::ThreadCache* cache = &heap_->cache();
    if (!arena_->is_strict() &&
        btd::ThreadCache::free(block, arena_->geometry(), cache, [] { return false; }))
      return;
    arena_->free(heap_->cache(), block);
  }
  void transaction(uint64_t value) {
    btd::Transaction* transaction = transactions_->begin();
    btd::Error error;
    auto* block = static_cast<uint64_t*>(
        transaction->allocate(heap_->cache(), kBlockBytes, 16, nullptr, &error));
    *block = value;
    transaction->add(range_, kBlockBytes);
    *range_ = value;
    roots_->set("bench", block, transaction);
    if (transaction->commit(heap_->cache()) != btd::Error::kNone) bench::fail("commit");
    allocated_.push_back(block);
  }
  // Now and then: a free in `strict` waits for what the transaction before it has left to the next.
  void clean_up() {
    if (allocated_.size() < kBatch) return;
    for (void* block : allocated_) release(block);
    allocated_.clear();
  }

  btd::Arena& arena() { return *arena_; }

 private:
  std::unique_ptr<btd::Arena> arena_;
  std::unique_ptr<btd::Transactions> transactions_;
  std::unique_ptr<btd::Roots> roots_;
  btd::Heap* heap_ = nullptr;
  uint64_t* range_ = nullptr;
  std::vector<void*> allocated_;  // by transactions
};

// `lines` stores and flushes and `drains` drains an operation, on lines in turn.
class Floor {
 public:
  explicit Floor(btd::Persist& persist) : persist_(persist) {
    lines_ = bench::own_table<uint64_t>(kLines * 8);
  }
  void same_line_twice() {
    uint64_t* line = next();
    for (int i = 0; i < 2; i++) {
      (*line)++;
      persist_.persist(line, sizeof(*line));
    }
  }
  void operation(uint64_t lines, uint64_t drains) {
    for (uint64_t drain = 1; drain <= drains; drain++) {
      for (uint64_t i = lines * (drain - 1) / drains; i < lines * drain / drains; i++) {
        uint64_t* line = next();
        (*line)++;
        persist_.flush(line, sizeof(*line));
      }
      persist_.drain();
    }
  }

 private:
  static constexpr uint64_t kLines = 4096;
  uint64_t* next() { return lines_ + 8 * (at_++ % kLines); }

  btd::Persist& persist_;
  uint64_t* lines_;
  uint64_t at_ = 0;
};

template <typename Operation>
double time_ns(uint64_t count, Operation operation) {
  const uint64_t start = bench::now_ns();
  for (uint64_t i = 0; i < count; i++) operation(i);
  return static_cast<double>(bench::now_ns() - start) / static_cast<double>(count);
}

struct Row {
  std::string workload, contender;
  std::vector<double> samples;
};
std::vector<Row> rows;

void sample(const char* workload, const char* contender, double ns) {
  for (Row& row : rows) {
    if (row.workload == workload && row.contender == contender) {
      row.samples.push_back(ns);
      return;
    }
  }
  rows.push_back({workload, contender, {ns}});
}

template <typename Allocate, typename Release>
void pairs_and_batches(const char* contender, uint64_t operations, Allocate allocate,
                       Release release) {
  sample("pair", contender, time_ns(operations, [&](uint64_t) {
           void* block = allocate();
           bench::touch(block);
           release(block);
         }));
  static void* blocks[kBatch];
  sample("batch", contender, time_ns(std::max<uint64_t>(operations / kBatch, 1), [&](uint64_t) {
                               for (void*& block : blocks) bench::touch(block = allocate());
                               for (void* block : blocks) release(block);
                             }) / (2 * kBatch));
}

struct PmemRoot {
  uint64_t range[8];
  PMEMoid last;
};

void pmemobj_round(PMEMobjpool* pool, uint64_t operations) {
  auto* root = static_cast<PmemRoot*>(pmemobj_direct(pmemobj_root(pool, sizeof(PmemRoot))));
  pairs_and_batches(
      "libpmemobj", operations,
      [&] {
        PMEMoid block;
        if (pmemobj_alloc(pool, &block, kBlockBytes, 0, nullptr, nullptr) != 0)
          bench::fail("pmemobj_alloc");
        return pmemobj_direct(block);
      },
      [](void* address) {
        PMEMoid block = pmemobj_oid(address);
        pmemobj_free(&block);
      });
  PMEMoid last = OID_NULL;
  double ns = 0;
  for (uint64_t i = 0; i < operations; i++) {
    const uint64_t start = bench::now_ns();
    if (pmemobj_tx_begin(pool, nullptr, TX_PARAM_NONE) != 0) bench::fail("pmemobj_tx_begin");
    last = pmemobj_tx_alloc(kBlockBytes, 0);
    *static_cast<uint64_t*>(pmemobj_direct(last)) = i;
    pmemobj_tx_add_range_direct(root->range, sizeof(root->range));
    root->range[0] = i;
    pmemobj_tx_add_range_direct(&root->last, sizeof(root->last));
    root->last = last;
    pmemobj_tx_commit();
    pmemobj_tx_end();
    ns += static_cast<double>(bench::now_ns() - start);
    pmemobj_free(&last);
  }
  sample("transaction", "libpmemobj", ns / static_cast<double>(operations));
}

struct Named {
  const char* name;
  btd::Durability durability;
};
constexpr Named kLevels[] = {{"process", btd::Durability::kProcess},
                             {"lazy", btd::Durability::kLazy},
                             {"strict", btd::Durability::kStrict}};

// What a transaction needs in strict, counted.
struct Needs {
  uint64_t lines;
  uint64_t drains;
};

Needs count_needs(Level& strict) {
  constexpr uint64_t kTransactions = 1000;
  btd::Persist& real = strict.arena().persist();
  Counter counter(real);
  strict.arena().set_persist(counter, counter);
  for (uint64_t i = 0; i < kTransactions; i++) strict.transaction(i);
  strict.arena().set_persist(real, real);
  return {(counter.lines + kTransactions / 2) / kTransactions,
          (counter.drains + kTransactions / 2) / kTransactions};
}

void level_round(const char* name, Level& level, uint64_t operations) {
  pairs_and_batches(
      name, operations, [&] { return level.allocate(); },
      [&](void* block) { level.release(block); });
  double ns = 0;
  for (uint64_t done = 0; done < operations; done++) {
    const uint64_t start = bench::now_ns();
    level.transaction(done);
    ns += static_cast<double>(bench::now_ns() - start);
    level.clean_up();
  }
  sample("transaction", name, ns / static_cast<double>(operations));
}

void floor_round(Floor& floor, Needs needs, uint64_t operations) {
  sample("pair", "floor", time_ns(operations, [&](uint64_t) { floor.same_line_twice(); }));
  sample("batch", "floor", time_ns(operations, [&](uint64_t) { floor.operation(1, 1); }));
  double ns = 0;
  for (uint64_t done = 0; done < operations; done++) {
    const uint64_t start = bench::now_ns();
    floor.operation(needs.lines, needs.drains);
    ns += static_cast<double>(bench::now_ns() - start);
  }
  sample("transaction", "floor", ns / static_cast<double>(operations));
}

double median_of(const char* workload, const char* contender) {
  for (Row& row : rows) {
    if (row.workload != workload || row.contender != contender) continue;
    std::sort(row.samples.begin(), row.samples.end());
    return row.samples[row.samples.size() / 2];
  }
  bench::fail("the first word must be pair, batch or transaction");
}

void print_all(Needs needs) {
  for (const Row& row : rows) {
    std::printf("{\"workload\": \"%s\", \"contender\": \"%s\", \"ns_per_operation\": %.1f",
                row.workload.c_str(), row.contender.c_str(),
                median_of(row.workload.c_str(), row.contender.c_str()));
    if (row.workload == "transaction" && row.contender == "floor")
      std::printf(", \"lines\": %llu, \"drains\": %llu",
                  static_cast<unsigned long long>(needs.lines),
                  static_cast<unsigned long long>(needs.drains));
    std::printf("}\n");
  }
}

void print_one(const char* workload, const char* level, Needs needs) {
  const double found = median_of(workload, level), floor = median_of(workload, "floor");
  bench::Result(workload)
      .number("ns_per_operation", found)
      .number("floor_ns_per_operation", floor)
      .number("per_floor", found / floor)
      .number("lines_of_transaction", static_cast<double>(needs.lines))
      .number("drains_of_transaction", static_cast<double>(needs.drains));
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const uint64_t operations = options.number("--operations", 20'000);
  const uint64_t rounds = options.number("--rounds", 9);
  const char* workload = options.word(nullptr);
  const std::string only = options.text("--level", "");
  const std::string base = std::string(options.text("--directory", "/dev/shm")) +
                           "/bartender-bench-" + std::to_string(getpid());
  auto is_wanted = [&](const char* name) { return only.empty() || only == name; };
  // `strict` is there always: it counts what a transaction needs.
  std::vector<std::unique_ptr<Level>> levels;
  for (const Named& level : kLevels)
    levels.emplace_back(new Level(base + "-" + level.name, level.durability));
  Level& strict = *levels.back();
  const Needs needs = count_needs(strict);
  Floor floor(strict.arena().persist());
  PMEMobjpool* pool = nullptr;
  if (is_wanted("libpmemobj")) {
    const std::string pool_path = base + "-pmemobj";
    pool = pmemobj_create(pool_path.c_str(), "bench", 512 * bench::kMiB, 0600);
    if (pool == nullptr) bench::fail(pmemobj_errormsg());
    unlink(pool_path.c_str());
  }
  for (uint64_t round = 0; round <= rounds; round++) {
    if (round == 1) rows.clear();  // the first one warms up
    for (size_t i = 0; i < levels.size(); i++) {
      if (is_wanted(kLevels[i].name)) level_round(kLevels[i].name, *levels[i], operations);
    }
    floor_round(floor, needs, operations);
    if (pool != nullptr) pmemobj_round(pool, operations);
  }
  if (workload == nullptr) {
    print_all(needs);
  } else {
    if (only.empty()) bench::fail("--level is missing");
    print_one(workload, only.c_str(), needs);
  }
  return 0;
}
