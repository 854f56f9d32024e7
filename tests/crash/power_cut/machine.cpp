#include "tests/crash/power_cut/machine.hpp"

#include <unistd.h>

#include <cstdio>

#include "core/gc/collector.hpp"

namespace btd::test {

void Machine::must(Error error) {
  if (error == Error::kNone) return;
  std::fprintf(stderr, "a call fails with error %d in: %s\n", static_cast<int>(error),
               program_.text().c_str());
  _exit(6);
}

void Machine::make(const Call& call, uint16_t number) {
  sim_.begin_call(number);
  switch (call.op) {
    case Op::kOpen:
      open(call.a != 0);
      break;
    case Op::kReopen:
      reopen();
      break;
    case Op::kAnchor:
      anchor(call.a != 0);
      break;
    case Op::kMalloc:
      allocate(call.a);
      break;
    case Op::kFree:
      free(call.a);
      break;
    case Op::kResize:
      resize(call.a);
      break;
    case Op::kRelease:
      arena_.release_heap(*heaps_[thread_]);
      heaps_[thread_] = arena_.acquire_heap();
      break;
    case Op::kThread:
      thread_ = call.a % kThreads;
      sim_.as_thread(static_cast<uint8_t>(thread_));
      if (heaps_[thread_] == nullptr) heaps_[thread_] = arena_.acquire_heap();
      break;
    case Op::kRootSet:
      root_set(call.a);
      break;
    case Op::kRootRemove:
      root_remove(call.a);
      break;
    case Op::kMallocTo:
      adopt(call.a, 1);
      break;
    case Op::kActivate:
      adopt(call.a, 2);
      break;
    case Op::kFreeFrom:
      if (mine().transaction != nullptr) break;
      begin();
      tx_free();
      commit();
      break;
    case Op::kCopy:
      if (mine().transaction != nullptr) break;
      begin();
      write(call.a);
      commit();
      break;
    case Op::kStore:
      store();
      break;
    case Op::kBegin:
      begin();
      break;
    case Op::kAdd:
      add(call.a);
      break;
    case Op::kWrite:
      write(call.a);
      break;
    case Op::kTxMalloc:
      tx_allocate(call.a);
      break;
    case Op::kTxFree:
      tx_free();
      break;
    case Op::kTxRootSet:
      tx_root_set(call.a);
      break;
    case Op::kCommit:
      commit();
      break;
    case Op::kAbort:
      abort();
      break;
    case Op::kFillRoots:
      for (uint32_t i = 0; i < call.a; i++) {
        std::string name = "filler " + std::to_string(i);
        must(roots_.set(name.c_str(), anchor_, nullptr));
        if (i % 16 == 0) must(roots_.set(name.c_str(), nullptr, nullptr));
      }
      break;
    case Op::kCollect:
      collect_all();
      break;
    case Op::kWrong:
      wrong(call.a);
      break;
  }
  sim_.end_call();
}

// The process dies, and another takes over.
void Machine::reopen() {
  for (Open& open : open_) {
    for (auto& undo : open.at_abort) undo();
    open = {};
  }
  arena_.close();
  arena_.~Arena();
  ::new (&arena_) Arena;
  ::new (&roots_) Roots;
  ::new (&transactions_) Transactions;
  life_++;
  thread_ = 0;
  sim_.as_thread(0);
  heaps_[1] = nullptr;
  bool was_process = was_process_;
  open(false);
  // What the program itself stored in a life of a lower level, it has to flush.
  if (was_process) sim_.persist(anchor_, kAnchorBytes);
}

void Machine::open(bool is_process) {
  Line why;
  bool has_states = program_.is_strict && !is_process;
  Error error =
      open_arena({.path = path_.c_str(),
                  .capacity_bytes = kCapacityBytesMin,
                  .on_restart = OnRestart::kKeep,
                  .durability = is_process           ? Durability::kProcess
                                : program_.is_strict ? Durability::kStrict
                                                     : Durability::kLazy,
                  .program = "power_cut",
                  .structures = is_process ? &process_persist() : static_cast<Persist*>(&sim_),
                  .states = has_states ? static_cast<Persist*>(&sim_) : &process_persist()},
                 arena_, why);
  if (error != Error::kNone) std::fprintf(stderr, "%s\n", why.c_str());
  must(error);
  was_process_ = is_process;
  roots_.open(arena_);
  transactions_.open(arena_);
  heaps_[0] = arena_.acquire_heap();
}

uint64_t* Machine::slot(uint32_t index) {
  // Two of them share a line.
  return reinterpret_cast<uint64_t*>(anchor_ + index / 2 * kCacheLineBytes + index % 2 * 8);
}

uint32_t Machine::free_slot() const {
  for (uint32_t i = 0; i < kSlots; i++) {
    if (slots_[i].block == nullptr && !is_slot_busy_[i]) return i;
  }
  return kSlots;
}

// The one filled last.
uint32_t Machine::filled_slot() const {
  uint32_t found = kSlots;
  for (uint32_t i = 0; i < kSlots; i++) {
    if (slots_[i].block != nullptr && !is_slot_busy_[i] &&
        (found == kSlots || slot_order_[i] > slot_order_[found]))
      found = i;
  }
  return found;
}

// A block's first word is its own; the rest is zero, and so leads nowhere.
void Machine::prepare(char* block, size_t size_bytes, bool persists) {
  uint64_t value = fresh_value();
  std::memcpy(block, &value, sizeof(value));
  bool is_dirty = false;
  for (size_t at = 8; at + 8 <= size_bytes; at += 8) {
    uint64_t word;
    std::memcpy(&word, block + at, sizeof(word));
    if (word != 0) std::memset(block + at, 0, 8), is_dirty = true;
  }
  if (persists) sim_.persist(block, is_dirty ? size_bytes : sizeof(value));
}

void Machine::block_effect(const Owned& owned) {
  sim_.effect(EventKind::kBlock, arena_.offset_of(owned.block), arena_.usable_size(owned.block));
}

void Machine::word_effect(const void* word, uint64_t value) {
  sim_.effect(EventKind::kWord, arena_.offset_of(word), value);
}

void Machine::anchor(bool is_root) {
  if (is_root) {
    must(roots_.set(root_name(0).c_str(), anchor_, nullptr));
    sim_.effect(EventKind::kRoot, 0, arena_.offset_of(anchor_));
    return;
  }
  anchor_ = static_cast<char*>(arena_.allocate(cache(), kAnchorBytes, 64, nullptr));
  if (anchor_ == nullptr) must(Error::kNoSpace);
  block_effect({anchor_, kAnchorBytes});
}

void Machine::allocate(uint32_t size_bytes) {
  auto* block = static_cast<char*>(arena_.allocate(cache(), size_bytes, 16, nullptr));
  if (block == nullptr) return;
  loose_.push_back({block, size_bytes, life_});
  prepare(block, size_bytes, false);
  block_effect(loose_.back());
}

void Machine::free(uint32_t index) {
  if (loose_.empty()) return;
  size_t at = index == ~0u ? loose_.size() - 1 : index % loose_.size();
  Owned owned = loose_[at];
  loose_.erase(loose_.begin() + static_cast<ptrdiff_t>(at));
  if (arena_.free(cache(), owned.block) != Verdict::kGood) must(Error::kCorrupt);
  sim_.effect(EventKind::kNoBlock, arena_.offset_of(owned.block), 0);
}

void Machine::resize(uint32_t size_bytes) {
  for (size_t i = loose_.size(); i-- > 0;) {
    if (loose_[i].size_bytes <= kSmallBytesMax) continue;
    if (!arena_.resize_in_place(loose_[i].block, size_bytes)) return;
    loose_[i].size_bytes = size_bytes;
    block_effect(loose_[i]);
    return;
  }
}

void Machine::root_set(uint32_t root) {
  // kOverOthers: though another thread's transaction, which comes to nothing, is about to set it.
  if (loose_.empty() || (is_root_busy_[root % kOverOthers] && root < kOverOthers)) return;
  root %= kOverOthers;
  Owned owned = loose_.back();
  uint64_t value = value_ + 1;
  prepare(owned.block, owned.size_bytes, true);
  must(roots_.set(root_name(root).c_str(), owned.block, nullptr));
  loose_.pop_back();
  if (root_blocks_[root].block != nullptr) loose_.push_back(root_blocks_[root]);
  root_blocks_[root] = owned;
  sim_.effect(EventKind::kMayWords, 0, 0);
  word_effect(owned.block, value << 8 | 1);
  sim_.effect(EventKind::kRoot, root, arena_.offset_of(owned.block));
}

void Machine::root_remove(uint32_t root) {
  if (is_root_busy_[root] || root_blocks_[root].block == nullptr) return;
  must(roots_.set(root_name(root).c_str(), nullptr, nullptr));
  loose_.push_back(root_blocks_[root]);
  root_blocks_[root] = {};
  sim_.effect(EventKind::kRoot, root, 0);
}

// Reserves, fills, and makes it live and linked in one step.
void Machine::adopt(uint32_t size_bytes, uint32_t slots) {
  uint32_t first = free_slot();
  if (first == kSlots || mine().transaction != nullptr) return;
  Reservation taken = arena_.reserve(cache(), size_bytes, 16, nullptr);
  if (taken.block == nullptr) return;
  Owned owned{static_cast<char*>(taken.block), size_bytes, life_};
  uint64_t value = value_ + 1;
  prepare(owned.block, size_bytes, true);
  begin();
  Transaction& transaction = *mine().transaction;
  must(transaction.adopt(taken, size_bytes));
  uint64_t copy = reinterpret_cast<uint64_t>(owned.block) | 1;  // a pointer into it
  if (slots > 1) {
    owned.second = slot(kSlots + first);
    must(transaction.write(owned.second, &copy, sizeof(copy)));
  }
  mine().at_commit.push_back([this, owned, value, copy] {
    block_effect(owned);
    word_effect(owned.block, value << 8 | 1);
    if (owned.second != nullptr) word_effect(owned.second, copy);
  });
  link(owned, first);
  commit();
}

// In this thread's transaction.
void Machine::link(const Owned& owned, uint32_t slot_index) {
  auto pointer = reinterpret_cast<uint64_t>(owned.block);
  must(mine().transaction->write(slot(slot_index), &pointer, sizeof(pointer)));
  is_slot_busy_[slot_index] = true;
  mine().at_commit.push_back([this, owned, slot_index, pointer] {
    is_slot_busy_[slot_index] = false;
    slots_[slot_index] = owned;
    slot_order_[slot_index] = ++value_;
    word_effect(slot(slot_index), pointer);
  });
  mine().at_abort.push_back([this, slot_index] { is_slot_busy_[slot_index] = false; });
}

void Machine::begin() {
  if (mine().transaction != nullptr) return;
  mine() = {};
  next_data_[thread_] = 0;  // the same words again and again
  mine().transaction = transactions_.begin();
  if (mine().transaction == nullptr) must(Error::kNoSpace);
}

// Words that this transaction has not changed yet.
bool Machine::take_data(uint32_t words, uint32_t& first) {
  if (mine().transaction == nullptr || mine().data_words + 2 * words > kDataWords) return false;
  mine().data_words += 2 * words;
  uint32_t& next = next_data_[thread_];
  if (next % kDataWords + words > kDataWords) next = 0;
  first = next;
  next += words;
  return true;
}

// A few words of each range are told of, and from then on always.
bool Machine::is_told(uint32_t index, uint32_t words, uint32_t first) {
  uint64_t* word = data(first + index);
  if (index % 16 == 0 || index + 1 == words) told_.insert(word);
  return told_.contains(word);
}

void Machine::add(uint32_t words) {
  uint32_t first;
  if (!take_data(words, first)) return;
  must(mine().transaction->add(data(first), words * sizeof(uint64_t)));
  for (uint32_t i = 0; i < words; i++) {
    uint64_t value = fresh_value();
    bool is_told = this->is_told(i, words, first);
    if (is_told) word_effect(data(first + i), *data(first + i));
    *data(first + i) = value;
    if (is_told)
      mine().at_commit.push_back([this, first, i, value] { word_effect(data(first + i), value); });
  }
}

void Machine::write(uint32_t words) {
  uint32_t first;
  if (!take_data(words, first)) return;
  std::vector<uint64_t> values;
  for (uint32_t i = 0; i < words; i++) {
    values.push_back(fresh_value());
    if (!is_told(i, words, first)) continue;
    word_effect(data(first + i), *data(first + i));
    mine().at_commit.push_back(
        [this, first, i, value = values[i]] { word_effect(data(first + i), value); });
  }
  must(mine().transaction->write(data(first), values.data(), words * sizeof(uint64_t)));
}

void Machine::tx_allocate(uint32_t size_bytes) {
  uint32_t to = free_slot();
  if (mine().transaction == nullptr || to == kSlots) return;
  Error error = Error::kNone;
  auto* block =
      static_cast<char*>(mine().transaction->allocate(cache(), size_bytes, 16, nullptr, &error));
  if (block == nullptr) return;
  Owned owned{block, size_bytes, life_};
  uint64_t value = value_ + 1;
  prepare(block, size_bytes, false);
  mine().at_commit.push_back([this, owned, value] {
    block_effect(owned);
    word_effect(owned.block, value << 8 | 1);
  });
  link(owned, to);
}

void Machine::tx_free() {
  uint32_t from = filled_slot();
  if (mine().transaction == nullptr || from == kSlots) return;
  Owned owned = slots_[from];
  must(mine().transaction->free(owned.block));
  uint64_t nothing = 0;
  must(mine().transaction->write(slot(from), &nothing, sizeof(nothing)));
  uint64_t* second = owned.second;
  if (second != nullptr) must(mine().transaction->write(second, &nothing, sizeof(nothing)));
  is_slot_busy_[from] = true;
  uint64_t at = arena_.offset_of(owned.block);
  mine().at_commit.push_back([this, from, at, second] {
    is_slot_busy_[from] = false;
    slots_[from] = {};
    word_effect(slot(from), 0);
    if (second != nullptr) word_effect(second, 0);
    sim_.effect(EventKind::kNoBlock, at, 0);
  });
  mine().at_abort.push_back([this, from] { is_slot_busy_[from] = false; });
}

// To a block of the transaction, which a slot owns as well: so the root must go first.
void Machine::tx_root_set(uint32_t root) {
  bool is_over_others = root >= kOverOthers;
  root %= kOverOthers;
  if (mine().transaction == nullptr || (is_root_busy_[root] && !is_over_others) ||
      root_blocks_[root].block != nullptr)
    return;
  must(roots_.set(root_name(root).c_str(), anchor_ + root * 8, mine().transaction));
  is_root_busy_[root] = true;
  mine().at_commit.push_back([this, root] {
    is_root_busy_[root] = false;
    sim_.effect(EventKind::kRoot, root, arena_.offset_of(anchor_ + root * 8));
  });
  mine().at_abort.push_back([this, root] { is_root_busy_[root] = false; });
}

void Machine::commit() {
  if (mine().transaction == nullptr) return;
  must(mine().transaction->commit(cache()));
  for (auto& effect : mine().at_commit) effect();
  mine() = {};
}

void Machine::abort() {
  if (mine().transaction == nullptr) return;
  mine().transaction->abort(cache());
  for (auto& undo : mine().at_abort) undo();
  mine() = {};
}

// What another thread's transaction changed may still be in its log: that must be over before.
// Loose blocks of earlier lives go, one after the other: nothing leads to them.
void Machine::collect_all() {
  std::vector<Owned> left;
  for (const Owned& owned : loose_) {
    if (owned.life == life_) {
      left.push_back(owned);
    } else {
      sim_.effect(EventKind::kNoBlock, arena_.offset_of(owned.block), 1);
    }
  }
  loose_ = std::move(left);
  GcResult result;
  must(collect(arena_, {.threads = 1}, result));
}

void Machine::store() {
  uint32_t next = next_data_[thread_];
  uint64_t* word = data(next == 0 ? 0 : next - 1);
  if (open_[0].transaction != nullptr || open_[1].transaction != nullptr) return;
  uint64_t value = fresh_value();
  told_.insert(word);
  sim_.effect(EventKind::kMayWords, 0, 0);
  word_effect(word, value);
  *word = value;
  persist_plain_stores(arena_.deferred(), sim_, word, sizeof(*word));
}

void run_program(const Program& program, const std::string& path, Trace& trace, Sites& sites) {
  trace.clear();
  alignas(Machine) static char storage[sizeof(Machine)];
  auto* machine = ::new (storage) Machine(program, path, trace, sites);
  for (size_t i = 0; i < program.calls.size(); i++)
    machine->make(program.calls[i], static_cast<uint16_t>(i));
  _exit(0);
}

}  // namespace btd::test
