#include "core/persist/pmem.hpp"

#include <dlfcn.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "core/base/log.hpp"
#include "core/base/path_builder.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/persist/flush_speed.hpp"

namespace btd {
namespace {

using cpu::FlushInstruction;

template <FlushInstruction kInstruction>
class PmemPersist final : public Persist {
 public:
  void flush(const void* address, size_t size_bytes) noexcept override {
    if (size_bytes == 0) return;  // the line may not even be mapped
    auto at = round_down(reinterpret_cast<uintptr_t>(address), kCacheLineBytes);
    auto end = reinterpret_cast<uintptr_t>(address) + size_bytes;
    for (; at < end; at += kCacheLineBytes)
      cpu::flush_line<kInstruction>(reinterpret_cast<const void*>(at));
  }
  void drain() noexcept override { cpu::store_fence(); }
};

class EadrPersist final : public Persist {
 public:
  // The compiler must not move a store past it either.
  void flush(const void*, size_t) noexcept override { asm volatile("" ::: "memory"); }
  void drain() noexcept override { cpu::store_fence(); }
};

constinit PmemPersist<FlushInstruction::kClwb> by_clwb;
constinit PmemPersist<FlushInstruction::kClflushopt> by_clflushopt;
constinit PmemPersist<FlushInstruction::kClflush> by_clflush;
constinit EadrPersist by_caches;

enum class Libpmem : uint8_t { kNotTried, kAbsent, kWithoutEadr, kWithEadr };
constinit std::atomic<Libpmem> libpmem{Libpmem::kNotTried};

// Regions are numbered from 0, with gaps where one was removed.
constexpr uint64_t kRegionsMax = 64;

}  // namespace

Persist* pmem_persist() noexcept {
  const FlushSpeeds& speeds = flush_speeds();
  if (!speeds.is_any) return nullptr;
  switch (speeds.fastest) {
    case FlushInstruction::kClwb:
      return &by_clwb;
    case FlushInstruction::kClflushopt:
      return &by_clflushopt;
    default:
      return &by_clflush;
  }
}

Persist& eadr_persist() noexcept { return by_caches; }

void load_libpmem() noexcept {
  if (libpmem.load(std::memory_order_acquire) != Libpmem::kNotTried) return;
  int kept = errno;
  Libpmem result = Libpmem::kAbsent;
  // Local: none of its libraries' names may get in front of the program's.  Never closed: they have
  // registered what runs at exit.
  if (void* library = dlopen("libpmem.so.1", RTLD_LOCAL | RTLD_NOW)) {
    int (*has_auto_flush)() = nullptr;
    void* symbol = dlsym(library, "pmem_has_auto_flush");
    std::memcpy(&has_auto_flush, &symbol, sizeof(symbol));
    // 1: every region of the machine has it; 0: one has not, or there is none; -1: unknown.
    if (has_auto_flush != nullptr)
      result = has_auto_flush() == 1 ? Libpmem::kWithEadr : Libpmem::kWithoutEadr;
  }
  if (result == Libpmem::kAbsent) {
    Line()
        .text(
            "libpmem is not there; whether the caches survive power loss is taken from the "
            "kernel")
        .write(LogLevel::kInfo);
  }
  libpmem.store(result, std::memory_order_release);
  errno = kept;
}

bool is_libpmem_loaded() noexcept {
  Libpmem now = libpmem.load(std::memory_order_acquire);
  return now == Libpmem::kWithoutEadr || now == Libpmem::kWithEadr;
}

bool has_eadr() noexcept {
  Libpmem now = libpmem.load(std::memory_order_acquire);
  if (now == Libpmem::kWithEadr) return true;
  if (now == Libpmem::kWithoutEadr) return false;
  return has_eadr_by_sysfs("/sys");
}

bool has_eadr_by_sysfs(const char* root) noexcept {
  bool is_any = false;
  for (unsigned region = 0; region < kRegionsMax; region++) {
    char path[512];
    PathBuilder builder(path, sizeof(path));
    builder.text(root).text("/bus/nd/devices/region").number(region).text("/persistence_domain");
    char text[64];
    if (!builder.finish() || sys::read_file(path, text, sizeof(text)) <= 0) continue;
    // "cpu_cache", "memory_controller", "unknown"
    if (std::strncmp(text, "cpu_cache", std::strlen("cpu_cache")) != 0) return false;
    is_any = true;
  }
  return is_any;
}

}  // namespace btd
