#include "preload/clusters.hpp"

#include <limits.h>
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <new>

#include "core/api/uri.hpp"
#include "core/base/sys.hpp"
#include "core/persist/durability.hpp"
#include "core/recovery/open.hpp"
#include "preload/far.hpp"
#include "preload/paranoid.hpp"
#include "preload/runtime.hpp"

namespace btd::preload {

thread_local constinit ThreadTransaction current [[gnu::tls_model("initial-exec")]] = {};

namespace {

// A cluster that the program opened, in a mapping of its own.
struct OpenCluster {
  Cluster cluster;  // first: its address is the handle
  Arena arena;
  FarTier* far = nullptr;     // nullptr: it has no memory nodes
  Lock late_lock;             // guards late_heap
  Heap* late_heap = nullptr;  // for threads that have no heap of their own any more
  OnExit on_exit = OnExit::kKeep;
};

// Changed under the opening lock.  Readers may keep what they read: the program must not close a
// cluster that is in use.
constinit std::atomic<OpenCluster*> places[kClustersMax];
// Counts the clusters that had the place: tells a thread that the heap it keeps for it is gone.
constinit std::atomic<uint32_t> generations[kClustersMax];
// In a forked child: those of its parents.  More than these are forgotten, and their blocks never
// freed.
constinit OpenCluster* inherited[kClustersMax];
constinit uint32_t inherited_count;

pthread_key_t thread_key;
bool has_thread_key;

struct ThreadHeaps {
  Heap* heaps[kClustersMax];
  uint32_t generations[kClustersMax];
  bool is_watched;  // end_thread() will be called
  uint8_t exit_rounds;
};
// Mapped when the thread first uses another arena than the process's: initial-exec TLS must fit
// into what the dynamic loader keeps for libraries that are loaded late.
thread_local constinit ThreadHeaps* mine [[gnu::tls_model("initial-exec")]] = nullptr;
thread_local constinit bool is_thread_ended [[gnu::tls_model("initial-exec")]] = false;

uint32_t place_of(const Cluster* cluster) {
  uint32_t place = 0;
  while (place < kClustersMax && reinterpret_cast<const Cluster*>(
                                     places[place].load(std::memory_order_acquire)) != cluster) {
    place++;
  }
  return place;
}

void end_transaction() {
  if (current.transaction != nullptr && is_cluster_open(current.cluster)) {
    Transaction* transaction = current.transaction;
    with_cache_of(*current.cluster, [=](ThreadCache& cache) { transaction->abort(cache); });
  }
  current = {};
}

// At thread exit, called in each round of destructors: in the last one the heaps go.
void end_thread(void* self) {
  if (++mine->exit_rounds < PTHREAD_DESTRUCTOR_ITERATIONS &&
      pthread_setspecific(thread_key, self) == 0)
    return;
  end_transaction();
  is_thread_ended = true;
  LockGuard guard(opening_lock());
  for (uint32_t place = 0; place < kClustersMax; place++) {
    OpenCluster* open = places[place].load(std::memory_order_relaxed);
    bool is_valid = open != nullptr && mine->heaps[place] != nullptr &&
                    mine->generations[place] == generations[place].load(std::memory_order_relaxed);
    if (is_valid) open->arena.release_heap(*mine->heaps[place]);
  }
  sys::unmap(mine, sizeof(*mine));
  mine = nullptr;
}

// nullptr: the thread gets none.
Heap* heap_at(OpenCluster& open, uint32_t place) {
  uint32_t generation = generations[place].load(std::memory_order_relaxed);
  watch_thread_end();
  if (mine == nullptr || !mine->is_watched) return nullptr;
  if (mine->heaps[place] != nullptr && mine->generations[place] == generation)
    return mine->heaps[place];
  mine->heaps[place] = open.arena.acquire_heap();
  mine->generations[place] = generation;
  return mine->heaps[place];
}

void end(OpenCluster& open, bool is_good_end) {
  open.arena.deferred().settle(open.arena.persist());
  if (is_good_end && open.on_exit == OnExit::kDiscard && !open.cluster.roots().any()) {
    if (open.arena.discard() && open.far != nullptr) open.far->leave_nothing();
  } else {
    open.arena.close_in_good_order();
  }
}

// REQUIRES: nothing uses its memory any more.
void unmap_cluster(OpenCluster* open) {
  // The far window first: it lies within the arena's addresses.
  if (open->far != nullptr) end_far(*open->far);
  if (open->arena.is_open()) open->arena.close();
  sys::unmap(open, sizeof(OpenCluster));
}

OpenCluster* map_cluster() {
  intptr_t got = sys::map(nullptr, sizeof(OpenCluster), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return got < 0 ? nullptr : ::new (reinterpret_cast<void*>(got)) OpenCluster;
}

}  // namespace

// --- Open and close

bool are_places_taken() { return place_of(nullptr) == kClustersMax; }

Cluster* open_cluster(const char* uri, Error& error, Line& why) {
  ClusterUri parsed;
  error = parse_uri(uri, config, parsed, why);
  if (error != Error::kNone) return nullptr;
  prepare_persist(parsed.config.durability);
  LockGuard guard(opening_lock());
  uint32_t place = place_of(nullptr);
  if (place == kClustersMax) {
    why.text(parsed.path).text(": too many clusters are open, at most ").number(kClustersMax);
    error = Error::kBusy;
    return nullptr;
  }
  OpenCluster* open = map_cluster();
  if (open == nullptr) {
    why.text(parsed.path).text(": the kernel refuses memory");
    error = Error::kNoMemory;
    return nullptr;
  }
  OpenRequest request{parsed.path, parsed.config.size_bytes};
  request.on_restart = parsed.config.on_restart;
  request.durability = parsed.config.durability;
  request.keep_from_children = config.fork == ForkMode::kNone;
  request.may_create = parsed.may_create;
  request.is_beside = true;
  request.far = open->far = make_far(parsed.config);
  request.program = program_name();
  error = open_arena(request, open->arena, why);
  if (error != Error::kNone) {
    unmap_cluster(open);
    return nullptr;
  }
  open->on_exit = parsed.config.on_exit;
  open->cluster.open(open->arena);
  generations[place].fetch_add(1, std::memory_order_relaxed);
  places[place].store(open, std::memory_order_release);
  return &open->cluster;
}

Error close_cluster(Cluster* cluster) {
  if (cluster == nullptr) return Error::kInvalid;
  if (current.cluster == cluster) return Error::kBusy;
  LockGuard guard(opening_lock());
  uint32_t place = place_of(cluster);
  if (place == kClustersMax) return Error::kInvalid;
  OpenCluster* open = places[place].load(std::memory_order_relaxed);
  places[place].store(nullptr, std::memory_order_relaxed);
  generations[place].fetch_add(1, std::memory_order_relaxed);
  end(*open, true);
  open->cluster.close();
  unmap_cluster(open);
  return Error::kNone;
}

// --- Finding

Cluster* cluster_at(uint32_t place) {
  OpenCluster* open = places[place].load(std::memory_order_acquire);
  return open == nullptr ? nullptr : &open->cluster;
}

bool is_inherited(const Cluster* cluster) {
  if (cluster == &process_cluster) return is_inherited();
  for (uint32_t i = 0; i < inherited_count; i++) {
    if (&inherited[i]->cluster == cluster) return true;
  }
  return false;
}

bool is_cluster_open(const Cluster* cluster) {
  if (cluster == &process_cluster) return is_arena_open();
  return cluster != nullptr && place_of(cluster) < kClustersMax;
}

Arena* arena_of(const void* address) {
  if (is_ours(address)) return &arena;
  Arena* found = nullptr;
  for_each_open_cluster([&](Cluster& cluster) {
    if (cluster.arena().contains(address)) found = &cluster.arena();
  });
  for (uint32_t i = 0; i < inherited_count && found == nullptr; i++) {
    if (inherited[i]->arena.contains(address)) found = &inherited[i]->arena;
  }
  return found;
}

Cluster* cluster_of(const void* address) {
  if (is_arena_open() && is_ours(address)) return &process_cluster;
  Cluster* found = nullptr;
  for_each_open_cluster([&](Cluster& cluster) {
    if (cluster.arena().contains(address)) found = &cluster;
  });
  return found;
}

bool is_persistent(uintptr_t address) {
  auto holds = [address](Arena& one) {
    return address - reinterpret_cast<uintptr_t>(one.mapping().address()) < one.header().file_bytes;
  };
  bool is_found = is_arena_open() && holds(arena);
  for_each_open_cluster([&](Cluster& cluster) { is_found = is_found || holds(cluster.arena()); });
  return is_found;
}

// --- Threads

void watch_thread_end() {
  if (is_thread_ended || !has_thread_key || (mine != nullptr && mine->is_watched)) return;
  int kept = errno;
  if (mine == nullptr) {
    intptr_t got = sys::map(nullptr, sizeof(*mine), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (got < 0) return;
    mine = reinterpret_cast<ThreadHeaps*>(got);
  }
  // May allocate: then it comes back here only for another arena.
  mine->is_watched = pthread_setspecific(thread_key, mine) == 0;
  errno = kept;
}

void with_cluster_cache(Cluster& cluster, void (*work)(void* context, ThreadCache&),
                        void* context) {
  if (&cluster == &process_cluster) {
    with_process_cache(work, context);
    return;
  }
  auto& open = reinterpret_cast<OpenCluster&>(cluster);
  if (Heap* heap = heap_at(open, place_of(&cluster))) {
    work(context, heap->cache());
    return;
  }
  LockGuard guard(open.late_lock);
  if (open.late_heap == nullptr) open.late_heap = open.arena.acquire_heap();
  if (open.late_heap != nullptr) work(context, open.late_heap->cache());
}

// --- Process

void clusters_at_start() { has_thread_key = pthread_key_create(&thread_key, end_thread) == 0; }

void clusters_before_fork() {
  for (auto& place : places) {
    OpenCluster* open = place.load(std::memory_order_relaxed);
    if (open == nullptr) continue;
    open->late_lock.lock();
    if (config.fork == ForkMode::kSnapshot) open->arena.fork_prepare();
  }
}

void clusters_after_fork_in_parent() {
  for (auto& place : places) {
    OpenCluster* open = place.load(std::memory_order_relaxed);
    if (open == nullptr) continue;
    if (config.fork == ForkMode::kSnapshot) open->arena.fork_parent();
    open->late_lock.unlock();
  }
}

void clusters_after_fork_in_child() {
  current = {};
  paranoid_after_fork_in_child();
  for (uint32_t place = 0; place < kClustersMax; place++) {
    OpenCluster* open = places[place].load(std::memory_order_relaxed);
    if (open == nullptr) continue;
    places[place].store(nullptr, std::memory_order_relaxed);
    generations[place].fetch_add(1, std::memory_order_relaxed);
    inherit(open->arena, open->far);
    open->cluster.reset_after_fork();
    if (inherited_count < kClustersMax) inherited[inherited_count++] = open;
  }
}

// The memory stays mapped: other threads use it to the last instruction.
void clusters_at_exit(int status) {
  LockGuard guard(opening_lock());
  for (auto& place : places) {
    OpenCluster* open = place.load(std::memory_order_relaxed);
    if (open != nullptr) end(*open, (status & 0xFF) == 0);
  }
}

}  // namespace btd::preload
