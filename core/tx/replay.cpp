#include "core/tx/replay.hpp"

#include <cstring>

#include "core/tx/log.hpp"

namespace btd {
namespace {

struct Open {
  uint64_t last = 0;  // offset of the last record; 0: the lane is clean
  bool is_committed = false;
  bool is_good = true;
};

bool is_state(const ArenaHeader& header, uint64_t offset, uint64_t size_bytes) {
  for (const ZoneFrames& zone : zones_of(header)) {
    if (size_bytes == sizeof(uint16_t) &&
        is_in(offset, size_bytes, header.frame_header_offset + zone.first * sizeof(FrameHeader),
              zone.grown * sizeof(FrameHeader)))
      return (offset - header.frame_header_offset) % sizeof(FrameHeader) ==
             offsetof(FrameHeader, state);
    uint64_t states_per_frame = zone.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame;
    if (size_bytes == sizeof(uint8_t) &&
        is_in(offset, size_bytes, state_offset(header, zone.first), zone.grown * states_per_frame))
      return true;
  }
  return false;
}

// Whether a transaction may have written the record.
bool is_good(const ArenaHeader& header, const LogRecord* record) {
  switch (static_cast<RecordKind>(record->kind)) {
    case RecordKind::kUndo:
    case RecordKind::kRedo:
      return is_in_data(header, record->target, record->length_bytes) ||
             is_in(record->target, record->length_bytes, header.root_table_offset,
                   header.roots_grown * sizeof(Root));
    case RecordKind::kAlloc:
    case RecordKind::kFree: {
      if (record->length_bytes != sizeof(AllocPayload)) return false;
      AllocPayload payload = alloc_payload_of(record);
      return is_state(header, record->target, payload.state_bytes);
    }
    default:
      return true;
  }
}

Open look_at(const ArenaHeader& header, const char* file, uint32_t lane) {
  Open open;
  LogReader reader(header, file, lane);
  while (const LogRecord* record = reader.next()) {
    open.last = reader.last();
    open.is_good = open.is_good && is_good(header, record);
    if (record->kind != static_cast<uint32_t>(RecordKind::kCommit)) continue;
    open.is_committed = true;
    break;
  }
  return open;
}

// One record forward (what waits is stored) or back (what was kept is put back, a state is as
// before).
void replay(Arena& arena, const LogRecord* record, bool is_forward) {
  char* target = arena.mapping().address(record->target);
  uint64_t changed_bytes = record->length_bytes;
  auto kind = static_cast<RecordKind>(record->kind);
  if (kind == (is_forward ? RecordKind::kRedo : RecordKind::kUndo)) {
    std::memcpy(target, record + 1, record->length_bytes);
  } else if (kind == RecordKind::kAlloc || kind == RecordKind::kFree) {
    AllocPayload payload = alloc_payload_of(record);
    bool is_live = is_forward == (kind == RecordKind::kAlloc);
    changed_bytes = payload.state_bytes;
    publish_state(target, payload.state_bytes, is_live ? payload.live : 0);
  } else {
    return;
  }
  arena.persist().flush(target, changed_bytes);
}

}  // namespace

Error replay_lanes(Arena& arena, Replayed& replayed) {
  const ArenaHeader& header = arena.header();
  char* file = arena.mapping().address();
  replayed = {};
  for (uint32_t lane = 0; lane < header.lanes_grown; lane++) {
    if (!look_at(header, file, lane).is_good) return Error::kCorrupt;
  }
  for (uint32_t lane = 0; lane < header.lanes_grown; lane++) {
    auto* word = &reinterpret_cast<LaneHeader*>(arena.lane(lane))->finished;
    Open open = look_at(header, file, lane);
    if (open.last == 0) {
      // The last life may have ended before it flushed the end of its last transaction, and only
      // the caches say that the lane is clean.
      arena.persist().flush(word, sizeof(*word));
      continue;
    }
    LogReader reader(header, file, lane);
    uint64_t sequence = reader.sequence();
    // 1. The stores.  Cut here: all again, with the same outcome.
    if (open.is_committed) {
      while (const LogRecord* record = reader.next()) {
        replay(arena, record, true);
        if (reader.last() == open.last) break;
      }
      replayed.committed++;
    } else {
      for (uint64_t at = open.last; at != 0;) {
        auto* record = reinterpret_cast<const LogRecord*>(file + at);
        replay(arena, record, false);
        at = record->previous;
      }
      replayed.aborted++;
    }
    arena.persist().drain();
    // 2. The end of the transaction.
    publish(word, finished_word(sequence, kLogFirstLine));
    arena.persist().flush(word, sizeof(*word));
  }
  // Before a word that one of the logs names is changed: a replay would bring it back.
  if (header.lanes_grown > 0) arena.persist().drain();
  return Error::kNone;
}

}  // namespace btd
