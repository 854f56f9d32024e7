#include "tools/far_zone.hpp"

#include <fcntl.h>
#include <fmt/core.h>
#include <linux/magic.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/config.hpp"
#include "core/base/crc32c.hpp"
#include "tools/arena_file.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr uint32_t kConnectMs = 3000;
constexpr uint32_t kPollUs = 500000;
constexpr int kLiveTries = 100;
constexpr uint64_t kPageBytes = 4096;

// One operation on one node, waited for: each is reported by its deadline.
bool wait_for(Node& node, NodeCompletion& completion) {
  while (node.poll(&completion, 1, kPollUs) == 0) {
  }
  return completion.status == NodeStatus::kGood;
}

bool read_all(int file, void* buffer, size_t size_bytes, uint64_t offset) {
  return pread(file, buffer, size_bytes, static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(size_bytes);
}

}  // namespace

void add_node_options(CLI::App& command, NodeOptions& options) {
  command
      .add_option("--nodes", options.nodes,
                  "the memory nodes of its far memory, as in BARTENDER_NODES")
      ->envname("BARTENDER_NODES");
  command.add_option("--key-file", options.key_file, "the nodes' key")
      ->envname("BARTENDER_KEY_FILE");
  command
      .add_option("--seal-key-file", options.seal_key_file, "the key that its data is sealed with")
      ->envname("BARTENDER_SEAL_KEY_FILE");
}

const char* fault_name(FarFault fault) {
  static constexpr const char* kNames[] = {"none",    "no-nodes",  "node-away", "lost",
                                           "corrupt", "file-gone", "changing"};
  return kNames[static_cast<size_t>(fault)];
}

const char* fault_text(FarFault fault) {
  switch (fault) {
    case FarFault::kNone:
      return "nothing is wrong with it";
    case FarFault::kNoNodes:
      return "it is on memory nodes, and none are named";
    case FarFault::kAway:
      return "a memory node that may have it does not answer";
    case FarFault::kLost:
      return "no memory node has it";
    case FarFault::kCorrupt:
      return "memory nodes give it with a wrong checksum or seal";
    case FarFault::kFileGone:
      return "the file of its far memory is missing";
    case FarFault::kChanging:
      return "it goes on changing";
  }
  return "it cannot be read";
}

const char* fault_hint(FarFault fault) {
  switch (fault) {
    case FarFault::kNoNodes:
      return "give --nodes and --key-file";
    case FarFault::kAway:
      return "start bartenderd there, and see that --nodes names all nodes";
    case FarFault::kCorrupt:
      return "see --seal-key-file, and the nodes' media";
    case FarFault::kFileGone:
      return "put it back; `bartender info` shows its path";
    case FarFault::kChanging:
      return "try again";
    default:
      return "`bartender check` lists what is lost";
  }
}

uint32_t replicas_wanted() {
  char message[1024];
  Config config;
  default_config(config);
  (void)parse_config(environ, config, message, sizeof(message));  // other mistakes are not ours
  return static_cast<uint32_t>(config.replicas);
}

// As far_file_path() has it, but for the owner of the arena, who need not be we.
std::string far_file_of(const std::string& arena_path, const ArenaView& view) {
  struct statfs file_system {};
  struct stat status {};
  bool is_known =
      fstatfs(view.descriptor(), &file_system) == 0 && fstat(view.descriptor(), &status) == 0;
  std::string path;
  if (is_known && file_system.f_type == TMPFS_MAGIC) {
    path = arena_path.substr(0, arena_path.rfind('/') + 1);
  } else {
    path = fmt::format("/dev/shm/bartender-{}/", status.st_uid);
  }
  for (uint8_t byte : view.header().uuid) path += fmt::format("{:02x}", byte);
  return path + ".far";
}

FarZone::FarZone(const std::string& arena_path, ArenaView& view, const NodeOptions& options)
    : view_(view), is_live_(view.is_live()), bytes_(kFarExtentBytes) {
  constexpr uint64_t kFrames = kFarExtentBytes / kFrameBytes;
  if (view.far_end() > 0) extent_count_ = view.header().far_frames_grown / kFrames;
  if (!is_used()) return;
  file_path_ = far_file_of(arena_path, view);
  open_file();
  if (!options.nodes.empty()) connect(options);
  view.set_far(this);
}

FarZone::~FarZone() {
  if (is_used()) view_.set_far(nullptr);
  if (file_ >= 0) close(file_);
  clients_.close();
}

void FarZone::open_file() {
  file_ = open(file_path_.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  FarFileHeader header;
  char boot_id[kBootIdBytes];
  struct stat status {};
  if (file_ < 0 || fstat(file_, &status) != 0 || !S_ISREG(status.st_mode) ||
      !read_all(file_, &header, sizeof(header), 0) || !read_boot_id(boot_id)) {
    return;
  }
  // FarFile says the same; but this must work without its lock, and beside its owner.
  window_offset_ = round_up(
      kPageBytes + round_up(header.extent_count * sizeof(uint64_t), kPageBytes), kFarExtentBytes);
  has_file_ = header.magic == kFarFileMagic && header.format_version <= kFarFileVersion &&
              header.checksum == crc32c(&header, offsetof(FarFileHeader, checksum)) &&
              std::memcmp(header.boot_id, boot_id, sizeof(boot_id)) == 0 &&
              std::memcmp(header.arena_uuid, view_.header().uuid, sizeof(header.arena_uuid)) == 0 &&
              header.extent_count >= extent_count_;
}

uint64_t FarZone::file_bytes() const {
  struct stat status {};
  return file_ >= 0 && fstat(file_, &status) == 0 ? static_cast<uint64_t>(status.st_blocks) * 512
                                                  : 0;
}

void FarZone::connect(const NodeOptions& options) {
  NodeClientsRequest request;
  request.nodes = options.nodes.c_str();
  request.key_file = options.key_file.c_str();
  request.seal_key_file = options.seal_key_file.c_str();
  request.arena = view_.header().uuid;
  Line why;
  if (clients_.open(request, why) != Error::kNone)
    throw Failure{kExitUsage, message_of(why) + "; nothing was done; see --nodes and --key-file"};
  ask_nodes();
}

void FarZone::ask_nodes() {
  copies_.assign(extent_count_, {});
  loaded_ = ~uint64_t{0};
  reachable_ = answered_ = 0;
  for (uint32_t i = 0; i < node_count(); i++) {
    node(i).close();
    NodeStatus status = node(i).connect(kConnectMs);
    if (status == NodeStatus::kRefused) {
      throw Failure{kExitRefused,
                    fmt::format("{} refuses this key, or speaks another version; nothing was done; "
                                "see --key-file",
                                node_name(i))};
    }
    if (status != NodeStatus::kGood) continue;
    // A live owner's lists are old when they arrive.  Its words are not.
    if (is_live_ || list(i)) reachable_ |= 1U << i;
  }
  if (!is_live_) answered_ = reachable_;
}

std::string FarZone::node_name(uint32_t index) const {
  Line line;
  clients_.name(index, line);
  return message_of(line);
}

// All that the node has.  False: it does not tell, and counts as one that does not answer.
bool FarZone::list(uint32_t index) {
  std::vector<NodeEntry> entries, part;
  uint64_t first = 0;
  do {
    NodeCompletion completion{};
    if (!node(index).list(0, first) || !wait_for(node(index), completion)) return false;
    part.resize(completion.length_bytes / sizeof(NodeEntry));
    if (part.empty()) break;
    std::memcpy(part.data(), node(index).buffer(0), part.size() * sizeof(NodeEntry));
    if (part.back().extent < first) return false;
    entries.insert(entries.end(), part.begin(), part.end());
    first = part.back().extent + 1;
  } while (first != 0 && first < extent_count_);
  for (const NodeEntry& entry : entries) {
    if (entry.extent >= extent_count_ || entry.length_bytes != kFarExtentBytes) continue;
    NodeCopies& copies = copies_[entry.extent];
    if (entry.generation > copies.generation) copies = {entry.generation, 0};
    if (entry.generation == copies.generation) copies.holders |= 1U << index;
  }
  return true;
}

ExtentWord FarZone::word_of(uint64_t extent) const {
  ExtentWord word;
  // Of a whole file it cannot fail; if it does, nothing is known.
  if (!read_all(file_, &word.bits, sizeof(word.bits), kPageBytes + extent * sizeof(uint64_t)))
    word = ExtentWord{}.with(ExtentState::kPoisoned);
  return word;
}

uint32_t FarZone::frames_of(uint64_t extent) const {
  const uint64_t begin = window_offset_ + extent * kFarExtentBytes;
  uint32_t frames = 0;
  for (uint64_t at = begin; at < begin + kFarExtentBytes;) {
    off_t data = lseek(file_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0) break;
    off_t hole = lseek(file_, data, SEEK_HOLE);
    uint64_t end = hole < 0 ? begin + kFarExtentBytes : static_cast<uint64_t>(hole);
    for (at = static_cast<uint64_t>(data); at < std::min(end, begin + kFarExtentBytes);
         at += kPageBytes) {
      frames |= 1U << (at - begin) / kPageBytes;
    }
  }
  return frames;
}

FarExtent FarZone::look(uint64_t extent) const {
  if (has_file_) return look(extent, word_of(extent));
  auto nowhere = [](FarFault fault) {
    return FarExtent{FarExtent::Where::kNowhere, fault, 0, 0, 0};
  };
  // Of this boot what was near is in the file alone, and nodes have only what was before.
  if (is_live_ || std::strcmp(death_of(view_), "machine") != 0) return nowhere(FarFault::kFileGone);
  if (node_count() == 0) return nowhere(FarFault::kNoNodes);
  // One that is silent must not be the only one that has the newest generation.
  auto silent = node_count() - static_cast<uint32_t>(std::popcount(answered_));
  if (silent >= std::clamp(replicas_wanted(), 1U, node_count())) return nowhere(FarFault::kAway);
  const NodeCopies& copies = copies_[extent];
  if (copies.generation == 0) return nowhere(FarFault::kLost);
  return look(extent, ExtentWord{}
                          .with(ExtentState::kFar)
                          .with_generation(copies.generation)
                          .with_holders(copies.holders));
}

FarExtent FarZone::look(uint64_t extent, ExtentWord word) const {
  using Where = FarExtent::Where;
  const uint32_t frames = has_file_ ? frames_of(extent) : 0;
  const NodeCopies copies = answered_ == 0 ? NodeCopies{} : copies_[extent];
  const ReattachDecision decision = decide(word, frames, copies, answered_);
  FarExtent found{Where::kNear, FarFault::kNone, word.generation(), decision.word.holders(),
                  frames};
  switch (decision.action) {
    case Reattach::kKeep:
    case Reattach::kFillZero:
      return found;
    case Reattach::kLost:
      found.where = Where::kNowhere;
      found.fault = FarFault::kLost;
      return found;
    case Reattach::kMerge:
      found.where = Where::kBoth;
      break;
    case Reattach::kPunch:
      found.where = Where::kFar;
      if (decision.word.state() == ExtentState::kZero) found.where = Where::kZero;
      if (decision.word.state() == ExtentState::kPoisoned) {
        found.where = Where::kNowhere;
        found.fault = FarFault::kLost;
      }
      if (decision.word.state() != ExtentState::kFar) return found;
      break;
  }
  if (node_count() == 0) {
    found.fault = FarFault::kNoNodes;
  } else if ((found.holders & reachable_) == 0 && (!is_live_ || reachable_ == 0)) {
    found.fault = FarFault::kAway;
  }
  return found;
}

FarZone::Range FarZone::look_at(uint64_t data_offset, uint64_t size_bytes) const {
  Range range{false, FarFault::kNone};
  const uint64_t begin = std::max(data_offset, view_.far_begin());
  const uint64_t end = std::min(data_offset + size_bytes, view_.far_end());
  for (uint64_t at = begin; is_used() && at < end;) {
    const uint64_t extent = (at - view_.far_begin()) / kFarExtentBytes;
    const FarExtent found = look(extent);
    range.is_far |=
        found.where != FarExtent::Where::kZero && found.where != FarExtent::Where::kNear;
    if (range.fault == FarFault::kNone) range.fault = found.fault;
    at = view_.far_begin() + (extent + 1) * kFarExtentBytes;
  }
  return range;
}

// From any node, those first that should have it: the order in which nodes are named may be
// another than the owner's.
FarFault FarZone::fetch(uint64_t extent, const FarExtent& known, char* out) const {
  FarFault fault = reachable_ == (1U << node_count()) - 1 ? FarFault::kLost : FarFault::kAway;
  for (uint32_t wanted : {known.holders & reachable_, ~known.holders & reachable_}) {
    for (uint32_t i = 0; i < node_count(); i++) {
      NodeCompletion completion{};
      if ((wanted & 1U << i) == 0 || !node(i).read(0, extent, known.generation)) continue;
      if (wait_for(node(i), completion) && completion.generation == known.generation &&
          completion.length_bytes == kFarExtentBytes) {
        std::memcpy(out, node(i).buffer(0), kFarExtentBytes);
        return FarFault::kNone;
      }
      if (completion.status == NodeStatus::kCorrupt) {
        fault = FarFault::kCorrupt;
      } else if (!node(i).is_connected() && fault == FarFault::kLost) {
        fault = FarFault::kAway;
      }
    }
  }
  return fault;
}

bool FarZone::load(uint64_t extent) noexcept {
  using Where = FarExtent::Where;
  if (loaded_ == extent) return true;
  loaded_ = ~uint64_t{0};
  for (int tries = 0; tries < (is_live_ ? kLiveTries : 1); tries++) {
    const ExtentWord before = has_file_ ? word_of(extent) : ExtentWord{};
    const FarExtent known = has_file_ ? look(extent, before) : look(extent);
    fault_ = known.fault;
    if (fault_ == FarFault::kNone) {
      // What the file does not have it gives as zeros: so first the node's pages, then the file's.
      if (known.where == Where::kZero) std::fill(bytes_.begin(), bytes_.end(), '\0');
      if (known.where == Where::kFar || known.where == Where::kBoth)
        fault_ = fetch(extent, known, bytes_.data());
      for (uint64_t page = 0; page < kPagesPerExtent && fault_ == FarFault::kNone; page++) {
        bool is_here = known.where == Where::kNear ||
                       (known.where == Where::kBoth && (known.frames & 1U << page) != 0);
        if (is_here && !read_all(file_, bytes_.data() + page * kPageBytes, kPageBytes,
                                 window_offset_ + extent * kFarExtentBytes + page * kPageBytes))
          fault_ = FarFault::kLost;
      }
    }
    // A live owner may have moved it meanwhile.  What is read now may be changed a moment later.
    if (!is_live_ || !has_file_ || word_of(extent) == before) {
      if (fault_ == FarFault::kNone && !is_live_) loaded_ = extent;
      return fault_ == FarFault::kNone;
    }
    sched_yield();
  }
  fault_ = FarFault::kChanging;
  return false;
}

bool FarZone::read(uint64_t offset, void* buffer, size_t size_bytes) noexcept {
  auto* out = static_cast<char*>(buffer);
  while (size_bytes > 0) {
    const uint64_t extent = offset / kFarExtentBytes;
    const uint64_t within = offset % kFarExtentBytes;
    const size_t part = std::min<size_t>(kFarExtentBytes - within, size_bytes);
    if (extent >= extent_count_) {
      fault_ = FarFault::kLost;
      return false;
    }
    if (!load(extent)) return false;
    std::memcpy(out, bytes_.data() + within, part);
    out += part;
    offset += part;
    size_bytes -= part;
  }
  return true;
}

}  // namespace btd::tools
