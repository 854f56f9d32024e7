// The functions of bartender.h: check the arguments, find the cluster, set errno, call core.
//
// What changes something is put into the transaction that the thread has open on the cluster, or
// into one of its own.
#define BTD_BUILDING_LIBRARY 1
#include <cerrno>
#include <cstring>

#include "core/api/bartender.h"
#include "core/api/cluster.hpp"
#include "core/base/attributes.hpp"
#include "core/gc/collector.hpp"
#include "preload/clusters.hpp"
#include "preload/next.hpp"
#include "preload/paranoid.hpp"
#include "preload/runtime.hpp"

#define BTD_CALLER __builtin_return_address(0)

namespace btd::preload {
namespace {

Cluster* cluster_from(btd_cluster* handle) { return reinterpret_cast<Cluster*>(handle); }
btd_cluster* handle_of(Cluster* cluster) { return reinterpret_cast<btd_cluster*>(cluster); }

BTD_COLD int fail(int error_number) {
  errno = error_number;
  return -1;
}
BTD_COLD void* fail_null(int error_number) {
  errno = error_number;
  return nullptr;
}

int error_number_of(Error error) {
  switch (error) {
    case Error::kNone:
      return 0;
    case Error::kNoSpace:
      return ENOSPC;
    case Error::kNoMemory:
      return ENOMEM;
    case Error::kInUse:
    case Error::kBusy:
      return EBUSY;
    case Error::kNotFound:
      return ENOENT;
    case Error::kForeign:
    case Error::kMismatch:
      return EMEDIUMTYPE;
    case Error::kNewer:
      return EPROTONOSUPPORT;
    case Error::kCorrupt:
      return EUCLEAN;
    case Error::kAddressTaken:
      return EADDRINUSE;
    case Error::kPermission:
      return EACCES;
    case Error::kUnsupported:
      return ENOTSUP;
    case Error::kSandboxed:
      return EPERM;
    case Error::kInvalid:
      return EINVAL;
    case Error::kTooLong:
      return ENAMETOOLONG;
    case Error::kCanceled:
      return ECANCELED;
    case Error::kIo:
      break;
  }
  return EIO;
}

int result_of(Error error) { return error == Error::kNone ? 0 : fail(error_number_of(error)); }

// For a function that allocates: no space for the block is ENOMEM, as malloc() says it.
int allocation_error(Error error) {
  return error == Error::kNoSpace ? ENOMEM : error_number_of(error);
}

// nullptr, with errno: no open cluster.
Cluster* usable(btd_cluster* handle) {
  Cluster* cluster = cluster_from(handle);
  if (is_cluster_open(cluster)) [[likely]]
    return cluster;
  errno = is_inherited(cluster) ? ENOTSUP : EINVAL;
  return nullptr;
}

// The same, by an address in its arena.
Cluster* usable_of(const void* address) {
  Cluster* cluster = cluster_of(address);
  if (cluster == nullptr) errno = arena_of(address) != nullptr ? ENOTSUP : EINVAL;
  return cluster;
}

// Where blocks come from: kVolatile where there is no arena for the program, or not in this child.
enum class Source : uint8_t { kArena, kVolatile, kNone };
Source source_of(btd_cluster* handle) {
  if (is_cluster_open(cluster_from(handle))) [[likely]]
    return Source::kArena;
  if (handle == nullptr || is_inherited(cluster_from(handle))) return Source::kVolatile;
  errno = EINVAL;
  return Source::kNone;
}

// --- Transactions

bool is_in_transaction(const Cluster& cluster) { return current.cluster == &cluster; }

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

// --- Blocks

void* allocate_block(btd_cluster* handle, size_t size_bytes, size_t alignment, bool* is_zero) {
  Cluster& cluster = *cluster_from(handle);
  void* block = nullptr;
  if (size_bytes <= PTRDIFF_MAX) {
    with_cache_of(cluster, [&](ThreadCache& cache) {
      block = cluster.arena().allocate(cache, size_bytes, alignment, is_zero);
    });
  }
  return block != nullptr ? block : fail_null(ENOMEM);
}

// A block of an arena that the hot path could not free.
BTD_COLD void free_slow(void* pointer, const void* caller) {
  if (is_ours(pointer)) {
    free_ours(pointer, caller);
    return;
  }
  Arena* home = arena_of(pointer);
  if (home == nullptr) {
    next.free(pointer);
    return;
  }
  int kept = errno;
  Verdict verdict = Verdict::kGood;
  if (Cluster* cluster = cluster_of(pointer)) {
    with_cache_of(*cluster, [&](ThreadCache& cache) { verdict = home->free(cache, pointer); });
  } else if (config.fork == ForkMode::kSnapshot) {
    verdict = home->free_inherited(pointer);
  }
  if (verdict != Verdict::kGood) report_misuse("btd_free", pointer, verdict, caller, *home);
  errno = kept;
}

void* move(btd_cluster* handle, void* pointer, size_t old_bytes, size_t new_bytes,
           const void* caller) {
  void* moved = btd_malloc(handle, new_bytes);
  if (moved == nullptr) return nullptr;
  std::memcpy(moved, pointer, min(old_bytes, new_bytes));
  free_slow(pointer, caller);
  return moved;
}

void* reallocate(btd_cluster* handle, void* pointer, size_t size_bytes, const void* caller) {
  if (pointer == nullptr) return btd_malloc(handle, size_bytes);
  Arena* home = arena_of(pointer);
  Source source = source_of(handle);
  if (source == Source::kNone) return nullptr;
  if (source == Source::kVolatile) {
    if (home == nullptr) return next.realloc(pointer, size_bytes);
    size_t old_bytes = home->usable_size(pointer);
    return old_bytes == 0 ? fail_null(EINVAL)
                          : move(handle, pointer, old_bytes, size_bytes, caller);
  }
  if (home != &cluster_from(handle)->arena() || home->look_up(pointer) != Verdict::kGood)
    return fail_null(EINVAL);
  if (size_bytes > PTRDIFF_MAX) return fail_null(ENOMEM);
  if (size_bytes == 0) {  // as glibc
    free_slow(pointer, caller);
    return nullptr;
  }
  if (home->resize_in_place(pointer, size_bytes)) return pointer;
  return move(handle, pointer, home->usable_size(pointer), size_bytes, caller);
}

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

// --- Blocks

BTD_HOT void* btd_malloc(btd_cluster* handle, size_t size_bytes) {
  auto slow = [=]() -> void* {
    switch (source_of(handle)) {
      case Source::kArena:
        return allocate_block(handle, size_bytes, kQuantumBytes, nullptr);
      case Source::kVolatile:
        return next.malloc(size_bytes);
      default:
        return nullptr;
    }
  };
  if (handle == handle_of(&process_cluster) && size_bytes <= kSmallBytesMax) [[likely]]
    return cache->allocate(size_bytes, slow);
  return slow();
}

void* btd_calloc(btd_cluster* handle, size_t count, size_t size_bytes) {
  size_t total;
  if (__builtin_mul_overflow(count, size_bytes, &total)) return fail_null(ENOMEM);
  Source source = source_of(handle);
  if (source != Source::kArena) return source == Source::kNone ? nullptr : next.calloc(1, total);
  bool is_zero = false;
  void* block = allocate_block(handle, total, kQuantumBytes, &is_zero);
  return block == nullptr || is_zero ? block : std::memset(block, 0, total);
}

void* btd_aligned(btd_cluster* handle, size_t alignment, size_t size_bytes) {
  if (!is_power_of_two(alignment)) return fail_null(EINVAL);
  Source source = source_of(handle);
  if (source != Source::kArena)
    return source == Source::kNone ? nullptr : next.memalign(alignment, size_bytes);
  return allocate_block(handle, size_bytes, max(alignment, kQuantumBytes), nullptr);
}

void* btd_realloc(btd_cluster* handle, void* pointer, size_t size_bytes) {
  return reallocate(handle, pointer, size_bytes, BTD_CALLER);
}

BTD_HOT void btd_free(void* pointer) {
  const void* caller = BTD_CALLER;
  auto foreign = [=] { return free_slow(pointer, caller), true; };
  if (!ThreadCache::free(pointer, arena.geometry(), cache, foreign)) [[unlikely]]
    free_slow(pointer, caller);
}

size_t btd_usable_size(void* pointer) {
  if (pointer == nullptr) return 0;
  Arena* home = arena_of(pointer);
  return home != nullptr ? home->usable_size(pointer) : next.usable_size(pointer);
}

int btd_recovered(const void* pointer) {
  Cluster* cluster = cluster_of(pointer);
  return cluster != nullptr && cluster->is_recovered(pointer) ? 1 : 0;
}

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

// --- Transactions

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

// --- The collector and numbers

int btd_gc(btd_cluster* handle, btd_gc_result* result) {
  Cluster* cluster = usable(handle);
  if (cluster == nullptr) return -1;
  if (is_in_transaction(*cluster)) return fail(EBUSY);
  GcResult found{};
  GcRequest request;
  request.tracers = &cluster->tracers();
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
