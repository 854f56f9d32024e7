#include "tools/pointers.hpp"

#include <cstring>

#include "tools/arena_file.hpp"
#include "tools/mapped_arena.hpp"

namespace btd::tools {

// x86-64 and arm64 with 47 and 48 bits alike: position independent programs and their brk heap from
// 0x555555554000 (x86-64) or 0xaaaaaaaaa000 (arm64) on, spread by 2^40 and more; libraries, mmap
// and stacks below 2^47 or 2^48.
const char* volatile_range_of(uint64_t value) {
  uint64_t top = value >> 40;
  if (top == 0x55 || top == 0x56) return "program or heap";
  if (top >= 0x7E && top <= 0x7F) return "library, mapping or stack";
  if (top >= 0xAA && top <= 0xAB) return "program or heap";
  if (top == 0xFF && value >> 48 == 0) return "library, mapping or stack";
  return nullptr;
}

PointerReport find_volatile_pointers(const std::string& path, const ArenaView& view) {
  PointerReport report;
  Summary summary = summarize(view);
  MappedArena arena(path, view);
  Marks marks;
  MarkTotals totals{};
  arena.mark(marks, totals, summary.live_blocks);
  Progress progress("looking for pointers");
  uint64_t base = view.header().base_address, end = base + view.header().file_bytes;
  marks.for_each_reached([&](const GcBlock& block) {
    report.blocks++;
    report.bytes += block.size_bytes;
    progress.update(report.blocks, totals.blocks);
    for (uint64_t at = 0; at + sizeof(uint64_t) <= block.size_bytes; at += sizeof(uint64_t)) {
      uint64_t value;
      std::memcpy(&value, marks.data(block.offset + at), sizeof(value));
      if (value >= base && value < end) continue;
      const char* into = volatile_range_of(value);
      if (into == nullptr) continue;
      report.count++;
      if (report.pointers.size() < kPointersMax)
        report.pointers.push_back({block.offset, block.size_bytes, at, value, into});
    }
  });
  marks.close();
  return report;
}

}  // namespace btd::tools
