// A C++ module for a program without a C++ runtime: its bad_alloc must be thrown by somebody who
// finds libstdc++ late.
#include <new>
#include <string>
#include <vector>

#include "check.hpp"

extern "C" int late_plugin_run() {
  std::vector<std::string> strings;
  for (size_t i = 0; i < 1000; i++) strings.emplace_back(i * 40, 'x');
  for (size_t i = 0; i < 1000; i++) {
    if (strings[i].size() != i * 40) return 1;
  }
  if (::operator new(compat::opaque(size_t{PTRDIFF_MAX}), std::nothrow) != nullptr) return 2;
  try {
    delete[] compat::opaque(new char[compat::opaque(size_t{PTRDIFF_MAX} - 1)]);
    return 3;
  } catch (const std::bad_alloc&) {
  }
  static int handler_calls;
  std::set_new_handler([] {
    if (++handler_calls == 3) std::set_new_handler(nullptr);
  });
  try {
    delete[] compat::opaque(new char[compat::opaque(size_t{PTRDIFF_MAX} - 1)]);
    return 4;
  } catch (const std::bad_alloc&) {
  }
  return handler_calls == 3 ? 0 : 5;
}
