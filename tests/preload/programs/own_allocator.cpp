// A program with an allocator of its own in the executable, as browsers and rustc have: the library
// must step aside.
//
// Every block has a mark in front of it; a block without the mark came from somebody else and ends
// the program.
#include <pthread.h>

#include "check.hpp"

namespace {

constexpr size_t kHeapBytes = size_t{64} << 20;
alignas(16) char heap[kHeapBytes];
std::atomic<size_t> used{0};
std::atomic<long> own_calls{0};

struct Mark {
  uint64_t magic;
  uint64_t size_bytes;
};
constexpr uint64_t kMagic = 0x4F574E414C4C4F43;

}  // namespace

extern "C" {

void* malloc(size_t size_bytes) {
  own_calls++;
  size_t offset = used.fetch_add(((size_bytes + 15) & ~size_t{15}) + sizeof(Mark));
  if (offset + size_bytes + sizeof(Mark) > kHeapBytes) return nullptr;
  auto* mark = reinterpret_cast<Mark*>(heap + offset);
  *mark = {kMagic, size_bytes};
  return mark + 1;
}

void free(void* block) {
  if (block == nullptr) return;
  if (static_cast<Mark*>(block)[-1].magic != kMagic) {
    const char line[] = "a block of somebody else\n";
    if (write(2, line, sizeof(line) - 1) < 0) _exit(89);
    _exit(88);
  }
}

void* calloc(size_t count, size_t size_bytes) {
  void* block = malloc(count * size_bytes);
  if (block != nullptr) memset(block, 0, count * size_bytes);
  return block;
}

void* realloc(void* block, size_t size_bytes) {
  void* grown = malloc(size_bytes);
  if (grown == nullptr || block == nullptr) return grown;
  uint64_t old_bytes = static_cast<Mark*>(block)[-1].size_bytes;
  memcpy(grown, block, old_bytes < size_bytes ? old_bytes : size_bytes);
  free(block);
  return grown;
}

void* memalign(size_t alignment, size_t size_bytes) {
  auto raw = reinterpret_cast<uintptr_t>(malloc(size_bytes + alignment + sizeof(Mark)));
  uintptr_t aligned = (raw + sizeof(Mark) + alignment - 1) / alignment * alignment;
  reinterpret_cast<Mark*>(aligned)[-1] = {kMagic, size_bytes};
  return reinterpret_cast<void*>(aligned);
}
void* aligned_alloc(size_t alignment, size_t size_bytes) { return memalign(alignment, size_bytes); }
int posix_memalign(void** block, size_t alignment, size_t size_bytes) {
  *block = memalign(alignment, size_bytes);
  return *block == nullptr ? ENOMEM : 0;
}
size_t malloc_usable_size(void* block) { return static_cast<Mark*>(block)[-1].size_bytes; }

}  // extern "C"

int main() {
  long calls = own_calls;
  free(compat::opaque(malloc(100000)));
  char* text = strdup("libc calls it too");
  free(text);
  compat::check(own_calls >= calls + 2, "the program's own allocator is called");
  auto run = [](void*) -> void* {
    free(compat::opaque(malloc(30000)));
    return nullptr;
  };
  pthread_t thread;
  compat::check(pthread_create(&thread, nullptr, run, nullptr) == 0, "pthread_create");
  pthread_join(thread, nullptr);
  void* block = nullptr;
  compat::check(posix_memalign(&block, 4096, 20000) == 0, "posix_memalign");
  free(block);
  for (int i = 0; i < 100; i++) ::operator delete(::operator new(compat::opaque(size_t{20000})));
  return compat::finish();
}
