#include "tests/crash/worker.hpp"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/crash/heap_calls.hpp"

namespace btd::test {

void Worker::begin(const char* what, Step step, uint32_t index, uint64_t size_bytes,
                   bool may_reclaim) {
  log_.what = what;
  log_.step = step;
  log_.index = index;
  log_.size_bytes = size_bytes;
  log_.may_reclaim = may_reclaim;
  log_.is_stepped = is_stepped_;
  log_.is_busy.store(1);
  asm volatile("int3" ::: "memory");
}

void Worker::end() { log_.is_busy.store(0); }

void Worker::open() {
  begin("open_arena", Step::kNothing, kNone, 0);
  Line why;
  Error error = open_arena({.path = path_, .capacity_bytes = capacity_bytes_, .program = "worker"},
                           arena_, why);
  end();
  if (error != Error::kNone) {
    std::fprintf(stderr, "the worker cannot open its arena: %s\n", why.c_str());
    _exit(3);
  }
  log_.epoch = arena_.header().epoch;
  roots_.open(arena_);
  transactions_.open(arena_);
}

void Worker::acquire() {
  begin("acquire_heap", Step::kNothing, kNone, 0);
  heap_ = arena_.acquire_heap();
  end();
}

void Worker::release() {
  begin("release_heap", Step::kNothing, kNone, 0);
  arena_.release_heap(*heap_);
  end();
  heap_ = nullptr;
}

uint32_t Worker::free_record() {
  for (uint32_t index = 0; index < log_.block_count; index++) {
    if (!log_.blocks[index].is_live) return index;
  }
  if (log_.block_count == Log::kBlocksMax) _exit(4);
  return log_.block_count++;
}

void Worker::record_block(uint32_t index, void* block, uint64_t size_bytes) {
  BlockRecord& record = log_.blocks[index];
  record.address = reinterpret_cast<uintptr_t>(block);
  record.size_bytes = size_bytes;
  record.usable_bytes = block == nullptr ? 0 : arena_.usable_size(block);
  record.epoch = log_.epoch;
  record.filled_bytes = 0;
  std::atomic_ref(record.is_live).store(block != nullptr);
}

void Worker::fill(uint32_t index) {
  BlockRecord& record = log_.blocks[index];
  fill_pattern(log_.seed, index, reinterpret_cast<void*>(record.address), record.size_bytes);
  std::atomic_ref(record.filled_bytes).store(record.size_bytes);
}

uint32_t Worker::allocate(uint64_t size_bytes, uint64_t alignment, bool may_reclaim) {
  uint32_t index = free_record();
  begin(size_bytes > kSmallBytesMax ? "allocate large" : "allocate small", Step::kAllocate, index,
        size_bytes, may_reclaim);
  void* block = arena_.allocate(heap_->cache(), size_bytes, alignment, nullptr);
  if (may_reclaim) note_reclaimed(block);
  record_block(index, block, size_bytes);
  end();
  if (block == nullptr) return kNone;
  if ((reinterpret_cast<uintptr_t>(block) & (alignment - 1)) != 0) _exit(5);
  fill(index);
  return index;
}

// The allocator does not say which survivors it dropped; its states do, and the harness has watched
// that only survivors went.
void Worker::note_reclaimed(const void* block) {
  for (uint32_t index = 0; index < log_.block_count; index++) {
    BlockRecord& record = log_.blocks[index];
    if (!record.is_live || record.epoch == log_.epoch) continue;
    auto at = reinterpret_cast<uintptr_t>(block);
    bool is_used_again = block != nullptr && at < record.address + record.usable_bytes &&
                         record.address < at + arena_.usable_size(block);
    if (is_used_again || arena_.look_up(reinterpret_cast<void*>(record.address)) != Verdict::kGood)
      record.is_live = 0;
  }
}

void Worker::free(uint32_t index) {
  BlockRecord& record = log_.blocks[index];
  begin(record.size_bytes > kSmallBytesMax ? "free large" : "free small", Step::kFree, index, 0);
  auto* block = reinterpret_cast<void*>(record.address);
  bool is_freed = free_block(arena_, *heap_, block);
  std::atomic_ref(record.is_live).store(0);
  end();
  if (!is_freed) {
    std::fprintf(stderr, "block %u is live, but cannot be freed\n", index);
    _exit(6);
  }
}

bool Worker::resize(uint32_t index, uint64_t size_bytes) {
  BlockRecord& record = log_.blocks[index];
  begin("resize_in_place", Step::kResize, index, size_bytes);
  auto* block = reinterpret_cast<void*>(record.address);
  bool is_done = arena_.resize_in_place(block, size_bytes);
  if (is_done) {
    record.filled_bytes = size_bytes >= record.filled_bytes ? record.filled_bytes : 0;
    record.size_bytes = size_bytes;
    record.usable_bytes = arena_.usable_size(block);
  }
  end();
  if (is_done) fill(index);
  return is_done;
}

void Worker::give_back() {
  begin("give_back", Step::kNothing, kNone, 0);
  arena_.give_back(0);
  end();
}

uint32_t Worker::live_count() const {
  uint32_t count = 0;
  for (uint32_t index = 0; index < log_.block_count; index++)
    count += log_.blocks[index].is_live != 0;
  return count;
}

uint32_t Worker::some_live(uint64_t random) const {
  uint32_t live = live_count();
  if (live == 0) return kNone;
  uint64_t wanted = random % live;
  for (uint32_t index = 0;; index++) {
    if (log_.blocks[index].is_live && wanted-- == 0) return index;
  }
}

uint64_t Worker::random() {
  // The state is the log's: the next life goes on where this one was killed.
  uint64_t x = log_.random_state += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

FrameHeader* Worker::frame_header_of(uint32_t index) {
  uint64_t offset = log_.blocks[index].address - arena_.geometry().coarse_base;
  return reinterpret_cast<FrameHeader*>(
             arena_.mapping().address(arena_.header().frame_header_offset)) +
         (offset >> kFrameShift);
}

}  // namespace btd::test
