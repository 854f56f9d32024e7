/* What bartender.h does in a program: call the library if it is there, else do without it.
 *
 * The library's functions are weak symbols: NULL when it is neither linked nor preloaded.  (Code
 * compiled with -fno-pie finds them only when the program is linked with -lbartender: its linker
 * settles them for good.)  Without the library a block is malloc()'s, a
 * root is an element of one list of the process, and a transaction only counts: commits succeed,
 * an abort undoes nothing and says so, -1 with ENOTSUP.
 *
 * Include bartender.h, never this. */
#ifndef BARTENDER_VOLATILE_H
#define BARTENDER_VOLATILE_H

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* As C and C++ say it. */
#ifdef __cplusplus
#define BTD_POINTER(address) \
  btd_pointer { address }
extern "C" {
#else
#define BTD_POINTER(address) (address)
#endif

#define BTD_LIBRARY(type, name, arguments) \
  extern type btd_library_##name arguments __asm__("btd_" #name) __attribute__((weak))

BTD_LIBRARY(struct btd_cluster*, cluster_create, (const struct btd_config*));
BTD_LIBRARY(struct btd_cluster*, cluster_open, (const char*));
BTD_LIBRARY(int, cluster_close, (struct btd_cluster*));
BTD_LIBRARY(struct btd_cluster*, cluster_of, (const void*));
BTD_LIBRARY(void*, cluster_base, (struct btd_cluster*));
BTD_LIBRARY(int, active, (void));
BTD_LIBRARY(void*, malloc, (struct btd_cluster*, size_t));
BTD_LIBRARY(void*, calloc, (struct btd_cluster*, size_t, size_t));
BTD_LIBRARY(void*, aligned, (struct btd_cluster*, size_t, size_t));
BTD_LIBRARY(void*, realloc, (struct btd_cluster*, void*, size_t));
BTD_LIBRARY(void, free, (void*));
BTD_LIBRARY(size_t, usable_size, (void*));
BTD_LIBRARY(int, recovered, (const void*));
BTD_LIBRARY(void*, memcpy, (void*, const void*, size_t));
BTD_LIBRARY(void*, memset, (void*, int, size_t));
BTD_LIBRARY(int, persist, (const void*, size_t));
BTD_LIBRARY(int, flush, (const void*, size_t));
BTD_LIBRARY(void, drain, (void));
BTD_LIBRARY(int, root_set, (struct btd_cluster*, const char*, const void*));
BTD_LIBRARY(void*, root_get, (struct btd_cluster*, const char*));
BTD_LIBRARY(int, root_remove, (struct btd_cluster*, const char*));
BTD_LIBRARY(int, root_next, (struct btd_cluster*, unsigned*, const char**, void**));
BTD_LIBRARY(void*, persistent, (struct btd_cluster*, const char*, size_t));
BTD_LIBRARY(void*, malloc_to, (struct btd_cluster*, void**, size_t));
BTD_LIBRARY(int, free_from, (void**));
BTD_LIBRARY(void*, reserve, (struct btd_cluster*, size_t));
BTD_LIBRARY(int, activate, (void*, void**, void*, void**, void*));
BTD_LIBRARY(int, cancel, (void*));
BTD_LIBRARY(int, tx_begin, (struct btd_cluster*));
BTD_LIBRARY(int, tx_add, (const void*, size_t));
BTD_LIBRARY(void*, tx_malloc, (size_t));
BTD_LIBRARY(void*, tx_calloc, (size_t, size_t));
BTD_LIBRARY(int, tx_free, (void*));
BTD_LIBRARY(int, tx_set, (void**, void*));
BTD_LIBRARY(int, tx_commit, (void));
BTD_LIBRARY(int, tx_abort, (void));
BTD_LIBRARY(unsigned, tx_depth, (void));
BTD_LIBRARY(int, gc, (struct btd_cluster*, struct btd_gc_result*));
BTD_LIBRARY(int, gc_trace, (struct btd_cluster*, const char*, const struct btd_gc_tracer*));
BTD_LIBRARY(void, gc_visit, (struct btd_gc_visitor*, const void*, const struct btd_gc_tracer*));
BTD_LIBRARY(int, statistics, (struct btd_cluster*, struct btd_statistics*));
#undef BTD_LIBRARY

/* --- Without the library: one list of roots, one depth a thread ---
 * Weak definitions: all parts of a program share one copy. */

struct btd_volatile_root {
  struct btd_volatile_root* next;
  unsigned number; /* counts up: the iteration's position */
  void* value;     /* NULL: removed */
  char name[BTD_ROOT_NAME_MAX + 1];
};

__attribute__((weak)) struct btd_volatile_root* btd_volatile_roots; /* newest first */
__attribute__((weak)) int btd_volatile_lock;
__attribute__((weak)) __thread unsigned btd_volatile_depth;

static __inline__ __attribute__((unused)) void btd_volatile_enter(void) {
  while (__atomic_exchange_n(&btd_volatile_lock, 1, __ATOMIC_ACQUIRE) != 0) {
  }
}
static __inline__ __attribute__((unused)) void btd_volatile_leave(void) {
  __atomic_store_n(&btd_volatile_lock, 0, __ATOMIC_RELEASE);
}

static __inline__ __attribute__((unused)) int btd_volatile_error(int number) {
  errno = number;
  return -1;
}

/* REQUIRES: the lock. */
static __inline__ __attribute__((unused)) struct btd_volatile_root* btd_volatile_find(
    const char* name) {
  struct btd_volatile_root* root = btd_volatile_roots;
  while (root != NULL && strcmp(root->name, name) != 0) root = root->next;
  return root;
}

static __inline__ __attribute__((unused)) int btd_volatile_root_set(const char* name,
                                                                    const void* value) {
  struct btd_volatile_root* root;
  size_t length = name == NULL ? 0 : strlen(name);
  if (length == 0) return btd_volatile_error(EINVAL);
  if (length > BTD_ROOT_NAME_MAX) return btd_volatile_error(ENAMETOOLONG);
  btd_volatile_enter();
  root = btd_volatile_find(name);
  if (root == NULL && value != NULL) {
    root = (struct btd_volatile_root*)calloc(1, sizeof(*root));
    if (root == NULL) {
      btd_volatile_leave();
      return btd_volatile_error(ENOMEM);
    }
    memcpy(root->name, name, length);
    root->number = btd_volatile_roots == NULL ? 1 : btd_volatile_roots->number + 1;
    root->next = btd_volatile_roots;
    btd_volatile_roots = root;
  }
  if (root != NULL) root->value = (void*)value;
  btd_volatile_leave();
  return 0;
}

static __inline__ __attribute__((unused)) void* btd_volatile_root_get(const char* name) {
  struct btd_volatile_root* root;
  void* value;
  btd_volatile_enter();
  root = name == NULL ? NULL : btd_volatile_find(name);
  value = root == NULL ? NULL : root->value;
  btd_volatile_leave();
  if (value == NULL) errno = ENOENT;
  return value;
}

/* Roots in the order of their numbers, those after *position. */
static __inline__ __attribute__((unused)) int btd_volatile_root_next(unsigned* position,
                                                                     const char** name,
                                                                     void** value) {
  struct btd_volatile_root* root;
  struct btd_volatile_root* best = NULL;
  btd_volatile_enter();
  for (root = btd_volatile_roots; root != NULL && root->number > *position; root = root->next) {
    if (root->value != NULL) best = root;
  }
  if (best != NULL) {
    *position = best->number;
    *name = best->name;
    *value = best->value;
  }
  btd_volatile_leave();
  return best != NULL;
}

static __inline__ __attribute__((unused)) void* btd_volatile_aligned(size_t alignment,
                                                                     size_t size) {
  if (alignment != 0 && (alignment & (alignment - 1)) == 0) return memalign(alignment, size);
  errno = EINVAL;
  return NULL;
}

/* --- The functions of bartender.h --- */

BTD_API struct btd_cluster* btd_cluster_create(const struct btd_config* config) {
  if (btd_library_cluster_create) return btd_library_cluster_create(config);
  return (struct btd_cluster*)&btd_volatile_roots; /* any address that is not NULL */
}
BTD_API struct btd_cluster* btd_cluster_open(const char* uri) {
  if (btd_library_cluster_open) return btd_library_cluster_open(uri);
  return (struct btd_cluster*)&btd_volatile_roots;
}
BTD_API int btd_cluster_close(struct btd_cluster* cluster) {
  return btd_library_cluster_close ? btd_library_cluster_close(cluster) : 0;
}
BTD_API struct btd_cluster* btd_cluster_of(const void* address) {
  return btd_library_cluster_of ? btd_library_cluster_of(address) : NULL;
}
BTD_API btd_pointer btd_cluster_base(struct btd_cluster* cluster) {
  return BTD_POINTER(btd_library_cluster_base ? btd_library_cluster_base(cluster) : NULL);
}
BTD_API int btd_active(void) { return btd_library_active ? btd_library_active() : 0; }

BTD_API btd_pointer btd_malloc(struct btd_cluster* cluster, size_t size) {
  return BTD_POINTER(btd_library_malloc ? btd_library_malloc(cluster, size) : malloc(size));
}
BTD_API btd_pointer btd_calloc(struct btd_cluster* cluster, size_t count, size_t size) {
  return BTD_POINTER(btd_library_calloc ? btd_library_calloc(cluster, count, size)
                                        : calloc(count, size));
}
BTD_API btd_pointer btd_aligned(struct btd_cluster* cluster, size_t alignment, size_t size) {
  return BTD_POINTER(btd_library_aligned ? btd_library_aligned(cluster, alignment, size)
                                         : btd_volatile_aligned(alignment, size));
}
BTD_API btd_pointer btd_realloc(struct btd_cluster* cluster, void* pointer, size_t size) {
  return BTD_POINTER(btd_library_realloc ? btd_library_realloc(cluster, pointer, size)
                                         : realloc(pointer, size));
}
BTD_API void btd_free(void* pointer) {
  if (btd_library_free) {
    btd_library_free(pointer);
  } else {
    free(pointer);
  }
}
BTD_API size_t btd_usable_size(void* pointer) {
  return btd_library_usable_size ? btd_library_usable_size(pointer) : malloc_usable_size(pointer);
}
BTD_API int btd_recovered(const void* pointer) {
  return btd_library_recovered ? btd_library_recovered(pointer) : 0;
}

BTD_API btd_pointer btd_memcpy(void* destination, const void* source, size_t n) {
  return BTD_POINTER(btd_library_memcpy ? btd_library_memcpy(destination, source, n)
                                        : memcpy(destination, source, n));
}
BTD_API btd_pointer btd_memset(void* destination, int byte, size_t n) {
  return BTD_POINTER(btd_library_memset ? btd_library_memset(destination, byte, n)
                                        : memset(destination, byte, n));
}
BTD_API int btd_persist(const void* address, size_t n) {
  return btd_library_persist ? btd_library_persist(address, n) : 0;
}
BTD_API int btd_flush(const void* address, size_t n) {
  return btd_library_flush ? btd_library_flush(address, n) : 0;
}
BTD_API void btd_drain(void) {
  if (btd_library_drain) btd_library_drain();
}

BTD_API int btd_root_set(struct btd_cluster* cluster, const char* name, const void* value) {
  return btd_library_root_set ? btd_library_root_set(cluster, name, value)
                              : btd_volatile_root_set(name, value);
}
BTD_API btd_pointer btd_root_get(struct btd_cluster* cluster, const char* name) {
  return BTD_POINTER(btd_library_root_get ? btd_library_root_get(cluster, name)
                                          : btd_volatile_root_get(name));
}
BTD_API int btd_root_remove(struct btd_cluster* cluster, const char* name) {
  if (btd_library_root_remove) return btd_library_root_remove(cluster, name);
  if (btd_volatile_root_get(name) == NULL) return -1;
  return btd_volatile_root_set(name, NULL);
}
BTD_API int btd_root_next(struct btd_cluster* cluster, unsigned* position, const char** name,
                          void** value) {
  return btd_library_root_next ? btd_library_root_next(cluster, position, name, value)
                               : btd_volatile_root_next(position, name, value);
}
BTD_API btd_pointer btd_persistent(struct btd_cluster* cluster, const char* name, size_t size) {
  void* block;
  if (btd_library_persistent) return BTD_POINTER(btd_library_persistent(cluster, name, size));
  block = btd_volatile_root_get(name);
  if (block == NULL) {
    block = calloc(1, size);
    if (block != NULL && btd_volatile_root_set(name, block) != 0) {
      free(block);
      block = NULL;
    }
  }
  return BTD_POINTER(block);
}

BTD_API btd_pointer btd_malloc_to(struct btd_cluster* cluster, void** where, size_t size) {
  void* block;
  if (btd_library_malloc_to) return BTD_POINTER(btd_library_malloc_to(cluster, where, size));
  block = malloc(size);
  if (block != NULL) *where = block;
  return BTD_POINTER(block);
}
BTD_API int btd_free_from(void** where) {
  if (btd_library_free_from) return btd_library_free_from(where);
  free(*where);
  *where = NULL;
  return 0;
}
BTD_API btd_pointer btd_reserve(struct btd_cluster* cluster, size_t size) {
  return BTD_POINTER(btd_library_reserve ? btd_library_reserve(cluster, size) : malloc(size));
}
BTD_API int btd_activate(void* pointer, void** link1, void* value1, void** link2, void* value2) {
  if (btd_library_activate) return btd_library_activate(pointer, link1, value1, link2, value2);
  if (link1 != NULL) *link1 = value1;
  if (link2 != NULL) *link2 = value2;
  return 0;
}
BTD_API int btd_cancel(void* pointer) {
  if (btd_library_cancel) return btd_library_cancel(pointer);
  free(pointer);
  return 0;
}

BTD_API int btd_tx_begin(struct btd_cluster* cluster) {
  if (btd_library_tx_begin) return btd_library_tx_begin(cluster);
  btd_volatile_depth++;
  return 0;
}
BTD_API int btd_tx_add(const void* address, size_t n) {
  return btd_library_tx_add ? btd_library_tx_add(address, n) : 0;
}
BTD_API btd_pointer btd_tx_malloc(size_t size) {
  return BTD_POINTER(btd_library_tx_malloc ? btd_library_tx_malloc(size) : malloc(size));
}
BTD_API btd_pointer btd_tx_calloc(size_t count, size_t size) {
  return BTD_POINTER(btd_library_tx_calloc ? btd_library_tx_calloc(count, size)
                                           : calloc(count, size));
}
BTD_API int btd_tx_free(void* pointer) {
  if (btd_library_tx_free) return btd_library_tx_free(pointer);
  free(pointer);
  return 0;
}
BTD_API int btd_tx_set(void** where, void* value) {
  if (btd_library_tx_set) return btd_library_tx_set(where, value);
  *where = value;
  return 0;
}
BTD_API int btd_tx_commit(void) {
  if (btd_library_tx_commit) return btd_library_tx_commit();
  if (btd_volatile_depth == 0) return btd_volatile_error(EINVAL);
  btd_volatile_depth--;
  return 0;
}
BTD_API int btd_tx_abort(void) {
  if (btd_library_tx_abort) return btd_library_tx_abort();
  if (btd_volatile_depth == 0) return btd_volatile_error(EINVAL);
  btd_volatile_depth--;
  return btd_volatile_error(ENOTSUP);
}
BTD_API unsigned btd_tx_depth(void) {
  return btd_library_tx_depth ? btd_library_tx_depth() : btd_volatile_depth;
}

BTD_API int btd_gc(struct btd_cluster* cluster, struct btd_gc_result* result) {
  return btd_library_gc ? btd_library_gc(cluster, result) : btd_volatile_error(ENOTSUP);
}
BTD_API int btd_gc_trace(struct btd_cluster* cluster, const char* root,
                         const struct btd_gc_tracer* tracer) {
  return btd_library_gc_trace ? btd_library_gc_trace(cluster, root, tracer) : 0;
}
BTD_API void btd_gc_visit(struct btd_gc_visitor* visitor, const void* pointer,
                          const struct btd_gc_tracer* tracer) {
  if (btd_library_gc_visit) btd_library_gc_visit(visitor, pointer, tracer);
}
BTD_API int btd_statistics(struct btd_cluster* cluster, struct btd_statistics* statistics) {
  return btd_library_statistics ? btd_library_statistics(cluster, statistics)
                                : btd_volatile_error(ENOTSUP);
}

#ifdef __cplusplus
}
#endif
#undef BTD_POINTER

#endif
