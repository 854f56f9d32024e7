// A Persist that only counts: flushed cache lines, in order, and drains.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/units.hpp"
#include "core/persist/persist.hpp"

namespace btd::test {

class CountingPersist final : public Persist {
 public:
  void flush(const void* address, size_t size_bytes) noexcept override {
    auto first = reinterpret_cast<uintptr_t>(address) / kCacheLineBytes;
    auto last = (reinterpret_cast<uintptr_t>(address) + size_bytes - 1) / kCacheLineBytes;
    for (; size_bytes != 0 && first <= last; first++) lines.push_back(first);
  }
  void drain() noexcept override { drains++; }
  void reset() {
    lines.clear();
    drains = 0;
  }

  std::vector<uintptr_t> lines;
  uint64_t drains = 0;
};

}  // namespace btd::test
