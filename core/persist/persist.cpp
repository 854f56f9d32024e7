#include "core/persist/persist.hpp"

#include "core/base/check.hpp"

// What the C++ runtime, which is not there, would define for the slot of a pure virtual function.
extern "C" [[gnu::visibility("hidden"), gnu::weak]] void __cxa_pure_virtual() {
  btd::check_failed("a pure virtual function is never called", __FILE__, __LINE__);
}

namespace btd {

Persist& process_persist() noexcept {
  static constinit ProcessPersist instance;
  return instance;
}

}  // namespace btd
