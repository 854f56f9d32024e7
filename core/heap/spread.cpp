#include "core/heap/spread.hpp"

#include "core/base/check.hpp"
#include "core/base/units.hpp"

namespace btd {

// A counting sort by the block's number within its line, in place: first every block's new index,
// then each cycle of the permutation.
void spread_states(CachedBlock* blocks, uint32_t count) noexcept {
  BTD_CHECK(count <= kSpreadMax);
  uint16_t target[kSpreadMax];  // first the number within the line, then the new index
  uint16_t start[kCacheLineBytes] = {};
  uintptr_t line = 0;
  uint16_t rank = 0;
  for (uint32_t i = count; i-- > 0;) {  // from the end, where they are taken
    uintptr_t line_now = reinterpret_cast<uintptr_t>(blocks[i].state) / kCacheLineBytes;
    rank = line_now == line ? static_cast<uint16_t>((rank + 1) % kCacheLineBytes) : uint16_t{0};
    line = line_now;
    target[i] = rank;
    start[rank]++;
  }
  uint16_t end = static_cast<uint16_t>(count);
  for (uint16_t& first : start) {  // rank 0 ends up last
    uint16_t group = first;
    first = end;
    end = static_cast<uint16_t>(end - group);
  }
  for (uint32_t i = count; i-- > 0;) target[i] = --start[target[i]];
  for (uint32_t i = 0; i < count; i++) {
    while (target[i] != i) {
      uint16_t to = target[i];
      CachedBlock moved = blocks[to];
      blocks[to] = blocks[i];
      blocks[i] = moved;
      target[i] = target[to];
      target[to] = to;
    }
  }
}

}  // namespace btd
