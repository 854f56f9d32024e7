#include "core/recovery/view.hpp"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "core/persist/mapping.hpp"

namespace btd {
namespace {

constexpr int kLiveTries =
    8;  // a store of the owner's takes nanoseconds: one more reading nearly always suffices

bool is_zero(const void* data, size_t size_bytes) {
  auto* bytes = static_cast<const uint8_t*>(data);
  return size_bytes == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}

bool is_header_valid(const ArenaHeader& header) {
  return header.magic == kArenaMagic && header.checksum == checksum_of(header);
}

}  // namespace

const char* fault_text(OpenFault fault) noexcept {
  switch (fault) {
    case OpenFault::kNone:
      return "nothing is wrong with it";
    case OpenFault::kNotFound:
      return "there is no such file";
    case OpenFault::kPermission:
      return "access to it is refused";
    case OpenFault::kSymlink:
      return "it is a symbolic link, which is never followed";
    case OpenFault::kDirectory:
      return "it is a directory";
    case OpenFault::kSpecialFile:
      return "it is a FIFO, socket or device that cannot hold an arena";
    case OpenFault::kEmpty:
      return "it is empty";
    case OpenFault::kTruncated:
      return "it is an arena that was cut short";
    case OpenFault::kForeign:
      return "it is no arena";
    case OpenFault::kNewer:
      return "it is an arena of a newer format than this version reads";
    case OpenFault::kPageSize:
      return "it is an arena of a machine with another page size";
    case OpenFault::kHeaders:
      return "both copies of its arena header are damaged";
    case OpenFault::kGeometry:
      return "its arena header contradicts itself";
    case OpenFault::kSystem:
      return "the kernel refused to read it";
  }
  return "it cannot be read";
}

// --- Opening
// -----------------------------------------------------------------------------------------------------

Error ArenaView::refuse(OpenFault fault, Error error) noexcept {
  fault_ = fault;
  return error;
}

void ArenaView::close() noexcept {
  if (mapping_ != nullptr) sys::unmap(const_cast<uint8_t*>(mapping_), file_size_bytes_);
  if (descriptor_ >= 0) sys::close(descriptor_);
  mapping_ = nullptr;
  descriptor_ = -1;
}

Error ArenaView::open(const char* path, ArenaView& view) noexcept {
  return view.take(sys::open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
}

Error ArenaView::open_file(int descriptor, ArenaView& view) noexcept {
  return view.take(descriptor);
}

Error ArenaView::take(int descriptor) noexcept {
  close();
  fault_ = OpenFault::kNone;
  descriptor_ = descriptor;
  Error error = inspect_file();
  if (error == Error::kNone) error = read_headers();
  if (error != Error::kNone) close();
  return error;
}

// REQUIRES: descriptor_ is what open(2) returned, or a negative errno value.
Error ArenaView::inspect_file() noexcept {
  switch (descriptor_ < 0 ? -descriptor_ : 0) {
    case 0:
      break;
    case ENOENT:
    case ENOTDIR:
      return refuse(OpenFault::kNotFound, Error::kNotFound);
    case EACCES:
    case EPERM:
      return refuse(OpenFault::kPermission, Error::kPermission);
    case ELOOP:
      return refuse(OpenFault::kSymlink, Error::kUnsupported);
    case ENXIO:  // a socket, or a device without a driver
    case ENODEV:
      return refuse(OpenFault::kSpecialFile, Error::kUnsupported);
    default:
      return refuse(OpenFault::kSystem, Error::kIo);
  }
  struct stat status;
  if (sys::stat_of(descriptor_, &status) != 0) return refuse(OpenFault::kSystem, Error::kIo);
  if (S_ISDIR(status.st_mode)) return refuse(OpenFault::kDirectory, Error::kUnsupported);
  if (S_ISREG(status.st_mode)) {
    file_size_bytes_ = static_cast<uint64_t>(status.st_size);
    return file_size_bytes_ == 0 ? refuse(OpenFault::kEmpty, Error::kForeign) : Error::kNone;
  }
  if (!S_ISCHR(status.st_mode)) return refuse(OpenFault::kSpecialFile, Error::kUnsupported);
  file_size_bytes_ = dax_device_bytes(status.st_rdev);
  if (file_size_bytes_ == 0) return refuse(OpenFault::kSpecialFile, Error::kUnsupported);
  intptr_t address = sys::map(nullptr, file_size_bytes_, PROT_READ, MAP_SHARED, descriptor_, 0);
  if (address < 0 && address > -4096) return refuse(OpenFault::kSpecialFile, Error::kUnsupported);
  mapping_ = reinterpret_cast<const uint8_t*>(address);
  return Error::kNone;
}

Error ArenaView::read_headers() noexcept {
  ArenaHeader(&copies)[2] = copies_;
  bool valid[2];
  // The owner of a live arena may be writing the very copy we read.
  for (int tries = 0; tries < kLiveTries; tries++) {
    std::memset(copies, 0, sizeof(copies));
    size_t size_bytes = static_cast<size_t>(min<uint64_t>(sizeof(copies), file_size_bytes_));
    if (!read_file(0, copies, size_bytes)) return refuse(OpenFault::kSystem, Error::kIo);
    valid[0] = is_header_valid(copies[0]);
    valid[1] = is_header_valid(copies[1]);
    if ((valid[0] && valid[1]) || !is_live()) break;
  }
  bool is_ours = copies[0].magic == kArenaMagic || copies[1].magic == kArenaMagic;
  if (!is_ours) return refuse(OpenFault::kForeign, Error::kForeign);
  if (!valid[0] && !valid[1]) {
    // A newer format may keep its checksum elsewhere.  A flipped byte alone does not make both
    // copies new.
    bool is_newer = copies[0].magic == copies[1].magic &&
                    copies[0].format_version > kFormatVersion &&
                    copies[0].format_version == copies[1].format_version;
    if (is_newer) return refuse(OpenFault::kNewer, Error::kNewer);
    if (file_size_bytes_ < sizeof(copies)) return refuse(OpenFault::kTruncated, Error::kCorrupt);
    return refuse(OpenFault::kHeaders, Error::kCorrupt);
  }
  int in_force = valid[0] && (!valid[1] || copies[0].sequence >= copies[1].sequence) ? 0 : 1;
  for (int copy = 0; copy < 2; copy++) {
    bool is_older = copies[copy].sequence < copies[in_force].sequence;
    bool is_same = std::memcmp(&copies[copy], &copies[in_force], sizeof(ArenaHeader)) == 0;
    copy_states_[copy] = valid[copy] && is_older ? CopyState::kStale
                         : is_same               ? CopyState::kGood
                                                 : CopyState::kBad;
  }
  header_ = copies[in_force];
  if (header_.format_version > kFormatVersion) return refuse(OpenFault::kNewer, Error::kNewer);
  bool same_pages = header_.page_bytes == static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  if (!same_pages || header_.frame_bytes != kFrameBytes)
    return refuse(OpenFault::kPageSize, Error::kMismatch);
  OpenFault fault = geometry_fault();
  return fault == OpenFault::kNone ? Error::kNone : refuse(fault, Error::kCorrupt);
}

// Every sum below stays far under 2^64: counts are 32 bits wide, offsets are bounded by the file's
// length first.
OpenFault ArenaView::geometry_fault() const noexcept {
  const ArenaHeader& header = header_;
  uint64_t coarse = header.coarse_frame_count;
  uint64_t fine = header.fine_frame_count;
  struct Region {
    uint64_t offset, size_bytes;
  } regions[] = {
      {0, 2 * kArenaHeaderBytes},
      {header.root_table_offset, kRootTableBytes},
      {header.lane_table_offset, kLaneTableBytes},
      {header.site_table_offset, kSiteTableBytes},
      {header.frame_header_offset, (coarse + fine) * sizeof(FrameHeader)},
      {header.coarse_state_offset, coarse * kCoarseStatesPerFrame},
      {header.fine_state_offset, fine * kFineStatesPerFrame},
      {header.data_offset, (coarse + fine) * kFrameBytes},
  };
  bool is_grown = header.coarse_frames_grown != 0 || header.fine_frames_grown != 0;
  // Between the making of an arena and its first open nothing is in it.
  bool is_new = header.epoch == 0 && header.state == 0 && !is_grown;
  bool is_opened = header.epoch >= 1 && header.oldest_epoch <= header.epoch &&
                   (header.state == static_cast<uint32_t>(ArenaState::kOpen) ||
                    header.state == static_cast<uint32_t>(ArenaState::kClean));
  bool is_sound = (is_new || is_opened) && header.format_version >= 1 &&
                  header.header_bytes == kArenaHeaderBytes && coarse + fine > 0 &&
                  header.far_first_frame <= coarse && header.far_first_frame % kGrowFrames == 0 &&
                  (header.far_first_frame != 0 || header.far_frames_grown == 0) &&
                  header.roots_grown <= kRootCount && header.lanes_grown <= kLaneCount &&
                  header.base_address % header.page_bytes == 0 &&
                  header.base_address < (uint64_t{1} << 47) &&
                  header.file_bytes < (uint64_t{1} << 60);
  for (const ZoneFrames& zone : zones_of(header)) is_sound = is_sound && zone.grown <= zone.count;
  uint64_t end = 0;
  for (const Region& region : regions) {
    is_sound = is_sound && region.offset >= end && region.offset <= header.file_bytes &&
               region.offset % 64 == 0 && region.size_bytes <= header.file_bytes - region.offset;
    end = region.offset + region.size_bytes;
  }
  if (!is_sound) return OpenFault::kGeometry;
  return file_size_bytes_ < header.file_bytes ? OpenFault::kTruncated : OpenFault::kNone;
}

int ArenaView::damaged_copy() const {
  if (copy_states_[0] != CopyState::kGood) return 0;
  return copy_states_[1] != CopyState::kGood ? 1 : -1;
}

bool ArenaView::is_live() const noexcept {
  struct flock lock {};
  lock.l_type = F_RDLCK;  // conflicts with the owner's write lock, and is all that a read-only
                          // descriptor may ask for
  lock.l_whence = SEEK_SET;
  int kept = errno;
  bool is_known = descriptor_ >= 0 && fcntl(descriptor_, F_OFD_GETLK, &lock) == 0;
  errno = kept;
  return is_known && lock.l_type != F_UNLCK;
}

// --- Reading
// -----------------------------------------------------------------------------------------------------

bool ArenaView::read_file(uint64_t offset, void* buffer, size_t size_bytes) const noexcept {
  auto* out = static_cast<uint8_t*>(buffer);
  if (offset > file_size_bytes_ || size_bytes > file_size_bytes_ - offset) {
    std::memset(out, 0, size_bytes);
    return false;
  }
  if (mapping_ != nullptr) {
    std::memcpy(out, mapping_ + offset, size_bytes);
    return true;
  }
  while (size_bytes > 0) {
    long count = sys::pread(descriptor_, out, size_bytes, offset);
    if (count == -EINTR) continue;
    if (count <= 0) {  // a bad sector, or the file was cut short meanwhile
      std::memset(out, 0, size_bytes);
      return false;
    }
    out += count;
    offset += static_cast<uint64_t>(count);
    size_bytes -= static_cast<size_t>(count);
  }
  return true;
}

bool ArenaView::read_data(uint64_t offset, void* buffer, size_t size_bytes) const noexcept {
  auto* out = static_cast<uint8_t*>(buffer);
  uint64_t data_bytes = frame_count() * kFrameBytes;
  if (offset > data_bytes || size_bytes > data_bytes - offset) {
    std::memset(out, 0, size_bytes);
    return false;
  }
  FrameHeader headers[kGrowFrames];
  while (size_bytes > 0) {
    if (offset >= far_begin() && offset < far_end()) {
      auto part = static_cast<size_t>(min<uint64_t>(far_end() - offset, size_bytes));
      if (far_ == nullptr || !far_->read(offset - far_begin(), out, part)) {
        std::memset(out, 0, size_bytes);
        return false;
      }
      out += part;
      offset += part;
      size_bytes -= part;
      continue;
    }
    uint64_t first = offset / kFrameBytes;
    uint64_t count =
        min<uint64_t>(kGrowFrames, (offset + size_bytes - 1) / kFrameBytes - first + 1);
    if (offset < far_begin()) count = min(count, far_begin() / kFrameBytes - first);
    bool is_read = read_file(frame_header_offset(first), headers, count * sizeof(FrameHeader));
    for (uint64_t i = 0; is_read && i < count; i++) {
      uint64_t frame = first + i;
      if (headers[i].file_frame != 0 && body_fault(headers[i]) == nullptr)
        frame = headers[i].file_frame - 1;
      uint64_t within = offset % kFrameBytes;
      size_t part = static_cast<size_t>(min<uint64_t>(kFrameBytes - within, size_bytes));
      is_read = read_file(header_.data_offset + frame * kFrameBytes + within, out, part);
      out += part;
      offset += part;
      size_bytes -= part;
    }
    if (!is_read) {
      std::memset(out, 0, size_bytes);
      return false;
    }
  }
  return true;
}

// --- Extents and blocks
// --------------------------------------------------------------------------------------------

const char* ArenaView::body_fault(const FrameHeader& header) const noexcept {
  if (header.checksum != checksum_of(header)) return "the frame header fails its checksum";
  if (header.file_frame > frame_count()) return "the frame's bytes are said to be outside the data";
  if (header.epoch == 0 || header.epoch > header_.epoch)
    return "the extent was carved in no known epoch";
  if (!is_zero(header.reserved_b, sizeof(header.reserved_b)))
    return "reserved bytes of the frame header are not zero";
  return nullptr;
}

const char* ArenaView::parse(const FrameHeader& header, uint64_t frame, uint64_t zone_end,
                             Extent& extent) const noexcept {
  const Descriptor& descriptor = header.descriptor;
  if (descriptor.check != descriptor_check(descriptor)) return "the descriptor fails its check";
  if (descriptor.frame_count == 0) return "the extent has no frames";
  if (descriptor.frame_count > zone_end - frame) return "the extent ends outside its zone";
  extent = {};
  extent.first_frame = frame;
  extent.frame_count = descriptor.frame_count;
  extent.kind = static_cast<ExtentKind>(descriptor.kind);
  extent.is_fine = is_fine_frame(frame);
  extent.detail = descriptor.detail;
  extent.epoch = body_fault(header) == nullptr ? header.epoch : 0;
  if (extent.kind == ExtentKind::kLarge) {
    if (uint64_t{descriptor.detail} * header_.page_bytes >= extent.frame_count * kFrameBytes) {
      return "the large block has no bytes";
    }
    extent.state = header.state;
    return nullptr;
  }
  if (extent.kind != ExtentKind::kSuperblock) return "the kind of extent is not known";
  if (descriptor.detail >= kSizeClassCount) return "the size class is not known";
  const SizeClassInfo& info = kSizeClasses[descriptor.detail];
  if (info.is_fine != extent.is_fine) return "the superblock's class belongs into the other zone";
  if (info.frame_count != extent.frame_count) return "the superblock has not the size of its class";
  extent.size_class = descriptor.detail;
  return nullptr;
}

// A second look at a head that failed its check or whose extent may have changed.
bool ArenaView::reparse(uint64_t frame, uint64_t zone_end, Extent& extent) const noexcept {
  FrameHeader header;
  return read_file(frame_header_offset(frame), &header, sizeof(header)) &&
         !is_zero(&header.descriptor, sizeof(Descriptor)) &&
         parse(header, frame, zone_end, extent) == nullptr;
}

const FrameHeader& ArenaView::ExtentCursor::load(uint64_t frame, uint64_t end) noexcept {
  if (frame < buffer_first_ || frame >= buffer_end_) {
    buffer_first_ = frame;
    buffer_end_ = min<uint64_t>(end, frame + kGrowFrames);
    view_.read_file(view_.frame_header_offset(frame), buffer_,
                    (buffer_end_ - frame) * sizeof(FrameHeader));
  }
  return buffer_[frame - buffer_first_];
}

bool ArenaView::ExtentCursor::next(Extent& extent) noexcept {
  for (const ZoneFrames& zone : zones_of(view_.header_)) {
    frame_ = max(frame_, zone.first);
    while (frame_ < zone.end_grown()) {
      const FrameHeader& head = load(frame_, zone.end_grown());
      uint64_t frame = frame_++;
      if (is_zero(&head.descriptor, sizeof(Descriptor))) continue;
      // The zone's end, not the grown mark: a live arena may have grown since the header was read.
      uint64_t zone_end = zone.first + zone.count;
      if (view_.parse(head, frame, zone_end, extent) == nullptr ||
          view_.reparse(frame, zone_end, extent)) {
        frame_ = frame + extent.frame_count;
        return true;
      }
    }
  }
  return false;
}

bool ArenaView::read_states(const Extent& extent, uint8_t* states) const noexcept {
  uint64_t size_bytes =
      extent.frame_count * (extent.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame);
  if (!read_file(state_offset(header_, extent.first_frame), states, size_bytes)) return false;
  // The states are this superblock's only if it was there before and after they were read.
  Extent again;
  return reparse(extent.first_frame, extent.first_frame + extent.frame_count, again) &&
         again.kind == extent.kind && again.size_class == extent.size_class;
}

void ArenaView::fill_block(uint64_t offset, uint64_t size_bytes, uint8_t tag,
                           Block& block) const noexcept {
  block.id = offset / kQuantumBytes;
  block.offset = offset;
  block.address = header_.base_address + header_.data_offset + offset;
  block.size_bytes = size_bytes;
  block.tag = tag;
  block.epoch = tag == kStateKept ? 0 : epoch_of_tag(tag, header_.epoch);
  if (block.epoch < header_.oldest_epoch) block.epoch = 0;
}

bool ArenaView::large_block(const Extent& extent, Block& block) const noexcept {
  uint8_t tag = tag_of_large_state(extent.state);
  if (extent.state == 0 || !is_large_state_valid(extent.state) ||
      (tag > kTagMax && tag != kStateKept))
    return false;
  uint64_t unused_bytes = uint64_t{extent.detail} * header_.page_bytes;
  fill_block(extent.first_frame * kFrameBytes, extent.frame_count * kFrameBytes - unused_bytes, tag,
             block);
  block.is_large = true;
  return true;
}

bool ArenaView::slot_block(const Extent& extent, uint32_t slot, uint8_t state,
                           Block& block) const noexcept {
  if (state == kStateFree || (state > kTagMax && state != kStateKept)) return false;
  uint64_t slot_bytes = kSizeClasses[extent.size_class].slot_bytes;
  fill_block(extent.first_frame * kFrameBytes + slot * slot_bytes, slot_bytes, state, block);
  block.is_large = false;
  return true;
}

bool ArenaView::find_block(uint64_t id, Block& block) const noexcept {
  uint64_t frame = id / (kFrameBytes / kQuantumBytes);
  if (frame >= frame_count()) return false;
  // Heads are found from the zone's start, as everywhere: going back from the frame could meet a
  // stale one.
  bool is_found = false;
  ExtentCursor cursor(*this);
  Extent extent;
  while (!is_found && cursor.next(extent) && extent.first_frame <= frame) {
    if (frame >= extent.first_frame + extent.frame_count) continue;
    for_each_block_of(extent, [&](const Block& candidate) {
      if (candidate.id != id) return;
      block = candidate;
      is_found = true;
    });
  }
  return is_found;
}

}  // namespace btd
