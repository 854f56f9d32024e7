// Pointers from persistent memory into volatile memory: good until the restart, and never after
// (Coburn et al., "NV-Heaps", ASPLOS 2011).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/recovery/view.hpp"
#include "tools/far_zone.hpp"

namespace btd::tools {

struct VolatilePointer {
  uint64_t block;       // offset of the block in the data
  uint64_t size_bytes;  // of the block
  uint64_t offset;      // of the word in the block
  uint64_t value;
  std::string into;  // the module and the offset in it, or what such addresses usually are
};

struct PointerReport {
  uint64_t blocks = 0;  // looked through: all that the roots lead to
  uint64_t bytes = 0;
  uint64_t count = 0;  // pointers found; the first kPointersMax of them follow
  std::vector<VolatilePointer> pointers;
};
inline constexpr size_t kPointersMax = 10000;

// Where programs, their heaps, libraries and stacks lie on Linux; nullptr: nowhere.  A dead
// program's map is not known, so this is a guess by address.
const char* volatile_range_of(uint64_t value);

// Throws Failure, also if a far block that roots lead to cannot be read.
PointerReport find_volatile_pointers(const std::string& path, const ArenaView& view, FarZone& far);

}  // namespace btd::tools
