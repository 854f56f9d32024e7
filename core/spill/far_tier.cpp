#include "core/spill/far_tier.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/path_builder.hpp"
#include "core/base/sys.hpp"
#include "core/base/units.hpp"

namespace btd {
namespace {

static_assert(kFarUnitFrames * kFrameBytes == kFarExtentBytes);

// Half of what is kept near lies in the window, where any of it may be what is needed next; the
// other half is touched without a fault for ever.
constexpr uint64_t kWindowShare = 2;
constexpr uint64_t kWindowNearMin = 16 * kFarExtentBytes;
// A node that is only being started again, or that a busy thread has not reached yet, has what it
// had: a program rather waits than gets SIGBUS.
constexpr uint32_t kLostWaitMs = 30'000;

}  // namespace

bool far_file_path(const char* arena_path, bool is_tmpfs, const uint8_t (&uuid)[16], char* out,
                   size_t out_bytes) noexcept {
  PathBuilder path(out, out_bytes);
  if (is_tmpfs) {
    const char* slash = std::strrchr(arena_path, '/');
    path.text(arena_path, slash == nullptr ? 0 : static_cast<size_t>(slash - arena_path) + 1);
  } else {
    path.text("/dev/shm/bartender-").number(geteuid());
    if (!path.finish()) return false;
    sys::make_directory(out, 0700);
    path.put('/');
  }
  for (uint8_t byte : uuid) path.hex(byte);
  return path.text(".far").finish();
}

uint64_t FarTier::window_near_bytes() const {
  return max(round_down(settings_.near_bytes / kWindowShare, kFarExtentBytes), kWindowNearMin);
}

Error FarTier::open(const FarPlace& place, Line& why) noexcept {
  BTD_CHECK(is_configured() && !is_open_);
  if (!far_file_path(place.arena_path, place.is_tmpfs, place.uuid, path_, sizeof(path_))) {
    why.text(place.arena_path).text(": the path of its far memory is too long");
    return Error::kInvalid;
  }
  if (!nodes_->open(place.uuid, place.epoch, why)) return Error::kInvalid;

  FarRequest request;
  request.path = path_;
  request.window_bytes = place.size_bytes;
  request.near_bytes = window_near_bytes();
  request.address = place.address;
  std::memcpy(request.arena_uuid, place.uuid, sizeof(request.arena_uuid));
  request.has_data = place.has_data;
  request.must_be_found = place.has_data && place.is_same_boot;
  request.node_count = nodes_->count();
  request.lost_wait_ms = kLostWaitMs;
  request.replica_count = min(settings_.replica_count, request.node_count);
  // A second thread where a second processor can run it while the first waits for a node.
  request.handler_count = ::sysconf(_SC_NPROCESSORS_ONLN) > 1 ? 2 : 1;
  for (uint32_t i = 0; i < request.handler_count; i++)
    request.handler_nodes[i] = nodes_->set(kHandlerSet + i);
  request.evictor_nodes = nodes_->set(kEvictorSet);
  Error error = window_.open(request, why);
  if (error != Error::kNone) {
    if (!place.has_data) ::unlink(path_);
    return error;
  }
  is_open_ = true;
  if (uint64_t lost = window_.reattached().lost; lost > 0) {
    Line()
        .text(place.arena_path)
        .text(": ")
        .size(lost * kFarExtentBytes)
        .text(" of far memory is on no node that answers; whoever touches it gets SIGBUS")
        .write(LogLevel::kError);
  }
  return Error::kNone;
}

void FarTier::discard(uint64_t first_unit, uint64_t unit_count) noexcept {
  for (uint64_t i = 0; i < unit_count; i++) window_.discard(first_unit + i);
}

void FarTier::open_in_child() noexcept {
  if (!is_open_) return;
  is_open_ = false;
  Line why;
  Error error = child_.open(path_, window_.base(), window_.size_bytes(), nodes_->set(kChildSet),
                            nodes_->count(), why);
  if (error == Error::kNone) return;
  why.text("; the child dies if it touches a block that went far").write(LogLevel::kError);
}

void FarTier::leave_nothing() noexcept {
  if (!is_open_) return;
  ::unlink(path_);
  nodes_->forget();
}

void FarTier::close() noexcept {
  if (is_open_) window_.close();
  is_open_ = false;
}

}  // namespace btd
