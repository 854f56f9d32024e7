#include "core/spill/fault_handler.hpp"

#include <sched.h>
#include <time.h>

#include "core/base/log.hpp"
#include "core/spill/poll_nodes.hpp"

namespace btd {
namespace {

// Of the slots, so that a fault finds one free while a run is fetched.
constexpr uint32_t kAheadInFlightMax = 14;
// A node that is gone is asked again this often, and then has this long to answer.
constexpr uint64_t kReconnectEveryMs = 200;
constexpr uint32_t kConnectMs = 50;
// How long a fault waits for the evictor before it goes over the limit.
constexpr uint32_t kRoomWaitUs = 1000;
constexpr uint32_t kRoomWaits = 200;
constexpr uint32_t kRoomWaitsAlone = 2;
constexpr uint32_t kSleepUs = 60'000'000;  // there is a call for whatever ends it

alignas(kPageBytes) const char kZeros[kFarExtentBytes] = {};

uint64_t milliseconds() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1000 + static_cast<uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace

void FaultHandler::open(Pager& pager, Node* const* nodes, bool is_first) noexcept {
  pager_ = &pager;
  nodes_ = nodes;
  is_first_ = is_first;
  is_done_ = false;
}

void FaultHandler::run() noexcept {
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if (!nodes_[i]->is_connected()) nodes_[i]->connect(kConnectMs);
  }
  if (is_first_) follower_.start();
  PageFault faults[Userfault::kBatch];
  while (!is_done_ || in_flight_ > 0) {
    if (!is_first_ && in_flight_ == 0) wait_until_needed();
    // One ring is for one handler.
    uint32_t found = is_done_ ? 0 : pager_->faults.read(faults, in_flight_ == 0);
    for (uint32_t i = 0; i < found; i++) serve(faults[i]);
    if (in_flight_ > 0) harvest(found == 0 ? 20 : 0);
  }
  for (uint32_t i = 0; i < pager_->node_count; i++) nodes_[i]->close();
}

// Every thread that waits for faults is woken by each of them, which costs the thread that faults.
void FaultHandler::wait_until_needed() noexcept {
  while (true) {
    const uint32_t seen = pager_->help_call.seen();
    if (pager_->wants_help.load() || pager_->is_stopping.load()) return;
    pager_->help_call.wait(seen, kSleepUs);
  }
}

void FaultHandler::serve(const PageFault& fault) noexcept {
  count(pager_->stats.faults);
  uint64_t offset = fault.address - reinterpret_cast<uint64_t>(pager_->base);
  if (offset >= pager_->window_bytes) return ring(fault);
  if (is_first_ && follower_.saw(fault.thread)) {
    // One thread's faults come one after the other.
    if (follower_.is_following()) pager_->wants_help.store(false);
    if (!follower_.is_following()) pager_->call_for_help();
  }
  serve_extent(offset / kFarExtentBytes, fault);
}

// The doorbell is how another thread wakes a handler that waits in a blocking read, without the
// cost of a poll() for each fault.
void FaultHandler::ring(const PageFault& fault) noexcept {
  is_done_ = pager_->is_stopping.load(std::memory_order_acquire);
  pager_->faults.zero(round_down(fault.address, kPageBytes), kPageBytes);
  pager_->faults.wake(round_down(fault.address, kPageBytes), kPageBytes);
}

void FaultHandler::serve_extent(uint64_t extent, const PageFault& fault) noexcept {
  ExtentTable& table = pager_->file.table();
  // Each round either ends or sees that another thread has changed the word.
  while (true) {
    ExtentWord word = table.load(extent);
    switch (word.state()) {
      case ExtentState::kZero:
        if (make_zero(extent, word, fault.is_write)) return;
        break;
      case ExtentState::kFar:
        if (start_fetch(extent, word, fault)) return;
        break;
      case ExtentState::kFetching:
        if (want(extent, word)) return;
        break;
      case ExtentState::kNear:
      case ExtentState::kIdle:
      case ExtentState::kUnmapping:
      case ExtentState::kEvicting:
        if (map(extent, word, fault)) return;
        break;
      case ExtentState::kMapping:
      case ExtentState::kPunching:
      case ExtentState::kDiscarding:
        ::sched_yield();  // its owner needs microseconds
        break;
      case ExtentState::kPoisoned:
        pager_->faults.poison(pager_->address_of(extent), kFarExtentBytes);
        return;
    }
  }
}

// The frames are all here, and are mapped again; an eviction that has not begun to punch is
// overtaken.  False: somebody else changed the word.
bool FaultHandler::map(uint64_t extent, ExtentWord word, const PageFault& fault) noexcept {
  ExtentTable& table = pager_->file.table();
  const uint64_t address = pager_->address_of(extent);
  const bool was_mapped = word.state() == ExtentState::kNear;
  if (fault.is_protected && !was_mapped) {
    // The page has been unmapped since: it faults again, as a page that is not mapped.
    pager_->faults.wake(address, kFarExtentBytes);
    return true;
  }
  // 1. Ours: from here on the evictor neither punches nor believes what it has seen.  A kill leaves
  // kMapping, all frames there.
  if (!table.change(extent, word, word.with(ExtentState::kMapping))) return false;

  // 2. The dirty bit is right before the first write can be made.
  Error error = Error::kNone;
  const bool is_idle = word.state() == ExtentState::kIdle;
  const bool was_marker = word.is_prefetched();
  ExtentWord next = word.at_rest(ExtentState::kNear);
  if (is_idle) {
    // A clean one stays protected, if it is not written to right now.
    bool is_protected = !word.is_dirty() && !fault.is_write && pager_->maps_protected;
    next = next.with_dirty(word.is_dirty() || !is_protected);
    error = pager_->faults.map_frames(address, kFarExtentBytes, is_protected);
    count(pager_->stats.reactivated);
  } else if (!was_mapped) {
    // An eviction is under way.  What it has seen of the pages is worth nothing any more, and its
    // generation may get to the nodes or not: so dirty, whatever it was.
    next = next.with_dirty(true);
    error = pager_->faults.map_frames(address, kFarExtentBytes, false);
    count(pager_->stats.canceled);
  } else if (fault.is_protected) {
    // Writes are tracked synchronously: one fault for the whole extent.
    next = next.with_dirty(true);
    table.store(extent, next.with(ExtentState::kMapping));
    pager_->faults.unprotect(address, kFarExtentBytes);
  } else {
    // A late fault, mostly; or one page that was unmapped while it was being mapped.
    if (!pager_->tracks_async) next = next.with_dirty(true);
    error = pager_->faults.map_frames(round_down(fault.address, kPageBytes), kPageBytes, false);
  }
  if (error == Error::kIo) {
    // It would fault again, for ever.
    lose_frames(extent, next);
    return true;
  }
  // 3. The evictor may have it again.
  table.store(extent, next);
  pager_->faults.wake(address, kFarExtentBytes);

  if (was_marker) hit(extent);
  return true;
}

// Frames that must be here are not, and nothing says what they held.
void FaultHandler::lose_frames(uint64_t extent, ExtentWord word) noexcept {
  pager_->file.punch(extent);
  pager_->near_count.fetch_sub(1, std::memory_order_relaxed);
  poison(extent, word.with_dirty(false), "its frames are gone");
}

// Whoever touches it from now on gets SIGBUS, never zeros.
void FaultHandler::poison(uint64_t extent, ExtentWord word, const char* why) noexcept {
  // Counted before anybody is woken who may look.
  const bool is_first_lost = pager_->stats.poisoned.fetch_add(1, std::memory_order_relaxed) == 0;
  pager_->file.table().store(extent, word.at_rest(ExtentState::kPoisoned));
  pager_->faults.poison(pager_->address_of(extent), kFarExtentBytes);
  if (!is_first_lost) return;
  Line()
      .text("far memory is lost: extent ")
      .number(extent)
      .text(", generation ")
      .number(word.generation())
      .text(": ")
      .text(why)
      .text("; whoever touches it gets SIGBUS")
      .write(LogLevel::kError);
}

// Who fetches it wakes everybody at the end.  False: somebody else changed the word.
bool FaultHandler::want(uint64_t extent, ExtentWord word) noexcept {
  if (word.is_wanted()) return true;
  if (!pager_->file.table().change(extent, word, word.with_wanted(true))) return false;
  // The program has caught up with us: the next run at once, or the link would rest.
  if (word.is_prefetched()) hit(extent);
  return true;
}

// The first extent of a run was touched: the run is used, and the next one is fetched.
void FaultHandler::hit(uint64_t extent) noexcept {
  count(pager_->stats.runs_hit);
  if (!pager_->may_prefetch) return;
  pager_->trend_lock.lock();
  Run run = pager_->trend.hit(extent);
  pager_->trend_lock.unlock();
  prefetch(run);
}

bool FaultHandler::make_zero(uint64_t extent, ExtentWord word, bool is_write) noexcept {
  wait_for_room();
  ExtentTable& table = pager_->file.table();
  // Dirty, or without holders: whoever is killed from here on leaves pages that are zero where they
  // are missing.  Nodes that were not told yet that the extent was given back stay in the word.
  const bool is_dirty = is_write || word.holders() != 0;
  ExtentWord fetching = word.fetching().with_dirty(is_dirty);
  if (!table.change(extent, word, fetching)) return false;
  pager_->near_count.fetch_add(1, std::memory_order_relaxed);
  count(pager_->stats.zeroed);
  // A fresh extent that is written to will be dirty as a whole anyway; one that is only read stays
  // zero, and costs nothing to evict.
  fill(extent, kZeros, !is_dirty);
  table.store(extent, fetching.with(ExtentState::kNear));
  pager_->faults.wake(pager_->address_of(extent), kFarExtentBytes);
  return true;
}

bool FaultHandler::start_fetch(uint64_t extent, ExtentWord word, const PageFault& fault) noexcept {
  wait_for_room();
  uint32_t slot = free_slot();
  ExtentTable& table = pager_->file.table();
  // A kill leaves kFetching: frames that are there win, the others are fetched again.
  if (!table.change(extent, word, word.fetching().with_wanted(true))) return false;
  pager_->near_count.fetch_add(1, std::memory_order_relaxed);
  fetches_[slot] = {extent, 0, 0, true, false, fault.is_write, 0};
  in_flight_++;
  if (!post(slot)) lose(slot);

  if (pager_->may_prefetch) {
    pager_->trend_lock.lock();
    Run run = pager_->trend.hit(extent);  // the first of a run, if nobody has got to it yet
    pager_->trend_lock.unlock();
    prefetch(run);
  }
  return true;
}

void FaultHandler::prefetch(const Run& run) noexcept {
  if (run.count == 0) return;
  for (uint32_t i = 0; i < pager_->node_count; i++) nodes_[i]->gather(true);
  const uint32_t count = prefetch_some(run);
  for (uint32_t i = 0; i < pager_->node_count; i++) nodes_[i]->gather(false);
  if (count == run.count) return;
  pager_->trend_lock.lock();
  pager_->trend.cut(run, count);
  pager_->trend_lock.unlock();
}

// Returns how many of the run are under way or here.
uint32_t FaultHandler::prefetch_some(const Run& run) noexcept {
  ExtentTable& table = pager_->file.table();
  for (uint32_t i = 0; i < run.count; i++) {
    uint64_t extent = run.first + i * static_cast<uint64_t>(run.step);
    if (extent >= table.count() || ahead_ >= kAheadInFlightMax || in_flight_ >= kNodeDepth ||
        pager_->near_count.load(std::memory_order_relaxed) >= pager_->near_max) {
      return i;
    }
    ExtentWord word = table.load(extent);
    // The first one's touch says that the run is used.
    const bool is_marker = i == 0;
    if (word.state() != ExtentState::kFar ||
        !table.change(extent, word, word.fetching().with_prefetched(is_marker))) {
      // If that has been touched already, so is known what it says; else it would never be.
      if (is_marker && table.load(extent).state() != ExtentState::kFetching) return 0;
      continue;
    }
    pager_->near_count.fetch_add(1, std::memory_order_relaxed);
    uint32_t slot = free_slot();
    fetches_[slot] = {extent, 0, 0, true, true, false, 0};
    in_flight_++;
    ahead_++;
    if (!post(slot)) lose(slot);
  }
  return run.count;
}

// A fault that would need more frames than are allowed waits for the evictor; for ever it does not:
// when no node takes anything, over the limit is better than stopped.
void FaultHandler::wait_for_room() noexcept {
  for (uint32_t i = 0; i < kRoomWaits; i++) {
    uint32_t seen = pager_->room_call.seen();
    uint64_t now = pager_->near_count.load(std::memory_order_relaxed);
    if (now >= pager_->near_high && i == 0) pager_->evictor_call.raise();
    if (now < pager_->near_max) return;
    if (pager_->is_stuck.load(std::memory_order_acquire)) break;
    if (in_flight_ > 0) harvest(0);
    if (i == kRoomWaitsAlone) pager_->call_for_help();  // with the faults for which there is room
    pager_->room_call.wait(seen, kRoomWaitUs);
  }
  count(pager_->stats.over_limit);
}

uint32_t FaultHandler::free_slot() noexcept {
  while (true) {
    for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
      if (!fetches_[slot].is_active) return slot;
    }
    pager_->call_for_help();
    harvest(100);  // every operation ends by its deadline
  }
}

// Sends the slot's fetch to a holder that was not asked yet; the holders are asked in an order that
// depends on the extent, so that each serves its part.
bool FaultHandler::post(uint32_t slot) noexcept {
  Fetch& fetch = fetches_[slot];
  ExtentWord word = pager_->file.table().load(fetch.extent);
  for (uint32_t round = 0; round < 2; round++) {
    for (uint32_t i = 0; i < pager_->node_count; i++) {
      uint32_t node = static_cast<uint32_t>((fetch.extent + i) % pager_->node_count);
      uint32_t bit = 1U << node;
      if ((word.holders() & bit) == 0 || (fetch.tried & bit) != 0) continue;
      if (!nodes_[node]->is_connected()) continue;
      fetch.tried |= bit;
      fetch.node = node;
      if (nodes_[node]->read(slot, fetch.extent, word.generation())) return true;
    }
    if (round == 0) reconnect();
  }
  return false;
}

void FaultHandler::reconnect() noexcept {
  for (uint32_t i = 0; i < pager_->node_count; i++) {
    if (nodes_[i]->is_connected()) continue;
    uint64_t now_ms = milliseconds();
    if (now_ms < reconnect_at_ms_[i]) continue;
    reconnect_at_ms_[i] = now_ms + kReconnectEveryMs;
    pager_->call_for_help();
    if (nodes_[i]->connect(kConnectMs) == NodeStatus::kFenced)
      pager_->is_fenced.store(true, std::memory_order_release);
  }
}

void FaultHandler::harvest(uint32_t wait_us) noexcept {
  if (parked_ > 0) retry_parked();
  auto is_ours = [this](const Fetch& fetch, uint32_t node) {
    return fetch.is_active && !fetch.is_parked && fetch.node == node;
  };
  auto is_asked = [&](uint32_t node) {
    for (const Fetch& fetch : fetches_)
      if (is_ours(fetch, node)) return true;
    return false;
  };
  poll_nodes(nodes_, pager_->node_count, wait_us, is_asked,
             [&](uint32_t node, const NodeCompletion& done) {
               if (is_ours(fetches_[done.slot], node)) complete(done);
             });
}

// Those whose holders are all gone ask again; a node that was only restarted has what it had.
void FaultHandler::retry_parked() noexcept {
  const uint64_t now_ms = milliseconds();
  if (now_ms == parked_at_ms_) return;
  parked_at_ms_ = now_ms;
  bool are_all_parked = true;
  for (uint32_t slot = 0; slot < kNodeDepth; slot++) {
    Fetch& fetch = fetches_[slot];
    if (!fetch.is_active) continue;
    if (fetch.is_parked) {
      fetch.is_parked = false;
      fetch.tried = 0;
      if (!post(slot)) lose(slot);
    }
    are_all_parked &= !fetch.is_active || fetch.is_parked;
  }
  // Nothing to poll: leave the processor to the nodes.
  if (are_all_parked) pager_->room_call.wait(pager_->room_call.seen(), kRoomWaitUs);
}

void FaultHandler::complete(const NodeCompletion& completion) noexcept {
  Fetch& fetch = fetches_[completion.slot];
  ExtentWord word = pager_->file.table().load(fetch.extent);
  // Nothing but the very generation that was written back will do: an older one would undo the
  // program's writes, and nobody but us can have written a newer one.
  bool is_good = completion.status == NodeStatus::kGood &&
                 completion.length_bytes == kFarExtentBytes &&
                 completion.generation == word.generation();
  if (is_good) return install(completion.slot);
  if (completion.status == NodeStatus::kFenced)
    pager_->is_fenced.store(true, std::memory_order_release);
  count(pager_->stats.reads_retried);
  if (!post(completion.slot)) lose(completion.slot);
}

void FaultHandler::install(uint32_t slot) noexcept {
  Fetch& fetch = fetches_[slot];
  ExtentTable& table = pager_->file.table();
  const uint64_t address = pager_->address_of(fetch.extent);
  const char* data = nodes_[fetch.node]->buffer(slot);
  ExtentWord word = table.load(fetch.extent);
  count(pager_->stats.fetched);
  if (fetch.is_ahead) count(pager_->stats.prefetched);

  if (word.is_prefetched() && !word.is_wanted() && pager_->maps_protected &&
      pager_->file.write(fetch.extent, data)) {
    // Frames without a mapping: the first touch is a fault, and says that the run is used; if that
    // has come meanwhile, it is known.
    const ExtentWord idle = word.at_rest(ExtentState::kIdle).with_dirty(false);
    if (!table.change(fetch.extent, word, idle.with_prefetched(true)))
      table.store(fetch.extent, idle);
  } else {
    fill(fetch.extent, data, !fetch.is_write);
    table.store(fetch.extent, word.at_rest(ExtentState::kNear).with_dirty(fetch.is_write));
  }
  // Somebody may wait whose fault another handler has read.
  pager_->faults.wake(address, kFarExtentBytes);
  if (fetch.is_ahead) ahead_--;
  if (fetch.give_up_ms != 0) parked_--;
  fetch.is_active = false;
  in_flight_--;
}

// Frames for all pages, however long that takes: what came from a node must not be given up because
// the tmpfs is full for the moment.
void FaultHandler::fill(uint64_t extent, const char* from, bool is_protected) noexcept {
  for (uint32_t i = 0;; i++) {
    Error error =
        pager_->faults.copy(pager_->address_of(extent), from, kFarExtentBytes, is_protected);
    if (error != Error::kNoMemory) return;
    if (i == 1000)
      Line().text("no memory for a far extent; its thread waits").write(LogLevel::kError);
    uint32_t seen = pager_->room_call.seen();
    pager_->evictor_call.raise();
    pager_->call_for_help();
    pager_->room_call.wait(seen, kRoomWaitUs);
  }
}

// No holder gave it.  Ahead of the program that is no harm yet; for a thread that waits it is the
// end: it gets SIGBUS, never zeros.
void FaultHandler::lose(uint32_t slot) noexcept {
  Fetch& fetch = fetches_[slot];
  ExtentTable& table = pager_->file.table();
  ExtentWord word = table.load(fetch.extent);
  if (word.is_wanted() && pager_->lost_wait_ms != 0 && word.holders() != 0) {
    const uint64_t now_ms = milliseconds();
    if (fetch.give_up_ms == 0) {
      fetch.give_up_ms = now_ms + pager_->lost_wait_ms;
      parked_++;
    }
    if (now_ms < fetch.give_up_ms) {
      fetch.is_parked = true;
      return;
    }
  }
  if (fetch.give_up_ms != 0) parked_--;
  pager_->near_count.fetch_sub(1, std::memory_order_relaxed);
  if (word.is_wanted()) {
    poison(fetch.extent, word, "no node gives it");
  } else {
    table.store(fetch.extent, word.at_rest(ExtentState::kFar));
    pager_->faults.wake(pager_->address_of(fetch.extent), kFarExtentBytes);
  }
  if (fetch.is_ahead) ahead_--;
  fetch.is_active = false;
  in_flight_--;
}

}  // namespace btd
