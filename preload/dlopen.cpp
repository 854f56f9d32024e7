// dlopen() without RTLD_DEEPBIND.
//
// The flag makes a library look up malloc in glibc before it looks at us, while other parts of it
// still call our free.  Nothing that is preloaded survives it.
#include <dlfcn.h>

#include <atomic>
#include <cstring>

#include "core/base/attributes.hpp"
#include "core/base/log.hpp"
#include "preload/next.hpp"

namespace {

using Dlopen = void*(const char*, int);

std::atomic<Dlopen*> next_dlopen{nullptr};

BTD_COLD Dlopen* find_dlopen() {
  void* symbol = btd::preload::next_symbol("dlopen");
  Dlopen* function;
  std::memcpy(&function, &symbol, sizeof(function));
  next_dlopen.store(function, std::memory_order_relaxed);
  return function;
}

BTD_COLD void tell(const char* file) {
  static std::atomic<bool> is_told{false};
  if (is_told.exchange(true, std::memory_order_relaxed)) return;
  btd::Line()
      .text("dlopen(")
      .text(file != nullptr ? file : "NULL")
      .text("): RTLD_DEEPBIND is dropped, for it would mix two allocators (said once)")
      .write(btd::LogLevel::kError);
}

}  // namespace

// A tail call, which the optimiser makes a jump: the real dlopen() searches the RUNPATH of the
// library that its return address lies in, and that must be our caller's.
extern "C" BTD_EXPORT void* dlopen(const char* file, int flags) noexcept {
  if (flags & RTLD_DEEPBIND) [[unlikely]]
    tell(file);
  Dlopen* function = next_dlopen.load(std::memory_order_relaxed);
  if (function == nullptr) [[unlikely]]
    function = find_dlopen();
  return function(file, flags & ~RTLD_DEEPBIND);
}
