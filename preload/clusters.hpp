// The clusters of the process, and each thread's way to them: a cache in each, and the transaction
// that it has open.
//
// The process cluster (preload/runtime.hpp) is there as long as its arena is.  Others are opened
// and closed by the program, at most 16 at a time; they lie in mappings of their own and are found
// by their handle or by an address in their arena.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/api/cluster.hpp"
#include "core/base/config.hpp"

namespace btd::preload {

inline constexpr uint32_t kClustersMax = 16;

// A transaction that the program began; it belongs to the thread.
struct ThreadTransaction {
  Cluster* cluster;          // nullptr: none is open
  Transaction* transaction;  // nullptr: an inner abort undid it
  uint32_t depth;
};

#pragma GCC visibility push(hidden)

extern thread_local constinit ThreadTransaction current [[gnu::tls_model("initial-exec")]];

#pragma GCC visibility pop

bool are_places_taken();
// ERRORS: as open_arena() and parse_uri(); kBusy: all places are taken; `why` says it in words.
Cluster* open_cluster(const char* uri, Error& error, Line& why);
// ERRORS: kInvalid: it is not one that open_cluster() gave; kBusy: the thread's transaction is
// open.
Error close_cluster(Cluster* cluster);

// A forked child has it from its parent, and cannot use it.
bool is_inherited(const Cluster* cluster);

// The cluster is open, for this process.
bool is_cluster_open(const Cluster* cluster);
// nullptr: no open cluster's arena holds the address.
Cluster* cluster_of(const void* address);
// The same, with the arenas that a forked child inherits; nullptr: it is no arena's.
Arena* arena_of(const void* address);
// In an arena's file, its data or not.
bool is_persistent(uintptr_t address);
template <typename Visit>
void for_each_open_cluster(Visit visit);

// Calls work(ThreadCache&), with the thread's cache in the cluster or one that threads share.
// REQUIRES: it is open.
void with_cluster_cache(Cluster& cluster, void (*work)(void* context, ThreadCache&), void* context);
template <typename Work>
void with_cache_of(Cluster& cluster, Work work) {
  with_cluster_cache(
      cluster, [](void* context, ThreadCache& cache) { (*static_cast<Work*>(context))(cache); },
      &work);
}

// The thread will end its open transaction when it ends.
void watch_thread_end();

// From the runtime.  Before a fork the opening lock is held.
void clusters_at_start();
void clusters_before_fork();
void clusters_after_fork_in_parent();
void clusters_after_fork_in_child();
void clusters_at_exit(int status);

// Clusters other than the process's, by place; nullptr: the place is free.
Cluster* cluster_at(uint32_t place);

template <typename Visit>
void for_each_open_cluster(Visit visit) {
  for (uint32_t place = 0; place < kClustersMax; place++) {
    if (Cluster* cluster = cluster_at(place)) visit(*cluster);
  }
}

}  // namespace btd::preload
