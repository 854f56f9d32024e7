// The functions of bartender.h, but blocks and transactions: check the arguments, find the cluster,
// set errno, call core.
//
// What changes something is put into the transaction that the thread has open on the cluster, or
// into one of its own.
#include <cstring>

#include "core/gc/collector.hpp"
#include "preload/api_support.hpp"

namespace btd::preload {
namespace {

void* fill(void* target, const void* source, int byte, size_t size_bytes, const char* function,
           const void* caller) {
  Cluster* cluster = cluster_of(target);
  if (cluster == nullptr) {
    return source != nullptr ? std::memcpy(target, source, size_bytes)
                             : std::memset(target, byte, size_bytes);
  }
  if (size_bytes == 0) return target;
  if (current.cluster != nullptr && current.cluster != cluster) return fail_null(EINVAL);
  bool is_inside = is_in_transaction(*cluster);
  if (!cluster->contains(target, size_bytes)) return fail_null(EINVAL);
  if (is_inside || !cluster->fill_by_one_store(target, source, byte, size_bytes)) {
    Error error = change(*cluster, [&](const Change& change) {
      return cluster->fill(change, target, source, byte, size_bytes);
    });
    if (error != Error::kNone) return fail_null(error_number_of(error));
  }
  if (is_inside) {
    note_written(target, size_bytes);
  } else {
    check_written(target, size_bytes, function, caller);
  }
  return target;
}

// nullptr, with errno: not all of the range is in one arena.
Cluster* cluster_of_range(const void* address, size_t size_bytes) {
  Cluster* cluster = cluster_of(address);
  if (cluster != nullptr && cluster->contains(address, size_bytes)) return cluster;
  errno = EINVAL;
  return nullptr;
}

bool is_name_good(const char* name) {
  if (name == nullptr || name[0] == '\0') return errno = EINVAL, false;
  if (strnlen(name, BTD_ROOT_NAME_MAX + 1) > BTD_ROOT_NAME_MAX) return errno = ENAMETOOLONG, false;
  return true;
}

}  // namespace
}  // namespace btd::preload

using namespace btd;           // NOLINT: the functions below cannot live in a namespace
using namespace btd::preload;  // NOLINT

extern "C" {

// --- Clusters

btd_cluster* btd_cluster_create(const btd_config* settings) {
  if (open_process_arena(settings != nullptr && settings->single_node == 1))
    return handle_of(&process_cluster);
  errno = ENOTSUP;
  return nullptr;
}

btd_cluster* btd_cluster_open(const char* uri) {
  if (uri == nullptr) return fail_null(EINVAL), nullptr;
  Error error = Error::kNone;
  Line why;
  if (Cluster* cluster = open_cluster(uri, error, why)) return handle_of(cluster);
  why.write(LogLevel::kError);
  errno = error == Error::kBusy && are_places_taken() ? EMFILE : error_number_of(error);
  return nullptr;
}

int btd_cluster_close(btd_cluster* handle) {
  if (is_inherited(cluster_from(handle))) return fail(ENOTSUP);
  return result_of(close_cluster(cluster_from(handle)));
}

btd_cluster* btd_cluster_of(const void* address) { return handle_of(cluster_of(address)); }

void* btd_cluster_base(btd_cluster* handle) {
  Cluster* cluster = usable(handle);
  return cluster == nullptr ? nullptr
                            : reinterpret_cast<void*>(cluster->arena().geometry().coarse_base);
}

int btd_active(void) { return is_arena_ready() ? 1 : 0; }

// --- Bytes

void* btd_memcpy(void* destination, const void* source, size_t n) {
  return n == 0 ? destination : fill(destination, source, 0, n, "btd_memcpy", BTD_CALLER);
}

void* btd_memset(void* destination, int byte, size_t n) {
  return fill(destination, nullptr, byte, n, "btd_memset", BTD_CALLER);
}

int btd_persist(const void* address, size_t n) {
  Cluster* cluster = cluster_of_range(address, n);
  if (cluster == nullptr) return -1;
  cluster->persist(address, n);
  check_written(address, n, "btd_persist", BTD_CALLER);
  return 0;
}

int btd_flush(const void* address, size_t n) {
  Cluster* cluster = cluster_of_range(address, n);
  if (cluster == nullptr) return -1;
  cluster->arena().persist().flush(address, n);
  check_written(address, n, "btd_flush", BTD_CALLER);
  return 0;
}

void btd_drain(void) {
  if (is_arena_open()) drain_plain_stores(arena.deferred(), arena.persist());
  for_each_open_cluster([](Cluster& cluster) { cluster.drain(); });
}

// --- Roots

int btd_root_set(btd_cluster* handle, const char* name, const void* value) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr || !is_name_good(name)) return -1;
  bool is_inside = is_in_transaction(*cluster);
  if (is_inside && current.transaction == nullptr) return fail(ECANCELED);
  return result_of(cluster->roots().set(name, value, is_inside ? current.transaction : nullptr));
}

void* btd_root_get(btd_cluster* handle, const char* name) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr || !is_name_good(name)) return nullptr;
  Transaction* transaction = is_in_transaction(*cluster) ? current.transaction : nullptr;
  void* value = cluster->roots().get(name, transaction);
  return value != nullptr ? value : fail_null(ENOENT);
}

int btd_root_remove(btd_cluster* handle, const char* name) {
  return btd_root_get(handle, name) == nullptr ? -1 : btd_root_set(handle, name, nullptr);
}

int btd_root_next(btd_cluster* handle, unsigned* position, const char** name, void** value) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return -1;
  Roots& roots = cluster->roots();
  for (uint32_t index = roots.next(*position); index < kRootCount; index = roots.next(index + 1)) {
    *position = index + 1;
    *name = roots.name(index);
    *value = roots.value(index);
    if (*value != nullptr) return 1;  // else it was removed this moment
  }
  *position = kRootCount;
  return 0;
}

void* btd_persistent(btd_cluster* handle, const char* name, size_t size_bytes) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr || !is_name_good(name)) return nullptr;
  void* block = nullptr;
  auto find_or_make = [&] {
    return change(*cluster, [&](const Change& change) {
      Error error = Error::kNone;
      block = cluster->find_or_make(change, name, size_bytes, &error);
      return error;
    });
  };
  Error error = Error::kNone;
  if (is_in_transaction(*cluster)) {  // the lock would be held until its end
    error = find_or_make();
  } else {
    LockGuard guard(cluster->making());
    error = find_or_make();
  }
  return error == Error::kNone ? block : fail_null(error_number_of(error));
}

// --- Allocate and publish

void* btd_malloc_to(btd_cluster* handle, void** where, size_t size_bytes) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return nullptr;
  void* block = nullptr;
  Error error = change(*cluster, [&](const Change& change) {
    Error error = Error::kNone;
    block = cluster->allocate_to(change, where, size_bytes, &error);
    return error;
  });
  if (error != Error::kNone) return fail_null(allocation_error(error));
  if (is_in_transaction(*cluster)) note_written(block, size_bytes);
  return block;
}

int btd_free_from(void** where) {
  Cluster* cluster = usable_of(where);
  if (cluster == nullptr) return -1;
  return result_of(
      change(*cluster, [&](const Change& change) { return cluster->free_from(change, where); }));
}

void* btd_reserve(btd_cluster* handle, size_t size_bytes) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return nullptr;
  void* block = nullptr;
  with_cache_of(*cluster, [&](ThreadCache& cache) { block = cluster->reserve(cache, size_bytes); });
  return block != nullptr ? block : fail_null(ENOMEM);
}

int btd_activate(void* pointer, void** link1, void* value1, void** link2, void* value2) {
  Cluster* cluster = usable_of(pointer);
  if (cluster == nullptr) return -1;
  const Cluster::Link links[2] = {{link1, value1}, {link2, value2}};
  Error error = change(
      *cluster, [&](const Change& change) { return cluster->activate(change, pointer, links); });
  if (error != Error::kNone) return result_of(error);
  size_t size_bytes = cluster->arena().usable_size(pointer);  // 0: not live before the commit
  check_written(pointer, size_bytes, "btd_activate", BTD_CALLER);
  return 0;
}

int btd_cancel(void* pointer) {
  if (pointer == nullptr) return 0;
  Cluster* cluster = usable_of(pointer);
  if (cluster == nullptr) return -1;
  Error error = Error::kNoMemory;
  with_cache_of(*cluster, [&](ThreadCache& cache) { error = cluster->cancel(cache, pointer); });
  return result_of(error);
}

// --- The collector and numbers

int btd_gc(btd_cluster* handle, btd_gc_result* result) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return -1;
  if (is_in_transaction(*cluster)) return fail(EBUSY);
  GcResult found{};
  GcRequest request;
  request.tracers = &cluster->tracers();
  request.reserved = &cluster->reservations();
  Error error = collect(cluster->arena(), request, found);
  if (result != nullptr) {
    *result = {found.reachable_blocks, found.reachable_bytes, found.freed_blocks,
               found.freed_bytes,      found.mark_ns,         found.sweep_ns};
  }
  return result_of(error);
}

// The program's tracers are the collector's under other names.
static_assert(sizeof(btd_gc_tracer) == sizeof(GcTracer));

int btd_gc_trace(btd_cluster* handle, const char* root, const btd_gc_tracer* tracer) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr || !is_name_good(root)) return -1;
  GcTracer inside{};
  if (tracer != nullptr) std::memcpy(&inside, tracer, sizeof(inside));
  return result_of(cluster->tracers().set(root, inside));
}

void btd_gc_visit(btd_gc_visitor* visitor, const void* pointer, const btd_gc_tracer* tracer) {
  reinterpret_cast<GcVisitor*>(visitor)->visit(pointer, reinterpret_cast<const GcTracer*>(tracer));
}

int btd_statistics(btd_cluster* handle, struct btd_statistics* statistics) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return -1;
  Arena& home = cluster->arena();
  Usage usage = home.usage();
  const ArenaHeader& header = home.header();
  *statistics = {};
  std::memcpy(statistics->path, home.path(), min(std::strlen(home.path()), size_t{511}));
  statistics->epoch = header.epoch;
  statistics->capacity_bytes = header.capacity_bytes;
  statistics->grown_bytes = usage.grown_bytes;
  statistics->free_bytes = usage.free_bytes;
  statistics->live_blocks = usage.live_blocks;
  statistics->live_bytes = usage.live_bytes;
  statistics->live_large_blocks = usage.live_large_blocks;
  statistics->live_large_bytes = usage.live_large_bytes;
  Roots& roots = cluster->roots();
  for (uint32_t i = roots.next(0); i < kRootCount; i = roots.next(i + 1)) statistics->roots++;
  statistics->durability = header.durability;
  return 0;
}

}  // extern "C"
