#include "preload/paranoid.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>

#include "core/api/paranoia.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "preload/clusters.hpp"
#include "preload/runtime.hpp"

namespace btd::preload {
namespace {

constexpr uint32_t kTold = 4;  // of one call; the rest is counted
constexpr uint32_t kFirstRanges = 128;

struct Range {
  const void* address;
  size_t size_bytes;
};

// The ranges of this thread's transaction.
thread_local constinit Range* ranges [[gnu::tls_model("initial-exec")]] = nullptr;
thread_local constinit uint32_t range_count [[gnu::tls_model("initial-exec")]] = 0;
thread_local constinit uint32_t range_capacity [[gnu::tls_model("initial-exec")]] = 0;

constinit VolatileMap volatile_map;

bool make_room() {
  if (range_count < range_capacity) return true;
  uint32_t wanted = range_capacity == 0 ? kFirstRanges : range_capacity * 2;
  intptr_t got = sys::map(nullptr, wanted * sizeof(Range), PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got < 0) return false;
  auto* more = reinterpret_cast<Range*>(got);
  if (ranges != nullptr) {
    std::memcpy(more, ranges, range_count * sizeof(Range));
    sys::unmap(ranges, range_capacity * sizeof(Range));
  }
  ranges = more;
  range_capacity = wanted;
  return true;
}

void tell(const VolatilePointer& pointer, const char* function, const void* caller) {
  Line line;
  line.text(function).text(": the word at ").hex(reinterpret_cast<uintptr_t>(pointer.where));
  line.text(" holds ").hex(pointer.value).text(", which points ");
  if (pointer.is_code) {
    line.text("to a function in ");
  } else {
    line.text("into ");
  }
  line.text(pointer.into[0] == '\0' ? "volatile memory" : pointer.into);
  line.text(": it will lead nowhere after a restart");
  add_caller(line, caller).write(LogLevel::kOff);
}

}  // namespace

void note_written(const void* address, size_t size_bytes) {
  if (!config.paranoid || !make_room()) return;
  ranges[range_count++] = {address, size_bytes};
}

void check_all_written(const char* function, const void* caller) {
  for (uint32_t i = 0; i < range_count; i++)
    check_written(ranges[i].address, ranges[i].size_bytes, function, caller);
}

void forget_written() {
  if (ranges == nullptr) return;
  sys::unmap(ranges, range_capacity * sizeof(Range));
  ranges = nullptr;
  range_count = range_capacity = 0;
}

void check_written(const void* address, size_t size_bytes, const char* function,
                   const void* caller) {
  if (!config.paranoid) return;
  VolatilePointer found[kTold];
  uint64_t count = volatile_map.find(address, size_bytes, is_persistent, found, kTold);
  for (uint32_t i = 0; i < min<uint64_t>(count, kTold); i++) tell(found[i], function, caller);
  if (count > kTold) {
    Line()
        .text(function)
        .text(": and ")
        .number(count - kTold)
        .text(" more such words in the ")
        .number(size_bytes)
        .text(" bytes there")
        .write(LogLevel::kOff);
  }
}

void paranoid_after_fork_in_child() {
  volatile_map.reset_after_fork();
  range_count = 0;
}

}  // namespace btd::preload
