#include "tests/crash/oracle.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <new>
#include <unordered_map>

#include "core/recovery/check.hpp"
#include "core/recovery/open.hpp"
#include "core/tx/roots.hpp"
#include "tests/crash/guard.hpp"
#include "tests/crash/heap_calls.hpp"

namespace btd::test {
namespace {

constexpr unsigned kSecondsMax = 20;
constexpr uint64_t kExercisePeriod = 4;

std::string text(const char* what, uint64_t value) {
  return std::string(what) + std::to_string(value);
}

std::string describe(const Block& block) {
  return "block of " + std::to_string(block.size_bytes) + " bytes at data offset " +
         std::to_string(block.offset) + ", epoch " + std::to_string(block.epoch);
}

// Blocks of small, fine and large kinds must come out of what the log does not know to be used.
std::string exercise(Arena& arena, const Log& log) {
  static constexpr size_t kSizes[] = {16, 48, 64, 320, 4096, 32768, 40000, 131072};
  Heap* heap = arena.acquire_heap();
  if (heap == nullptr) return "the recovered arena gives no heap";
  std::vector<std::pair<uintptr_t, size_t>> taken;
  std::string fault;
  for (size_t size_bytes : kSizes) {
    for (int i = 0; i < 3; i++) {
      void* block = arena.allocate(heap->cache(), size_bytes, 16, nullptr);
      if (block == nullptr) continue;
      auto at = reinterpret_cast<uintptr_t>(block);
      for (uint32_t index = 0; index < log.block_count; index++) {
        const BlockRecord& record = log.blocks[index];
        bool is_sure = record.is_live && !may_be_collected(log, record) &&
                       !is_in_transaction(log, index) &&
                       !(log.is_busy && (log.index == index || log.may_reclaim));
        if (is_sure && at < record.address + record.usable_bytes &&
            record.address < at + size_bytes) {
          fault = text("the recovered arena gives out live block ", index);
        }
      }
      for (auto [other, other_bytes] : taken) {
        if (at < other + other_bytes && other < at + size_bytes)
          fault = "the recovered arena gives out one place twice";
      }
      taken.emplace_back(at, size_bytes);
    }
  }
  for (auto [at, size_bytes] : taken) {
    auto* block = reinterpret_cast<void*>(at);
    if (!free_block(arena, *heap, block)) {
      fault = "a block of the recovered arena cannot be freed";
    }
  }
  arena.release_heap(*heap);
  return fault;
}

}  // namespace

std::string Oracle::check(const FileImage& image) {
  if (!image.write(copy_path_)) return "the copy cannot be written";
  return check_file(copy_path_);
}

std::string Oracle::check_file(const std::string& path) {
  found_.clear();
  unexpected_.clear();
  missing_.clear();
  std::string fault = open_and_compare(path, false);
  if (fault.empty()) fault = compare(path);
  if (fault.empty()) fault = recover_again(path);
  // Last, because new blocks cover traces.
  if (fault.empty() && checks_++ % kExercisePeriod == 0) {
    std::vector<Block> ignored;
    fault = open_and_compare(path, true);
    if (fault.empty()) fault = read_blocks(path, ignored);
  }
  return fault;
}

// Opens, looks, and closes as a kill does.
std::string Oracle::open_and_compare(const std::string& path, bool has_exercise) {
  alignas(Arena) static char storage[sizeof(Arena)];
  auto* arena = ::new (storage) Arena;
  Line why;
  Error error = Error::kNone;
  std::string fault;
  std::string death = Guard::run(kSecondsMax, [&] {
    error = open_arena({.path = path.c_str(),
                        .capacity_bytes = 8 * kMiB,
                        .on_restart = OnRestart::kKeep,
                        .program = "oracle"},
                       *arena, why);
    if (error != Error::kNone) return;
    for (uint32_t index = 0; index < log_.block_count; index++) {
      const BlockRecord& record = log_.blocks[index];
      if (!record.is_live || (log_.is_busy && (log_.index == index || log_.may_reclaim))) continue;
      if (is_in_transaction(log_, index) || may_be_collected(log_, record)) continue;
      auto* block = reinterpret_cast<void*>(record.address);
      bool is_known = arena->contains(block) && arena->look_up(block) == Verdict::kGood &&
                      arena->usable_size(block) == record.usable_bytes;
      if (!is_known) fault = text("the recovered arena does not know block ", index);
    }
    if (fault.empty()) fault = compare_words(*arena);
    if (has_exercise && fault.empty()) fault = exercise(*arena, log_);
    arena->close();
  });
  if (!death.empty()) {
    if (arena->mapping().address() != nullptr)
      munmap(arena->mapping().address(), arena->mapping().length_bytes());
    return "recovery: " + death;
  }
  if (error != Error::kNone) return std::string("recovery refuses: ") + why.c_str();
  return fault;
}

std::string Oracle::read_blocks(const std::string& path, std::vector<Block>& blocks) {
  ArenaView view;
  if (ArenaView::open(path.c_str(), view) != Error::kNone)
    return std::string("the view refuses: ") + fault_text(view.fault());
  if (view.damaged_copy() >= 0)
    return text("after recovery a copy of the header is not good: ",
                static_cast<uint64_t>(view.damaged_copy()));
  std::string fault;
  check_arena(view, [&](const Finding& finding) {
    if (fault.empty())
      fault = std::string("check after recovery: ") + finding.what +
              text(" at offset ", finding.offset);
  });
  blocks.clear();
  view.for_each_block([&](const Block& block) { blocks.push_back(block); });
  header_ = view.header();
  return fault;
}

std::string Oracle::compare(const std::string& path) {
  if (std::string fault = read_blocks(path, found_); !fault.empty()) return fault;
  if (std::string fault = overlaps(); !fault.empty()) return fault;
  std::unordered_map<uint64_t, const Block*> by_address;
  for (const Block& block : found_) by_address[block.address] = &block;
  if (std::string fault = compare_transaction(by_address); !fault.empty()) return fault;
  int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::string fault;
  for (uint32_t index = 0; index < log_.block_count && fault.empty(); index++) {
    const BlockRecord& record = log_.blocks[index];
    if (!record.is_live || is_in_transaction(log_, index)) continue;
    auto at = by_address.find(record.address);
    // A survivor may have been dropped and its very place given to the allocation in progress.
    bool is_replaced = at != by_address.end() && log_.is_busy && log_.may_reclaim &&
                       record.epoch < log_.epoch && at->second->epoch == log_.epoch;
    if (at == by_address.end() || is_replaced) {
      missing_.push_back(index);
      continue;
    }
    fault = compare_block(index, record, *at->second, descriptor, header_);
    by_address.erase(at);
  }
  close(descriptor);
  if (!fault.empty()) return fault;
  for (const auto& [address, block] : by_address) unexpected_.push_back(*block);

  // What is left must be the operation in progress.
  bool is_allocating = log_.is_busy && log_.step == Step::kAllocate;
  if (unexpected_.size() > (is_allocating ? 1 : 0))
    return "live, but freed or never returned: " + describe(unexpected_[0]);
  if (!unexpected_.empty()) {
    const Block& block = unexpected_[0];
    if (block.size_bytes < log_.size_bytes || block.epoch != log_.epoch)
      return "not what the allocation in progress asked for: " + describe(block);
  }
  uint64_t newest_gone = 0;
  for (uint32_t index : missing_) {
    const BlockRecord& record = log_.blocks[index];
    bool is_being_freed = log_.is_busy && log_.step == Step::kFree && log_.index == index;
    if (may_be_collected(log_, record)) continue;
    bool is_reclaimed = log_.is_busy && log_.may_reclaim && record.epoch < log_.epoch;
    if (!is_being_freed && !is_reclaimed)
      return text("lost: block ", index) + text(" of bytes ", record.size_bytes);
    if (is_reclaimed) newest_gone = std::max(newest_gone, record.epoch);
  }
  for (const Block& block : found_) {
    if (block.epoch < newest_gone)
      return "survivors were not reclaimed oldest first: still there " + describe(block);
  }
  return "";
}

std::string Oracle::compare_words(Arena& arena) {
  bool is_transaction = log_.is_busy && log_.step == Step::kTransaction;
  is_before_ = !is_transaction || !log_.is_returned || log_.is_aborted;
  is_after_ = is_transaction && !log_.is_aborted;
  static Roots roots;
  roots.open(arena);
  std::string fault;
  auto compare = [&](const char* what, uint32_t i, uint64_t found, uint64_t before,
                     uint64_t after) {
    is_before_ = is_before_ && found == before;
    is_after_ = is_after_ && found == after;
    if (is_before_ || is_after_ || !fault.empty()) return;
    fault = text(what, i) + text(" is ", found) + text(", not as all others: before ", before) +
            text(", after ", after);
  };
  if (log_.words_offset != 0) {
    auto* words = reinterpret_cast<uint64_t*>(arena.mapping().address(log_.words_offset));
    for (uint32_t i = 0; i < Log::kWords; i++)
      compare("word ", i, words[i], log_.words[i], log_.words_after[i]);
  }
  for (uint32_t i = 0; i < Log::kRoots; i++) {
    void* value = roots.get(("root " + std::to_string(i)).c_str(), nullptr);
    compare("root ", i, reinterpret_cast<uint64_t>(value), log_.roots[i], log_.roots_after[i]);
  }
  return fault;
}

// The blocks that the transaction in progress allocates and frees.
std::string Oracle::compare_transaction(std::unordered_map<uint64_t, const Block*>& by_address) {
  if (!log_.is_busy || log_.step != Step::kTransaction) return "";
  uint32_t taken = 0;
  for (uint32_t i = 0; i < log_.taken_count; i++)
    taken += static_cast<uint32_t>(by_address.erase(log_.blocks[log_.taken[i]].address));
  uint32_t kept = 0;
  for (uint32_t i = 0; i < log_.freed_count; i++)
    kept += static_cast<uint32_t>(by_address.erase(log_.blocks[log_.freed[i]].address));
  is_before_ = is_before_ && taken == 0 && kept == log_.freed_count;
  is_after_ = is_after_ && taken == log_.taken_count && kept == 0;
  if (is_before_ || is_after_) return "";
  return text("a transaction is there in part: of the blocks it allocates ", taken) +
         text(" are live, of those it frees ", kept);
}

std::string Oracle::compare_block(uint32_t index, const BlockRecord& record, const Block& block,
                                  int descriptor, const ArenaHeader& header) const {
  bool is_in_progress = log_.is_busy && log_.index == index;
  std::string name = text("block ", index) + " (" + describe(block) + ")";
  bool may_be_kept = log_.is_busy && log_.step == Step::kCollect && block.epoch == 0;
  if (block.epoch != record.epoch && !is_in_progress && !may_be_kept)
    return name + text(" is not of epoch ", record.epoch);
  uint64_t intact_bytes = record.filled_bytes;
  if (is_in_progress && log_.step == Step::kResize) {
    uint64_t resized = round_up(log_.size_bytes, header.page_bytes);
    if (block.size_bytes != record.usable_bytes && block.size_bytes != resized)
      return name + " has neither its old nor its new size";
    intact_bytes = std::min(intact_bytes, log_.size_bytes);
  } else if (!is_in_progress && block.size_bytes != record.usable_bytes) {
    return name + text(" has not its size of ", record.usable_bytes);
  }
  std::string fault;
  // Neighbours are read together.
  char window[64];
  uint64_t first = 0;
  uint64_t end = 0;
  for_each_pattern_word(record.filled_bytes, [&](uint64_t at) {
    if (at + 8 > intact_bytes || !fault.empty()) return;
    if (at < first || at + 8 > end) {
      ssize_t got = pread(descriptor, window, sizeof(window),
                          static_cast<off_t>(header.data_offset + block.offset + at));
      first = at;
      end = at + static_cast<uint64_t>(std::max<ssize_t>(got, 0));
    }
    uint64_t word = 0;
    if (at + 8 <= end) std::memcpy(&word, window + (at - first), sizeof(word));
    if (word != pattern_word(log_.seed, index, at))
      fault = name + text(" lost its contents at byte ", at);
  });
  return fault;
}

std::string Oracle::overlaps() const {
  for (size_t i = 1; i < found_.size(); i++) {
    if (found_[i - 1].offset + found_[i - 1].size_bytes > found_[i].offset)
      return "two owners: " + describe(found_[i - 1]) + " and " + describe(found_[i]);
  }
  return "";
}

std::string Oracle::recover_again(const std::string& path) {
  std::vector<Block> first = found_;
  FileImage before;
  FileImage after;
  before.read(path);
  if (std::string fault = open_and_compare(path, false); !fault.empty()) return "second " + fault;
  std::vector<Block> second;
  if (std::string fault = read_blocks(path, second); !fault.empty())
    return "second recovery: " + fault;
  bool is_same = first.size() == second.size();
  for (size_t i = 0; is_same && i < first.size(); i++) {
    is_same = first[i].offset == second[i].offset && first[i].size_bytes == second[i].size_bytes &&
              first[i].epoch == second[i].epoch;
  }
  if (!is_same) return "the second recovery finds other blocks than the first";
  after.read(path);
  for (FileImage* image : {&before, &after}) {
    for (uint64_t at = 0; at < 2 * kArenaHeaderBytes; at++) {
      if (uint8_t* byte = image->at(at)) *byte = 0;  // the epoch rises, of course
    }
  }
  uint64_t differs = before.first_difference(after);
  return differs == FileImage::kSame
             ? ""
             : text("the second recovery changes the file at offset ", differs);
}

void Oracle::settle(Log& log) const {
  if (log.is_busy) {
    BlockRecord& record = log.blocks[log.index];
    if (log.step == Step::kAllocate && !unexpected_.empty()) {
      const Block& block = unexpected_[0];
      record = {block.address, log.size_bytes, block.size_bytes, block.epoch, 0, 1};
    }
    if (log.step == Step::kResize) {
      for (const Block& block : found_) {
        if (block.address != record.address || block.size_bytes == record.usable_bytes) continue;
        record.size_bytes = log.size_bytes;
        record.usable_bytes = block.size_bytes;
        if (record.filled_bytes > record.size_bytes)
          record.filled_bytes = 0;  // its last words went with the tail
      }
    }
  }
  if (log_.is_busy && log_.step == Step::kTransaction && is_after_ && !is_before_) {
    for (uint32_t i = 0; i < log.taken_count; i++) {
      BlockRecord& record = log.blocks[log.taken[i]];
      for (const Block& block : found_) {
        if (block.address == record.address) record.usable_bytes = block.size_bytes;
      }
      record.is_live = 1;
      record.filled_bytes = 0;
    }
    for (uint32_t i = 0; i < log.freed_count; i++) log.blocks[log.freed[i]].is_live = 0;
    std::memcpy(log.words, log.words_after, sizeof(log.words));
    std::memcpy(log.roots, log.roots_after, sizeof(log.roots));
  }
  for (uint32_t index : missing_) log.blocks[index].is_live = 0;
  log.is_busy = 0;
  log.may_reclaim = 0;
}

}  // namespace btd::test
