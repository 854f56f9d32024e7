#include "core/tx/roots.hpp"

#include <cstring>

#include "core/tx/transaction.hpp"

namespace btd {
namespace {

// Of a name padded with zeros; never 0.
uint32_t hash_of(const char (&name)[kRootNameMax + 1]) {
  return static_cast<uint32_t>(root_head(name) >> 32) | 1;
}

}  // namespace

void Roots::open(Arena& arena) {
  arena_ = &arena;
  end_ = arena.header().roots_grown;
  for (uint32_t index = 0; index < end_; index++) {
    const Root* root = arena.root(index);
    hashes_[index] = root->head == root_head(root->name) ? hash_of(root->name) : 0;
  }
  while (end_ > 0 && hashes_[end_ - 1] == 0) end_--;
}

uint32_t Roots::find(const char (&name)[kRootNameMax + 1]) const {
  uint32_t hash = hash_of(name);
  for (uint32_t index = 0; index < end_; index++) {
    if (hashes_[index] == hash && std::memcmp(arena_->root(index)->name, name, sizeof(name)) == 0)
      return index;
  }
  return kNone;
}

// A place for a new name: one never used, else one whose root was removed.  kNone: all are in use.
uint32_t Roots::make(const char (&name)[kRootNameMax + 1]) {
  uint32_t index = end_;
  if (index == kRootCount) {
    // A transaction may be about to set a root without a value: then it is in use.
    for (index = 0; index < kRootCount; index++) {
      if (arena_->root(index)->value == 0 && !is_pending_[index]) break;
    }
    if (index == kRootCount) return kNone;
  }
  if (!arena_->grow_roots(index + 1)) return kNone;
  Root* root = arena_->root(index);
  // Name, value and head, in this order for a kill; for power loss the value and the head are in
  // one line, and the name in another.  A head fits its own name alone: with some of the old name
  // and some of the new one the place is not in use, and what is in use here has no value,
  // whichever name it got.
  std::memcpy(root->name, name, sizeof(name));
  publish<uint64_t>(&root->value, 0);
  publish(&root->head, root_head(name));
  arena_->persist().persist(root, sizeof(*root));
  hashes_[index] = hash_of(name);
  if (index == end_) end_++;
  return index;
}

Error Roots::set(const char* name, const void* value, Transaction* transaction) {
  size_t length = strnlen(name, kRootNameMax + 1);
  if (length > kRootNameMax) return Error::kTooLong;
  if (length == 0 || (value != nullptr && !arena_->contains(value))) return Error::kInvalid;
  char padded[kRootNameMax + 1] = {};
  std::memcpy(padded, name, length);
  LockGuard guard(lock_);
  uint32_t index = find(padded);
  if (index == kNone) {
    if (value == nullptr) return Error::kNone;
    index = make(padded);
    if (index == kNone) return Error::kNoSpace;
  }
  uint64_t word = value == nullptr ? 0 : arena_->offset_of(value);
  Root* root = arena_->root(index);
  if (transaction != nullptr) {
    // Never taken back: a root once used in a transaction keeps its place until the next open.
    is_pending_[index] = true;
    return transaction->write(&root->value, &word, sizeof(word));
  }
  arena_->deferred().settle(arena_->persist());
  publish(&root->value, word);
  arena_->persist().persist(&root->value, sizeof(word));
  return Error::kNone;
}

void* Roots::get(const char* name, const Transaction* transaction) const {
  size_t length = strnlen(name, kRootNameMax + 1);
  if (length > kRootNameMax || length == 0) return nullptr;
  char padded[kRootNameMax + 1] = {};
  std::memcpy(padded, name, length);
  uint32_t index;
  {
    LockGuard guard(lock_);
    index = find(padded);
  }
  if (index == kNone) return nullptr;
  if (transaction == nullptr) return value(index);
  uint64_t word = transaction->read(&arena_->root(index)->value);
  return word == 0 ? nullptr : arena_->mapping().address(word);
}

void* Roots::value(uint32_t index) const {
  uint64_t word = std::atomic_ref(arena_->root(index)->value).load(std::memory_order_acquire);
  // A damaged value leads nowhere.
  const ArenaHeader& header = arena_->header();
  if (word < header.data_offset || word >= header.file_bytes) return nullptr;
  return arena_->mapping().address(word);
}

uint32_t Roots::next(uint32_t from) const {
  LockGuard guard(lock_);
  for (; from < end_; from++) {
    if (hashes_[from] != 0 && value(from) != nullptr) return from;
  }
  return kRootCount;
}

}  // namespace btd
