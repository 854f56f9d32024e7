// A memory node whose store lies in memory that processes share.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "core/base/crc32c.hpp"
#include "core/spill/far_window.hpp"

namespace btd::test {

// What a process writes stays when it is killed, and a forked child sees what its parent writes.
//
// Thread safety: one writer of an extent at a time; a reader may look meanwhile.
class SharedStore {
 public:
  struct Slot {
    std::atomic<uint64_t> generation;
    uint32_t crc;
    char data[kFarExtentBytes];
  };
  explicit SharedStore(uint64_t extent_count)
      : extent_count_(extent_count),
        slots_(static_cast<Slot*>(
            mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~SharedStore() { munmap(slots_, bytes()); }
  SharedStore(const SharedStore&) = delete;
  SharedStore& operator=(const SharedStore&) = delete;
  uint64_t extent_count() const { return extent_count_; }
  Slot& slot(uint64_t extent, uint64_t side) { return slots_[2 * extent + side]; }
  // The newer of the two that is whole.
  Slot* newest(uint64_t extent) {
    Slot* best = nullptr;
    for (uint64_t side : {0, 1}) {
      Slot& one = slot(extent, side);
      if (one.generation != 0 && crc32c(one.data, sizeof(one.data)) == one.crc &&
          (best == nullptr || one.generation > best->generation))
        best = &one;
    }
    return best;
  }

 private:
  size_t bytes() const { return 2 * extent_count_ * sizeof(Slot); }
  const uint64_t extent_count_;
  Slot* slots_;
};

// A node that commits as a memory node does: into the slot that is not the newest, generation last.
class SharedNode final : public Node {
 public:
  explicit SharedNode(SharedStore& store) : store_(store), buffers_(kNodeDepth * kFarExtentBytes) {}
  NodeStatus connect(uint32_t) noexcept override {
    is_connected_ = true;
    return NodeStatus::kGood;
  }
  bool is_connected() const noexcept override { return is_connected_; }
  char* buffer(uint32_t slot) noexcept override { return buffers_.data() + slot * kFarExtentBytes; }
  bool read(uint32_t slot, uint64_t extent, uint64_t minimum) noexcept override {
    auto* newest = store_.newest(extent);
    if (newest == nullptr) return done({slot, NodeStatus::kNotFound, 0, 0});
    uint64_t generation = newest->generation;
    if (generation < minimum) return done({slot, NodeStatus::kStale, 0, generation});
    std::memcpy(buffer(slot), newest->data, kFarExtentBytes);
    return done({slot, NodeStatus::kGood, kFarExtentBytes, generation});
  }
  bool write(uint32_t slot, uint64_t extent, uint64_t generation, uint32_t) noexcept override {
    auto* newest = store_.newest(extent);
    if (newest != nullptr && newest->generation >= generation)
      return done({slot, NodeStatus::kStale, 0, newest->generation});
    auto& to = store_.slot(extent, newest == &store_.slot(extent, 0));
    to.generation = 0;
    std::memcpy(to.data, buffer(slot), kFarExtentBytes);
    to.crc = crc32c(to.data, sizeof(to.data));
    to.generation = generation;
    return done({slot, NodeStatus::kGood, 0, 0});
  }
  bool release(uint32_t slot, uint64_t extent) noexcept override {
    for (uint64_t side : {0, 1}) store_.slot(extent, side).generation = 0;
    return done({slot, NodeStatus::kGood, 0, 0});
  }
  bool list(uint32_t slot, uint64_t first) noexcept override {
    uint32_t length = 0;
    for (uint64_t extent = first; extent < store_.extent_count(); extent++) {
      auto* newest = store_.newest(extent);
      if (newest == nullptr) continue;
      NodeEntry entry{extent, newest->generation, kFarExtentBytes, newest->crc};
      std::memcpy(buffer(slot) + length, &entry, sizeof(entry));
      length += sizeof(entry);
    }
    return done({slot, NodeStatus::kGood, length, 0});
  }
  uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t) noexcept override {
    uint32_t count = 0;
    while (count < count_max && count_ > 0) out[count++] = done_[--count_];
    return count;
  }
  void close() noexcept override { is_connected_ = false; }

 private:
  bool done(NodeCompletion completion) {
    done_[count_++] = completion;
    return true;
  }
  SharedStore& store_;
  bool is_connected_ = false;
  std::vector<char> buffers_;
  NodeCompletion done_[kNodeDepth];
  uint32_t count_ = 0;
};

// A window over one such node, with 16 extents near.
inline FarRequest one_node_request(const std::string& path, uint64_t extents,
                                   Node* const* handler_nodes, Node* const* evictor_nodes) {
  FarRequest request;
  request.path = path.c_str();
  request.window_bytes = extents * kFarExtentBytes;
  request.near_bytes = 16 * kFarExtentBytes;
  request.node_count = 1;
  request.handler_nodes[0] = handler_nodes;
  request.evictor_nodes = evictor_nodes;
  return request;
}

}  // namespace btd::test
