#include "tools/mapped_arena.hpp"

#include <fmt/core.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "core/tx/log.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {

MappedArena::MappedArena(const std::string& path, const ArenaView& view, FarZone* far)
    : path_(path), view_(view) {
  if (far != nullptr && far->is_used())
    far_ = std::make_unique<FarPages>(path, view, *far, near_bytes_wanted());
  void* memory = mmap(nullptr, view.header().file_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE,
                      view.descriptor(), 0);
  if (memory == MAP_FAILED) {
    throw Failure{kExitFailed, fmt::format("{}: cannot be mapped ({}); nothing was changed; raise "
                                           "ulimit -v",
                                           printable(path), std::strerror(errno))};
  }
  bytes_ = static_cast<char*>(memory);
}

MappedArena::~MappedArena() { munmap(bytes_, view_.header().file_bytes); }

GcImage MappedArena::image() const {
  GcImage image{&view_.header(), bytes_};
  image.is_raw = true;
  image.far = far_.get();
  return image;
}

void MappedArena::mark(Marks& marks, MarkTotals& totals, uint64_t live_blocks,
                       bool trusts_states) const {
  struct Told {
    Progress progress{"following pointers"};
    uint64_t total;
  } told;
  told.total = live_blocks;
  MarkRequest request;
  request.threads = std::max(std::thread::hardware_concurrency(), 1u);
  request.progress_context = &told;
  request.progress = [](void* context, uint64_t blocks) {
    auto* all = static_cast<Told*>(context);
    all->progress.update(std::min(blocks, all->total), all->total);
  };
  GcImage read = image();
  read.trusts_states = trusts_states;
  if (marks.open(read) != Error::kNone || btd::mark(marks, request, totals) != Error::kNone) {
    throw Failure{kExitFailed,
                  fmt::format("{}: no memory to mark its blocks; nothing was changed; try again",
                              printable(path_))};
  }
  require_whole();
}

std::vector<RootEntry> roots_of(const ArenaView& view) {
  std::vector<RootEntry> roots;
  const ArenaHeader& header = view.header();
  for (uint32_t index = 0; index < header.roots_grown; index++) {
    Root root;
    view.read_file(header.root_table_offset + index * sizeof(Root), &root, sizeof(root));
    if (root.value == 0 || root.head != root_head(root.name)) continue;
    roots.push_back({printable(std::string(root.name, strnlen(root.name, sizeof(root.name)))),
                     header.base_address + root.value});
  }
  return roots;
}

OpenTransactions transactions_of(const MappedArena& arena) {
  OpenTransactions found;
  GcImage image = arena.image();
  for (uint32_t lane = 0; lane < image.header->lanes_grown; lane++) {
    LogReader reader(*image.header, image.file, lane);
    uint64_t records = 0;
    bool is_committed = false;
    while (const LogRecord* record = reader.next()) {
      records++;
      is_committed |= record->kind == static_cast<uint32_t>(RecordKind::kCommit);
    }
    if (records == 0) continue;
    found.records += records;
    (is_committed ? found.committed : found.open)++;
  }
  return found;
}

}  // namespace btd::tools
