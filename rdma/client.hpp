// All that an arena needs to talk to its memory nodes: from the text of its settings to
// connections, one of each node for each thread.
//
// open() runs inside the first malloc of a program, so it neither allocates nor connects: memory is
// mapped, and a connection's pages are touched when it is used.  A set is one thread's: all its
// connections are that thread's alone, and are made by its connect() calls.
#pragma once

#include "core/base/log.hpp"
#include "core/base/result.hpp"
#include "rdma/far_node.hpp"

namespace btd {

inline constexpr uint32_t kNodesMax = 8;  // a bit each in an extent's word
inline constexpr uint32_t kNodeSetsMax = 16;

struct NodeClientsRequest {
  const char* nodes = nullptr;          // "192.0.2.7:7070,[2001:db8::7]:7070", up to kNodesMax
  const char* key_file = nullptr;       // that of the nodes
  const char* seal_key_file = nullptr;  // nullptr or "": extents are not sealed
  const uint8_t* arena = nullptr;       // its uuid, kUuidBytes
  uint64_t epoch = 0;                   // of the arena, > 0; 0: only to read what nodes have of it
  uint32_t set_count = 1;               // 1 to kNodeSetsMax
  uint32_t operation_ms = kOperationMsDefault;
};

// Thread safety: open() and close() by one thread; each set by one thread in between.
class NodeClients {
 public:
  NodeClients() = default;
  NodeClients(const NodeClients&) = delete;
  NodeClients& operator=(const NodeClients&) = delete;

  // Reads the settings and the key, and makes set_count connections to each node, all closed.
  // ERRORS: kInvalid a setting, kNotFound or kPermission a key file, kNoMemory, kIo no randomness,
  // kUnsupported a processor that cannot seal; `why` says which and what to type.
  [[nodiscard]] Error open(const NodeClientsRequest& request, Line& why) noexcept;
  // Closes all connections and wipes the keys.  REQUIRES: nobody uses a set any more, and this is
  // the process that used them: in a forked child the descriptors' numbers may be somebody else's.
  void close() noexcept;

  // The arena ends well: each connected node of the set shall release all that it has of it when
  // the last connection of all sets has gone, and until then everything can be read.  Waits up to
  // deadline_ms.  Returns the nodes that have acknowledged, a bit each; the others keep their
  // extents until `bartender node --forget`.  REQUIRES: nothing is in flight on the set.
  uint32_t forget(uint32_t set, uint32_t deadline_ms) noexcept;

  uint32_t count() const { return count_; }  // nodes; 0: not open
  uint32_t set_count() const { return set_count_; }
  // count() nodes, in the order of the setting.
  Node* const* set(uint32_t index) const;
  FarNode& node(uint32_t set, uint32_t index) const;
  // "192.0.2.7:7070", as in the setting.
  void name(uint32_t index, Line& line) const;

 private:
  struct Shared;

  Shared* shared_ = nullptr;  // at the beginning of the mapping, followed by the FarNodes
  size_t mapped_bytes_ = 0;
  uint32_t count_ = 0;
  uint32_t set_count_ = 0;
};

}  // namespace btd
