// A memory node in this process: what it has, and what goes wrong with it.
//
// The store outlives connections, as a node's media do; each connection is a Node of its own, as
// each of the pager's threads has one.
#pragma once

#include <time.h>

#include <atomic>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "core/base/crc32c.hpp"
#include "core/spill/node.hpp"

namespace btd::test {

inline uint64_t clock_us() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000 + static_cast<uint64_t>(now.tv_nsec) / 1000;
}

class FakeStore {
 public:
  struct Entry {
    uint64_t generation = 0;
    uint32_t crc = 0;
    std::vector<char> data;
  };

  // Constant while connections are used.
  std::atomic<uint32_t> delay_us{0};  // of each operation
  bool checks = true;                 // checksums; the benchmark has none
  size_t capacity = SIZE_MAX;         // extents

  // What goes wrong.  May be set at any time.
  std::atomic<bool> is_dead{false};    // connections are lost, and none can be made
  std::atomic<bool> is_fenced{false};  // answers kFenced to everything
  // So many are never answered: kTimeout.
  std::atomic<uint32_t> drop_reads{0};
  std::atomic<uint32_t> drop_writes{0};
  std::atomic<bool> fails_writes{false};           // takes nothing, says kNoSpace
  std::atomic<bool> lies_about_generation{false};  // gives what it has under a higher number

  // What happened.
  std::atomic<uint64_t> reads{0}, writes{0}, releases{0};
  std::atomic<uint64_t> lost_connections{0};  // that were told so by poll()

  bool has(uint64_t extent, uint64_t* generation = nullptr) {
    std::lock_guard guard(mutex_);
    auto found = entries_.find(extent);
    if (found == entries_.end()) return false;
    if (generation != nullptr) *generation = found->second.generation;
    return true;
  }
  size_t size() {
    std::lock_guard guard(mutex_);
    return entries_.size();
  }
  // As bad media do: the checksum stays what it was.
  void flip(uint64_t extent, size_t offset) {
    std::lock_guard guard(mutex_);
    entries_[extent].data[offset] ^= 0x10;
  }
  void put(uint64_t extent, uint64_t generation, const char* data) {
    std::lock_guard guard(mutex_);
    Entry& entry = entries_[extent];
    entry.generation = generation;
    entry.data.assign(data, data + kFarExtentBytes);
    entry.crc = checks ? crc32c(data, kFarExtentBytes) : 0;
  }
  Entry get(uint64_t extent) {
    std::lock_guard guard(mutex_);
    return entries_[extent];
  }
  void clear() {
    std::lock_guard guard(mutex_);
    entries_.clear();
  }

 private:
  friend class FakeNode;
  std::mutex mutex_;
  std::map<uint64_t, Entry> entries_;
};

class FakeNode final : public Node {
 public:
  explicit FakeNode(FakeStore& store)
      : store_(store),
        buffers_(static_cast<char*>(aligned_alloc(4096, kNodeDepth * kFarExtentBytes))) {
    std::memset(buffers_.get(), 0, kNodeDepth * kFarExtentBytes);
  }

  NodeStatus connect(uint32_t) noexcept override {
    if (store_.is_dead) return NodeStatus::kLost;
    if (store_.is_fenced) return NodeStatus::kFenced;
    is_connected_ = true;
    return NodeStatus::kGood;
  }
  bool is_connected() const noexcept override { return is_connected_ && !store_.is_dead; }
  char* buffer(uint32_t slot) noexcept override { return buffers_.get() + slot * kFarExtentBytes; }

  bool read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept override {
    store_.reads++;
    return post(slot, {slot, extent, generation_min, 0, Kind::kRead});
  }
  bool write(uint32_t slot, uint64_t extent, uint64_t generation,
             uint32_t length_bytes) noexcept override {
    store_.writes++;
    return post(slot, {slot, extent, generation, length_bytes, Kind::kWrite});
  }
  bool release(uint32_t slot, uint64_t extent) noexcept override {
    store_.releases++;
    return post(slot, {slot, extent, 0, 0, Kind::kRelease});
  }
  bool list(uint32_t slot, uint64_t first_extent) noexcept override {
    return post(slot, {slot, first_extent, 0, 0, Kind::kList});
  }

  uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept override {
    uint32_t count = 0;
    uint64_t until = clock_us() + wait_us;
    while (true) {
      uint64_t now = clock_us();
      uint64_t next_us = UINT64_MAX;
      bool is_lost = store_.is_dead || (is_connected_ && is_timed_out(now));
      if (is_lost && is_connected_) {
        is_connected_ = false;
        store_.lost_connections++;
      }
      for (Operation& operation : operations_) {
        if (!operation.is_posted || count == count_max) continue;
        if (!is_connected_) {
          operation.is_posted = false;
          out[count++] = {operation.slot,
                          operation.is_dropped ? NodeStatus::kTimeout : NodeStatus::kLost, 0, 0};
        } else if (!operation.is_dropped && operation.due_us <= now) {
          operation.is_posted = false;
          out[count++] = perform(operation);
        } else {
          next_us = std::min(next_us, operation.due_us);
        }
      }
      if (count > 0 || now >= until) return count;
      // Short waits spin, as a completion queue is polled.
      if (next_us > now + 100) {
        timespec nap{0, 50'000};
        nanosleep(&nap, nullptr);
      }
    }
  }
  void close() noexcept override { is_connected_ = false; }

 private:
  static constexpr uint64_t kDeadlineUs = 20'000;
  enum class Kind { kRead, kWrite, kRelease, kList };
  struct Operation {
    uint32_t slot;
    uint64_t extent;
    uint64_t generation;
    uint32_t length_bytes;
    Kind kind;
    bool is_posted = false;
    bool is_dropped = false;
    uint64_t due_us = 0;
    uint64_t posted_us = 0;
  };

  bool post(uint32_t slot, Operation operation) noexcept {
    if (slot >= kNodeDepth || operations_[slot].is_posted || !is_connected()) return false;
    operation.is_posted = true;
    operation.posted_us = clock_us();
    operation.due_us = operation.posted_us + store_.delay_us;
    if (operation.kind == Kind::kRead) operation.is_dropped = take(store_.drop_reads);
    if (operation.kind == Kind::kWrite) operation.is_dropped = take(store_.drop_writes);
    operations_[slot] = operation;
    return true;
  }

  static bool take(std::atomic<uint32_t>& drops) {
    uint32_t left = drops;
    return left > 0 && drops.compare_exchange_strong(left, left - 1);
  }

  bool is_timed_out(uint64_t now) const {
    for (const Operation& operation : operations_)
      if (operation.is_posted && operation.is_dropped && operation.posted_us + kDeadlineUs <= now)
        return true;
    return false;
  }

  NodeCompletion perform(const Operation& operation) {
    NodeCompletion done{operation.slot, NodeStatus::kGood, 0, 0};
    if (store_.is_fenced) return {operation.slot, NodeStatus::kFenced, 0, 0};
    std::lock_guard guard(store_.mutex_);
    auto found = store_.entries_.find(operation.extent);
    const bool is_there = found != store_.entries_.end();
    switch (operation.kind) {
      case Kind::kRead:
        if (!is_there) return {operation.slot, NodeStatus::kNotFound, 0, 0};
        done.generation = found->second.generation;
        if (store_.lies_about_generation) done.generation++;
        if (done.generation < operation.generation) {
          done.status = NodeStatus::kStale;
        } else {
          done.length_bytes = static_cast<uint32_t>(found->second.data.size());
          std::memcpy(buffer(operation.slot), found->second.data.data(), done.length_bytes);
          if (store_.checks &&
              crc32c(buffer(operation.slot), done.length_bytes) != found->second.crc)
            done.status = NodeStatus::kCorrupt;
        }
        break;
      case Kind::kWrite: {
        if (store_.fails_writes || (!is_there && store_.entries_.size() >= store_.capacity))
          return {operation.slot, NodeStatus::kNoSpace, 0, 0};
        if (is_there && found->second.generation >= operation.generation)
          return {operation.slot, NodeStatus::kStale, 0, found->second.generation};
        FakeStore::Entry& entry = store_.entries_[operation.extent];
        const char* data = buffer(operation.slot);
        entry.generation = operation.generation;
        entry.data.assign(data, data + operation.length_bytes);
        entry.crc = store_.checks ? crc32c(data, operation.length_bytes) : 0;
        break;
      }
      case Kind::kRelease:
        if (!is_there) done.status = NodeStatus::kNotFound;
        if (is_there) store_.entries_.erase(found);
        break;
      case Kind::kList: {
        auto* out = buffer(operation.slot);
        for (auto at = store_.entries_.lower_bound(operation.extent);
             at != store_.entries_.end() && done.length_bytes + sizeof(NodeEntry) <= 24 * 100;
             at++) {
          NodeEntry entry{at->first, at->second.generation,
                          static_cast<uint32_t>(at->second.data.size()), at->second.crc};
          std::memcpy(out + done.length_bytes, &entry, sizeof(entry));
          done.length_bytes += sizeof(entry);
        }
        break;
      }
    }
    return done;
  }

  struct Free {
    void operator()(char* pointer) const { free(pointer); }
  };
  FakeStore& store_;
  bool is_connected_ = false;
  Operation operations_[kNodeDepth] = {};
  std::unique_ptr<char, Free> buffers_;
};

}  // namespace btd::test
