// Another preloaded malloc, of the common kind: finds the next one with dlsym, which allocates
// while we are not ready.
//
// In front of the library under test it must find it; behind it, it must get what is not routed to
// the arena.  All names are looked up at the first call; what dlsym itself asks for meanwhile comes
// from a small buffer.
#include "check.hpp"

namespace {

void* (*next_malloc)(size_t);
void (*next_free)(void*);
void* (*next_calloc)(size_t, size_t);
void* (*next_realloc)(void*, size_t);

enum class State { kNew, kLooking, kReady };
std::atomic<State> state{State::kNew};
std::atomic<long> call_count{0};

alignas(16) char early_memory[4096];
size_t early_used = 0;

template <typename F>
void look_up(F*& function, const char* name) {
  function = reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
  if (function == nullptr) _exit(87);
}

bool is_ready() {
  if (state == State::kReady) return true;
  if (state == State::kLooking) return false;
  state = State::kLooking;  // the first call comes before the second thread
  look_up(next_malloc, "malloc");
  look_up(next_free, "free");
  look_up(next_calloc, "calloc");
  look_up(next_realloc, "realloc");
  state = State::kReady;
  return true;
}

void* early_block(size_t size_bytes) {
  size_t rounded_bytes = (size_bytes + 15) & ~size_t{15};
  if (early_used + rounded_bytes > sizeof(early_memory)) _exit(86);
  early_used += rounded_bytes;
  return early_memory + early_used - rounded_bytes;
}

bool is_early(const void* block) {
  auto* bytes = static_cast<const char*>(block);
  return bytes >= early_memory && bytes < early_memory + sizeof(early_memory);
}

}  // namespace

extern "C" {

long counting_module_calls() { return call_count.load(); }

void* malloc(size_t size_bytes) {
  if (!is_ready()) return early_block(size_bytes);
  call_count++;
  return next_malloc(size_bytes);
}

void free(void* block) {
  if (block != nullptr && !is_early(block) && is_ready()) next_free(block);
}

void* calloc(size_t count, size_t size_bytes) {
  if (!is_ready()) return early_block(count * size_bytes);
  call_count++;
  return next_calloc(count, size_bytes);
}

void* realloc(void* block, size_t size_bytes) {
  if (!is_ready()) return early_block(size_bytes);
  call_count++;
  return next_realloc(block, size_bytes);
}

}  // extern "C"
