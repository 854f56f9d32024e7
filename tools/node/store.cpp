#include "tools/node/store.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "core/base/check.hpp"
#include "core/base/crc32c.hpp"
#include "rdma/crypto.hpp"
#include "tools/failure.hpp"

namespace btd::tools {
namespace {

template <typename T>
uint32_t checksum_of(const T& record) {
  return crc32c(&record, offsetof(T, checksum));
}

bool is_zero(const char* bytes, uint64_t size_bytes) {
  return size_bytes == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}

// One aligned 8-byte store, which media cannot tear.
void store_word(uint64_t* word, uint64_t value) {
  std::atomic_ref(*word).store(value, std::memory_order_release);
}

// Whether nothing is there, or no more than a make() that was cut: of the header all but the magic,
// in part.
bool is_unmade(const char* base) {
  StoreHeader header;
  std::memcpy(&header, base, sizeof(header));
  return header.magic == 0 &&
         (header.format_version == 0 || header.format_version == kStoreVersion) &&
         (header.slot_bytes == 0 || header.slot_bytes == kFarExtentBytes) &&
         (header.slot_header_offset == 0 || header.slot_header_offset == kSlotTableOffset) &&
         is_zero(base + sizeof(header), kSlotTableOffset - sizeof(header));
}

// Space that only new generations of extents that are there may use: without it a full store could
// never take another write.
uint64_t reserve_of(uint64_t slot_count) { return std::clamp<uint64_t>(slot_count / 16, 1, 64); }

}  // namespace

Store::Store(Media& media, uint64_t slot_count, uint64_t quota_extents)
    : media_(media), quota_extents_(quota_extents) {
  if (media.size_bytes() < store_bytes_of(2)) {
    throw Failure{kExitRefused,
                  "the store has no room for two extents; nothing was changed; give a larger "
                  "--capacity"};
  }
  if (is_unmade(media_.base())) make(slot_count);
  open();
  if (slot_count != 0 && slot_count != slot_count_) {
    throw Failure{kExitRefused,
                  fmt::format("the store was made for {} bytes; nothing was changed; "
                              "give --capacity {}",
                              slot_count_ * kFarExtentBytes, slot_count_ * kFarExtentBytes)};
  }
  scan_arenas();
  scan_slots();
  finish_forgetting();
}

// 1. The slot headers, zero: a device may hold anything; and the header without its magic.  2. The
// magic, which makes it a store.
void Store::make(uint64_t slot_count) {
  uint64_t fitting =
      (media_.size_bytes() - kSlotTableOffset) / (kFarExtentBytes + sizeof(SlotHeader));
  while (fitting > 0 && store_bytes_of(fitting) > media_.size_bytes()) fitting--;
  if (slot_count == 0) slot_count = fitting;
  if (slot_count < 2 || slot_count > fitting || slot_count >= kNoSlot) {
    throw Failure{kExitRefused,
                  fmt::format("the store has room for {} bytes; nothing was changed; give "
                              "--capacity {}",
                              fitting * kFarExtentBytes, fitting * kFarExtentBytes)};
  }
  char* base = media_.base();
  std::memset(base + kSlotTableOffset, 0, slot_count * sizeof(SlotHeader));
  media_.flush(base + kSlotTableOffset, slot_count * sizeof(SlotHeader));
  StoreHeader header{};
  header.magic = kStoreMagic;
  header.format_version = kStoreVersion;
  header.slot_bytes = kFarExtentBytes;
  header.slot_count = slot_count;
  header.slot_header_offset = kSlotTableOffset;
  header.data_offset = data_offset_of(slot_count);
  if (!random_bytes(header.node, sizeof(header.node))) {
    throw Failure{kExitFailed, "the kernel gives no random bytes; nothing was changed; try again"};
  }
  header.checksum = checksum_of(header);
  header.magic = 0;
  std::memcpy(base, &header, sizeof(header));
  media_.flush(base, sizeof(header));
  media_.drain();
  store_word(reinterpret_cast<uint64_t*>(base), kStoreMagic);
  media_.flush(base, sizeof(uint64_t));
  media_.drain();
}

void Store::open() {
  StoreHeader header;
  std::memcpy(&header, media_.base(), sizeof(header));
  if (header.magic != kStoreMagic) {
    throw Failure{kExitRefused,
                  "the store holds something else; nothing was changed; give a new "
                  "file or clear it first"};
  }
  if (header.format_version != kStoreVersion) {
    throw Failure{kExitRefused, fmt::format("the store has format {}, this program knows {}; "
                                            "nothing was changed; use the version that made it",
                                            header.format_version, kStoreVersion)};
  }
  if (header.checksum != checksum_of(header) || header.slot_bytes != kFarExtentBytes ||
      header.slot_count < 2 || header.slot_count >= kNoSlot ||
      header.slot_header_offset != kSlotTableOffset ||
      header.data_offset != data_offset_of(header.slot_count) ||
      store_bytes_of(header.slot_count) > media_.size_bytes()) {
    throw Failure{kExitDamaged,
                  "the store's header is damaged; nothing was changed; its extents are on their "
                  "other nodes: clear it and start again"};
  }
  std::memcpy(node_.data(), header.node, node_.size());
  slot_count_ = header.slot_count;
  reserve_count_ = reserve_of(slot_count_);
  data_offset_ = header.data_offset;
  arena_entries_ = reinterpret_cast<ArenaEntry*>(media_.base() + kArenaTableOffset);
  slot_headers_ = reinterpret_cast<SlotHeader*>(media_.base() + kSlotTableOffset);
  is_index_used_.assign(kArenaCountMax, false);
  pins_.assign(slot_count_, 0);
}

void Store::scan_arenas() {
  for (uint32_t i = 0; i < kArenaCountMax; i++) {
    const ArenaEntry* newest = nullptr;
    for (uint32_t copy = 0; copy < 2; copy++) {
      ArenaEntry& entry = arena_entries_[2 * i + copy];
      if (entry.magic == 0) {
        if (!is_zero(reinterpret_cast<const char*>(&entry), sizeof(entry))) clear_entry(entry);
        continue;
      }
      if (entry.magic != kArenaMagic || entry.checksum != checksum_of(entry)) {
        damaged_headers_++;
      } else if (newest == nullptr || entry.sequence > newest->sequence) {
        newest = &entry;
      }
    }
    bool is_used = arena_entries_[2 * i].magic != 0 || arena_entries_[2 * i + 1].magic != 0;
    if (!is_used) continue;
    is_index_used_[i] = true;
    auto arena = std::make_unique<NodeArena>();
    arena->index = i;
    if (newest != nullptr) {
      std::memcpy(arena->uuid.data(), newest->arena, arena->uuid.size());
      std::memcpy(arena->client.data(), newest->client, arena->client.size());
      arena->epoch = newest->epoch;
      arena->sequence = newest->sequence;
      arena->state = newest->state;
      if (arena->state != wire::ArenaState::kKept) leaving_count_++;
      by_uuid_[arena->uuid] = arena.get();
    }
    arenas_.push_back(std::move(arena));
  }
}

void Store::scan_slots() {
  bool is_changed = false;
  for (SlotIndex slot = static_cast<SlotIndex>(slot_count_); slot-- > 0;) {
    const SlotHeader& found = *header(slot);
    if (found.magic == 0) {
      // What a cut left of a header has to go first, see let_go().
      if (is_zero(reinterpret_cast<const char*>(&found), sizeof(found))) {
        free_.push_back(slot);
      } else {
        let_go(slot);
        is_changed = true;
      }
      continue;
    }
    bool is_sound = found.magic == kSlotMagic && found.checksum == checksum_of(found) &&
                    found.generation != 0 && found.length_bytes != 0 &&
                    found.length_bytes <= kFarExtentBytes;
    Uuid uuid;
    std::memcpy(uuid.data(), found.arena, uuid.size());
    NodeArena* arena = is_sound ? find_arena(uuid) : nullptr;
    if (is_sound && arena == nullptr) arena = add_arena(uuid);  // both of its entries are damaged
    if (arena == nullptr) {
      damaged_headers_++;
      let_go(slot);
      is_changed = true;
      continue;
    }
    arena->epoch = std::max(arena->epoch, found.epoch);
    auto [place, is_first] = arena->extents.try_emplace(found.extent, slot);
    if (!is_first) {
      // Killed between the new header and the end of the old one.
      SlotIndex other = place->second;
      bool is_newer = found.generation > header(other)->generation;
      let_go(is_newer ? other : slot);
      is_changed = true;
      if (!is_newer) continue;
      arena->length_bytes -= header(other)->length_bytes;
      place->second = slot;
    }
    arena->length_bytes += found.length_bytes;
  }
  if (is_changed) drain();
}

NodeArena* Store::find_arena(const Uuid& uuid) {
  auto found = by_uuid_.find(uuid);
  return found == by_uuid_.end() ? nullptr : found->second;
}

NodeArena* Store::add_arena(const Uuid& uuid) {
  if (arenas_.size() == kArenaCountMax) return nullptr;
  auto free_index = std::find(is_index_used_.begin(), is_index_used_.end(), false);
  *free_index = true;
  auto arena = std::make_unique<NodeArena>();
  arena->uuid = uuid;
  arena->index = static_cast<uint32_t>(free_index - is_index_used_.begin());
  by_uuid_[uuid] = arena.get();
  arenas_.push_back(std::move(arena));
  return arenas_.back().get();
}

void Store::write_entry(NodeArena& arena) {
  arena.sequence++;
  ArenaEntry entry{};
  entry.magic = kArenaMagic;
  std::memcpy(entry.arena, arena.uuid.data(), sizeof(entry.arena));
  std::memcpy(entry.client, arena.client.data(), sizeof(entry.client));
  entry.epoch = arena.epoch;
  entry.sequence = arena.sequence;
  entry.state = arena.state;
  entry.checksum = checksum_of(entry);
  ArenaEntry* media = arena_entries_ + 2 * arena.index + arena.sequence % 2;
  std::memcpy(media, &entry, sizeof(entry));
  media_.flush(media, sizeof(entry));
  drain();
}

// First the magic, durably, then the rest: no part of an old entry may become whole again with a
// part of a new one.
void Store::clear_entry(ArenaEntry& entry) {
  store_word(&entry.magic, 0);
  media_.flush(&entry, sizeof(entry));
  drain();
  std::memset(&entry, 0, sizeof(entry));
  media_.flush(&entry, sizeof(entry));
  drain();
}

void Store::set_state(NodeArena& arena, wire::ArenaState state) {
  if (arena.state == state) return;
  if (arena.state == wire::ArenaState::kKept) leaving_count_++;
  if (state == wire::ArenaState::kKept) leaving_count_--;
  arena.state = state;
  arena.alone_since_ms = 0;
  write_entry(arena);
}

bool Store::forget(NodeArena& arena, size_t extent_count) {
  BTD_CHECK(arena.state == wire::ArenaState::kGoing && arena.leased_new == 0);
  auto at = arena.extents.begin();
  for (; at != arena.extents.end() && extent_count > 0; extent_count--) {
    arena.length_bytes -= header(at->second)->length_bytes;
    let_go(at->second);
    at = arena.extents.erase(at);
  }
  drain();
  if (!arena.extents.empty()) return false;
  // The newer entry is the last to go: until then the arena is kGoing.
  ArenaEntry* entries = arena_entries_ + 2 * arena.index;
  clear_entry(entries[(arena.sequence + 1) % 2]);
  clear_entry(entries[arena.sequence % 2]);
  is_index_used_[arena.index] = false;
  leaving_count_--;
  by_uuid_.erase(arena.uuid);
  std::erase_if(arenas_, [&](const auto& other) { return other.get() == &arena; });
  return true;
}

// What a kill has interrupted.
void Store::finish_forgetting() {
  std::vector<NodeArena*> going;
  for (const auto& arena : arenas_) {
    if (arena->state == wire::ArenaState::kGoing) going.push_back(arena.get());
  }
  for (NodeArena* arena : going) forget(*arena, SIZE_MAX);
}

NodeStatus Store::may_take_over(const Uuid& uuid, const Uuid& client, uint64_t epoch) {
  const NodeArena* arena = find_arena(uuid);
  if (arena == nullptr) {
    return arenas_.size() < kArenaCountMax ? NodeStatus::kGood : NodeStatus::kNoSpace;
  }
  // No entry was read, only extents: whoever comes first with their epoch.
  bool is_ownerless = arena->client == Uuid{};
  if (epoch < arena->epoch || (epoch == arena->epoch && client != arena->client && !is_ownerless)) {
    return NodeStatus::kFenced;
  }
  return NodeStatus::kGood;
}

NodeStatus Store::take_over(const Uuid& uuid, const Uuid& client, uint64_t epoch,
                            NodeArena*& arena) {
  NodeStatus status = may_take_over(uuid, client, epoch);
  if (status != NodeStatus::kGood) return status;
  arena = find_arena(uuid);
  // Its former owner is done with it; a new one starts with nothing.
  if (arena != nullptr && arena->state == wire::ArenaState::kGoing) {
    forget(*arena, SIZE_MAX);
    arena = nullptr;
  }
  if (arena == nullptr) arena = add_arena(uuid);
  if (epoch == arena->epoch && client == arena->client) return NodeStatus::kGood;
  arena->epoch = epoch;
  arena->client = client;
  // A new owner decides anew.
  if (arena->state == wire::ArenaState::kMarked) {
    set_state(*arena, wire::ArenaState::kKept);
  } else {
    write_entry(*arena);
  }
  return NodeStatus::kGood;
}

NodeStatus Store::lease(NodeArena& arena, uint64_t extent, uint64_t generation, SlotIndex& slot,
                        uint64_t& newest) {
  auto found = arena.extents.find(extent);
  if (found != arena.extents.end() && header(found->second)->generation >= generation) {
    newest = header(found->second)->generation;
    return NodeStatus::kStale;
  }
  bool is_new = found == arena.extents.end();
  if (is_new && (arena.extents.size() + arena.leased_new >= quota_extents_ ||
                 free_count() <= reserve_count_)) {
    return NodeStatus::kNoSpace;
  }
  if (free_.empty()) drain();
  if (free_.empty()) return NodeStatus::kNoSpace;
  slot = free_.back();
  free_.pop_back();
  if (is_new) {
    arena.leased_new++;
    new_leases_[slot] = &arena;
  }
  return NodeStatus::kGood;
}

void Store::end_lease(SlotIndex slot) {
  auto found = new_leases_.find(slot);
  if (found == new_leases_.end()) return;
  found->second->leased_new--;
  new_leases_.erase(found);
}

void Store::give_back(SlotIndex slot) {
  end_lease(slot);
  free_.push_back(slot);
}

// The magic is 0 first, so that a kill leaves a free slot; then all of the header.  If its other
// words stayed, the next header could be torn so that only its magic is there: with the old words
// that would be the old header again, whole, over another extent's bytes.
void Store::let_go(SlotIndex slot) {
  store_word(&header(slot)->magic, 0);
  std::memset(header(slot), 0, sizeof(SlotHeader));
  media_.flush(header(slot), sizeof(SlotHeader));
  let_go_.push_back(slot);
}

void Store::drain() {
  media_.drain();
  std::vector<SlotIndex> pinned;
  for (SlotIndex slot : let_go_) (pins_[slot] != 0 ? pinned : free_).push_back(slot);
  let_go_.swap(pinned);
}

// Decides what becomes of a write, and flushes its bytes if it goes on.
void Store::judge(Change& change) {
  auto found = change.arena->extents.find(change.extent);
  bool is_there = found != change.arena->extents.end();
  if (change.slot == kNoSlot) {
    change.status = is_there ? NodeStatus::kGood : NodeStatus::kNotFound;
    return;
  }
  char* data = bytes(change.slot);
  if (is_there && header(found->second)->generation >= change.generation) {
    change.status = NodeStatus::kStale;
    change.newest = header(found->second)->generation;
  } else if (crc32c(data, change.length_bytes) != change.crc) {
    change.status = NodeStatus::kCorrupt;
  }
  if (change.status != NodeStatus::kGood) {
    give_back(change.slot);
    change.slot = kNoSlot;
    return;
  }
  // Nothing of who had the slot before is left.
  std::memset(data + change.length_bytes, 0, kFarExtentBytes - change.length_bytes);
  media_.flush(data, kFarExtentBytes);
}

void Store::publish(const Change& change) {
  SlotHeader made{};
  made.magic = kSlotMagic;
  std::memcpy(made.arena, change.arena->uuid.data(), sizeof(made.arena));
  made.extent = change.extent;
  made.generation = change.generation;
  made.epoch = change.epoch;
  made.length_bytes = change.length_bytes;
  made.data_crc = change.crc;
  made.seal = change.seal;
  made.checksum = checksum_of(made);
  std::memcpy(header(change.slot), &made, sizeof(made));
  media_.flush(header(change.slot), sizeof(made));
}

void Store::commit(std::vector<Change>& changes) {
  auto is_write = [](const Change& change) { return change.slot != kNoSlot; };
  std::vector<bool> is_release(changes.size());
  for (size_t i = 0; i < changes.size(); i++) is_release[i] = !is_write(changes[i]);

  // 1. The bytes.  A release too needs this drain: an older generation that was let go before must
  // not come back when the newest is gone.
  for (Change& change : changes) judge(change);
  drain();

  // 2. The headers.
  for (const Change& change : changes) {
    if (is_write(change)) publish(change);
  }
  drain();

  // 3 and 4. What they replace, and what is released.
  bool is_any_released = false;
  for (size_t i = 0; i < changes.size(); i++) {
    Change& change = changes[i];
    if (change.status != NodeStatus::kGood) continue;
    NodeArena& arena = *change.arena;
    auto old = arena.extents.find(change.extent);
    if (old != arena.extents.end()) {
      arena.length_bytes -= header(old->second)->length_bytes;
      let_go(old->second);
    }
    if (is_release[i]) {
      arena.extents.erase(old);
      is_any_released = true;
    } else {
      end_lease(change.slot);
      arena.extents[change.extent] = change.slot;
      arena.length_bytes += change.length_bytes;
    }
  }
  if (is_any_released) drain();
}

const SlotHeader* Store::find(const NodeArena& arena, uint64_t extent, SlotIndex& slot) const {
  auto found = arena.extents.find(extent);
  if (found == arena.extents.end()) return nullptr;
  slot = found->second;
  return slot_headers_ + slot;
}

}  // namespace btd::tools
