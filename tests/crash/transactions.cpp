// Transactions, roots and reservations, as the process makes them that is stepped through.
#include <unistd.h>

#include <algorithm>

#include "core/gc/collector.hpp"
#include "tests/crash/worker.hpp"

namespace btd::test {
namespace {

constexpr uint64_t kRangeBytes = 64 * kKiB;  // of the block whose bytes long logs keep

std::string root_name(uint32_t root) { return "root " + std::to_string(root); }

}  // namespace

void Worker::begin_transaction() {
  std::memcpy(log_.words_after, log_.words, sizeof(log_.words));
  std::memcpy(log_.roots_after, log_.roots, sizeof(log_.roots));
  log_.taken_count = log_.freed_count = 0;
  log_.is_aborted = log_.is_returned = 0;
}

// From the first store here on the transaction must be found; the log follows.
void Worker::end_transaction() {
  std::atomic_ref(log_.is_returned).store(1);
  if (!log_.is_aborted) {
    for (uint32_t i = 0; i < log_.taken_count; i++) {
      BlockRecord& record = log_.blocks[log_.taken[i]];
      record.usable_bytes = arena_.usable_size(reinterpret_cast<void*>(record.address));
      record.is_live = 1;
    }
    for (uint32_t i = 0; i < log_.freed_count; i++) log_.blocks[log_.freed[i]].is_live = 0;
    std::memcpy(log_.words, log_.words_after, sizeof(log_.words));
    std::memcpy(log_.roots, log_.roots_after, sizeof(log_.roots));
  }
  end();
}

void Worker::make_words() {
  uint32_t index = allocate(kRangeBytes);
  BlockRecord& record = log_.blocks[index];
  record.filled_bytes = 0;
  std::memset(reinterpret_cast<void*>(record.address), 0, record.size_bytes);
  log_.words_address = record.address;
  log_.words_offset = arena_.offset_of(reinterpret_cast<void*>(record.address));
}

void Worker::publish_words() {
  begin_transaction();
  log_.roots_after[0] = log_.words_address;
  begin("a root for the words", Step::kTransaction, kNone, 0);
  if (roots_.set(root_name(0).c_str(), word(0), nullptr) != Error::kNone) _exit(7);
  end_transaction();
}

void Worker::collect() {
  begin("collect", Step::kCollect, kNone, 0);
  GcResult result;
  if (btd::collect(arena_, {.threads = 1}, result) != Error::kNone) _exit(7);
  for (uint32_t index = 0; index < log_.block_count; index++) {
    BlockRecord& record = log_.blocks[index];
    if (!record.is_live || record.epoch == log_.epoch) continue;
    if (is_reachable(log_, log_.words_address, record)) {
      record.epoch = 0;  // kept
    } else {
      record.is_live = 0;
    }
  }
  end();
}

void Worker::set_root(uint32_t root, bool is_set) {
  begin_transaction();
  uint64_t value =
      is_set ? reinterpret_cast<uint64_t>(word(static_cast<uint32_t>(random() % 64))) : 0;
  log_.roots_after[root] = value;
  begin(is_set ? "set a root" : "remove a root", Step::kTransaction, kNone, 0);
  if (roots_.set(root_name(root).c_str(), reinterpret_cast<void*>(value), nullptr) != Error::kNone)
    _exit(7);
  end_transaction();
}

void Worker::transact(const Plan& plan) {
  begin_transaction();
  log_.is_aborted = plan.aborts;
  auto must = [](Error error) {
    if (error != Error::kNone) _exit(7);
  };
  for (uint32_t index : plan.added) log_.words_after[index] = random() | 1;
  // Frees only what is not the words' own block.
  for (uint32_t index = 0; index < log_.block_count && log_.freed_count < plan.freed; index++) {
    const BlockRecord& record = log_.blocks[index];
    auto* block = reinterpret_cast<void*>(record.address);
    if (record.is_live && arena_.offset_of(block) != log_.words_offset)
      log_.freed[log_.freed_count++] = index;
  }
  std::vector<Reservation> reserved;
  std::vector<uint32_t> records;
  for (uint64_t size_bytes : plan.sizes) {
    if (plan.reserves) {
      begin("reserve", Step::kNothing, kNone, 0);
      reserved.push_back(arena_.reserve(heap_->cache(), size_bytes, 16, nullptr));
      end();
    }
    uint32_t index = 0;  // a record that is not in use
    while (index < log_.block_count &&
           (log_.blocks[index].is_live ||
            std::find(records.begin(), records.end(), index) != records.end()))
      index++;
    if (index == Log::kBlocksMax) _exit(4);
    log_.block_count = std::max(log_.block_count, index + 1);
    records.push_back(index);
  }

  begin(plan.what, Step::kTransaction, kNone, 0);
  Transaction* transaction = transactions_.begin();
  if (transaction == nullptr) _exit(7);
  for (uint32_t index : plan.added) {
    must(transaction->add(word(index), sizeof(uint64_t)));
    *word(index) = log_.words_after[index];
  }
  if (plan.log_bytes > 0) must(transaction->add(word(Log::kWords), plan.log_bytes));
  for (size_t i = 0; i < plan.sizes.size(); i++) {
    Error error = Error::kNone;
    void* block = plan.reserves
                      ? reserved[i].block
                      : transaction->allocate(heap_->cache(), plan.sizes[i], 16, nullptr, &error);
    if (plan.reserves) error = transaction->adopt(reserved[i], plan.sizes[i]);
    must(error);
    if (block == nullptr) _exit(7);
    log_.blocks[records[i]] = {
        reinterpret_cast<uint64_t>(block), plan.sizes[i], 0, log_.epoch, 0, 0};
    log_.taken[log_.taken_count] = records[i];
    std::atomic_ref(log_.taken_count).store(log_.taken_count + 1);
  }
  uint32_t pointer = 0;
  for (uint32_t index : plan.written) {
    log_.words_after[index] =
        pointer < log_.taken_count ? log_.blocks[log_.taken[pointer++]].address : random() | 1;
    must(transaction->write(word(index), &log_.words_after[index], sizeof(uint64_t)));
  }
  if (plan.root >= 0) {
    auto root = static_cast<uint32_t>(plan.root);
    log_.roots_after[root] = log_.taken_count > 0 ? log_.blocks[log_.taken[0]].address
                                                  : reinterpret_cast<uint64_t>(word(1));
    must(roots_.set(root_name(root).c_str(), reinterpret_cast<void*>(log_.roots_after[root]),
                    transaction));
  }
  for (uint32_t i = 0; i < log_.freed_count; i++)
    must(transaction->free(reinterpret_cast<void*>(log_.blocks[log_.freed[i]].address)));
  if (plan.aborts) {
    transaction->abort(heap_->cache());
  } else {
    must(transaction->commit(heap_->cache()));
  }
  end_transaction();
}

}  // namespace btd::test
