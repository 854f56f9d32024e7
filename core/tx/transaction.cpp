#include "core/tx/transaction.hpp"

#include <cstring>

#include "core/base/check.hpp"
#include "core/tx/log.hpp"

namespace btd {
namespace {

constexpr size_t kPieceBytes = 256 * kKiB;  // of a range, so that no record needs a huge extent
constexpr size_t kExtentBytesMin = 64 * kKiB;
constexpr size_t kExtentBytesMax = 4 * kMiB;
// Always left in an area: a link, or a commit on a line of its own.
constexpr size_t kTailBytes = 2 * kCacheLineBytes;

// An AllocPayload, by words.
struct AllocWords {
  uint64_t words[3];
  AllocWords(uint64_t block, uint64_t size_bytes, uint16_t live, uint16_t state_bytes)
      : words{block, size_bytes, uint64_t{state_bytes} << 16 | live} {}
};
static_assert(sizeof(AllocWords) == sizeof(AllocPayload));
static_assert(offsetof(AllocPayload, live) == 16 && offsetof(AllocPayload, state_bytes) == 18);

// Other threads may read the word meanwhile: it is stored whole.
void store(char* target, const void* bytes, size_t size_bytes) {
  if (size_bytes == sizeof(uint64_t) && reinterpret_cast<uintptr_t>(target) % 8 == 0) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    publish(reinterpret_cast<uint64_t*>(target), word);
  } else {
    std::memcpy(target, bytes, size_bytes);
  }
}

}  // namespace

// --- The log
// -------------------------------------------------------------------------------------------------------------

bool Transaction::start(Transactions& transactions, uint32_t lane) {
  Arena& arena = *transactions.arena_;
  if (!arena.grow_lanes(lane + 1)) return false;
  arena_ = &arena;
  transactions_ = &transactions;
  base_ = arena.mapping().address();
  lane_ = lane;
  is_durable_ = &arena.persist() != &process_persist();
  char* media = arena.lane(lane);
  if (finished_ == 0) finished_ = reinterpret_cast<LaneHeader*>(media)->finished;
  sequence_ = sequence_of(finished_) + 1;
  chain_ = first_chain(sequence_);
  last_ = 0;
  at_ = unflushed_ = media + line_of(finished_) * kCacheLineBytes;
  room_end_ = media + kLaneBytes;
  extent_ = nullptr;
  extent_bytes_ = 0;
  free_count_ = 0;
  next_range_ = 0;
  for (Range& range : ranges_) range = {};
  note_count_ = 0;
  depth = 1;
  is_canceled = false;
  return true;
}

// The record is whole before the word that makes it valid: a kill in between leaves none.
//
// Everything is stored by words of 8 bytes and looked at by no larger ones: a load that needs two
// stores waits until both have reached the cache, behind all that came before them.
void Transaction::write_record(RecordKind kind, uint64_t target, const void* payload,
                               size_t length_bytes) {
  const uint64_t words[] = {uint64_t{length_bytes} << 32 | static_cast<uint32_t>(sequence_), target,
                            last_, static_cast<uint64_t>(kind)};
  static_assert(offsetof(LogRecord, kind) == sizeof(words) - sizeof(uint64_t));
  auto* media = reinterpret_cast<uint64_t*>(at_);
  for (size_t i = 0; i < 3; i++) media[i] = words[i];
  uint32_t crc = crc32c(words, offsetof(LogRecord, checksum), chain_);
  if (length_bytes > 0) crc = copy_with_crc32c(media + 4, payload, length_bytes, crc);
  chain_ = nonzero_checksum(crc);
  publish(media + 3, uint64_t{chain_} << 32 | words[3]);
  last_ = offset_of(at_);
  at_ += record_bytes(length_bytes);
}

// Goes on in a fresh extent if need be.
bool Transaction::make_room(size_t wanted_bytes) {
  auto room_bytes = static_cast<size_t>(room_end_ - at_);
  if (wanted_bytes + kTailBytes <= room_bytes) return true;
  size_t size_bytes = min(max(kExtentBytesMin, 2 * extent_bytes_), kExtentBytesMax);
  size_bytes = max(size_bytes, round_up(wanted_bytes + kTailBytes + kCacheLineBytes, kFrameBytes));
  auto* extent = static_cast<char*>(arena_->take_log_extent(size_bytes));
  if (extent == nullptr) return false;
  std::memcpy(extent, &extent_, sizeof(extent_));
  write_record(RecordKind::kLink, offset_of(extent), nullptr, 0);
  flush_log();
  extent_ = extent;
  extent_bytes_ = size_bytes;
  at_ = unflushed_ = extent + kCacheLineBytes;
  room_end_ = extent + size_bytes;
  return true;
}

Error Transaction::append(RecordKind kind, uint64_t target, const void* payload,
                          size_t length_bytes) {
  if (!make_room(record_bytes(length_bytes))) return Error::kNoSpace;
  // Mostly it was flushed lately, and the commit will store to it.
  if (is_durable_ && kind != RecordKind::kUndo) __builtin_prefetch(base_ + target, 1);
  note(kind, target, payload, length_bytes);
  write_record(kind, target, payload, length_bytes);
  return Error::kNone;
}

Error Transaction::append_pieces(RecordKind kind, const void* target, const void* bytes,
                                 size_t size_bytes) {
  if (size_bytes <= kPieceBytes) return append(kind, offset_of(target), bytes, size_bytes);
  for (size_t done = 0; done < size_bytes; done += kPieceBytes) {
    Error error = append(kind, offset_of(target) + done, static_cast<const char*>(bytes) + done,
                         min(kPieceBytes, size_bytes - done));
    if (error != Error::kNone) return error;
  }
  return Error::kNone;
}

void Transaction::flush_log() {
  if (at_ > unflushed_) arena_->persist().flush(unflushed_, static_cast<size_t>(at_ - unflushed_));
  unflushed_ = at_;
}

// Everything flushed so far, this lane's last end among it, is durable after this.
void Transaction::drain_log() {
  if (!arena_->deferred().settle(arena_->persist(), [this] { flush_log(); })) {
    flush_log();
    arena_->persist().drain();
  }
  fresh_line();
}

// A line that has just been flushed is not written again.
void Transaction::fresh_line() {
  at_ = base_ + round_up(offset_of(at_), kCacheLineBytes);
  unflushed_ = at_;
}

void Transaction::note(RecordKind kind, uint64_t target, const void* payload, size_t length_bytes) {
  if (note_count_++ >= kNotes) return;
  Note& note = notes_[note_count_ - 1];
  note.target = target;
  note.kind = kind;
  note.length_bytes = static_cast<uint32_t>(length_bytes);
  if (length_bytes == sizeof(AllocWords)) {
    std::memcpy(note.bytes, payload, sizeof(AllocWords));
  } else if (length_bytes == sizeof(uint64_t)) {
    std::memcpy(note.bytes, payload, sizeof(uint64_t));
  } else {
    note.in_log = at_ + sizeof(LogRecord);
  }
}

Transaction::Note Transaction::note_of(const LogRecord* record) {
  Note note;
  note.target = record->target;
  note.kind = static_cast<RecordKind>(record->kind);
  note.length_bytes = record->length_bytes;
  if (note.is_short()) {
    std::memcpy(note.bytes, record + 1, record->length_bytes);
  } else {
    note.in_log = payload_of(record);
  }
  return note;
}

// From the first record to the last, links left out.  REQUIRES: finish() was not called yet.
template <typename Visit>
void Transaction::for_each(Visit visit) const {
  uint64_t end = last_;  // visit() may write more
  if (uint32_t count = note_count_; count <= kNotes) {
    for (uint32_t i = 0; i < count; i++) visit(notes_[i]);
    return;
  }
  LogReader reader(arena_->header(), base_, lane_, true);
  while (const LogRecord* record = end == 0 ? nullptr : reader.next()) {
    bool is_last = reader.last() == end;
    visit(note_of(record));
    if (is_last) break;
  }
}

// The other way round.
template <typename Visit>
void Transaction::for_each_back(Visit visit) const {
  if (note_count_ <= kNotes) {
    for (uint32_t i = note_count_; i-- > 0;) visit(notes_[i]);
    return;
  }
  for (uint64_t at = last_; at != 0; at = record_at(at)->previous) visit(note_of(record_at(at)));
}

// --- What a transaction does
// --------------------------------------------------------------------------------------------------

bool Transaction::covers(const void* address, size_t size_bytes) const {
  auto first = reinterpret_cast<uintptr_t>(address);
  for (const Range& range : ranges_) {
    if (first >= range.first && first + size_bytes <= range.end) return true;
  }
  return false;
}

void Transaction::note_range(const void* address, size_t size_bytes) {
  auto first = reinterpret_cast<uintptr_t>(address);
  ranges_[next_range_++ % kRangesKept] = {first, first + size_bytes};
}

Error Transaction::add(const void* address, size_t size_bytes) {
  if (size_bytes == 0 || covers(address, size_bytes)) return Error::kNone;
  if (!is_in_data(arena_->header(), offset_of(address), size_bytes)) return Error::kInvalid;
  // What recovery sees: some pieces of the range are kept, none of it was changed.
  Error error = append_pieces(RecordKind::kUndo, address, address, size_bytes);
  if (error != Error::kNone) return error;
  // After this the program may change the range.
  if (is_durable_) drain_log();
  note_range(address, size_bytes);
  return Error::kNone;
}

Error Transaction::write(void* target, const void* bytes, size_t size_bytes) {
  uint64_t offset = offset_of(target);
  const ArenaHeader& header = arena_->header();
  bool is_root = offset >= header.root_table_offset &&
                 offset - header.root_table_offset < header.roots_grown * sizeof(Root);
  if (!is_root && !is_in_data(header, offset, size_bytes)) return Error::kInvalid;
  return append_pieces(RecordKind::kRedo, target, bytes, size_bytes);
}

uint64_t Transaction::read(const uint64_t* target) const {
  uint64_t value = *target;
  for_each([&](const Note& note) {
    if (note.kind == RecordKind::kRedo && note.target == offset_of(target) &&
        note.length_bytes == sizeof(value))
      std::memcpy(&value, note.bytes, sizeof(value));
  });
  return value;
}

Error Transaction::adopt(const Reservation& reservation, size_t size_bytes) {
  AllocWords payload(offset_of(reservation.block), size_bytes, reservation.live,
                     reservation.state_bytes);
  Error error = append(RecordKind::kAlloc, offset_of(reservation.state), &payload, sizeof(payload));
  if (error == Error::kNone) note_range(reservation.block, size_bytes);
  return error;
}

void* Transaction::allocate(ThreadCache& cache, size_t size_bytes, size_t alignment, bool* is_zero,
                            Error* error) {
  Reservation taken = arena_->reserve(cache, size_bytes, alignment, is_zero);
  *error = taken.block == nullptr ? Error::kNoSpace : adopt(taken, size_bytes);
  if (*error == Error::kNone) return taken.block;
  arena_->cancel(cache, taken);
  return nullptr;
}

bool Transaction::find_alloc(const void* pointer, Note& found) const {
  bool is_found = false;
  for_each([&](const Note& note) {
    if (note.kind != RecordKind::kAlloc || alloc_payload_of(note.bytes).block != offset_of(pointer))
      return;
    found = note;
    is_found = true;
  });
  return is_found;
}

Error Transaction::free(void* pointer) {
  uint64_t state_offset;
  uint16_t live = 0;
  uint16_t state_bytes;
  Reservation found{};
  Note allocated;
  if (!arena_->contains(pointer)) return Error::kInvalid;
  if (arena_->prepare_free(pointer, found) == Verdict::kGood) {
    state_offset = offset_of(found.state);
    live = found.live;
    state_bytes = found.state_bytes;
  } else if (find_alloc(pointer, allocated)) {
    // Allocated by this transaction: it becomes live and free at the commit, in that order.
    state_offset = allocated.target;
    state_bytes = alloc_payload_of(allocated.bytes).state_bytes;
  } else {
    return Error::kInvalid;
  }
  {
    LockGuard guard(transactions_->free_lock_);
    uint32_t owner = transactions_->freed_.owner_of(pointer);
    if (owner != PointerSet::kNobody) return owner == lane_ ? Error::kInvalid : Error::kBusy;
    if (!transactions_->freed_.insert(pointer, lane_)) return Error::kNoMemory;
    transactions_->free_count_.fetch_add(1, std::memory_order_relaxed);
  }
  free_count_++;
  AllocWords payload(offset_of(pointer), 0, live, state_bytes);
  Error error = append(RecordKind::kFree, state_offset, &payload, sizeof(payload));
  if (error == Error::kNone) return error;
  free_count_--;
  transactions_->forget_free(pointer);
  return error;
}

// --- Its end
// -------------------------------------------------------------------------------------------------------------

// Whether the blocks to be freed are still live: a plain free() may have been faster.
bool Transaction::are_frees_good() const {
  bool is_good = true;
  for_each([&](const Note& note) {
    if (note.kind != RecordKind::kFree) return;
    AllocPayload payload = alloc_payload_of(note.bytes);
    if (payload.live == 0) return;  // allocated by this transaction
    uint16_t state = static_cast<uint8_t>(base_[note.target]);
    if (payload.state_bytes == sizeof(state))
      std::memcpy(&state, base_ + note.target, sizeof(state));
    is_good = is_good && state == payload.live;
  });
  return is_good;
}

// Whatever was changed in place: the ranges kept, and the blocks allocated.  False: nothing was.
bool Transaction::flush_data() const {
  bool is_any = false;
  auto flush = [&](uint64_t offset, uint64_t size_bytes) {
    if (size_bytes == 0) return;
    arena_->persist().flush(base_ + offset, size_bytes);
    is_any = true;
  };
  for_each([&](const Note& note) {
    if (note.kind == RecordKind::kUndo) {
      flush(note.target, note.length_bytes);
    } else if (note.kind == RecordKind::kAlloc) {
      AllocPayload payload = alloc_payload_of(note.bytes);
      flush(payload.block, payload.size_bytes);
    }
  });
  return is_any;
}

void Transaction::apply() const {
  Persist& persist = arena_->persist();
  for_each([&](const Note& note) {
    char* target = base_ + note.target;
    if (note.kind == RecordKind::kRedo) {
      store(target, note.payload(), note.length_bytes);
      persist.flush(target, note.length_bytes);
    } else if (note.kind == RecordKind::kAlloc || note.kind == RecordKind::kFree) {
      AllocPayload payload = alloc_payload_of(note.bytes);
      bool is_live = note.kind == RecordKind::kAlloc;
      publish_state(target, payload.state_bytes, is_live ? payload.live : 0);
      persist.flush(target, payload.state_bytes);
    }
  });
}

// The old bytes of what apply() will change.  Stores of apply() may then reach media before the
// commit does.
Error Transaction::keep_old() {
  Error error = Error::kNone;
  for_each([&](const Note& note) {
    if (error != Error::kNone || note.kind != RecordKind::kRedo) return;
    error = append(RecordKind::kUndo, note.target, base_ + note.target, note.length_bytes);
  });
  return error;
}

Error Transaction::commit(ThreadCache& cache) {
  if (last_ == 0) {
    finish(cache, true);
    return Error::kNone;
  }
  if (free_count_ > 0 && !are_frees_good()) {
    abort(cache);
    return Error::kInvalid;
  }
  bool is_changed_in_place = is_durable_ && flush_data();
  if (is_changed_in_place) {
    // 1. What was changed in place, what waits in the log and what that will overwrite: durable.
    // Recovery until the end of step 2: put back, or all of it, as the commit has reached media or
    // not, whatever else has.
    if (Error error = keep_old(); error != Error::kNone) {
      abort(cache);
      return error;
    }
    drain_log();
    // 2. The commit and what waited, in any order.
    write_record(RecordKind::kCommit, 0, nullptr, 0);
    flush_log();
    apply();
    arena_->persist().drain();
  } else {
    // 1. The log with its commit, durable: its checksums tell whether all of it is there.
    // Recovery: nothing of it, or all.
    write_record(RecordKind::kCommit, 0, nullptr, 0);
    if (is_durable_) drain_log();
    // 2. What waited.  Recovery: all of it.
    apply();
    if (is_durable_) arena_->persist().drain();
  }
  finish(cache, true);
  return Error::kNone;
}

// Puts the kept ranges back, the last first.
void Transaction::restore() const {
  for_each_back([&](const Note& note) {
    if (note.kind != RecordKind::kUndo) return;
    store(base_ + note.target, note.payload(), note.length_bytes);
    arena_->persist().flush(base_ + note.target, note.length_bytes);
  });
}

void Transaction::abort(ThreadCache& cache) {
  // Recovery before the end of finish(): the same again.
  restore();
  if (is_durable_) arena_->persist().drain();
  finish(cache, false);
}

// The log is of no use any more, and its lane is for others.
void Transaction::finish(ThreadCache& cache, bool is_committed) {
  if (last_ != 0) {
    auto* word = &reinterpret_cast<LaneHeader*>(arena_->lane(lane_))->finished;
    fresh_line();
    uint64_t line =
        extent_ == nullptr ? (offset_of(at_) - offset_of(word)) / kCacheLineBytes : kLogFirstLine;
    uint64_t value = finished_ = finished_word(sequence_, line);
    // The blocks are given back after this, and before anybody's use of them it is durable: malloc
    // settles.  So with an extent of the log, which anything may be made of.
    if (!is_durable_) {
      publish(word, value);
    } else {
      arena_->deferred().defer(lane_, word, value);
      if (extent_ != nullptr) arena_->deferred().settle(arena_->persist());
    }
    if (free_count_ > 0 || !is_committed)
      give_blocks(cache, is_committed ? RecordKind::kFree : RecordKind::kAlloc);
    release_extents();
  }
  transactions_->lanes_[lane_].lock.unlock();
}

// Those that this transaction freed, or, if it was aborted, those that it allocated.
void Transaction::give_blocks(ThreadCache& cache, RecordKind kind) {
  for_each_back([&](const Note& note) {
    if (note.kind != RecordKind::kAlloc && note.kind != RecordKind::kFree) return;
    void* block = base_ + alloc_payload_of(note.bytes).block;
    if (note.kind == RecordKind::kFree) transactions_->forget_free(block);
    if (note.kind == kind) arena_->take_back(cache, block);
  });
}

void Transaction::release_extents() {
  while (extent_ != nullptr) {
    char* extent = extent_;
    std::memcpy(&extent_, extent, sizeof(extent_));
    arena_->release_log_extent(extent);
  }
}

// --- Lanes
// ---------------------------------------------------------------------------------------------------------------

void Transactions::open(Arena& arena) {
  arena_ = &arena;
  for (Lane& lane : lanes_) lane.transaction.finished_ = 0;
}

Transaction* Transactions::begin() {
  uint32_t lane = 0;
  while (lane < kLaneCount && !lanes_[lane].lock.try_lock()) lane++;
  if (lane == kLaneCount) {
    lane = next_lane_.fetch_add(1, std::memory_order_relaxed) % kLaneCount;
    lanes_[lane].lock.lock();
  }
  Transaction& transaction = lanes_[lane].transaction;
  if (transaction.start(*this, lane)) return &transaction;
  lanes_[lane].lock.unlock();
  return nullptr;
}

bool Transactions::frees(const void* pointer) {
  if (free_count_.load(std::memory_order_relaxed) == 0) return false;
  LockGuard guard(free_lock_);
  return freed_.owner_of(pointer) != PointerSet::kNobody;
}

void Transactions::forget_free(const void* pointer) {
  LockGuard guard(free_lock_);
  freed_.remove(pointer);
  free_count_.fetch_sub(1, std::memory_order_relaxed);
}

void Transactions::reset() {
  free_lock_.reset();
  for (Lane& lane : lanes_) lane.lock.reset();
}

}  // namespace btd
