// How often does a program on libpmem flush and drain?  Preloaded, it counts every call that
// writes cache lines back, passes it on, and at exit writes one JSON line to $BENCH_PMEM_COUNTS:
// lines written back and drains.  Two run lengths give both per operation, exactly.
//
// A copy counts the lines of its range, whether libpmem flushes them or stores around the cache.

#include <dlfcn.h>
#include <libpmem.h>

#include <atomic>

#include "support.hpp"

namespace {

constexpr uint64_t kLineBytes = 64;

std::atomic<uint64_t> lines;
std::atomic<uint64_t> drains;
thread_local bool is_inside;  // libpmem calls itself: only the outermost call counts

template <typename Function>
Function* next(Function*& known, const char* name) {
  if (known == nullptr) known = reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
  if (known == nullptr) bench::fail("no libpmem behind count_pmem");
  return known;
}

void count(const void* address, size_t size_bytes, bool is_flushed, bool is_drained) {
  if (is_inside) return;
  const auto begin = reinterpret_cast<uint64_t>(address);
  if (is_flushed && size_bytes > 0) {
    lines += (begin + size_bytes - 1) / kLineBytes - begin / kLineBytes + 1;
  }
  if (is_drained) drains += 1;
}

class Inside {
 public:
  Inside() : before_(is_inside) { is_inside = true; }
  ~Inside() { is_inside = before_; }

 private:
  bool before_;
};

void count_copy(void* to, size_t size_bytes, unsigned flags) {
  const bool is_flushed = (flags & PMEM_F_MEM_NOFLUSH) == 0;
  count(to, size_bytes, is_flushed, is_flushed && (flags & PMEM_F_MEM_NODRAIN) == 0);
}

[[gnu::destructor]] void report() {
  const char* path = getenv("BENCH_PMEM_COUNTS");
  FILE* out = path == nullptr ? nullptr : std::fopen(path, "w");
  if (out == nullptr) return;
  std::fprintf(out, "{\"lines\": %llu, \"drains\": %llu}\n", static_cast<unsigned long long>(lines),
               static_cast<unsigned long long>(drains));
  std::fclose(out);
}

decltype(pmem_flush)* next_flush;
decltype(pmem_deep_flush)* next_deep_flush;
decltype(pmem_drain)* next_drain;
decltype(pmem_persist)* next_persist;
decltype(pmem_memcpy)* next_memcpy;
decltype(pmem_memmove)* next_memmove;
decltype(pmem_memset)* next_memset;

}  // namespace

extern "C" {

void pmem_flush(const void* address, size_t size_bytes) {
  count(address, size_bytes, true, false);
  Inside inside;
  next(next_flush, "pmem_flush")(address, size_bytes);
}

void pmem_deep_flush(const void* address, size_t size_bytes) {
  count(address, size_bytes, true, false);
  Inside inside;
  next(next_deep_flush, "pmem_deep_flush")(address, size_bytes);
}

void pmem_drain() {
  count(nullptr, 0, false, true);
  Inside inside;
  next(next_drain, "pmem_drain")();
}

void pmem_persist(const void* address, size_t size_bytes) {
  count(address, size_bytes, true, true);
  Inside inside;
  next(next_persist, "pmem_persist")(address, size_bytes);
}

void* pmem_memcpy(void* to, const void* from, size_t size_bytes, unsigned flags) {
  count_copy(to, size_bytes, flags);
  Inside inside;
  return next(next_memcpy, "pmem_memcpy")(to, from, size_bytes, flags);
}

void* pmem_memmove(void* to, const void* from, size_t size_bytes, unsigned flags) {
  count_copy(to, size_bytes, flags);
  Inside inside;
  return next(next_memmove, "pmem_memmove")(to, from, size_bytes, flags);
}

void* pmem_memset(void* to, int byte, size_t size_bytes, unsigned flags) {
  count_copy(to, size_bytes, flags);
  Inside inside;
  return next(next_memset, "pmem_memset")(to, byte, size_bytes, flags);
}

}  // extern "C"
