#include "tools/repair.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr size_t kPieceBytes = 1 << 20;
constexpr size_t kPageBytes = 4096;

class Repairer {
 public:
  Repairer(OutputFile& copy, const ArenaView& view) : copy_(copy), view_(view) {
    view.for_each_extent([&](const Extent& extent) { extents_.push_back(extent); });
  }

  void undo(const Finding& finding) {
    switch (finding.fault) {
      case Fault::kHeaderCopy:
        copy_.write_at(finding.offset, &view_.header(), sizeof(ArenaHeader));
        break;
      case Fault::kReservedRegion:
      case Fault::kRoot:  // it is removed; what it led to stays
      case Fault::kLane:
        zero(finding.offset, finding.size_bytes);
        break;
      case Fault::kDescriptor:
        lose(finding.frame * kFrameBytes, (next_head(finding.frame) - finding.frame) * kFrameBytes,
             finding.what);
        drop_head(finding.frame);
        break;
      case Fault::kInterior:
        drop_head(finding.frame);
        break;
      case Fault::kBody:
        rebuild_body(finding.frame);
        break;
      case Fault::kLargeState:
        if (const Extent* extent = extent_of(finding.frame); extent != nullptr &&
                                                             extent->kind == ExtentKind::kLarge &&
                                                             extent->first_frame == finding.frame) {
          lose(finding.frame * kFrameBytes, extent->frame_count * kFrameBytes, finding.what);
        }
        zero(view_.frame_header_offset(finding.frame) + offsetof(FrameHeader, state),
             sizeof(uint16_t));
        break;
      case Fault::kStrayState:
      case Fault::kStateValue:
        clean_states(finding);
        break;
      case Fault::kUnreadable:  // copied as zeros
        break;
    }
  }

  std::vector<LostRange> lost() && { return std::move(lost_); }

 private:
  void zero(uint64_t offset, uint64_t size_bytes) {
    std::vector<char> zeros(size_bytes);
    copy_.write_at(offset, zeros.data(), zeros.size());
  }
  void lose(uint64_t offset, uint64_t size_bytes, const char* why) {
    lost_.push_back({offset, size_bytes, why});
  }

  void drop_head(uint64_t frame) {
    zero(view_.frame_header_offset(frame), offsetof(FrameHeader, epoch));  // descriptor and state
  }

  // The epoch of the carve is lost and stands for nothing that a block's state does not say; the
  // bytes are where this version puts them.
  void rebuild_body(uint64_t frame) {
    FrameHeader header;
    view_.read_file(view_.frame_header_offset(frame), &header, sizeof(header));
    FrameHeader body{};
    body.epoch = view_.header().epoch;
    body.checksum = checksum_of(body);
    body.descriptor = header.descriptor;
    body.state = header.state;
    copy_.write_at(view_.frame_header_offset(frame), &body, sizeof(body));
  }

  void clean_states(const Finding& finding) {
    std::vector<uint8_t> states(finding.size_bytes);
    view_.read_file(finding.offset, states.data(), states.size());
    const Extent* extent = extent_of(finding.frame);
    const SizeClassInfo* info = extent != nullptr && extent->kind == ExtentKind::kSuperblock
                                    ? &kSizeClasses[extent->size_class]
                                    : nullptr;
    uint64_t first_granule =
        info == nullptr ? 0 : finding.offset - state_offset(view_.header(), extent->first_frame);
    for (size_t i = 0; i < states.size(); i++) {
      if (states[i] == kStateFree) continue;
      uint64_t granule = first_granule + i;
      bool is_slot = info != nullptr && granule % info->granules == 0 &&
                     granule / info->granules < info->slot_count;
      if (is_slot && is_known(states[i])) continue;
      if (is_slot) {
        lose(extent->first_frame * kFrameBytes + granule / info->granules * info->slot_bytes,
             info->slot_bytes, finding.what);
      }
      states[i] = kStateFree;
    }
    copy_.write_at(finding.offset, states.data(), states.size());
  }

  bool is_known(uint8_t state) const {
    if (state == kStateKept) return true;
    if (state > kTagMax) return false;
    uint64_t epoch = epoch_of_tag(state, view_.header().epoch);
    return epoch != 0 && epoch >= view_.header().oldest_epoch;
  }

  const Extent* extent_of(uint64_t frame) const {
    auto after = std::upper_bound(
        extents_.begin(), extents_.end(), frame,
        [](uint64_t value, const Extent& extent) { return value < extent.first_frame; });
    if (after == extents_.begin()) return nullptr;
    const Extent& extent = *(after - 1);
    return frame < extent.first_frame + extent.frame_count ? &extent : nullptr;
  }

  // The most that the damaged extent can have covered.
  uint64_t next_head(uint64_t frame) const {
    uint64_t end = 0;
    for (const ZoneFrames& zone : zones_of(view_.header()))
      if (frame >= zone.first) end = zone.end_grown();
    for (const Extent& extent : extents_) {
      if (extent.first_frame > frame) return std::min(end, extent.first_frame);
    }
    return end;
  }

  OutputFile& copy_;
  const ArenaView& view_;
  std::vector<Extent> extents_;
  std::vector<LostRange> lost_;
};

// Writes what is not zero, in whole pages: the copy takes no more space than it needs.
void copy_pages(OutputFile& to, uint64_t offset, const char* data, size_t size_bytes) {
  static const std::vector<char> zeros(kPageBytes);
  size_t begin = 0;  // of the run of pages to write
  for (size_t at = 0; at < size_bytes; at += kPageBytes) {
    size_t page = std::min(kPageBytes, size_bytes - at);
    if (std::memcmp(data + at, zeros.data(), page) != 0) continue;
    if (at > begin) to.write_at(offset + begin, data + begin, at - begin);
    begin = at + page;
  }
  if (size_bytes > begin) to.write_at(offset + begin, data + begin, size_bytes - begin);
}

}  // namespace

void copy_arena(const ArenaView& from, OutputFile& to) {
  Progress progress("copying the arena");
  std::vector<char> piece(kPieceBytes);
  uint64_t length = from.file_size_bytes();
  to.set_length(length);
  for (uint64_t at = 0; at < length;) {
    off_t data = lseek(from.descriptor(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // only a hole is left
    if (data > 0) at = static_cast<uint64_t>(data);
    size_t part = static_cast<size_t>(std::min<uint64_t>(piece.size(), length - at));
    from.read_file(at, piece.data(), part);
    copy_pages(to, at, piece.data(), part);
    at += part;
    progress.update(at, length);
  }
}

std::vector<LostRange> repair(OutputFile& copy, const std::vector<Finding>& findings,
                              const ArenaView& damaged) {
  Repairer repairer(copy, damaged);
  for (const Finding& finding : findings) repairer.undo(finding);
  return std::move(repairer).lost();
}

}  // namespace btd::tools
