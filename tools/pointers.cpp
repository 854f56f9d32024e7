#include "tools/pointers.hpp"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <fstream>

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

namespace {

struct Module {
  ModuleRecord record;
  std::string now;  // ", which ..."; "": it is as it was
};

// Of an ELF file, up to 20 bytes; "": it has none, or is none.
std::string build_id_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  auto read = [&](uint64_t at, void* to, size_t size_bytes) {
    file.seekg(static_cast<std::streamoff>(at));
    file.read(static_cast<char*>(to), static_cast<std::streamsize>(size_bytes));
    return file.good();
  };
  Elf64_Ehdr header;
  if (!read(0, &header, sizeof(header)) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
    return "";
  for (int i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr segment;
    if (!read(header.e_phoff + static_cast<uint64_t>(i) * sizeof(segment), &segment,
              sizeof(segment)))
      return "";
    if (segment.p_type != PT_NOTE) continue;
    std::string notes(std::min<uint64_t>(segment.p_filesz, 65536), '\0');
    if (!read(segment.p_offset, notes.data(), notes.size())) return "";
    for (size_t at = 0; at + sizeof(Elf64_Nhdr) <= notes.size();) {
      Elf64_Nhdr note;
      std::memcpy(&note, notes.data() + at, sizeof(note));
      size_t name = at + sizeof(note);
      size_t id = name + round_up(uint64_t{note.n_namesz}, uint64_t{4});
      size_t next = id + round_up(uint64_t{note.n_descsz}, uint64_t{4});
      if (next > notes.size()) break;
      if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4)
        return notes.substr(id, std::min<size_t>(note.n_descsz, sizeof(ModuleRecord::build_id)));
      at = next;
    }
  }
  return "";
}

// The modules that the paranoid setting saw pointers into.
std::vector<Module> modules_of(const ArenaView& view) {
  std::vector<Module> modules;
  for (size_t i = 0; i < kModuleCount; i++) {
    ModuleRecord record;
    uint64_t offset = view.header().site_table_offset + kModulesAt + i * sizeof(record);
    if (!view.read_file(offset, &record, sizeof(record)) || record.checksum != checksum_of(record))
      break;
    record.path[sizeof(record.path) - 1] = '\0';
    std::string then(reinterpret_cast<const char*>(record.build_id),
                     std::min<size_t>(record.build_id_bytes, sizeof(record.build_id)));
    std::string now;
    if (!std::ifstream(record.path)) {
      now = ", which is not there now";
    } else if (then.empty() || build_id_of(record.path) != then) {
      now = then.empty() ? ", which has no build id" : ", which has another build id now";
    }
    modules.push_back({record, now});
  }
  return modules;
}

// The module that was mapped there last, with the offset in it; "": none.
std::string place_of(const std::vector<Module>& modules, uint64_t value) {
  for (auto at = modules.rbegin(); at != modules.rend(); ++at) {
    if (value >= at->record.first && value < at->record.end)
      return fmt::format("{}+{:#x}{}", at->record.path, value - at->record.first, at->now);
  }
  return "";
}

}  // namespace

PointerReport find_volatile_pointers(const std::string& path, const ArenaView& view, FarZone& far) {
  PointerReport report;
  Summary summary = summarize(view);
  MappedArena arena(path, view, &far);
  std::vector<Module> modules = modules_of(view);
  Marks marks;
  MarkTotals totals{};
  arena.mark(marks, totals, summary.live_blocks);
  Progress progress("looking for pointers");
  uint64_t base = view.header().base_address, end = base + view.header().file_bytes;
  auto look_at = [&](const GcBlock& block, uint64_t at, uint64_t value) {
    if (value >= base && value < end) return;
    std::string into = place_of(modules, value);
    if (const char* range = volatile_range_of(value); into.empty() && range != nullptr)
      into = range;
    if (into.empty()) return;
    report.count++;
    if (report.pointers.size() < kPointersMax)
      report.pointers.push_back({block.offset, block.size_bytes, at, value, into});
  };
  marks.for_each_reached([&](const GcBlock& block) {
    report.blocks++;
    report.bytes += block.size_bytes;
    progress.update(report.blocks, totals.blocks);
    // By frames: what is read of one is together.
    for (uint64_t at = 0; at < block.size_bytes;) {
      uint64_t end_of_frame = round_up(block.offset + at + 1, uint64_t{kFrameBytes}) - block.offset;
      const char* bytes = marks.data(block.offset + at);
      for (const uint64_t part = std::min(end_of_frame, block.size_bytes) - at, from = at;
           at + sizeof(uint64_t) <= from + part; at += sizeof(uint64_t)) {
        uint64_t value;
        std::memcpy(&value, bytes + at - from, sizeof(value));
        look_at(block, at, value);
      }
    }
  });
  marks.close();
  arena.require_whole();
  return report;
}

}  // namespace btd::tools
