#include "core/persist/msync.hpp"

#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

struct PageRange {
  uintptr_t first, end;
};

// A commit touches a log, its targets and a state: few are apart.  Small, because what is of
// initial-exec TLS must fit beside others' when a program loads the library late.
constexpr uint32_t kRangesMax = 3;
thread_local constinit PageRange ranges[kRangesMax] [[gnu::tls_model("initial-exec")]] = {};
thread_local constinit uint32_t range_count [[gnu::tls_model("initial-exec")]] = 0;

constinit std::atomic<bool> is_failure_told{false};

// An arena that was unmapped in between has drained all that it needs.
void write(PageRange range) {
  int result = sys::sync_pages(reinterpret_cast<void*>(range.first), range.end - range.first);
  if (result == 0 || result == -ENOMEM || is_failure_told.exchange(true)) return;
  Line()
      .text("the kernel could not write the arena to its file (")
      .error_name(-result)
      .text("): what happens from here on may not survive power loss (said once)")
      .write(LogLevel::kError);
}

class MsyncPersist final : public Persist {
 public:
  void flush(const void* address, size_t size_bytes) noexcept override {
    if (size_bytes == 0) return;
    auto page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    auto from = reinterpret_cast<uintptr_t>(address);
    PageRange added{round_down(from, page_bytes), round_up(from + size_bytes, page_bytes)};
    for (uint32_t i = 0; i < range_count; i++) {
      PageRange& known = ranges[i];
      if (added.first > known.end || added.end < known.first) continue;
      known = {min(known.first, added.first), max(known.end, added.end)};
      return;
    }
    if (range_count == kRangesMax) {
      write(added);
    } else {
      ranges[range_count++] = added;
    }
  }

  void drain() noexcept override {
    for (uint32_t i = 0; i < range_count; i++) write(ranges[i]);
    range_count = 0;
  }
};

constinit MsyncPersist instance;

}  // namespace

Persist& msync_persist() noexcept { return instance; }

}  // namespace btd
