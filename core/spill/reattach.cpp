#include "core/spill/reattach.hpp"

#include <sys/mman.h>

#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr uint32_t kWaitUs = 10'000;
constexpr size_t kPage = 4096;

ReattachDecision decide_far(ExtentWord word, NodeCopies copies, uint32_t answered) noexcept {
  // Holders that answered and have an older generation, or none, are holders no more.  Those that
  // have a newer one have the write-back that a kill cut short: which cannot be, because such an
  // extent is not far.
  uint32_t holders = word.holders() & ~answered;
  if (copies.generation == word.generation()) holders |= copies.holders;
  ExtentWord far = word.at_rest(ExtentState::kFar).with_dirty(false).with_holders(holders);
  if (holders == 0) return {Reattach::kLost, far.with(ExtentState::kPoisoned)};
  return {Reattach::kPunch, far};
}

// One operation on one node, waited for.
bool finish(Node& node, uint32_t slot, NodeCompletion* completion) noexcept {
  while (true) {
    // Ends: every operation is reported by its deadline.
    if (node.poll(completion, 1, kWaitUs) == 1 && completion->slot == slot)
      return completion->status == NodeStatus::kGood;
    if (!node.is_connected() && node.poll(completion, 1, 0) == 0) return false;
  }
}

}  // namespace

ReattachDecision decide(ExtentWord word, uint32_t frames, NodeCopies copies,
                        uint32_t answered) noexcept {
  ExtentWord idle = word.at_rest(ExtentState::kIdle);
  const bool is_zero_fill = word.is_dirty() || word.holders() == 0;  // of kFetching
  switch (word.state()) {
    case ExtentState::kNear:
    case ExtentState::kMapping:
    case ExtentState::kUnmapping:
    case ExtentState::kEvicting:
      // The page table, which knew what was clean, is gone.
      idle = idle.with_dirty(true);
      break;
    case ExtentState::kIdle:
      break;
    case ExtentState::kFetching:
      if (frames == 0 && !is_zero_fill) return decide_far(word, copies, answered);
      if (frames == 0)
        return {Reattach::kPunch, word.at_rest(ExtentState::kZero).with_dirty(false)};
      idle = idle.with_dirty(true);
      break;
    case ExtentState::kPunching:
      if (word.holders() == 0) return {Reattach::kPunch, word.with(ExtentState::kZero)};
      if (frames == kAllPages) {
        idle = idle.with_dirty(true);
        break;
      }
      return decide_far(word, copies, answered);
    case ExtentState::kPoisoned:
      if (word.holders() == 0) return {Reattach::kPunch, word};
      // Because no holder could be asked: now they may be.
      return decide_far(word, copies, answered);
    case ExtentState::kFar:
      return decide_far(word, copies, answered);
    case ExtentState::kZero:
    case ExtentState::kDiscarding:
      // What nodes have of it is from before it was given back; the generation goes on above it.
      return {Reattach::kPunch, word.with(ExtentState::kZero)
                                    .with_generation(max(word.generation(), copies.generation))
                                    .with_holders(word.holders() | copies.holders)};
  }

  // From here on there are frames, and they win.  The next write-back must be above all that any
  // node has.
  ExtentWord next = idle.with_generation(max(word.generation(), copies.generation));
  if (next.generation() != word.generation()) next = next.with_dirty(true);
  if (frames == kAllPages) {
    // Clean means nothing if those that have it do not.
    uint32_t holders = (word.holders() & ~answered) |
                       (copies.generation == word.generation() ? copies.holders : 0);
    bool is_dirty = next.is_dirty() || (holders == 0 && word.holders() != 0);
    return {Reattach::kKeep, next.with_dirty(is_dirty).with_holders(holders)};
  }
  if (word.state() == ExtentState::kFetching && is_zero_fill) return {Reattach::kFillZero, next};
  ReattachDecision far = decide_far(word, copies, answered);
  if (far.action == Reattach::kLost || copies.generation > word.generation())
    return {Reattach::kLost, far.word.with(ExtentState::kPoisoned)};
  return {Reattach::kMerge, next.with_dirty(true).with_holders(far.word.holders())};
}

namespace {

// The nodes' lists, as one NodeCopies an extent.
class Copies {
 public:
  explicit Copies(uint64_t count) : count_(count) {
    intptr_t memory = sys::map(nullptr, count * sizeof(NodeCopies), PROT_READ | PROT_WRITE,
                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory > 0) copies_ = reinterpret_cast<NodeCopies*>(memory);
  }
  Copies(const Copies&) = delete;
  Copies& operator=(const Copies&) = delete;
  ~Copies() {
    if (copies_ != nullptr) sys::unmap(copies_, count_ * sizeof(NodeCopies));
  }
  bool is_there() const { return copies_ != nullptr; }
  const NodeCopies& of(uint64_t extent) const { return copies_[extent]; }

  // True: the node has told all it has.
  bool add(Node& node, uint32_t index) noexcept {
    uint64_t first = 0;
    while (first < count_) {
      NodeCompletion completion{};
      if (!node.list(0, first) || !finish(node, 0, &completion)) return false;
      uint64_t entries = completion.length_bytes / sizeof(NodeEntry);
      if (entries == 0 || entries > kFarExtentBytes / sizeof(NodeEntry)) return entries == 0;
      const char* buffer = node.buffer(0);
      for (uint64_t i = 0; i < entries; i++) {
        NodeEntry entry;
        std::memcpy(&entry, buffer + i * sizeof(entry), sizeof(entry));
        // A node that lies about the order would keep us here for ever.
        if (entry.extent < first) return false;
        first = entry.extent + 1;
        if (entry.extent >= count_) return true;
        if (entry.length_bytes == kFarExtentBytes) note(entry, index);
      }
    }
    return true;
  }

 private:
  void note(const NodeEntry& entry, uint32_t index) noexcept {
    NodeCopies& copies = copies_[entry.extent];
    if (entry.generation > copies.generation) copies = {entry.generation, 0};
    if (entry.generation == copies.generation) copies.holders |= 1U << index;
  }

  uint64_t count_;
  NodeCopies* copies_ = nullptr;
};

// The extent's missing pages, from a holder.
bool merge(FarFile& file, uint64_t extent, ExtentWord word, uint32_t frames, uint64_t generation,
           Node* const* nodes, uint32_t node_count, bool is_zero_fill) noexcept {
  static const char zeros[kPage] = {};
  const char* from = nullptr;
  for (uint32_t i = 0; i < node_count && from == nullptr && !is_zero_fill; i++) {
    NodeCompletion completion{};
    if ((word.holders() & 1U << i) != 0 && nodes[i]->is_connected() &&
        nodes[i]->read(0, extent, generation) && finish(*nodes[i], 0, &completion) &&
        completion.generation == generation && completion.length_bytes == kFarExtentBytes) {
      from = nodes[i]->buffer(0);
    }
  }
  if (from == nullptr && !is_zero_fill) return false;
  for (uint32_t page = 0; page < kPagesPerExtent; page++) {
    if ((frames & 1U << page) != 0) continue;
    if (!file.write_page(extent, page, from == nullptr ? zeros : from + page * kPage)) return false;
  }
  return true;
}

}  // namespace

Error reattach(FarFile& file, bool is_found, Node* const* nodes, uint32_t node_count,
               uint32_t silent_max, ReattachCounts* counts) noexcept {
  ExtentTable& table = file.table();
  Copies copies(table.count());
  if (!copies.is_there()) return Error::kNoMemory;
  uint32_t answered = 0;
  for (uint32_t i = 0; i < node_count; i++)
    if (nodes[i]->is_connected() && copies.add(*nodes[i], i)) answered |= 1U << i;
  if (node_count - static_cast<uint32_t>(__builtin_popcount(answered)) > silent_max)
    return Error::kBusy;

  for (uint64_t extent = 0; extent < table.count(); extent++) {
    const NodeCopies& copy = copies.of(extent);
    ExtentWord word = table.load(extent);
    if (!is_found && copy.generation != 0) {
      word = ExtentWord{}.with(ExtentState::kFar).with_generation(copy.generation);
      word = word.with_holders(copy.holders);
    }
    if (word == ExtentWord{} && copy.generation == 0) continue;
    uint32_t frames = is_found ? file.frames(extent) : 0;
    ReattachDecision decision = decide(word, frames, copy, answered);
    const bool is_zero_fill = decision.action == Reattach::kFillZero;
    const bool is_merge = decision.action == Reattach::kMerge || is_zero_fill;
    if (is_merge && !merge(file, extent, decision.word, frames, word.generation(), nodes,
                           node_count, is_zero_fill)) {
      // A holder that is only away may have it: nothing is decided until it is back.
      if ((decision.word.holders() & ~answered) != 0) return Error::kBusy;
      decision = {Reattach::kLost, word.with(ExtentState::kPoisoned)};
    }
    // Frames that nobody will use go before the word says so: a kill in between leaves what can be
    // decided again.
    bool has_frames =
        decision.action == Reattach::kKeep || decision.action == Reattach::kMerge || is_zero_fill;
    if (!has_frames && frames != 0) file.punch(extent);
    table.store(extent, decision.word);
    counts->near += has_frames;
    counts->merged += decision.action == Reattach::kMerge;
    counts->far += decision.word.state() == ExtentState::kFar;
    counts->lost += decision.action == Reattach::kLost;
  }
  return Error::kNone;
}

}  // namespace btd
