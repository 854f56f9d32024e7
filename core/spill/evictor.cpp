#include "core/spill/evictor.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

#include "core/base/sys.hpp"
#include "core/spill/poll_nodes.hpp"

namespace btd {
namespace {

constexpr uint64_t kReconnectEveryS = 1;
constexpr uint32_t kConnectMs = 100;
// Without a call the evictor looks around this often: for dead nodes that are back, and for extents
// that were given back.
constexpr uint32_t kIdleWaitUs = 200'000;
constexpr uint32_t kStuckWaitUs = 20'000;
constexpr uint64_t kUnmapMax = 16;        // extents a call
constexpr uint64_t kReleaseLook = 65536;  // words a round: 4 GiB of window, 30 us

uint32_t bits_of(uint32_t mask) { return static_cast<uint32_t>(__builtin_popcount(mask)); }

}  // namespace

void Evictor::open(Pager& pager, Node* const* nodes, uint64_t* queue,
                   uint64_t queue_count) noexcept {
  pager_ = &pager;
  nodes_ = nodes;
  queue_ = queue;
  queue_count_ = queue_count;
  queue_head_ = queue_tail_ = hand_ = release_hand_ = 0;
  healer_.open(pager, nodes);
}

void Evictor::run() noexcept {
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if (!nodes_[i]->is_connected()) connect(i);
  }
  while (!pager_->is_stopping.load(std::memory_order_acquire)) {
    uint32_t seen = pager_->evictor_call.seen();
    notice_losses();
    reconnect();
    if (pager_->near_count.load(std::memory_order_relaxed) < pager_->near_high) {
      release_discarded();
      if (healer_.heal()) continue;
      if (pager_->is_stopping.load(std::memory_order_acquire)) break;
      pager_->evictor_call.wait(seen, kIdleWaitUs);
      continue;
    }
    bool has_made_room = make_room();
    pager_->is_stuck.store(!has_made_room, std::memory_order_release);
    if (!has_made_room) {
      pager_->room_call.raise();
      pager_->evictor_call.wait(pager_->evictor_call.seen(), kStuckWaitUs);
    }
  }
  while (in_flight_ > 0) harvest(1000);
  for (uint32_t i = 0; i < pager_->node_count; i++) nodes_[i]->close();
}

// Down to the low water mark.  False: not one extent could be evicted.
bool Evictor::make_room() noexcept {
  const uint64_t failed_before = failures_;
  const uint64_t punched_before = punched_;
  while (!pager_->is_stopping.load(std::memory_order_acquire)) {
    uint64_t now = pager_->near_count.load(std::memory_order_relaxed);
    if (now <= pager_->near_low + in_flight_) {  // what is in flight will go
      if (in_flight_ == 0) break;
      harvest(100);
      continue;
    }
    if (failures_ > failed_before + kNodeDepth) break;  // nobody takes anything: do not spin
    // Half the queue is the time that an idle extent has to be touched again.
    if (queue_tail_ - queue_head_ <= queue_count_ / 2) make_idle();
    if (queue_tail_ == queue_head_) {
      if (in_flight_ == 0) break;
      harvest(100);
      continue;
    }
    uint64_t extent = queue_[queue_head_++ % queue_count_];
    Outcome outcome = evict(extent);
    // What has left the queue and is idle yet may come into it again.
    ExtentWord word = pager_->file.table().load(extent);
    if (word.state() == ExtentState::kIdle && word.is_queued())
      pager_->file.table().change(extent, word, word.with_queued(false));
    if (outcome == Outcome::kStuck && in_flight_ == 0) break;
    if (in_flight_ > 0) harvest(0);
  }
  while (in_flight_ > 0) harvest(1000);
  return punched_ != punched_before || failures_ == failed_before;
}

// The hand goes on until the queue is full or it has been around.
void Evictor::make_idle() noexcept {
  ExtentTable& table = pager_->file.table();
  uint64_t looked = 0;
  while (looked < table.count() && queue_tail_ - queue_head_ < queue_count_) {
    const uint64_t extent = hand_;
    ExtentWord word = table.load(extent);
    uint64_t passed = 1;
    if (word.state() == ExtentState::kNear) {
      passed = unmap(extent, min(queue_count_ - (queue_tail_ - queue_head_), kUnmapMax));
    } else if (word.state() == ExtentState::kIdle && !word.is_queued()) {
      // Fetched ahead, or left behind by a write-back that failed.
      if (table.change(extent, word, word.with_queued(true)))
        queue_[queue_tail_++ % queue_count_] = extent;
    }
    looked += passed;
    hand_ = extent + passed >= table.count() ? 0 : extent + passed;
  }
}

// Steps 1 and 2, for near extents side by side: one call unmaps 16 extents for what 5 calls cost.
// A kill in here leaves kUnmapping or kIdle, with all frames: they win.  Queues what is idle then;
// returns how many extents the hand has passed.
uint64_t Evictor::unmap(uint64_t first, uint64_t count_max) noexcept {
  ExtentTable& table = pager_->file.table();
  ExtentWord words[kUnmapMax];
  uint64_t count = 0;
  while (count < count_max && first + count < table.count()) {
    ExtentWord word = table.load(first + count);
    if (word.state() != ExtentState::kNear ||
        !table.change(first + count, word, word.with(ExtentState::kUnmapping))) {
      break;
    }
    words[count++] = word;
  }
  if (count == 0) return 1;

  int result = sys::advise(pager_->extent_at(first), count * kFarExtentBytes, MADV_DONTNEED);
  for (uint64_t i = 0; i < count; i++) {
    const uint64_t extent = first + i;
    const ExtentWord unmapping = words[i].with(ExtentState::kUnmapping);
    // One of them may be locked by mlock: it stays near, as the program wants.
    if (result != 0 &&
        sys::advise(pager_->extent_at(extent), kFarExtentBytes, MADV_DONTNEED) != 0) {
      pager_->stats.locked.fetch_add(1, std::memory_order_relaxed);
      table.change(extent, unmapping, words[i]);
      continue;
    }
    // Without the kernel's own notes the bit is exact: whoever writes sets it before the page
    // becomes writable.
    bool is_dirty = words[i].is_dirty();
    if (!is_dirty && pager_->tracks_async)
      is_dirty = !pager_->faults.was_clean(pager_->address_of(extent), kFarExtentBytes);
    // Fails if a fault has overtaken us; then it is near, and the look is worth nothing.
    ExtentWord idle = unmapping.with(ExtentState::kIdle).with_dirty(is_dirty).with_queued(true);
    if (table.change(extent, unmapping, idle)) queue_[queue_tail_++ % queue_count_] = extent;
  }
  return count;
}

Evictor::Outcome Evictor::evict(uint64_t extent) noexcept {
  ExtentWord word = pager_->file.table().load(extent);
  if (word.state() != ExtentState::kIdle || is_in_flight(extent)) return Outcome::kOvertaken;
  if (word.is_prefetched()) {
    count(pager_->stats.runs_missed);
    pager_->trend_lock.lock();
    pager_->trend.miss(extent);
    pager_->trend_lock.unlock();
  }
  if (!word.is_dirty() && word.holders() == 0) {
    return punch(extent, word, word.with(ExtentState::kPunching));  // all zero
  }
  const uint32_t live = live_nodes();
  const uint32_t holders = word.holders() & live;
  if (!word.is_dirty() && bits_of(holders) >= min(pager_->replica_count, max(bits_of(live), 1U))) {
    return punch(extent, word, word.with(ExtentState::kPunching));
  }
  if (live == 0 || pager_->is_fenced.load(std::memory_order_acquire)) {
    // Nobody would take it: it stays.
    failures_++;
    return Outcome::kStuck;
  }
  return start_write(extent, word);
}

// Step 4.  A kill leaves kPunching: `generation` is durable on the holders, so the extent is far,
// whatever frames are left.
Evictor::Outcome Evictor::punch(uint64_t extent, ExtentWord from, ExtentWord punching) noexcept {
  ExtentTable& table = pager_->file.table();
  if (!table.change(extent, from, punching)) return Outcome::kOvertaken;
  bool is_punched = pager_->file.punch(extent);
  BTD_CHECK(is_punched);  // of a tmpfs it cannot fail
  ExtentState next = punching.holders() == 0 ? ExtentState::kZero : ExtentState::kFar;
  count(from.state() == ExtentState::kIdle ? pager_->stats.dropped_clean
                                           : pager_->stats.written_back);
  pager_->near_count.fetch_sub(1, std::memory_order_relaxed);
  punched_++;
  table.store(extent, punching.at_rest(next).with_dirty(false));
  pager_->room_call.raise();
  return Outcome::kDone;
}

// Step 3.  A kill leaves kEvicting, with all frames: they win, whether the new generation got to a
// node or not; and the number is in the word before a node can have it, so it is never used twice.
Evictor::Outcome Evictor::start_write(uint64_t extent, ExtentWord word) noexcept {
  ExtentWord evicting = word.with(ExtentState::kEvicting)
                            .with_dirty(true)
                            .with_prefetched(false)
                            .with_queued(false)
                            .with_generation(word.generation() + 1);
  const uint32_t targets = choose_targets({extent, word, 0, 0, 0, true, false, false});
  evicting = evicting.with_holders(word.holders() | targets);
  uint32_t slot = free_slot();
  if (!pager_->file.table().change(extent, word, evicting)) return Outcome::kOvertaken;
  writings_[slot] = {extent, evicting, 0, 0, 0, true, false, false};
  in_flight_++;
  if (post_writes(slot, targets) == 0) finish(slot);
  return Outcome::kUnderWay;
}

// As many nodes as are wanting.  Which ones depends on the extent, so that each node gets its part;
// a node that is gone is replaced by the next.
uint32_t Evictor::choose_targets(const Writing& writing) noexcept {
  uint32_t chosen = 0;
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if (bits_of(writing.acknowledged | writing.pending | chosen) >= pager_->replica_count) break;
    uint32_t node = static_cast<uint32_t>((writing.extent + i) % pager_->node_count);
    if ((writing.tried & 1U << node) == 0 && nodes_[node]->is_connected()) chosen |= 1U << node;
  }
  return chosen;
}

// Sends the slot's extent to the nodes; returns how many are pending.  REQUIRES: the word names
// them, so that nothing of the extent is on a node that nobody will tell when it is given back.
uint32_t Evictor::post_writes(uint32_t slot, uint32_t targets) noexcept {
  Writing& writing = writings_[slot];
  const char* copied = nullptr;
  writing.tried |= targets;
  for (uint32_t node = 0; node < pager_->node_count; node++) {
    if ((targets & 1U << node) == 0) continue;
    char* buffer = nodes_[node]->buffer(slot);
    if (copied != nullptr) {
      std::memcpy(buffer, copied, kFarExtentBytes);
    } else if (!pager_->file.read(writing.extent, buffer)) {
      continue;
    }
    copied = buffer;
    if (nodes_[node]->write(slot, writing.extent, writing.word.generation(), kFarExtentBytes))
      writing.pending |= 1U << node;
  }
  return bits_of(writing.pending);
}

void Evictor::harvest(uint32_t wait_us) noexcept {
  auto is_ours = [](const Writing& writing, uint32_t node) {
    return writing.is_active && (writing.pending & 1U << node) != 0;
  };
  auto is_asked = [&](uint32_t node) {
    for (const Writing& writing : writings_)
      if (is_ours(writing, node)) return true;
    return false;
  };
  poll_nodes(nodes_, pager_->node_count, wait_us, is_asked,
             [&](uint32_t node, const NodeCompletion& done) {
               if (is_ours(writings_[done.slot], node)) complete(node, done);
             });
}

void Evictor::complete(uint32_t node, const NodeCompletion& completion) noexcept {
  Writing& writing = writings_[completion.slot];
  writing.pending &= ~(1U << node);
  if (completion.status == NodeStatus::kGood) writing.acknowledged |= 1U << node;
  if (completion.status == NodeStatus::kFenced)
    pager_->is_fenced.store(true, std::memory_order_release);
  if (completion.status == NodeStatus::kStale && !writing.is_release) {
    // The node is ahead of us: the number must be above its own before it takes anything.
    writing.is_void = true;
    ExtentWord higher =
        writing.word.with_generation(max(completion.generation, writing.word.generation() + 1));
    if (pager_->file.table().change(writing.extent, writing.word, higher)) writing.word = higher;
  }
  if (writing.pending != 0) return;
  if (!writing.is_release && !writing.is_void) {
    uint32_t targets = choose_targets(writing);
    ExtentWord next = writing.word.with_holders(writing.word.holders() | targets);
    if (targets != 0 && pager_->file.table().change(writing.extent, writing.word, next)) {
      writing.word = next;
      if (post_writes(completion.slot, targets) > 0) return;
    }
  }
  finish(completion.slot);
}

// All that can answer has.
void Evictor::finish(uint32_t slot) noexcept {
  Writing& writing = writings_[slot];
  writing.is_active = false;
  in_flight_--;
  ExtentTable& table = pager_->file.table();
  if (writing.is_release) {
    count(pager_->stats.released);
    ExtentWord word = writing.word;
    table.change(writing.extent, word, word.with_holders(word.holders() & ~writing.acknowledged));
    return;
  }
  if (writing.acknowledged == 0 || writing.is_void) {
    // Nobody has it.  It stays, unmapped; the next touch maps it.
    failures_++;
    count(pager_->stats.writes_failed);
    table.change(writing.extent, writing.word, writing.word.with(ExtentState::kIdle));
    return;
  }
  // Durable on all replicas that live.  Fails if a fault has overtaken us: then it is near and
  // dirty, and what the nodes have is a copy that nobody will ask for.
  const uint32_t former = writing.word.holders();
  ExtentWord punching =
      writing.word.with(ExtentState::kPunching).with_holders(writing.acknowledged);
  Outcome outcome = punch(writing.extent, writing.word, punching);
  // Nodes that did not take this generation may have space of an earlier one to give back.
  uint32_t leftover = former & ~writing.acknowledged & live_nodes();
  if (outcome == Outcome::kDone && leftover != 0) start_release(slot, writing.extent, leftover);
}

void Evictor::start_release(uint32_t slot, uint64_t extent, uint32_t nodes) noexcept {
  Writing& writing = writings_[slot];
  writing = {extent, pager_->file.table().load(extent), 0, 0, nodes, true, true, false};
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if ((nodes & 1U << i) != 0 && nodes_[i]->is_connected() && nodes_[i]->release(slot, extent))
      writing.pending |= 1U << i;
  }
  writing.is_active = writing.pending != 0;
  if (writing.is_active) in_flight_++;
}

// Extents that the program has given back still have space on nodes.
void Evictor::release_discarded() noexcept {
  ExtentTable& table = pager_->file.table();
  const uint64_t look = min(table.count(), kReleaseLook);
  for (uint64_t i = 0; i < look; i++) {
    uint64_t extent = release_hand_;
    release_hand_ = release_hand_ + 1 == table.count() ? 0 : release_hand_ + 1;
    ExtentWord word = table.load(extent);
    if (word.state() != ExtentState::kZero || word.holders() == 0) continue;
    uint32_t nodes = word.holders() & live_nodes();
    if (nodes != 0 && !is_in_flight(extent)) start_release(free_slot(), extent, nodes);
  }
  while (in_flight_ > 0) harvest(1000);
}

uint32_t Evictor::live_nodes() noexcept {
  uint32_t live = 0;
  for (uint32_t i = 0; i < pager_->node_count; i++)
    if (nodes_[i]->is_connected()) live |= 1U << i;
  return live;
}

void Evictor::reconnect() noexcept {
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if (nodes_[i]->is_connected()) continue;
    uint64_t now_s = sys::steady_clock_s();
    if (now_s < reconnect_at_s_[i]) continue;
    reconnect_at_s_[i] = now_s + kReconnectEveryS;
    connect(i);
  }
}

// What it has is looked up before it counts as a holder of anything again.
void Evictor::connect(uint32_t node) noexcept {
  const NodeStatus status = nodes_[node]->connect(kConnectMs);
  if (status == NodeStatus::kFenced) pager_->is_fenced.store(true, std::memory_order_release);
  if (status == NodeStatus::kGood) healer_.validate(node);
}

// An idle connection says that it is gone only to those who ask.
void Evictor::notice_losses() noexcept {
  NodeCompletion done[1];
  for (uint32_t i = 0; i < pager_->node_count; i++) nodes_[i]->poll(done, 1, 0);
}

bool Evictor::is_in_flight(uint64_t extent) const noexcept {
  for (const Writing& writing : writings_)
    if (writing.is_active && writing.extent == extent) return true;
  return false;
}

uint32_t Evictor::free_slot() noexcept {
  while (true) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      if (!writings_[slot].is_active) return slot;
    }
    harvest(100);
  }
}

}  // namespace btd
