// What the functions of bartender.h share: handles, errors, and the transaction that a change goes
// into.
#pragma once

#define BTD_BUILDING_LIBRARY 1
#include <cerrno>

#include "core/api/bartender.h"
#include "core/api/cluster.hpp"
#include "core/base/attributes.hpp"
#include "preload/clusters.hpp"
#include "preload/paranoid.hpp"
#include "preload/runtime.hpp"

#define BTD_CALLER __builtin_return_address(0)

namespace btd::preload {

inline Cluster* cluster_from(btd_cluster* handle) { return reinterpret_cast<Cluster*>(handle); }
inline btd_cluster* handle_of(Cluster* cluster) { return reinterpret_cast<btd_cluster*>(cluster); }

// Set errno; return -1 and nullptr.
int fail(int error_number);
void* fail_null(int error_number);

int error_number_of(Error error);
// For a function that allocates: no space for the block is ENOMEM, as malloc() says it.
int allocation_error(Error error);
// 0, or -1 with errno.
int result_of(Error error);

// nullptr, with errno: no open cluster.
Cluster* usable(btd_cluster* handle);
// The same, by an address in its arena.
Cluster* usable_of(const void* address);

inline bool is_in_transaction(const Cluster& cluster) { return current.cluster == &cluster; }

// Calls work(Change&), which returns an Error, within the thread's transaction on the cluster; else
// in one of its own, which is committed, or aborted after an error.
//
// The lane is taken before the cache: a cache that threads share is never held while waiting.
template <typename Work>
Error change(Cluster& cluster, Work work) {
  Error error = Error::kNone;
  if (is_in_transaction(cluster)) {
    if (current.transaction == nullptr) return Error::kCanceled;
    with_cache_of(cluster, [&](ThreadCache& cache) {
      Change of_program{*current.transaction, cache, true};
      error = work(of_program);
    });
    return error;
  }
  Transaction* transaction = cluster.transactions().begin();
  if (transaction == nullptr) return Error::kNoSpace;
  error = Error::kNoMemory;  // no cache at all: the kernel refuses DRAM
  bool is_over = false;
  with_cache_of(cluster, [&](ThreadCache& cache) {
    Change own{*transaction, cache, false};
    error = work(own);
    if (error == Error::kNone) {
      error = transaction->commit(cache);
    } else {
      transaction->abort(cache);
    }
    is_over = true;
  });
  // Nothing is in it: it ends without a cache being looked at.
  if (!is_over) transaction->abort(*cache);
  return error;
}

}  // namespace btd::preload
