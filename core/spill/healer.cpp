#include "core/spill/healer.hpp"

#include <sched.h>

#include <cstring>

#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr uint64_t kLookMax = 65536;  // words a call: 4 GiB of window, 30 us
constexpr uint32_t kWaitUs = 10'000;
constexpr uint64_t kTellEveryS = 5;
constexpr uint64_t kRefusedPauseS = 1;
constexpr int kOwnedTries = 1000;

uint32_t bits_of(uint32_t mask) { return static_cast<uint32_t>(__builtin_popcount(mask)); }

// The owner stores the next word without looking at this one.
bool is_owned(ExtentState state) {
  return state == ExtentState::kFetching || state == ExtentState::kMapping ||
         state == ExtentState::kDiscarding;
}

}  // namespace

uint32_t Healer::live_nodes() const noexcept {
  uint32_t live = 0;
  for (uint32_t i = 0; i < pager_->node_count; i++)
    if (nodes_[i]->is_connected()) live |= 1U << i;
  return live;
}

// What became of one operation in each slot, on the node named for it (kFarNodesMax: none).
// Ends: every operation is reported by its deadline.
void Healer::collect(const uint32_t* node_of, uint32_t count, NodeCompletion* out) noexcept {
  uint32_t pending = 0;
  for (uint32_t slot = 0; slot < count; slot++) {
    out[slot] = {slot, NodeStatus::kLost, 0, 0};
    if (node_of[slot] != kFarNodesMax) pending |= 1U << slot;
  }
  while (pending != 0) {
    const uint32_t node = node_of[__builtin_ctz(pending)];
    const bool was_connected = nodes_[node]->is_connected();
    NodeCompletion done[kNodeDepth];
    const uint32_t found = nodes_[node]->poll(done, kNodeDepth, kWaitUs);
    for (uint32_t i = 0; i < found; i++) {
      const uint32_t slot = done[i].slot;
      if (slot >= count || node_of[slot] != node) continue;
      out[slot] = done[i];
      pending &= ~(1U << slot);
      if (done[i].status == NodeStatus::kFenced)
        pager_->is_fenced.store(true, std::memory_order_release);
    }
    if (found > 0 || was_connected) continue;
    for (uint32_t slot = 0; slot < count; slot++)
      if (node_of[slot] == node) pending &= ~(1U << slot);
  }
}

bool Healer::validate(uint32_t node) noexcept {
  const uint64_t count = pager_->file.table().count();
  uint64_t next = 0;  // words before it are what they should be
  while (next < count) {
    NodeCompletion completion{};
    const bool is_asked = nodes_[node]->list(0, next);
    if (is_asked) collect(&node, 1, &completion);
    if (!is_asked || completion.status != NodeStatus::kGood ||
        completion.length_bytes > kFarExtentBytes) {
      nodes_[node]->close();
      return false;
    }
    const uint64_t entries = completion.length_bytes / sizeof(NodeEntry);
    for (uint64_t i = 0; i < entries && next < count; i++) {
      NodeEntry entry;
      std::memcpy(&entry, nodes_[node]->buffer(0) + i * sizeof(entry), sizeof(entry));
      if (entry.extent < next) {  // a list in disorder would never end
        nodes_[node]->close();
        return false;
      }
      while (next < min(entry.extent, count)) disbelieve(next++, node);
      if (next == count) break;
      bool is_it = entry.length_bytes == kFarExtentBytes &&
                   entry.generation == pager_->file.table().load(next).generation();
      if (!is_it) disbelieve(next, node);
      next++;
    }
    if (entries == 0) {
      while (next < count) disbelieve(next++, node);
    }
  }
  return true;
}

// Takes a node out of the word that does not have what the word says.  Of an extent that is dirty
// or given back it is left in: there it only means that the node is to be told.
void Healer::disbelieve(uint64_t extent, uint32_t node) noexcept {
  ExtentTable& table = pager_->file.table();
  for (int tries = 0; tries < kOwnedTries; tries++) {
    const ExtentWord word = table.load(extent);
    if ((word.holders() & 1U << node) == 0 || word.is_dirty()) return;
    ExtentWord next = word.with_holders(word.holders() & ~(1U << node));
    switch (word.state()) {
      case ExtentState::kFar:
        // The last one stays: far without a holder would mean zeros.  Who reads finds out.
        if (next.holders() == 0) return;
        break;
      case ExtentState::kNear:
      case ExtentState::kIdle:
        // Clean without a holder would mean zeros too; dirty, it is written back.
        if (next.holders() == 0) next = next.with_dirty(true);
        break;
      default:
        if (!is_owned(word.state())) return;
        ::sched_yield();  // for a moment
        continue;
    }
    if (table.change(extent, word, next)) return;
  }
}

bool Healer::heal() noexcept {
  const uint64_t count = pager_->file.table().count();
  if (pager_->node_count < 2 || pager_->is_fenced.load(std::memory_order_acquire)) return false;
  if (sys::steady_clock_s() < again_at_s_) return false;
  Copy copies[kDepth];
  const uint32_t found = find(copies, min(count, kLookMax));
  if (found == 0) {
    if (is_healing_ && clean_ >= count) {
      Line()
          .text("far memory: ")
          .number(healed_)
          .text(" extents were copied; all have as many live replicas as they should")
          .write(LogLevel::kInfo);
      is_healing_ = false;
      healed_ = 0;
    }
    return is_healing_ && clean_ < count;
  }
  copy(copies, found);
  uint32_t healed = 0;
  for (uint32_t i = 0; i < found; i++) healed += copies[i].is_done;
  report(healed);
  if (healed == 0) again_at_s_ = sys::steady_clock_s() + kRefusedPauseS;
  return healed > 0;
}

void Healer::report(uint32_t healed) noexcept {
  const uint64_t now_s = sys::steady_clock_s();
  healed_ += healed;
  if (!is_healing_) {
    Line()
        .text("far memory: a node is gone; what it had is copied to others")
        .write(LogLevel::kInfo);
  } else if (now_s >= told_at_s_ + kTellEveryS) {
    Line().text("far memory: ").number(healed_).text(" extents copied").write(LogLevel::kInfo);
  } else {
    return;
  }
  is_healing_ = true;
  told_at_s_ = now_s;
}

// Up to kDepth extents with fewer live holders than there could be.
uint32_t Healer::find(Copy* copies, uint64_t look_max) noexcept {
  ExtentTable& table = pager_->file.table();
  const uint32_t live = live_nodes();
  const uint32_t wanted = min(pager_->replica_count, bits_of(live));
  uint32_t found = 0;
  for (uint64_t i = 0; i < look_max && found < kDepth; i++) {
    const uint64_t extent = hand_;
    hand_ = hand_ + 1 == table.count() ? 0 : hand_ + 1;
    const ExtentWord word = table.load(extent);
    const uint32_t holders = word.holders() & live;
    clean_++;
    if (word.state() != ExtentState::kFar || holders == 0 || bits_of(holders) >= wanted) continue;
    clean_ = 0;
    copies[found++] = {extent, word, kFarNodesMax, 0, false};
  }
  return found;
}

void Healer::copy(Copy* copies, uint32_t count) noexcept {
  read(copies, count);
  // To the next spare node if one does not take it.
  while (write(copies, count)) {
  }
}

// Each from one holder, all at once.
void Healer::read(Copy* copies, uint32_t count) noexcept {
  uint32_t node_of[kDepth] = {};
  for (uint32_t slot = 0; slot < count; slot++) {
    const Copy& copy = copies[slot];
    node_of[slot] = kFarNodesMax;
    for (uint32_t i = 0; i < pager_->node_count && node_of[slot] == kFarNodesMax; i++) {
      auto node = static_cast<uint32_t>((copy.extent + i) % pager_->node_count);
      if ((copy.word.holders() & 1U << node) != 0 &&
          nodes_[node]->read(slot, copy.extent, copy.word.generation())) {
        node_of[slot] = node;
      }
    }
  }
  NodeCompletion done[kDepth];
  collect(node_of, count, done);
  for (uint32_t slot = 0; slot < count; slot++) {
    Copy& copy = copies[slot];
    bool is_good = done[slot].status == NodeStatus::kGood &&
                   done[slot].generation == copy.word.generation() &&
                   done[slot].length_bytes == kFarExtentBytes;
    if (is_good) copy.source = node_of[slot];
    // The nodes' own word, not that of a lost connection.
    if (done[slot].status == NodeStatus::kNotFound || done[slot].status == NodeStatus::kStale)
      disbelieve(copy.extent, node_of[slot]);
  }
}

// Each to a spare node that was not asked yet.  False: there was none to ask.
bool Healer::write(Copy* copies, uint32_t count) noexcept {
  const uint32_t live = live_nodes();
  uint32_t node_of[kDepth] = {};
  bool is_any = false;
  for (uint32_t slot = 0; slot < count; slot++) {
    Copy& copy = copies[slot];
    node_of[slot] = kFarNodesMax;
    if (copy.source == kFarNodesMax || copy.is_done) continue;
    const uint32_t spare = live & ~copy.word.holders() & ~copy.tried;
    for (uint32_t i = 0; i < pager_->node_count && node_of[slot] == kFarNodesMax; i++) {
      auto node = static_cast<uint32_t>((copy.extent + i) % pager_->node_count);
      if ((spare & 1U << node) == 0) continue;
      copy.tried |= 1U << node;
      std::memcpy(nodes_[node]->buffer(slot), nodes_[copy.source]->buffer(slot), kFarExtentBytes);
      if (nodes_[node]->write(slot, copy.extent, copy.word.generation(), kFarExtentBytes))
        node_of[slot] = node;
    }
    is_any |= node_of[slot] != kFarNodesMax;
  }
  if (!is_any) return false;
  NodeCompletion done[kDepth];
  collect(node_of, count, done);
  for (uint32_t slot = 0; slot < count; slot++)
    if (node_of[slot] != kFarNodesMax) settle(copies[slot], node_of[slot], slot, done[slot]);
  return true;
}

// The copy counts from here on, if the extent is still what it was.
void Healer::settle(Copy& copy, uint32_t node, uint32_t slot,
                    const NodeCompletion& completion) noexcept {
  // A node that was away may have it still.
  bool has_it =
      completion.status == NodeStatus::kGood ||
      (completion.status == NodeStatus::kStale && completion.generation == copy.word.generation());
  if (!has_it) return;
  ExtentTable& table = pager_->file.table();
  copy.is_done = true;
  if (table.change(copy.extent, copy.word,
                   copy.word.with_holders(copy.word.holders() | 1U << node))) {
    return;
  }
  // It was touched or given back meanwhile.  Nobody else writes to nodes, so what is there now is
  // what we wrote, and nobody would ever give it back.
  if ((table.load(copy.extent).holders() & 1U << node) != 0) return;
  if (!nodes_[node]->release(slot, copy.extent)) return;
  uint32_t node_of[kDepth] = {};
  for (uint32_t& one : node_of) one = kFarNodesMax;
  node_of[slot] = node;
  NodeCompletion done[kDepth];
  collect(node_of, kDepth, done);
}

}  // namespace btd
