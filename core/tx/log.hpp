// A lane's log as records, first to last.
//
// A record is written payload first and its last word last, so a kill leaves it whole or not there.
// It is valid when its checksum follows from the record before it; after a drain the log goes on at
// a fresh cache line (one flushed again at once costs twice), so the next record is looked for in
// both places.  When an area is full, a link leads to the next: an extent of frames without a live
// block, which recovery gives back after the replay.
//
// Reading trusts nothing: not the lane, nor where a link leads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "core/base/units.hpp"
#include "core/persist/layout.hpp"

namespace btd {

inline constexpr uint64_t kLogFirstLine = 1;        // line 0 is the lane's header
inline constexpr uint64_t kLogLastFirstLine = 191;  // a log that starts here has 4 KiB of its lane

// LaneHeader::finished: the sequence of a transaction and the line of the lane where the log of the
// one after it starts.
constexpr uint64_t finished_word(uint64_t sequence, uint64_t next_line) {
  return sequence << 8 | (next_line > kLogLastFirstLine ? kLogFirstLine : next_line);
}
constexpr uint64_t sequence_of(uint64_t finished) { return finished >> 8; }
constexpr uint64_t line_of(uint64_t finished) {
  uint64_t line = finished & 0xFF;
  return line < kLogFirstLine || line > kLogLastFirstLine ? kLogFirstLine : line;
}

constexpr size_t record_bytes(size_t payload_bytes) {
  return sizeof(LogRecord) + round_up(payload_bytes, sizeof(uint64_t));
}

inline const char* payload_of(const LogRecord* record) {
  return reinterpret_cast<const char*>(record + 1);
}

// REQUIRES: the record is of kAlloc or kFree, and has a whole payload.
inline AllocPayload alloc_payload_of(const char* payload_bytes) {
  AllocPayload payload;
  std::memcpy(&payload, payload_bytes, sizeof(payload));
  return payload;
}
inline AllocPayload alloc_payload_of(const LogRecord* record) {
  return alloc_payload_of(payload_of(record));
}

// Whether [offset, + size_bytes) lies in [first, + bytes).
inline bool is_in(uint64_t offset, uint64_t size_bytes, uint64_t first, uint64_t bytes) {
  return offset >= first && offset - first <= bytes && size_bytes <= bytes - (offset - first);
}

inline uint32_t first_chain(uint64_t sequence) { return crc32c(&sequence, sizeof(sequence)); }

// 0 is what was never written.
constexpr uint32_t nonzero_checksum(uint32_t crc) { return crc == 0 ? 1 : crc; }
// Of the record without its checksum and its payload, after a record with checksum `chain`.
uint32_t checksum_of(const LogRecord& record, const void* payload, uint32_t chain);

class LogReader {
 public:
  // `file`: byte 0 of the arena's file, wherever it is mapped; frames and lanes up to the header's
  // grown marks are read.
  // `is_own`: the log was written by this process and is whole; its checksums need no look.
  LogReader(const ArenaHeader& header, const char* file, uint32_t lane, bool is_own = false);

  // The next record; nullptr: there is none.  Links are followed and not told.
  const LogRecord* next();

  // The sequence of the transaction that the log may hold.
  uint64_t sequence() const { return sequence_; }
  // Offset of the last record that next() found, links included; 0: there is none.
  uint64_t last() const { return last_; }

 private:
  const LogRecord* valid_at(uint64_t offset) const;
  bool follow(uint64_t target);

  const ArenaHeader& header_;
  const char* file_;
  bool is_own_;
  uint64_t sequence_;
  uint32_t chain_;
  uint64_t at_;  // offsets in the file
  uint64_t end_;
  uint64_t last_ = 0;
};

// Whether [offset, offset + size_bytes) is in grown frames' data.
bool is_in_data(const ArenaHeader& header, uint64_t offset, uint64_t size_bytes);

}  // namespace btd
