#include "core/tx/log.hpp"

#include <cstring>

namespace btd {

uint32_t checksum_of(const LogRecord& record, const void* payload, uint32_t chain) {
  uint32_t crc = crc32c(&record, offsetof(LogRecord, checksum), chain);
  crc = crc32c(payload, record.length_bytes, crc);
  return nonzero_checksum(crc);
}

bool is_in_data(const ArenaHeader& header, uint64_t offset, uint64_t size_bytes) {
  for (const ZoneFrames& zone : zones_of(header)) {
    if (is_in(offset, size_bytes, header.data_offset + zone.first * kFrameBytes,
              zone.grown * kFrameBytes))
      return true;
  }
  return false;
}

LogReader::LogReader(const ArenaHeader& header, const char* file, uint32_t lane, bool is_own)
    : header_(header), file_(file), is_own_(is_own) {
  uint64_t lane_offset = header.lane_table_offset + lane * kLaneBytes;
  uint64_t finished = reinterpret_cast<const LaneHeader*>(file + lane_offset)->finished;
  sequence_ = sequence_of(finished) + 1;
  chain_ = first_chain(sequence_);
  at_ = lane_offset + line_of(finished) * kCacheLineBytes;
  end_ = lane_offset + kLaneBytes;
}

const LogRecord* LogReader::valid_at(uint64_t offset) const {
  if (offset + sizeof(LogRecord) > end_) return nullptr;
  auto* record = reinterpret_cast<const LogRecord*>(file_ + offset);
  bool is_known = record->kind >= static_cast<uint32_t>(RecordKind::kUndo) &&
                  record->kind <= static_cast<uint32_t>(RecordKind::kLink);
  if (!is_known || record->sequence != static_cast<uint32_t>(sequence_) ||
      record->previous != last_ ||
      round_up(record->length_bytes, sizeof(uint64_t)) > end_ - offset - sizeof(LogRecord))
    return nullptr;
  if (is_own_) return record;
  return record->checksum == checksum_of(*record, record + 1, chain_) ? record : nullptr;
}

const LogRecord* LogReader::next() {
  for (;;) {
    const LogRecord* record = valid_at(at_);
    if (record == nullptr && at_ % kCacheLineBytes != 0)
      record = valid_at(at_ = round_up(at_, kCacheLineBytes));
    if (record == nullptr) return nullptr;
    chain_ = record->checksum;
    last_ = at_;
    at_ += record_bytes(record->length_bytes);
    if (record->kind != static_cast<uint32_t>(RecordKind::kLink)) return record;
    if (!follow(record->target)) return nullptr;
  }
}

// Into the extent that a link names: a large one in use, and without a live block.
bool LogReader::follow(uint64_t target) {
  if (target < header_.data_offset || (target - header_.data_offset) % kFrameBytes != 0)
    return false;
  if (!is_in_data(header_, target, kFrameBytes)) return false;
  uint64_t frame = (target - header_.data_offset) / kFrameBytes;
  auto* head = reinterpret_cast<const FrameHeader*>(file_ + header_.frame_header_offset) + frame;
  Descriptor descriptor = head->descriptor;
  uint64_t extent_bytes = uint64_t{descriptor.frame_count} * kFrameBytes;
  if (descriptor.kind != static_cast<uint8_t>(ExtentKind::kLarge) ||
      descriptor.check != descriptor_check(descriptor) || head->state != 0 ||
      !is_in_data(header_, target, extent_bytes))
    return false;
  at_ = target + kCacheLineBytes;  // line 0 is for whoever writes the log
  end_ = target + extent_bytes;
  return true;
}

}  // namespace btd
