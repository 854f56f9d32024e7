#include "core/api/cluster.hpp"

#include <cstring>

#include "core/persist/layout.hpp"
#include "core/tx/log.hpp"

namespace btd {
namespace {

void fill_plain(char* target, const void* source, int byte, size_t size_bytes) {
  if (source != nullptr) {
    std::memcpy(target, source, size_bytes);
  } else {
    std::memset(target, byte, size_bytes);
  }
}

template <typename T>
void fill_value(Arena& arena, void* target, const void* source, int byte) {
  T value;
  fill_plain(reinterpret_cast<char*>(&value), source, byte, sizeof(value));
  publish(static_cast<T*>(target), value);
  arena.persist().persist(target, sizeof(value));
}

}  // namespace

void Cluster::open(Arena& arena) {
  arena_ = &arena;
  roots_.open(arena);
  transactions_.open(arena);
}

void Cluster::close() {
  reservations_.close();
  arena_ = nullptr;
}

void Cluster::reset_after_fork() {
  roots_.lock().reset();
  transactions_.reset();
  reservations_.reset_after_fork();
  making_.reset();
}

bool Cluster::contains(const void* address, size_t size_bytes) const {
  return arena_->contains(address) &&
         is_in_data(arena_->header(), arena_->offset_of(address), size_bytes);
}

// --- Bytes

// One store of 1, 2, 4 or 8 aligned bytes is atomic as it is, for the CPU and for media; what the
// log of a finished transaction may still name is settled before.
bool Cluster::fill_by_one_store(void* target, const void* source, int byte, size_t size_bytes) {
  bool is_one_store = size_bytes <= sizeof(uint64_t) && is_power_of_two(size_bytes) &&
                      reinterpret_cast<uintptr_t>(target) % size_bytes == 0;
  if (!is_one_store) return false;
  arena_->deferred().settle(arena_->persist());
  switch (size_bytes) {
    case 1:
      fill_value<uint8_t>(*arena_, target, source, byte);
      break;
    case 2:
      fill_value<uint16_t>(*arena_, target, source, byte);
      break;
    case 4:
      fill_value<uint32_t>(*arena_, target, source, byte);
      break;
    default:
      fill_value<uint64_t>(*arena_, target, source, byte);
      break;
  }
  return true;
}

void Cluster::persist(const void* address, size_t size_bytes) {
  persist_plain_stores(arena_->deferred(), arena_->persist(), address, size_bytes);
}

void Cluster::drain() { drain_plain_stores(arena_->deferred(), arena_->persist()); }

// Few bytes wait in the log.  Many are kept a step at a time and changed in place: the log is as
// long either way, but a step's old bytes are still in the CPU's cache when they are overwritten.
Error Cluster::fill(const Change& change, void* target, const void* source, int byte,
                    size_t size_bytes) {
  Transaction& transaction = change.transaction;
  if (!contains(target, size_bytes)) return Error::kInvalid;
  if (!change.is_of_program && size_bytes <= kRedoBytesMax) {
    if (source != nullptr) return transaction.write(target, source, size_bytes);
    char bytes[512];
    std::memset(bytes, byte, sizeof(bytes));
    for (size_t done = 0; done < size_bytes; done += sizeof(bytes)) {
      Error error = transaction.write(static_cast<char*>(target) + done, bytes,
                                      min(sizeof(bytes), size_bytes - done));
      if (error != Error::kNone) return error;
    }
    return Error::kNone;
  }
  if (change.is_of_program) {  // an error must leave the bytes as they were
    for (size_t done = 0; done < size_bytes; done += kUndoStepBytes) {
      Error error = transaction.add(static_cast<char*>(target) + done,
                                    min(kUndoStepBytes, size_bytes - done));
      if (error != Error::kNone) return error;
    }
    fill_plain(static_cast<char*>(target), source, byte, size_bytes);
    return Error::kNone;
  }
  for (size_t done = 0; done < size_bytes; done += kUndoStepBytes) {
    char* step = static_cast<char*>(target) + done;
    size_t step_bytes = min(kUndoStepBytes, size_bytes - done);
    if (Error error = transaction.add(step, step_bytes); error != Error::kNone) return error;
    fill_plain(step, source == nullptr ? nullptr : static_cast<const char*>(source) + done, byte,
               step_bytes);
  }
  return Error::kNone;
}

Error Cluster::set_word(const Change& change, void** where, void* value) {
  if (!contains(where, sizeof(*where))) return Error::kInvalid;
  if (!change.is_of_program) return change.transaction.write(where, &value, sizeof(value));
  Error error = change.transaction.add(where, sizeof(*where));
  if (error == Error::kNone) *where = value;
  return error;
}

// --- Blocks

void* Cluster::allocate(const Change& change, size_t size_bytes, bool must_be_zero, Error* error) {
  *error = Error::kNoMemory;
  if (size_bytes > PTRDIFF_MAX) return nullptr;
  bool is_zero = false;
  void* block = change.transaction.allocate(change.cache, size_bytes, kQuantumBytes,
                                            must_be_zero ? &is_zero : nullptr, error);
  // The commit makes the block's bytes durable, whoever wrote them.
  if (block != nullptr && must_be_zero && !is_zero) std::memset(block, 0, size_bytes);
  return block;
}

void* Cluster::allocate_to(const Change& change, void** where, size_t size_bytes, Error* error) {
  *error = Error::kInvalid;
  if (!contains(where, sizeof(*where))) return nullptr;
  // The word is kept before the block is taken: the block cannot be given back alone.
  if (change.is_of_program) {
    *error = change.transaction.add(where, sizeof(*where));
    if (*error != Error::kNone) return nullptr;
  }
  void* block = allocate(change, size_bytes, false, error);
  if (block == nullptr) return nullptr;
  if (change.is_of_program) {
    *where = block;
  } else {
    *error = change.transaction.write(where, &block, sizeof(block));
  }
  return *error == Error::kNone ? block : nullptr;
}

Error Cluster::free_from(const Change& change, void** where) {
  if (!contains(where, sizeof(*where))) return Error::kInvalid;
  void* block = *where;
  if (block == nullptr) return Error::kNone;
  if (change.is_of_program) {
    Error error = change.transaction.add(where, sizeof(*where));
    if (error == Error::kNone) error = change.transaction.free(block);
    if (error == Error::kNone) *where = nullptr;
    return error;
  }
  Error error = change.transaction.free(block);
  return error != Error::kNone ? error : set_word(change, where, nullptr);
}

void* Cluster::reserve(ThreadCache& cache, size_t size_bytes) {
  if (size_bytes > PTRDIFF_MAX) return nullptr;
  Reservation reservation = arena_->reserve(cache, size_bytes, kQuantumBytes, nullptr);
  if (reservation.block == nullptr) return nullptr;
  if (reservations_.keep(reservation, size_bytes)) return reservation.block;
  arena_->cancel(cache, reservation);
  return nullptr;
}

Error Cluster::activate(const Change& change, void* block, const Link (&links)[2]) {
  Reservation reservation;
  size_t size_bytes = 0;
  for (const Link& link : links) {
    if (link.where != nullptr && !contains(link.where, sizeof(*link.where))) return Error::kInvalid;
  }
  if (!reservations_.take(block, reservation, size_bytes)) return Error::kInvalid;
  Error error = Error::kNone;
  for (const Link& link : links) {
    if (link.where == nullptr || error != Error::kNone) continue;
    error = change.is_of_program
                ? change.transaction.add(link.where, sizeof(*link.where))
                : change.transaction.write(link.where, &link.value, sizeof(link.value));
  }
  if (error == Error::kNone) error = change.transaction.adopt(reservation, size_bytes);
  if (error != Error::kNone) {
    arena_->cancel(change.cache, reservation);
    return error;
  }
  for (const Link& link : links) {
    if (link.where != nullptr && change.is_of_program) *link.where = link.value;
  }
  return Error::kNone;
}

Error Cluster::cancel(ThreadCache& cache, void* block) {
  Reservation reservation;
  size_t size_bytes = 0;
  if (!reservations_.take(block, reservation, size_bytes)) return Error::kInvalid;
  arena_->cancel(cache, reservation);
  return Error::kNone;
}

void* Cluster::find_or_make(const Change& change, const char* name, size_t size_bytes,
                            Error* error) {
  *error = Error::kNone;
  if (void* block = roots_.get(name, &change.transaction)) {
    if (arena_->usable_size(block) >= size_bytes) return block;
    *error = Error::kInvalid;
    return nullptr;
  }
  void* block = allocate(change, max<size_t>(size_bytes, 1), true, error);
  if (block == nullptr) return nullptr;
  *error = roots_.set(name, block, &change.transaction);
  return *error == Error::kNone ? block : nullptr;
}

bool Cluster::is_recovered(const void* block) {
  Reservation found{};
  if (arena_->prepare_free(block, found) != Verdict::kGood) return false;
  uint8_t tag = found.state_bytes == sizeof(uint8_t) ? static_cast<uint8_t>(found.live)
                                                     : tag_of_large_state(found.live);
  return tag != arena_->tag();
}

}  // namespace btd
