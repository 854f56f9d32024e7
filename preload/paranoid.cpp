#include "preload/paranoid.hpp"

#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>

#include "core/api/modules.hpp"
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

// --- Modules

struct ModuleSearch {
  uintptr_t address;
  ModuleRecord found;
};

void keep_path(ModuleRecord& record, const char* path, size_t length) {
  size_t kept = min(length, sizeof(record.path) - 1);
  std::memcpy(record.path, path + length - kept, kept);
}

// The note of a module that names its build.
void keep_build_id(ModuleRecord& record, const char* notes, size_t size_bytes) {
  for (size_t at = 0; at + sizeof(ElfW(Nhdr)) <= size_bytes;) {
    ElfW(Nhdr) note;
    std::memcpy(&note, notes + at, sizeof(note));
    const char* name = notes + at + sizeof(note);
    const char* id = name + round_up(note.n_namesz, 4u);
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && std::memcmp(name, "GNU", 4) == 0) {
      record.build_id_bytes = min<uint32_t>(note.n_descsz, sizeof(record.build_id));
      std::memcpy(record.build_id, id, record.build_id_bytes);
      return;
    }
    at += sizeof(note) + round_up(note.n_namesz, 4u) + round_up(note.n_descsz, 4u);
  }
}

int look_at_module(dl_phdr_info* info, size_t, void* context) {
  auto* search = static_cast<ModuleSearch*>(context);
  ModuleRecord record{};
  record.first = ~uint64_t{0};
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    uintptr_t at = info->dlpi_addr + header.p_vaddr;
    if (header.p_type == PT_LOAD) {
      record.first = min<uint64_t>(record.first, at);
      record.end = max<uint64_t>(record.end, at + header.p_memsz);
    } else if (header.p_type == PT_NOTE && record.build_id_bytes == 0) {
      keep_build_id(record, reinterpret_cast<const char*>(at), header.p_memsz);
    }
  }
  if (search->address < record.first || search->address >= record.end) return 0;
  char path[4096];
  if (info->dlpi_name != nullptr && info->dlpi_name[0] != '\0') {
    keep_path(record, info->dlpi_name, std::strlen(info->dlpi_name));
  } else if (ssize_t length = readlink("/proc/self/exe", path, sizeof(path)); length > 0) {
    keep_path(record, path, static_cast<size_t>(length));
  }
  search->found = record;
  return 1;
}

constinit Lock module_lock;

// So that the tools can say what the word meant when this process is gone.
void record_module_of(const VolatilePointer& pointer) {
  Cluster* cluster = cluster_of(pointer.where);
  ModuleSearch search{pointer.value, {}};
  if (cluster == nullptr || dl_iterate_phdr(look_at_module, &search) == 0) return;
  LockGuard guard(module_lock);
  // Without room the pointer is told of all the same.
  [[maybe_unused]] Error error = record_module(cluster->arena(), search.found);
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
  for (uint32_t i = 0; i < min<uint64_t>(count, kTold); i++) {
    tell(found[i], function, caller);
    record_module_of(found[i]);
  }
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
  module_lock.reset();
  range_count = 0;
}

}  // namespace btd::preload
