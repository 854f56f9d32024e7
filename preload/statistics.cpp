// mallinfo and its relatives: the next allocator's numbers and the arena's, added up.
#include <malloc.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "core/base/attributes.hpp"
#include "core/base/log.hpp"
#include "preload/next.hpp"
#include "preload/runtime.hpp"

namespace btd::preload {
namespace {

template <typename Function>
Function* next_function(const char* name) {
  void* symbol = next_symbol(name);
  Function* function;
  std::memcpy(&function, &symbol, sizeof(function));
  return function;
}

struct mallinfo2 add_arena(struct mallinfo2 info) {
  if (!is_arena_open()) return info;
  Usage usage = arena.usage();
  info.arena += usage.grown_bytes;
  info.hblks += usage.live_large_blocks;
  info.hblkhd += usage.live_large_bytes;
  info.uordblks += usage.live_bytes - usage.live_large_bytes;
  info.fordblks += usage.grown_bytes - usage.live_bytes;
  return info;
}

int clip(size_t value) { return value > INT_MAX ? INT_MAX : static_cast<int>(value); }

}  // namespace
}  // namespace btd::preload

using namespace btd;           // NOLINT: the functions below cannot live in a namespace
using namespace btd::preload;  // NOLINT

extern "C" {

BTD_EXPORT struct mallinfo2 mallinfo2(void) noexcept {
  auto* function = next_function<struct mallinfo2()>("mallinfo2");
  struct mallinfo2 none {};
  return add_arena(function != nullptr ? function() : none);
}

BTD_EXPORT struct mallinfo mallinfo(void) noexcept {
  struct mallinfo2 wide = mallinfo2();
  struct mallinfo info {};
  info.arena = clip(wide.arena);
  info.ordblks = clip(wide.ordblks);
  info.smblks = clip(wide.smblks);
  info.hblks = clip(wide.hblks);
  info.hblkhd = clip(wide.hblkhd);
  info.fsmblks = clip(wide.fsmblks);
  info.uordblks = clip(wide.uordblks);
  info.fordblks = clip(wide.fordblks);
  info.keepcost = clip(wide.keepcost);
  return info;
}

BTD_EXPORT void malloc_stats(void) noexcept {
  if (is_arena_open()) {
    Usage usage = arena.usage();
    Line()
        .text("arena ")
        .text(arena.path())
        .text(": ")
        .number(usage.live_blocks)
        .text(" blocks live, ")
        .number(usage.live_bytes)
        .text(" bytes in use, ")
        .number(usage.grown_bytes)
        .text(" bytes of arena")
        .write(LogLevel::kOff);
  }
  if (auto* function = next_function<void()>("malloc_stats")) function();
}

BTD_EXPORT int malloc_info(int options, FILE* stream) noexcept {
  auto* function = next_function<int(int, FILE*)>("malloc_info");
  if (!is_arena_open() || options != 0) {
    if (function != nullptr) return function(options, stream);
    errno = EINVAL;
    return -1;
  }
  struct mallinfo2 rest = next_function<struct mallinfo2()>("mallinfo2")();
  Usage usage = arena.usage();
  int written = fprintf(
      stream,
      "<malloc version=\"1\">\n"
      "<heap nr=\"0\" name=\"next\">\n<system type=\"current\" size=\"%zu\"/>\n<total "
      "type=\"rest\" size=\"%zu\"/>\n"
      "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n</heap>\n"
      "<heap nr=\"1\" name=\"arena\" path=\"%s\">\n<system type=\"current\" size=\"%zu\"/>\n"
      "<total type=\"rest\" size=\"%zu\"/>\n<total type=\"live\" count=\"%zu\" "
      "size=\"%zu\"/>\n</heap>\n</malloc>\n",
      rest.arena, rest.fordblks, rest.hblks, rest.hblkhd, arena.path(),
      static_cast<size_t>(usage.grown_bytes),
      static_cast<size_t>(usage.grown_bytes - usage.live_bytes),
      static_cast<size_t>(usage.live_blocks), static_cast<size_t>(usage.live_bytes));
  return written < 0 ? -1 : 0;
}

BTD_EXPORT int malloc_trim(size_t pad) noexcept {
  bool is_any = is_arena_open() && arena.give_back(0);
  auto* function = next_function<int(size_t)>("malloc_trim");
  int result = function != nullptr ? function(pad) : 0;
  return is_any || result != 0 ? 1 : 0;
}

BTD_EXPORT int mallopt(int parameter, int value) noexcept {
  auto* function = next_function<int(int, int)>("mallopt");
  return function != nullptr ? function(parameter, value) : 1;
}

}  // extern "C"
