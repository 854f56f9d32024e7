#include "core/recovery/check.hpp"

#include <errno.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "core/base/units.hpp"

namespace btd {
namespace {

constexpr size_t kWindowBytes = 16 * kKiB;

bool is_zero(const void* data, size_t size_bytes) {
  auto* bytes = static_cast<const uint8_t*>(data);
  return size_bytes == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}

size_t first_nonzero(const uint8_t* bytes, size_t size_bytes) {
  for (size_t i = 0; i < size_bytes; i++) {
    if (bytes[i] != 0) return i;
  }
  return size_bytes;
}

// A piece of the file, read ahead.
struct Window {
  const ArenaView& view;
  uint64_t limit;  // nothing is read from here on
  uint64_t first = 0;
  uint64_t end = 0;
  bool is_readable = true;
  alignas(8) uint8_t bytes[kWindowBytes];

  Window(const ArenaView& of, uint64_t limit_offset) : view(of), limit(limit_offset) {}

  // REQUIRES: offset + size_bytes <= limit, size_bytes <= kWindowBytes.
  const uint8_t* get(uint64_t offset, size_t size_bytes) {
    if (offset < first || offset + size_bytes > end) {
      first = offset;
      end = min(limit, offset + kWindowBytes);
      is_readable = view.read_file(first, bytes, static_cast<size_t>(end - first));
    }
    return bytes + (offset - first);
  }
};

struct Checker {
  const ArenaView& view;
  CheckListener& listener;
  Extent extent{};  // the one that covers `frame`, if is_covered
  uint64_t covered_end = 0;

  void report(Fault fault, const char* what, uint64_t offset, uint64_t size_bytes, uint64_t frame) {
    listener.found(Finding{fault, what, offset, size_bytes, frame});
  }

  // The first place without a checksum ends the table.  It may hold the beginning of a record whose
  // making was cut short; what follows it was never written.
  void check_modules(uint64_t offset) {
    uint64_t end = offset + kModuleCount * sizeof(ModuleRecord);
    for (; offset < end; offset += sizeof(ModuleRecord)) {
      ModuleRecord record;
      if (!view.read_file(offset, &record, sizeof(record)))
        report(Fault::kUnreadable, "cannot be read", offset, sizeof(record), kNoFrame);
      if (record.checksum == 0) return check_reserved(offset + sizeof(record), end);
      if (record.checksum != checksum_of(record)) {
        report(Fault::kReservedRegion, "the record of a module fails its check", offset,
               sizeof(record), kNoFrame);
      }
    }
  }

  // What must be zero.
  void check_reserved(uint64_t begin, uint64_t end) {
    uint8_t buffer[kWindowBytes];
    uint64_t at = begin;
    while (at < end) {
      if (!view.is_device()) {
        int kept = errno;
        off_t data = lseek(view.descriptor(), static_cast<off_t>(at), SEEK_DATA);
        bool is_hole = data < 0 && errno == ENXIO;
        errno = kept;
        if (is_hole) return;
        if (data > static_cast<off_t>(at)) at = static_cast<uint64_t>(data);
        if (at >= end) return;
      }
      size_t size_bytes = static_cast<size_t>(min<uint64_t>(sizeof(buffer), end - at));
      if (!view.read_file(at, buffer, size_bytes))
        report(Fault::kUnreadable, "cannot be read", at, size_bytes, kNoFrame);
      size_t bad = first_nonzero(buffer, size_bytes);
      if (bad < size_bytes) {
        report(Fault::kReservedRegion, "a byte of a reserved region is not zero", at + bad,
               size_bytes - bad, kNoFrame);
      }
      at += size_bytes;
    }
  }

  struct RootValue {
    uint64_t offset;  // from the start of the data
    uint32_t index;
  };

  // A name whose making was cut short may be anything, as long as no value is set.
  void check_roots() {
    const ArenaHeader& header = view.header();
    RootValue values[kRootCount];  // of those that are sound
    uint32_t count = 0;
    uint64_t offset = header.root_table_offset;
    for (uint32_t index = 0; index < header.roots_grown; index++, offset += sizeof(Root)) {
      Root root;
      if (!view.read_file(offset, &root, sizeof(root)))
        report(Fault::kUnreadable, "cannot be read", offset, sizeof(root), kNoFrame);
      if (const char* what = root_fault(root)) {
        report(Fault::kRoot, what, offset, sizeof(root), kNoFrame);
      } else if (root.value != 0) {
        values[count++] = {root.value - header.data_offset, index};
      }
    }
    check_reserved(offset, header.lane_table_offset);
    if (has_final_states()) check_values(values, count);
  }

  const char* root_fault(const Root& root) const {
    if (!is_zero(root.reserved, sizeof(root.reserved)))
      return "reserved bytes of a root are not zero";
    if (root.value == 0) return nullptr;
    if (root.head != root_head(root.name)) return "a root is set whose name fails its check";
    const ArenaHeader& header = view.header();
    uint64_t frame = (root.value - header.data_offset) >> kFrameShift;
    bool is_inside = false;
    for (const ZoneFrames& zone : zones_of(header))
      is_inside = is_inside || (frame >= zone.first && frame < zone.end_grown());
    if (root.value < header.data_offset) is_inside = false;
    return is_inside ? nullptr : "a root points outside of the arena's data";
  }

  // Whether states are what they should be: not while transactions wait for their replay, nor after
  // power loss where states were not durable.
  bool has_final_states() const {
    const ArenaHeader& header = view.header();
    return header.state == static_cast<uint32_t>(ArenaState::kClean);
  }

  // Each value must be in a live block.  One walk over the extents, whose order the values get.
  void check_values(RootValue* values, uint32_t count) {
    std::sort(values, values + count,
              [](const RootValue& a, const RootValue& b) { return a.offset < b.offset; });
    uint32_t next = 0;
    auto none_before = [&](uint64_t end) {
      for (; next < count && values[next].offset < end; next++) {
        report(Fault::kRoot, "a root points to no live block",
               view.header().root_table_offset + values[next].index * sizeof(Root), sizeof(Root),
               values[next].offset >> kFrameShift);
      }
    };
    view.for_each_extent([&](const Extent& at) {
      uint64_t first = at.first_frame << kFrameShift;
      uint64_t end = first + (at.frame_count << kFrameShift);
      none_before(first);
      if (next == count || values[next].offset >= end) return;
      view.for_each_block_of(at, [&](const Block& block) {
        none_before(block.offset);
        while (next < count && values[next].offset < block.offset + block.size_bytes) next++;
      });
      none_before(end);
    });
    none_before(~uint64_t{0});
  }

  void check_lanes() {
    const ArenaHeader& header = view.header();
    uint64_t offset = header.lane_table_offset;
    for (uint32_t lane = 0; lane < header.lanes_grown; lane++, offset += kLaneBytes) {
      LaneHeader media;
      if (!view.read_file(offset, &media, sizeof(media)))
        report(Fault::kUnreadable, "cannot be read", offset, sizeof(media), kNoFrame);
      if (!is_zero(media.reserved, sizeof(media.reserved))) {
        report(Fault::kLane, "reserved bytes of a lane are not zero",
               offset + offsetof(LaneHeader, reserved), sizeof(media.reserved), kNoFrame);
      }
    }
    check_reserved(offset, header.site_table_offset);
  }

  void check_zone(const ZoneFrames& zone, uint64_t done, uint64_t total) {
    uint64_t first = zone.first;
    uint64_t end = zone.end_grown();
    uint64_t states_per_frame = zone.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame;
    Window headers{view, view.frame_header_offset(end)};
    Window states{view, state_offset(view.header(), first) + zone.grown * states_per_frame};
    covered_end = first;
    for (uint64_t frame = first; frame < end; frame++) {
      if ((frame - first) % (1u << 14) == 0) listener.progressed(done + (frame - first), total);
      uint64_t header_offset = view.frame_header_offset(frame);
      FrameHeader header;
      std::memcpy(&header, headers.get(header_offset, sizeof(header)), sizeof(header));
      uint64_t at = state_offset(view.header(), frame);
      const uint8_t* frame_states = states.get(at, states_per_frame);
      if (!headers.is_readable)
        report(Fault::kUnreadable, "cannot be read", header_offset, sizeof(header), frame);
      if (!states.is_readable)
        report(Fault::kUnreadable, "cannot be read", at, states_per_frame, frame);
      check_header(header, header_offset, frame, end);
      check_states(frame_states, at, states_per_frame, frame);
    }
  }

  void check_header(const FrameHeader& header, uint64_t offset, uint64_t frame, uint64_t zone_end) {
    bool has_descriptor = !is_zero(&header.descriptor, sizeof(Descriptor));
    bool is_inside = frame < covered_end;
    if (has_descriptor && is_inside) {
      report(Fault::kInterior, "a frame inside an extent claims to start another", offset,
             sizeof(Descriptor), frame);
    }
    bool is_head = false;
    if (has_descriptor && !is_inside) {
      const char* what = view.parse(header, frame, zone_end, extent);
      if (what != nullptr) {
        report(Fault::kDescriptor, what, offset, sizeof(Descriptor), frame);
      } else {
        is_head = true;
        covered_end = frame + extent.frame_count;
      }
    }
    // The bodies of other frames may be left over, or half written by a carve that a kill cut off:
    // nobody reads them.
    const char* what = is_head ? view.body_fault(header) : nullptr;
    if (what != nullptr)
      report(Fault::kBody, what, offset + offsetof(FrameHeader, epoch), 48, frame);
    check_state_word(header, offset, frame, is_head && extent.kind == ExtentKind::kLarge);
    if (!is_zero(header.reserved_a, sizeof(header.reserved_a))) {
      report(Fault::kBody, "reserved bytes of the frame header are not zero",
             offset + offsetof(FrameHeader, reserved_a), sizeof(header.reserved_a), frame);
    }
  }

  void check_state_word(const FrameHeader& header, uint64_t offset, uint64_t frame,
                        bool is_large_head) {
    offset += offsetof(FrameHeader, state);
    if (header.state == 0) return;
    if (!is_large_head) {
      report(Fault::kLargeState, "a large block's state where none starts", offset, 2, frame);
    } else if (!is_large_state_valid(header.state) ||
               !is_tag_known(tag_of_large_state(header.state))) {
      report(Fault::kLargeState, "the large block's state is neither free nor of a known epoch",
             offset, 2, frame);
    }
  }

  bool is_tag_known(uint8_t tag) const {
    if (tag == kStateKept) return true;
    if (tag == kStateFree || tag > kTagMax) return false;
    uint64_t epoch = epoch_of_tag(tag, view.header().epoch);
    return epoch != 0 && epoch >= view.header().oldest_epoch;
  }

  void check_states(const uint8_t* states, uint64_t offset, uint64_t count, uint64_t frame) {
    if (is_zero(states, count)) return;
    bool has_slots = frame < covered_end && extent.kind == ExtentKind::kSuperblock;
    const SizeClassInfo* info = has_slots ? &kSizeClasses[extent.size_class] : nullptr;
    uint64_t before = has_slots ? (frame - extent.first_frame) * count : 0;
    uint64_t first_stray = count, last_stray = 0, first_bad = count, last_bad = 0;
    for (uint64_t i = 0; i < count; i++) {
      if (states[i] == kStateFree) continue;
      uint64_t granule = before + i;
      bool is_slot =
          has_slots && granule % info->granules == 0 && granule / info->granules < info->slot_count;
      if (!is_slot) {
        first_stray = min(first_stray, i);
        last_stray = i;
      } else if (!is_tag_known(states[i])) {
        first_bad = min(first_bad, i);
        last_bad = i;
      }
    }
    if (first_stray < count) {
      report(Fault::kStrayState,
             has_slots ? "a state where no slot starts" : "a state in a frame without slots",
             offset + first_stray, last_stray - first_stray + 1, frame);
    }
    if (first_bad < count) {
      report(Fault::kStateValue, "a slot's state is of no known epoch", offset + first_bad,
             last_bad - first_bad + 1, frame);
    }
  }
};

}  // namespace

void check_arena(const ArenaView& view, CheckListener& listener) {
  Checker checker{view, listener};
  const ArenaHeader& header = view.header();
  for (int copy = 0; copy < 2; copy++) {
    // An older copy is no damage: its owner was killed between the two.
    if (view.copy_state(copy) != ArenaView::CopyState::kBad) continue;
    checker.report(
        Fault::kHeaderCopy,
        copy == 0
            ? "the first copy of the arena header is damaged; the next opening writes it anew"
            : "the second copy of the arena header is damaged; the next opening writes it anew",
        static_cast<uint64_t>(copy) * kArenaHeaderBytes, kArenaHeaderBytes, kNoFrame);
  }
  checker.check_reserved(2 * kArenaHeaderBytes, header.root_table_offset);
  checker.check_roots();
  checker.check_lanes();
  checker.check_reserved(header.site_table_offset, header.site_table_offset + kModulesAt);
  checker.check_modules(header.site_table_offset + kModulesAt);
  checker.check_reserved(header.site_table_offset + kSiteTableBytes, header.frame_header_offset);
  uint64_t total = 0;
  for (const ZoneFrames& zone : zones_of(header)) total += zone.grown;
  uint64_t done = 0;
  for (const ZoneFrames& zone : zones_of(header)) {
    if (zone.grown > 0) checker.check_zone(zone, done, total);
    done += zone.grown;
  }
  listener.progressed(total, total);
}

}  // namespace btd
