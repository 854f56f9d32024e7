// A broken REQUIRES is a bug of ours: report with write(2) and abort, before anything wrong reaches
// media.
#pragma once

#include "core/base/attributes.hpp"

namespace btd {

[[noreturn]] BTD_COLD void check_failed(const char* condition, const char* file, int line);

}  // namespace btd

// Always on: for what would otherwise write to media.
#define BTD_CHECK(condition)                    \
  (__builtin_expect(!!(condition), 1) ? void(0) \
                                      : ::btd::check_failed(#condition, __FILE__, __LINE__))

#ifdef NDEBUG
#define BTD_ASSERT(condition) void(0)
#else
#define BTD_ASSERT(condition) BTD_CHECK(condition)
#endif
