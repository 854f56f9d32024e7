// What a dead or living program's arena has in its far zone: frames that are in the window's file,
// and extents on memory nodes.  Nothing of it is changed: the file is only read, and nodes know us
// as a reader, who owns nothing and fences nobody.
//
// What is said of an extent is what the next open would make of it (core/spill/reattach.hpp): of
// the same boot the window's file is right, else the highest generation that nodes have.  Where
// that cannot be had, the fault says why; zeros are only given for what is zero.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "core/recovery/view.hpp"
#include "core/spill/reattach.hpp"
#include "rdma/client.hpp"

namespace btd::tools {

// As `bartender run` has them; by default from the environment.
struct NodeOptions {
  std::string nodes;
  std::string key_file;
  std::string seal_key_file;
};
void add_node_options(CLI::App& command, NodeOptions& options);

enum class FarFault : uint8_t {
  kNone,
  kNoNodes,   // it is on nodes, and none were named
  kAway,      // a node that may have it does not answer
  kLost,      // no node has it
  kCorrupt,   // those that have it give it with a bad checksum or seal
  kFileGone,  // the window's file is missing, without which nobody knows what is right
  kChanging,  // of a live arena: it did not hold still
};
const char* fault_name(FarFault fault);  // "no-nodes", for JSON
const char* fault_text(FarFault fault);  // "no memory nodes are named"
const char* fault_hint(FarFault fault);  // what to type next

// An extent of the far zone: kFarExtentBytes.
struct FarExtent {
  enum class Where : uint8_t { kZero, kNear, kFar, kBoth, kNowhere };
  Where where;
  FarFault fault;       // kNone: it can be read, for all that is known without reading it
  uint64_t generation;  // of kFar and kBoth
  uint32_t holders;     // the same: nodes that should have it, a bit each
  uint32_t frames;      // pages in the window's file
};

class FarZone final : public FarReader {
 public:
  // Connects to the nodes if there is something to ask for.  Throws Failure when the options are
  // wrong.  Both arguments must outlive it; the view reads through it until then.
  FarZone(const std::string& arena_path, ArenaView& view, const NodeOptions& options);
  FarZone(const FarZone&) = delete;
  FarZone& operator=(const FarZone&) = delete;
  ~FarZone();

  // Whether the far zone was ever in use.
  bool is_used() const { return extent_count_ > 0; }
  uint64_t extent_count() const { return extent_count_; }  // in use at some time
  FarExtent look(uint64_t extent) const;
  // Of a range of the data: the first fault, and whether any of it is on nodes.
  struct Range {
    bool is_far;
    FarFault fault;
  };
  Range look_at(uint64_t data_offset, uint64_t size_bytes) const;

  bool read(uint64_t offset, void* buffer, size_t size_bytes) noexcept override;
  FarFault fault() const { return fault_; }  // of the last read() that failed

  const std::string& file_path() const { return file_path_; }
  bool has_file() const { return has_file_; }  // whole, and of this boot
  // Nodes are all there is: what they have may be older than what the program saw last.
  bool may_be_older() const { return is_used() && !has_file_ && answered_ != 0; }
  uint64_t file_bytes() const;  // that it takes

  // In the order of the options.
  uint32_t node_count() const { return clients_.count(); }
  bool is_reachable(uint32_t node) const { return (reachable_ >> node & 1) != 0; }
  // What they have may have changed.  Throws Failure.
  void ask_nodes();
  std::string node_name(uint32_t node) const;
  FarNode& node(uint32_t node) const { return clients_.node(0, node); }

 private:
  void open_file();
  void connect(const NodeOptions& options);
  bool list(uint32_t node);
  bool load(uint64_t extent) noexcept;
  FarFault fetch(uint64_t extent, const FarExtent& known, char* out) const;
  ExtentWord word_of(uint64_t extent) const;
  uint32_t frames_of(uint64_t extent) const;
  FarExtent look(uint64_t extent, ExtentWord word) const;

  ArenaView& view_;
  const bool is_live_;
  uint64_t extent_count_ = 0;
  std::string file_path_;
  int file_ = -1;
  bool has_file_ = false;
  uint64_t window_offset_ = 0;
  NodeClients clients_;
  uint32_t reachable_ = 0;          // nodes, a bit each
  uint32_t answered_ = 0;           // have told all they have
  std::vector<NodeCopies> copies_;  // what they told, by extent; empty: nobody was asked
  std::vector<char> bytes_;         // of one extent
  uint64_t loaded_ = ~uint64_t{0};  // which; ~0: none
  FarFault fault_ = FarFault::kNone;
};

// Where the window's file of an arena lies.
std::string far_file_of(const std::string& arena_path, const ArenaView& view);

// How many nodes are to have each extent: BARTENDER_REPLICAS, or its default.
uint32_t replicas_wanted();

}  // namespace btd::tools
