#include "tools/far_pages.hpp"

#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "core/base/config.hpp"
#include "tools/failure.hpp"
#include "tools/text.hpp"

namespace btd::tools {
namespace {

constexpr uint64_t kSlotsMin = 4;
constexpr uint64_t kNearBytesDefault = 256 * kMiB;

}  // namespace

FarPages::FarPages(const std::string& arena_path, const ArenaView& view, FarZone& far,
                   uint64_t bytes_max)
    : arena_path_(arena_path),
      far_(far),
      begin_(view.far_begin()),
      slots_(far.extent_count(), kNowhere),
      slot_count_(std::clamp(bytes_max / kFarExtentBytes, std::min(kSlotsMin, far.extent_count()),
                             far.extent_count())) {
  // One more, of zeros.
  void* memory = mmap(nullptr, (slot_count_ + 1) * kFarExtentBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    throw Failure{kExitFailed, fmt::format("{}: no memory for copies of its far blocks; nothing "
                                           "was changed; set a smaller BARTENDER_NEAR",
                                           printable(arena_path))};
  }
  memory_ = static_cast<char*>(memory);
  held_.reserve(slot_count_);
}

FarPages::~FarPages() { munmap(memory_, (slot_count_ + 1) * kFarExtentBytes); }

const char* FarPages::bytes(uint64_t offset) noexcept {
  const uint64_t extent = extent_of(offset);
  const uint64_t within = (offset - begin_) % kFarExtentBytes;
  if (slots_[extent] != kNowhere) return memory_ + slots_[extent] * kFarExtentBytes + within;
  const char* zeros = memory_ + slot_count_ * kFarExtentBytes + within;
  if (fault_ != FarFault::kNone) return zeros;  // nothing will come of it
  char* copy = memory_ + next_ * kFarExtentBytes;
  if (next_ < held_.size()) {
    slots_[held_[next_]] = kNowhere;
  } else {
    held_.push_back(extent);  // has room: does not throw
  }
  held_[next_] = extent;
  if (!far_.read(extent * kFarExtentBytes, copy, kFarExtentBytes)) {
    fault_ = far_.fault();
    fault_extent_ = extent;
    return zeros;
  }
  fetched_++;
  slots_[extent] = static_cast<uint32_t>(next_);
  next_ = (next_ + 1) % slot_count_;
  return copy + within;
}

void FarPages::require_whole() const {
  if (fault_ == FarFault::kNone) return;
  throw Failure{
      kExitPartial,
      fmt::format("{}: pointers cannot be followed through extent {} of its far memory: "
                  "{}; nothing was changed; {}",
                  printable(arena_path_), fault_extent_, fault_text(fault_), fault_hint(fault_))};
}

uint64_t near_bytes_wanted() {
  char message[1024];
  Config config;
  default_config(config);
  (void)parse_config(environ, config, message, sizeof(message));  // other mistakes are not ours
  const uint64_t quarter = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                           static_cast<uint64_t>(sysconf(_SC_PAGESIZE)) / 4;
  return std::min(config.near_bytes == 0 ? kNearBytesDefault : config.near_bytes, quarter);
}

}  // namespace btd::tools
