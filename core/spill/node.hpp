// One memory node as the pager sees it: extents go out, come back and are released, asynchronously
// and bounded.
//
// A slot is an operation in flight together with its bounce buffer, which RDMA registers once.  The
// caller fills a slot's buffer, posts one operation on the slot, leaves slot and buffer alone until
// poll() reports the slot, and then owns both again.  At most one operation is in flight on a slot;
// every posted operation is reported exactly once, at the latest when its deadline has passed or
// the connection is lost.
//
// An extent on a node is named by a number that the pager gives it; each write of it has a
// generation, greater than all before.  A node has the newest committed generation of an extent,
// whole, or none of it: never a mixture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/units.hpp"

namespace btd {

inline constexpr size_t kFarExtentBytes = 64 * kKiB;  // unit of fetch, evict and replicate
inline constexpr uint32_t kNodeDepth = 16;  // operations in flight at a time, and bounce buffers

enum class NodeStatus : uint8_t {
  kGood = 0,
  kNotFound = 1,  // the node has no generation of this extent
  kStale =
      2,  // read: it has only an older generation.  write: it has this one or a newer one already
  kCorrupt = 3,  // what it has fails its checksum, or an answer broke the protocol
  kNoSpace = 4,  // its store is full, or this arena's quota is
  kFenced = 5,   // a client with a higher epoch has taken the arena over: stop for good
  kRefused = 6,  // authentication failed, or the versions do not meet
  kLost = 7,     // the connection is gone: what was in flight may or may not have happened
  kTimeout = 8,  // no answer within the deadline; the connection is given up, as with kLost
};

struct NodeCompletion {
  uint32_t slot;
  NodeStatus status;
  uint32_t length_bytes;  // read: of the extent; list: of the entries; else 0
  uint64_t generation;    // read: what was read; kStale: what the node has; else 0
};

// What list() puts into the buffer, little-endian.
struct NodeEntry {
  uint64_t extent;
  uint64_t generation;
  uint32_t length_bytes;
  uint32_t crc;  // crc32c of the bytes
};
static_assert(sizeof(NodeEntry) == 24);
static_assert(std::has_unique_object_representations_v<NodeEntry>, "no hidden padding");

// No call allocates or blocks but poll(), connect() and close(), and those only until their
// deadline.
//
// Thread safety: one thread at a time per Node; the pager has a Node object for each handler
// thread.
class Node {
 public:
  // Handshake, authentication, epoch.  REQUIRES: not connected.  After kLost and kTimeout it may be
  // called again, and slots that were in flight have been reported before; after kFenced and
  // kRefused trying again is of no use. ERRORS: kRefused wrong key or version, kFenced a higher
  // epoch owns the arena, kNoSpace the node takes no more arenas or clients, kLost nobody listens
  // there, kTimeout.
  virtual NodeStatus connect(uint32_t deadline_ms) noexcept = 0;
  virtual bool is_connected() const noexcept = 0;

  // The bounce buffer of a slot below kNodeDepth: kFarExtentBytes, page aligned, at the same
  // address for the Node's life.
  virtual char* buffer(uint32_t slot) noexcept = 0;

  // The next four post.  false: the slot is busy or the connection is gone; then nothing will be
  // reported.

  // The newest committed generation into the buffer, checksum verified.  kStale if that is below
  // generation_min: then the buffer holds nothing of use.
  virtual bool read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept = 0;

  // The buffer's first length_bytes (1 to kFarExtentBytes) as `generation` of `extent`.  Completes
  // when durable on the node; until then the former generation stays.
  virtual bool write(uint32_t slot, uint64_t extent, uint64_t generation,
                     uint32_t length_bytes) noexcept = 0;

  // Gives the extent's space back.  kNotFound when there is none: as good as kGood.
  virtual bool release(uint32_t slot, uint64_t extent) noexcept = 0;

  // Fills the buffer with NodeEntry of the extents from first_extent on, ascending.  No entries:
  // the end.
  virtual bool list(uint32_t slot, uint64_t first_extent) noexcept = 0;

  // true: what is posted from now on waits, so that gather(false), or poll(), sends it together.
  virtual void gather(bool) noexcept {}

  // Reports up to count_max completions, at once if there are any, else waits up to wait_us for the
  // first.  Reports kTimeout and kLost for slots in flight too.  Returns how many.
  virtual uint32_t poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept = 0;

  // Drops the connection.  Slots in flight are reported as kLost by the next poll().
  virtual void close() noexcept = 0;

 protected:
  ~Node() = default;  // Nodes live in static memory; nobody deletes one through this interface
};

}  // namespace btd
