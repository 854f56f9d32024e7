// What `far` measures over the real transport.
#pragma once

#include <cstdint>

namespace bench {

struct FarPlan {
  uint64_t extents;
  uint64_t rounds;
  uint32_t handler_count;
  const char* directory;  // in a tmpfs, for windows, stores and keys
};

// `program`: the path of bartenderd.
void far_tcp(const FarPlan& plan, const char* program);
void far_zram(const FarPlan& plan, const char* program);

}  // namespace bench
