// operator new and delete.
//
// They throw and call the new_handler of the C++ runtime that the program brought; we link none.
// What is needed of it is referenced weakly, and where the runtime came with a dlopen()ed module,
// out of our sight, it is looked up from the caller's module.
#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

#include "core/base/attributes.hpp"
#include "core/base/log.hpp"

namespace {

using ThrowBadAlloc = void();
using GetNewHandler = std::new_handler() noexcept;

}  // namespace

extern "C" {
BTD_WEAK void _ZSt17__throw_bad_allocv();                     // std::__throw_bad_alloc()
BTD_WEAK std::new_handler _ZSt15get_new_handlerv() noexcept;  // std::get_new_handler()
void* memalign(size_t alignment, size_t size_bytes) noexcept;
}

namespace btd::preload {
namespace {

template <typename Function>
Function* runtime_function(Function* linked, const char* name, const void* caller) {
  if (linked != nullptr) return linked;
  Dl_info module{};
  if (dladdr(caller, &module) == 0 || module.dli_fname == nullptr) return nullptr;
  void* handle = dlopen(module.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
  void* symbol = handle != nullptr ? dlsym(handle, name) : nullptr;
  if (handle != nullptr) dlclose(handle);
  Function* function;
  std::memcpy(&function, &symbol, sizeof(function));
  return function;
}

void* allocate(size_t size_bytes, size_t alignment) {
  return alignment <= __STDCPP_DEFAULT_NEW_ALIGNMENT__ ? ::malloc(size_bytes)
                                                       : ::memalign(alignment, size_bytes);
}

// As the standard says it: until there is memory or no handler.  nullptr: there is none.
BTD_COLD void* ask_handlers(size_t size_bytes, size_t alignment, const void* caller) {
  auto* get_handler =
      runtime_function<GetNewHandler>(_ZSt15get_new_handlerv, "_ZSt15get_new_handlerv", caller);
  for (;;) {
    std::new_handler handler = get_handler != nullptr ? get_handler() : nullptr;
    if (handler == nullptr) return nullptr;
    handler();
    if (void* block = allocate(size_bytes, alignment)) return block;
  }
}

BTD_COLD void* allocate_or_throw(size_t size_bytes, size_t alignment, const void* caller) {
  if (void* block = ask_handlers(size_bytes, alignment, caller)) return block;
  auto* throw_bad_alloc =
      runtime_function<ThrowBadAlloc>(_ZSt17__throw_bad_allocv, "_ZSt17__throw_bad_allocv", caller);
  if (throw_bad_alloc != nullptr) throw_bad_alloc();
  Line()
      .text("operator new: out of memory, and no C++ runtime to throw std::bad_alloc with")
      .write(LogLevel::kOff);
  abort();
}

}  // namespace
}  // namespace btd::preload

// The nothrow forms catch what a new_handler throws.  The runtime's part of that is weak too: who
// throws has brought it along.
asm(".weak __gxx_personality_v0\n.weak __cxa_begin_catch\n.weak __cxa_end_catch\n.weak "
    "_Unwind_Resume");

#define BTD_CALLER __builtin_return_address(0)
#define BTD_NEW(ALIGNMENT)                                                       \
  if (void* block = btd::preload::allocate(size_bytes, ALIGNMENT)) return block; \
  return btd::preload::allocate_or_throw(size_bytes, ALIGNMENT, BTD_CALLER)
#define BTD_NEW_NOTHROW(ALIGNMENT)                                               \
  if (void* block = btd::preload::allocate(size_bytes, ALIGNMENT)) return block; \
  try {                                                                          \
    return btd::preload::ask_handlers(size_bytes, ALIGNMENT, BTD_CALLER);        \
  } catch (...) {                                                                \
    return nullptr;                                                              \
  }

using Nothrow = const std::nothrow_t&;
using std::align_val_t;

BTD_EXPORT void* operator new(size_t size_bytes) { BTD_NEW(1); }
BTD_EXPORT void* operator new[](size_t size_bytes) { BTD_NEW(1); }
BTD_EXPORT void* operator new(size_t size_bytes, align_val_t alignment) {
  BTD_NEW(static_cast<size_t>(alignment));
}
BTD_EXPORT void* operator new[](size_t size_bytes, align_val_t alignment) {
  BTD_NEW(static_cast<size_t>(alignment));
}
BTD_EXPORT void* operator new(size_t size_bytes, Nothrow) noexcept { BTD_NEW_NOTHROW(1); }
BTD_EXPORT void* operator new[](size_t size_bytes, Nothrow) noexcept { BTD_NEW_NOTHROW(1); }
BTD_EXPORT void* operator new(size_t size_bytes, align_val_t alignment, Nothrow) noexcept {
  BTD_NEW_NOTHROW(static_cast<size_t>(alignment));
}
BTD_EXPORT void* operator new[](size_t size_bytes, align_val_t alignment, Nothrow) noexcept {
  BTD_NEW_NOTHROW(static_cast<size_t>(alignment));
}

BTD_EXPORT void operator delete(void* pointer) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete(void* pointer, size_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer, size_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete(void* pointer, Nothrow) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer, Nothrow) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete(void* pointer, align_val_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer, align_val_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete(void* pointer, size_t, align_val_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer, size_t, align_val_t) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete(void* pointer, align_val_t, Nothrow) noexcept { ::free(pointer); }
BTD_EXPORT void operator delete[](void* pointer, align_val_t, Nothrow) noexcept { ::free(pointer); }
