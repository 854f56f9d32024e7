#include "core/api/modules.hpp"

#include <cstring>

namespace btd {

Error record_module(Arena& arena, ModuleRecord record) {
  record.epoch = arena.header().epoch;
  record.checksum = checksum_of(record);
  uint64_t offset = arena.header().site_table_offset + kModulesAt;
  // Space is there only where somebody asked for it.
  if (Error error = arena.mapping().grow(offset, kModuleCount * sizeof(ModuleRecord));
      error != Error::kNone)
    return error;
  auto* place = reinterpret_cast<ModuleRecord*>(arena.mapping().address(offset));
  auto* end = place + kModuleCount;
  for (; place < end && place->checksum == checksum_of(*place); place++) {
    if (place->first == record.first && place->end == record.end &&
        std::memcmp(place->build_id, record.build_id, sizeof(record.build_id)) == 0 &&
        std::memcmp(place->path, record.path, sizeof(record.path)) == 0)
      return Error::kNone;
  }
  if (place == end) return Error::kNoSpace;
  // 1. All but the word with the checksum, durable: until then the place is not in use.
  constexpr size_t kLastWord = sizeof(record) - sizeof(uint64_t);
  std::memcpy(static_cast<void*>(place), &record, kLastWord);
  arena.persist().persist(place, sizeof(*place));
  // 2. That word.
  uint64_t last;
  std::memcpy(&last, reinterpret_cast<const char*>(&record) + kLastWord, sizeof(last));
  publish(reinterpret_cast<uint64_t*>(reinterpret_cast<char*>(place) + kLastWord), last);
  arena.persist().persist(reinterpret_cast<char*>(place) + kLastWord, sizeof(last));
  return Error::kNone;
}

}  // namespace btd
