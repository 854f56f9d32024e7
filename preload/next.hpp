// The next allocator in line: glibc's, or a second preloaded one.
//
// Its functions are looked up at the first call, which comes from ld.so long before our
// constructor.  The look-up itself may allocate: such calls are served from a static buffer,
// recognised by address.  Each pointer starts at a function that resolves all of them, so that the
// fast path tests nothing.
#pragma once

#include <malloc.h>
#include <stdio.h>

#include <cstddef>

namespace btd::preload {

struct NextAllocator {
  void* (*malloc)(size_t);
  void (*free)(void*);
  void* (*calloc)(size_t, size_t);
  void* (*realloc)(void*, size_t);
  void* (*memalign)(size_t, size_t);
  int (*posix_memalign)(void**, size_t, size_t);
  size_t (*usable_size)(void*);
};

// Hidden here, or the fast paths would reach it through the global offset table.
[[gnu::visibility("hidden")]] extern NextAllocator next;

// Any other function of the next library in line; nullptr: there is none.
void* next_symbol(const char* name);

}  // namespace btd::preload
