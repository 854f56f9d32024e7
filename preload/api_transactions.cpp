// Transactions, as bartender.h has them: one a thread, inner ones flattened.
#include "preload/api_support.hpp"

namespace btd::preload {
namespace {

// The thread's open transaction; nullptr, with errno: there is none, or it was undone.
Transaction* open_transaction() {
  if (current.cluster == nullptr) return fail_null(EINVAL), nullptr;
  if (current.transaction == nullptr) return fail_null(ECANCELED), nullptr;
  return current.transaction;
}

Change change_of(ThreadCache& cache) { return {*current.transaction, cache, true}; }

void* allocate_in_transaction(size_t size_bytes, bool must_be_zero) {
  if (open_transaction() == nullptr) return nullptr;
  Error error = Error::kNoMemory;
  void* block = nullptr;
  with_cache_of(*current.cluster, [&](ThreadCache& cache) {
    block = current.cluster->allocate(change_of(cache), size_bytes, must_be_zero, &error);
  });
  if (block == nullptr) return fail_null(allocation_error(error));
  note_written(block, size_bytes);
  return block;
}

}  // namespace
}  // namespace btd::preload

using namespace btd;           // NOLINT: the functions below cannot live in a namespace
using namespace btd::preload;  // NOLINT

extern "C" {

int btd_tx_begin(btd_cluster* handle) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return -1;
  if (current.cluster == nullptr) {
    Transaction* transaction = cluster->transactions().begin();
    if (transaction == nullptr) return fail(ENOSPC);
    watch_thread_end();
    current = {cluster, transaction, 1};
    return 0;
  }
  if (current.cluster != cluster) return fail(EINVAL);
  if (current.transaction == nullptr) return fail(ECANCELED);
  current.depth++;
  return 0;
}

int btd_tx_add(const void* address, size_t n) {
  Transaction* transaction = open_transaction();
  if (transaction == nullptr) return -1;
  Error error =
      current.cluster->contains(address, n) ? transaction->add(address, n) : Error::kInvalid;
  if (error == Error::kNone) note_written(address, n);
  return result_of(error);
}

void* btd_tx_malloc(size_t size_bytes) { return allocate_in_transaction(size_bytes, false); }

void* btd_tx_calloc(size_t count, size_t size_bytes) {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total)) return fail_null(ENOMEM);
  return allocate_in_transaction(total, true);
}

int btd_tx_free(void* pointer) {
  Transaction* transaction = open_transaction();
  if (transaction == nullptr) return -1;
  return pointer == nullptr ? 0 : result_of(transaction->free(pointer));
}

int btd_tx_set(void** where, void* value) {
  if (open_transaction() == nullptr) return -1;
  Error error = change(*current.cluster, [&](const Change& change) {
    return current.cluster->set_word(change, where, value);
  });
  if (error == Error::kNone) note_written(where, sizeof(*where));
  return result_of(error);
}

int btd_tx_commit(void) {
  if (current.cluster == nullptr) return fail(EINVAL);
  if (current.depth > 1) {
    current.depth--;
    return current.transaction == nullptr ? fail(ECANCELED) : 0;
  }
  ThreadTransaction ending = current;
  Error error = Error::kCanceled;
  if (ending.transaction != nullptr) {
    check_all_written("btd_tx_commit", BTD_CALLER);
    with_cache_of(*ending.cluster,
                  [&](ThreadCache& cache) { error = ending.transaction->commit(cache); });
  }
  forget_written();
  current = {};
  return result_of(error);
}

int btd_tx_abort(void) {
  if (current.cluster == nullptr) return fail(EINVAL);
  if (Transaction* transaction = current.transaction) {
    with_cache_of(*current.cluster, [=](ThreadCache& cache) { transaction->abort(cache); });
  }
  forget_written();
  current.transaction = nullptr;
  if (--current.depth == 0) current = {};
  return 0;
}

unsigned btd_tx_depth(void) { return current.depth; }

}  // extern "C"
