/* Bartender's interface for programs: memory that outlives them, changed all or nothing.
 *
 * A cluster is an arena, a file mapped at the address that it always has: pointers into it stay
 * good after a restart.  What a program wants to find again it hangs on a named root.  Whatever a
 * function here changes it changes in one atomic step: a crash at any instruction leaves the old or
 * the new. Against what crashes (the process, or the machine too) is the arena's durability: see
 * docs/settings.md, BARTENDER_DURABILITY.
 *
 * The library may be linked (-lbartender) or preloaded (LD_PRELOAD=libbartender.so); and a program
 * that has this header alone runs without it: then blocks come from malloc(), roots live in a small
 * list and are lost with the process, and transactions cannot be undone (bartender_volatile.h).
 * btd_active() tells.
 *
 * ERRORS.  Functions that return int give 0, or -1 with errno; those that return a pointer give it,
 * or NULL with errno.  errno is only set on failure.  Everywhere:
 *   EINVAL   no cluster, or one that was closed; a pointer or range that is not in the arena
 *   ENOTSUP  in a forked child, where clusters are closed; no library
 *
 * THREAD SAFETY.  All functions may run concurrently, unless they say otherwise.  A transaction
 * belongs to the thread that began it; other threads see its changes in place at once, so keep them
 * out of what it changes, by a lock.  No function may be called from a signal handler. */
#ifndef BARTENDER_H
#define BARTENDER_H

#include <stddef.h>
#include <stdint.h>

#ifdef BTD_BUILDING_LIBRARY
#define BTD_API __attribute__((visibility("default")))
#define BTD_NAMED(name)
typedef void* btd_pointer;
#else
/* What a program calls asks whether the library is there; so it has another name for the linker. */
#define BTD_API static __inline__ __attribute__((unused))
#define BTD_NAMED(name) __asm__("btd_inline_" #name)
#ifdef __cplusplus
/* A pointer that becomes one of any type, as void * does in C. */
struct btd_pointer {
  void* address;
  operator void*() const { return address; }
  explicit operator bool() const { return address != nullptr; }
  template <typename T>
  operator T*() const {
    return static_cast<T*>(address);
  }
};
#else
typedef void* btd_pointer;
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The longest name of a root, and how many roots an arena has. */
#define BTD_ROOT_NAME_MAX 63
#define BTD_ROOTS_MAX 2048
/* Clusters that btd_cluster_open() may have open at a time. */
#define BTD_CLUSTERS_MAX 16

/* --- Clusters --- */

struct btd_config {
  int single_node; /* 1: if this call makes the arena, all of it stays on this machine;
                      0: it may have far memory, where BARTENDER_NODES names memory nodes */
};

struct btd_cluster; /* opaque */

/* The arena of the process: the one that the preloaded malloc() uses, opened at the first call.
 * Where it lies and all else is said by the environment; by default it is
 * /dev/shm/bartender-<uid>/<program>.arena, and it stays after a good end too once it has a root.
 * `config` may be NULL.  The same pointer at every call; never freed.
 * ERRORS, with a line on stderr: those of btd_cluster_open(); ENOTSUP: the settings are wrong, or
 * keep this program out (BARTENDER_ONLY).  The functions below take NULL for a cluster: they then
 * allocate by malloc(), and have no roots. */
BTD_API struct btd_cluster* btd_cluster_create(const struct btd_config* config)
    BTD_NAMED(cluster_create);

/* Another arena: "PATH[?name=value[&name=value]...]".  PATH is a file, made if missing, or a DAX
 * device.  Names, and what is taken if they are not given:
 *   size=SIZE        capacity of a new arena, 4M to 64T        BARTENDER_SIZE
 *   durability=WORD  process, lazy, strict                     BARTENDER_DURABILITY
 *   on_restart=WORD  salvage, keep, discard                    BARTENDER_ON_RESTART
 *   on_exit=WORD     keep; discard: at exit status 0, without  keep
 *                    a root, the file is removed
 *   create=0|1       whether a missing file is made            1
 *   nodes=ADDRESSES  memory nodes, separated by commas: what   none
 *                    does not fit near goes there (docs/far.md)
 *   near=SIZE        how much stays on this machine            BARTENDER_NEAR
 *   replicas=COUNT   nodes that have each extent, 1 to 8       BARTENDER_REPLICAS
 *   key_file=PATH    the nodes' key                            BARTENDER_KEY_FILE
 *   seal_key_file=PATH  the key that extents are sealed with   BARTENDER_SEAL_KEY_FILE
 *   spill_policy=WORD   all, large                             BARTENDER_SPILL_POLICY
 * ERRORS, each with a line on stderr that says what is safe and what to do:
 *   EINVAL        the uri: no path, an unknown name, a bad value
 *   EBUSY         the arena is in use, by another process or by this one
 *   ENOENT        no such directory; or no such file and create=0
 *   EMEDIUMTYPE   a file, but no arena; or one of a machine with other pages
 *   EPROTONOSUPPORT  an arena of a newer format
 *   EUCLEAN       a truncated or damaged arena; nothing was written to it
 *   EADDRINUSE    its address is occupied in this process
 *   EACCES, ENOSPC, ENOMEM, EPERM (a system call filter), ENOTSUP (a directory, a link), EIO
 *   EMFILE        BTD_CLUSTERS_MAX are open */
BTD_API struct btd_cluster* btd_cluster_open(const char* uri) BTD_NAMED(cluster_open);

/* Closes what btd_cluster_open() gave.  Reservations are cancelled; its memory is unmapped.  (At
 * exit() all clusters are closed in good order by themselves.)
 * REQUIRES: no other thread uses the cluster or its memory.
 * ERRORS: EBUSY: the calling thread has a transaction open on it; EINVAL: also the cluster of
 * btd_cluster_create(), which stays open. */
BTD_API int btd_cluster_close(struct btd_cluster* cluster) BTD_NAMED(cluster_close);

/* The cluster whose arena holds the address; NULL: none (errno is left alone). */
BTD_API struct btd_cluster* btd_cluster_of(const void* address) BTD_NAMED(cluster_of);

/* An address in the arena that stays the same for its whole life: what data in the arena may keep
 * in place of a cluster's handle, which is another in each process. */
BTD_API btd_pointer btd_cluster_base(struct btd_cluster* cluster) BTD_NAMED(cluster_base);

/* 1: the library is there, and the process arena is open, or will be when it is needed; 0: blocks
 * come from malloc().  In a forked child 0. */
BTD_API int btd_active(void) BTD_NAMED(active);

/* --- Blocks ---
 * As malloc() and its family, from the arena whatever the size; never from DRAM when it is full.
 * What a crash leaves: the block is live or it is not.  A live block that no root leads to is kept
 * for `bartender salvage` until its space is needed, or until btd_gc(); btd_malloc_to() and
 * transactions leave none.
 * ERRORS: ENOMEM: the arena is full; EINVAL. */
BTD_API btd_pointer btd_malloc(struct btd_cluster* cluster, size_t size) BTD_NAMED(malloc);
BTD_API btd_pointer btd_calloc(struct btd_cluster* cluster, size_t count, size_t size)
    BTD_NAMED(calloc);
/* `alignment`: a power of two, else EINVAL. */
BTD_API btd_pointer btd_aligned(struct btd_cluster* cluster, size_t alignment, size_t size)
    BTD_NAMED(aligned);
/* A block that has to move is live in both places until its copy is whole; what points to it is the
 * caller's to change.  EINVAL: `pointer` is no live block of this cluster. */
BTD_API btd_pointer btd_realloc(struct btd_cluster* cluster, void* pointer, size_t size)
    BTD_NAMED(realloc);

/* Finds the arena by the address; a pointer of no arena goes to free().  errno is kept.  A double
 * or invalid free is reported, and ends the process unless BARTENDER_ON_MISUSE=ignore. */
BTD_API void btd_free(void* pointer) BTD_NAMED(free);

/* Bytes of the block that the program may use; 0: NULL, or no live block. */
BTD_API size_t btd_usable_size(void* pointer) BTD_NAMED(usable_size);

/* 1: the block was live before this run of the program; 0: it was allocated in it, or there is no
 * live block. */
BTD_API int btd_recovered(const void* pointer) BTD_NAMED(recovered);

/* --- Bytes --- */

/* memcpy() and memset() that are durable on return and failure-atomic for any n: after a crash all
 * bytes are old or all are new.  In a transaction on the same arena they are part of it, and become
 * durable with it.  A destination in no arena is written as by memcpy().  `source` and
 * `destination` may not overlap.  They return `destination`. ERRORS: EINVAL: the range leaves the
 * arena, or a transaction is open on another one; ENOSPC: no room for the log (at most n + 64 bytes
 * a MiB); ECANCELED: the transaction was aborted. Then nothing was written. */
BTD_API btd_pointer btd_memcpy(void* destination, const void* source, size_t n) BTD_NAMED(memcpy);
BTD_API btd_pointer btd_memset(void* destination, int byte, size_t n) BTD_NAMED(memset);

/* Makes plain stores durable: flush() starts, drain() waits for all that this thread flushed,
 * persist() does both.  They order nothing else: until then a store may or may not survive.
 * ERRORS: EINVAL: the range is in no open arena, and nothing was done. */
BTD_API int btd_persist(const void* address, size_t n) BTD_NAMED(persist);
BTD_API int btd_flush(const void* address, size_t n) BTD_NAMED(flush);
BTD_API void btd_drain(void) BTD_NAMED(drain);

/* --- Roots ---
 * Names of 1 to 63 bytes for addresses in the arena.  Setting, changing and removing one is a
 * single atomic step; in a transaction on the cluster it is part of it, and only the transaction
 * sees it before. */

/* NULL removes the root.  ERRORS: EINVAL: an empty name, a value outside the arena; ENAMETOOLONG;
 * ENOSPC: all roots are in use, or the file system is full; ECANCELED. */
BTD_API int btd_root_set(struct btd_cluster* cluster, const char* name, const void* value)
    BTD_NAMED(root_set);
/* ERRORS: ENOENT: there is no such root; EINVAL, ENAMETOOLONG. */
BTD_API btd_pointer btd_root_get(struct btd_cluster* cluster, const char* name) BTD_NAMED(root_get);
/* ERRORS: ENOENT: there is no such root; those of btd_root_set(). */
BTD_API int btd_root_remove(struct btd_cluster* cluster, const char* name) BTD_NAMED(root_remove);
/* Start with *position 0 and call until it returns 0: 1: the next root was stored; 0: there is none
 * more; -1: EINVAL.  *name stays valid until the root is removed.  Roots that are set or removed
 * meanwhile may be seen or not; what an open transaction did is not seen. */
BTD_API int btd_root_next(struct btd_cluster* cluster, unsigned* position, const char** name,
                          void** value) BTD_NAMED(root_next);

/* The block that the root `name` leads to; if there is no such root, first a block of `size` zero
 * bytes is made and the root is set, in one atomic step.  What Mnemosyne (Volos et al., ASPLOS
 * 2011) calls pstatic; see BTD_PERSISTENT. ERRORS: EINVAL: the block is smaller than `size`;
 * ENOMEM, and those of btd_root_set(). */
BTD_API btd_pointer btd_persistent(struct btd_cluster* cluster, const char* name, size_t size)
    BTD_NAMED(persistent);

/* --- Allocate and publish ---
 * No crash leaves a block that nothing leads to.  In a transaction on the cluster all of these are
 * part of it. */

/* Allocates, and stores the address in *where, which is in the arena, in one atomic step.  The
 * block is not zeroed.  ERRORS: ENOMEM, ENOSPC (log), EINVAL, ECANCELED; *where is as it was. */
BTD_API btd_pointer btd_malloc_to(struct btd_cluster* cluster, void** where, size_t size)
    BTD_NAMED(malloc_to);
/* Frees the block *where points to and stores NULL there, in one atomic step; with NULL there it
 * does nothing.  ERRORS: EINVAL: *where is no live block of the arena; EBUSY: another open
 * transaction frees it; ENOSPC, ECANCELED. */
BTD_API int btd_free_from(void** where) BTD_NAMED(free_from);

/* The two steps of nvm_malloc (Schwalb et al., ADMS 2015).  A reserved block is the caller's to
 * fill, and free after a crash.  ERRORS: ENOMEM, EINVAL. */
BTD_API btd_pointer btd_reserve(struct btd_cluster* cluster, size_t size) BTD_NAMED(reserve);
/* The block, with the bytes written to it so far, becomes live, and *link1 = value1, *link2 =
 * value2 are stored, in one atomic step.  A link that is NULL is left out; one that is not is in
 * the arena, perhaps in the block itself. ERRORS: EINVAL: `pointer` is not reserved, or a link is
 * outside the arena; ENOSPC (log); ECANCELED: the transaction was aborted.  The block stays
 * reserved then.  (In a transaction that aborts later it is free.) */
BTD_API int btd_activate(void* pointer, void** link1, void* value1, void** link2, void* value2)
    BTD_NAMED(activate);
/* The reserved block is free again; NULL is ignored.  ERRORS: EINVAL: it is not reserved. */
BTD_API int btd_cancel(void* pointer) BTD_NAMED(cancel);

/* --- Transactions ---
 * Between begin and commit a thread's changes belong together: all survive, or none.  Ranges are
 * added before they are changed in place (undo log); as in PMDK's libpmemobj and Mnemosyne.  The
 * log may be of any size.  Blocks allocated in a transaction are live from its commit on, blocks
 * freed in it are free from its commit on.  A thread that ends in a transaction aborts it. */

/* Transactions nest flat: an inner begin and commit only count; an inner abort undoes all, and from
 * then on every function fails with ECANCELED until the outermost commit, which does too.
 * ERRORS: EINVAL: a transaction on another cluster is open; ECANCELED; ENOSPC: no room for a log.
 */
BTD_API int btd_tx_begin(struct btd_cluster* cluster) BTD_NAMED(tx_begin);
/* Keeps the bytes: from here on the program may change them, and an abort or a crash puts them
 * back. Blocks of this transaction need no add.  ERRORS, after which the transaction is as it was:
 * EINVAL: no transaction is open, or the range leaves the arena; ENOSPC: no room for the log;
 * ECANCELED. */
BTD_API int btd_tx_add(const void* address, size_t n) BTD_NAMED(tx_add);
/* ERRORS: ENOMEM: the arena is full (abort, and nothing is lost); EINVAL, ENOSPC, ECANCELED. */
BTD_API btd_pointer btd_tx_malloc(size_t size) BTD_NAMED(tx_malloc);
BTD_API btd_pointer btd_tx_calloc(size_t count, size_t size) BTD_NAMED(tx_calloc);
/* NULL is ignored.  ERRORS: EINVAL: no live block starts there, or this transaction frees it
 * already, or another open one allocated it; EBUSY: another open transaction frees it; ENOSPC,
 * ECANCELED. */
BTD_API int btd_tx_free(void* pointer) BTD_NAMED(tx_free);
/* btd_tx_add() of the pointer and a store to it.  ERRORS: as btd_tx_add(). */
BTD_API int btd_tx_set(void** where, void* value) BTD_NAMED(tx_set);
/* ERRORS: EINVAL: no transaction is open; ECANCELED: an inner abort undid all; ENOSPC, or EINVAL
 * for a block to be freed that is not live any more: then it was aborted.  In each case it is over.
 */
BTD_API int btd_tx_commit(void) BTD_NAMED(tx_commit);
/* Undoes all.  ERRORS: EINVAL: no transaction is open. */
BTD_API int btd_tx_abort(void) BTD_NAMED(tx_abort);
/* How often the calling thread has begun the transaction that is open; 0: none. */
BTD_API unsigned btd_tx_depth(void) BTD_NAMED(tx_depth);

/* --- The collector and numbers --- */

struct btd_gc_result {
  uint64_t reachable_blocks;
  uint64_t reachable_bytes;
  uint64_t freed_blocks;
  uint64_t freed_bytes;
  uint64_t mark_ns;
  uint64_t sweep_ns;
};

/* Frees the blocks of earlier runs that no root leads to; blocks allocated in this run stay.
 * `result` may be NULL.  REQUIRES: no other thread changes blocks of earlier runs, roots, or what
 * points to them; no transaction is open (EBUSY: the caller's is).
 * ERRORS: ENOMEM: no DRAM for the marks; EINVAL. */
BTD_API int btd_gc(struct btd_cluster* cluster, struct btd_gc_result* result) BTD_NAMED(gc);

/* Tells the collector where the pointers are in what a root leads to, which is otherwise scanned
 * word by word, and a number that looks like a pointer keeps a block.  trace() calls btd_gc_visit()
 * for each pointer in the object, with the tracer of what that points to (NULL: scanned).  It runs
 * in any thread, may be shown more bytes than the object has (`size` is the block's), and neither
 * allocates nor frees. */
struct btd_gc_visitor; /* opaque */
struct btd_gc_tracer {
  void (*trace)(void* context, const void* object, size_t size, struct btd_gc_visitor* visitor);
  void* context;
};
/* Sets the tracer of a root, which need not be there yet; NULL removes it.  What it points to is
 * copied, the tracers that it names are not.
 * ERRORS: EINVAL: an empty name; ENAMETOOLONG; ENOSPC: 128 roots have one. */
BTD_API int btd_gc_trace(struct btd_cluster* cluster, const char* root,
                         const struct btd_gc_tracer* tracer) BTD_NAMED(gc_trace);
BTD_API void btd_gc_visit(struct btd_gc_visitor* visitor, const void* pointer,
                          const struct btd_gc_tracer* tracer) BTD_NAMED(gc_visit);

struct btd_statistics {
  char path[512];
  uint64_t epoch;          /* how often the arena has been opened */
  uint64_t capacity_bytes; /* of data */
  uint64_t grown_bytes;    /* of it, backed at some time */
  uint64_t free_bytes;     /* of those, in no superblock and no large block */
  uint64_t live_blocks;    /* of this run and earlier ones */
  uint64_t live_bytes;
  uint64_t live_large_blocks; /* of those, above 32 KiB */
  uint64_t live_large_bytes;
  uint32_t roots;
  uint32_t durability; /* 0 process, 1 lazy, 2 strict */
};

/* Takes time in proportion to the arena.  ERRORS: EINVAL. */
BTD_API int btd_statistics(struct btd_cluster* cluster, struct btd_statistics* statistics)
    BTD_NAMED(statistics);

#ifdef __cplusplus
}
#endif

/* BTD_PERSISTENT(long, counter) makes a function counter() that returns a long *: a static variable
 * of the process arena that keeps its value from run to run, zero at first.  At most 63 characters.
 * NULL: as btd_persistent().  (What NVL-C calls an nvm qualifier.)  For C; in C++ prefer
 * btd::persistent of bartender.hpp. */
#define BTD_PERSISTENT(type, name)                                                     \
  static __inline__ __attribute__((unused)) type* name(void) {                         \
    static type* found;                                                                \
    type* variable = __atomic_load_n(&found, __ATOMIC_RELAXED);                        \
    if (variable == NULL) {                                                            \
      variable = (type*)btd_persistent(btd_cluster_create(NULL), #name, sizeof(type)); \
      __atomic_store_n(&found, variable, __ATOMIC_RELAXED);                            \
    }                                                                                  \
    return variable;                                                                   \
  }

#ifndef BTD_BUILDING_LIBRARY
#include "bartender_volatile.h"
#endif

#endif
