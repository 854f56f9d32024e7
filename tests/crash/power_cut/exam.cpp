// Recovers an image and compares it with what the program knows, in a process that has seen
// nothing.
//
// For every image:
//   1. it opens, or is made anew where no arena was yet;
//   2. blocks, roots and words are those of one world, all of them: in `strict` the live blocks are
//      exactly that world's, in `lazy` exactly those its roots lead to;
//   3. no two extents overlap; every frame is in an extent or free: none leaks;
//   4. a second recovery gives the same;
//   5. (some images) new blocks overlap no live one, and a transaction still commits.
#include <cstdio>
#include <new>

#include "core/recovery/open.hpp"
#include "core/tx/roots.hpp"
#include "core/tx/transaction.hpp"
#include "tests/crash/power_cut/sim_persist.hpp"
#include "tests/crash/power_cut/world.hpp"

namespace btd::test {
namespace {

// Tells the arena that it is strict, and does nothing.
class Nothing final : public Persist {
 public:
  void flush(const void*, size_t) noexcept override {}
  void drain() noexcept override {}
};

struct Found {
  uint64_t offset;
  uint64_t size_bytes;
};

// One opening of the arena, in place for ever: its destructor would run at no good time.
struct Opened {
  Arena arena;
  Roots roots;
  Transactions transactions;
  std::vector<Found> blocks;
};

class Examiner {
 public:
  Examiner(Exam& exam, Trace& trace, Sites& sites) : exam_(exam), trace_(trace), sites_(sites) {}

  bool run() {
    static Opened first, second;
    if (!open(first, exam_.records != 0) || !look(first) ||
        !match(first, (1u << exam_.world_count) - 1))
      return false;
    first.arena.close();
    if (!open(second, false) || !look(second) || !match(second, exam_.matched))
      return tell("second recovery: ");
    if (exam_.exercises && !exercise(second)) return false;
    return true;
  }

 private:
  bool fail(const char* format, uint64_t a = 0, uint64_t b = 0, uint64_t c = 0) {
    std::snprintf(exam_.fault, sizeof(exam_.fault), format, static_cast<unsigned long long>(a),
                  static_cast<unsigned long long>(b), static_cast<unsigned long long>(c));
    return false;
  }
  bool tell(const char* when) {
    char text[sizeof(exam_.fault)];
    std::snprintf(text, sizeof(text), "%s%.500s", when, exam_.fault);
    std::memcpy(exam_.fault, text, sizeof(text));
    return false;
  }

  bool open(Opened& opened, bool records) {
    static Nothing nothing;
    bool has_states = exam_.is_strict || exam_.becomes_strict;
    Line why;
    OpenRequest request{.path = exam_.path,
                        .capacity_bytes = kCapacityBytesMin,
                        .on_restart = OnRestart::kKeep,
                        .durability = has_states ? Durability::kStrict : Durability::kLazy,
                        .program = "exam"};
    Error error;
    if (records) {
      trace_.clear();
      SimPersist sim(exam_.path, opened.arena, trace_, sites_);
      request.structures = &sim;
      request.states = has_states ? static_cast<Persist*>(&sim) : &process_persist();
      sim.begin_call(0);
      error = open_arena(request, opened.arena, why);
      sim.end_call();
    } else {
      request.structures = &nothing;
      request.states = has_states ? static_cast<Persist*>(&nothing) : &process_persist();
      error = open_arena(request, opened.arena, why);
    }
    opened.arena.set_persist(nothing,
                             has_states ? static_cast<Persist&>(nothing) : process_persist());
    if (error != Error::kNone) {
      std::snprintf(exam_.fault, sizeof(exam_.fault), "recovery refuses: %s", why.c_str());
      return false;
    }
    opened.roots.open(opened.arena);
    opened.transactions.open(opened.arena);
    return true;
  }

  // Walks the frame headers and states by itself, as docs/format.md has them.
  bool look(Opened& opened) {
    opened.blocks.clear();
    const ArenaHeader& header = opened.arena.header();
    auto* headers = reinterpret_cast<const FrameHeader*>(
        opened.arena.mapping().address(header.frame_header_offset));
    uint64_t frames_used = 0;
    struct {
      uint64_t first, end;
      bool is_fine;
    } zones[] = {{0, header.coarse_frames_grown, false},
                 {header.coarse_frame_count,
                  uint64_t{header.coarse_frame_count} + header.fine_frames_grown, true}};
    for (const auto& zone : zones) {
      for (uint64_t frame = zone.first; frame < zone.end;) {
        Descriptor descriptor = headers[frame].descriptor;
        if (descriptor.frame_count == 0) {
          if (!look_at_no_slots(opened, frame, zone.is_fine, zone.first)) return false;
          frame++;
          continue;
        }
        if (frame + descriptor.frame_count > zone.end)
          return fail("the extent at frame %llu ends past its zone", frame);
        for (uint64_t inner = 1; inner < descriptor.frame_count; inner++) {
          if (headers[frame + inner].descriptor.frame_count != 0)
            return fail("two owners: frames %llu and %llu", frame, frame + inner);
        }
        if (descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge)) {
          for (uint64_t inner = 0; inner < descriptor.frame_count; inner++) {
            if (!look_at_no_slots(opened, frame + inner, zone.is_fine, zone.first)) return false;
          }
          look_at_large(opened, headers[frame], frame);
        } else if (!look_at_superblock(opened, descriptor, frame, zone.is_fine, zone.first)) {
          return false;
        }
        frames_used += descriptor.frame_count;
        frame += descriptor.frame_count;
      }
    }
    Usage usage = opened.arena.usage();
    if (frames_used * kFrameBytes + usage.free_bytes != usage.grown_bytes)
      return fail("frames leak: %llu in use, %llu bytes free, %llu grown", frames_used,
                  usage.free_bytes, usage.grown_bytes);
    return true;
  }

  // Whoever carves a superblock out of the frame takes its states to be free.
  bool look_at_no_slots(Opened& opened, uint64_t frame, bool is_fine, uint64_t zone_first) {
    const uint8_t* states = states_of(opened, frame, is_fine, zone_first);
    for (uint64_t granule = 0; granule < (is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame);
         granule++) {
      if (states[granule] != kStateFree)
        return fail("a state in frame %llu, which is in no superblock: granule %llu", frame,
                    granule);
    }
    return true;
  }

  static const uint8_t* states_of(Opened& opened, uint64_t frame, bool is_fine,
                                  uint64_t zone_first) {
    const ArenaHeader& header = opened.arena.header();
    uint64_t offset = is_fine ? header.fine_state_offset : header.coarse_state_offset;
    return reinterpret_cast<const uint8_t*>(opened.arena.mapping().address(offset)) +
           (frame - zone_first) * (is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame);
  }

  void look_at_large(Opened& opened, const FrameHeader& head, uint64_t frame) {
    if (head.state == 0) return;
    const ArenaHeader& header = opened.arena.header();
    opened.blocks.push_back({header.data_offset + frame * kFrameBytes,
                             head.descriptor.frame_count * kFrameBytes -
                                 uint64_t{head.descriptor.detail} * header.page_bytes});
  }

  bool look_at_superblock(Opened& opened, Descriptor descriptor, uint64_t frame, bool is_fine,
                          uint64_t zone_first) {
    const ArenaHeader& header = opened.arena.header();
    const SizeClassInfo& info = kSizeClasses[descriptor.detail];
    if (info.is_fine != is_fine || info.frame_count != descriptor.frame_count)
      return fail("the superblock at frame %llu is of a class of another zone or size", frame);
    uint64_t per_frame = is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame;
    const uint8_t* states = states_of(opened, frame, is_fine, zone_first);
    for (uint64_t granule = 0; granule < descriptor.frame_count * per_frame; granule++) {
      if (states[granule] == kStateFree) continue;
      uint64_t slot = granule / info.granules;
      if (granule % info.granules != 0 || slot >= info.slot_count)
        return fail("a state where no slot is: frame %llu, granule %llu", frame, granule);
      if (!is_live(states[granule]))
        return fail("state %llu in frame %llu, granule %llu", states[granule], frame, granule);
      opened.blocks.push_back(
          {header.data_offset + frame * kFrameBytes + slot * info.slot_bytes, info.slot_bytes});
    }
    return true;
  }

  // Sets exam_.matched.
  bool match(Opened& opened, uint32_t candidates) {
    uint32_t matched = 0;
    char faults[2][sizeof(exam_.fault) / 2] = {};
    for (uint32_t i = 0; i < exam_.world_count; i++) {
      if (!(candidates >> i & 1)) continue;
      exam_.fault[0] = '\0';
      if (is_world(opened, exam_.worlds[i])) matched |= 1u << i;
      std::memcpy(faults[i], exam_.fault, sizeof(faults[i]) - 1);
    }
    exam_.fault[0] = '\0';
    exam_.matched = matched;
    if (matched != 0) return true;
    std::snprintf(exam_.fault, sizeof(exam_.fault), "before the call: %.250s; after it: %.250s",
                  candidates & 1 ? faults[0] : "-",
                  candidates & 2 ? faults[1] : (exam_.world_count == 1 ? "the same" : "-"));
    return false;
  }

  bool is_world(Opened& opened, const World& world) {
    uint64_t expected = 0;
    for (uint32_t i = 0; i < world.block_count; i++) {
      const World::Block& block = world.blocks[i];
      if (!exam_.is_strict && !block.is_reachable) continue;
      const Found* found = find(opened, block.offset);
      if (found == nullptr && block.may_be_gone) continue;
      expected++;
      if (found == nullptr)
        return fail("lost: the block of %llu bytes at 0x%llx", block.size_bytes, block.offset);
      if (found->size_bytes != block.size_bytes)
        return fail("the block at 0x%llx has %llu bytes, not %llu", block.offset, found->size_bytes,
                    block.size_bytes);
      auto* address = opened.arena.mapping().address(block.offset);
      if (opened.arena.look_up(address) != Verdict::kGood ||
          opened.arena.usable_size(address) != block.size_bytes)
        return fail("the arena does not know the block at 0x%llx", block.offset);
    }
    // Where there was never a root the states alone tell what is left for salvage.
    bool is_salvaged = !exam_.is_strict && opened.arena.header().roots_grown == 0;
    for (const Found& found : opened.blocks) {
      bool is_known = is_salvaged;
      for (uint32_t i = 0; i < world.block_count && !is_known; i++) {
        is_known = world.blocks[i].offset == found.offset &&
                   (exam_.is_strict || world.blocks[i].is_reachable);
      }
      if (!is_known)
        return fail("live, but nobody's: %llu bytes at 0x%llx", found.size_bytes, found.offset);
    }
    if (!is_salvaged && opened.blocks.size() != expected)
      return fail("%llu blocks, not %llu", opened.blocks.size(), expected);
    for (uint32_t i = 0; i < kRoots; i++) {
      auto* value = static_cast<char*>(opened.roots.get(root_name(i).c_str(), nullptr));
      uint64_t offset = value == nullptr ? 0 : opened.arena.offset_of(value);
      if (offset != world.roots[i])
        return fail("root %llu is 0x%llx, not 0x%llx", i, offset, world.roots[i]);
    }
    for (uint32_t i = 0; i < world.word_count; i++) {
      const World::Word& word = world.words[i];
      if ((!exam_.is_strict || is_leaving(world, word.offset)) && !is_reachable(world, word.offset))
        continue;
      uint64_t value;
      std::memcpy(&value, opened.arena.mapping().address(word.offset), sizeof(value));
      if (value != word.value && value != word.other)
        return fail("the word at 0x%llx is 0x%llx, not 0x%llx", word.offset, value, word.value);
    }
    return true;
  }

  static bool is_leaving(const World& world, uint64_t offset) {
    for (uint32_t i = 0; i < world.block_count; i++) {
      const World::Block& block = world.blocks[i];
      if (offset >= block.offset && offset < block.offset + block.size_bytes)
        return block.may_be_gone;
    }
    return false;
  }

  static bool is_reachable(const World& world, uint64_t offset) {
    for (uint32_t i = 0; i < world.block_count; i++) {
      const World::Block& block = world.blocks[i];
      if (offset >= block.offset && offset < block.offset + block.size_bytes)
        return block.is_reachable;
    }
    return true;
  }

  static const Found* find(const Opened& opened, uint64_t offset) {
    for (const Found& found : opened.blocks) {
      if (found.offset == offset) return &found;
    }
    return nullptr;
  }

  bool exercise(Opened& opened) {
    static constexpr size_t kSizes[] = {16, 48, 64, 320, 4096, 32768, 40000, 131072};
    Arena& arena = opened.arena;
    Heap* heap = arena.acquire_heap();
    if (heap == nullptr) return fail("the recovered arena gives no heap");
    for (size_t size_bytes : kSizes) {
      for (int i = 0; i < 2; i++) {
        bool in_transaction = i == 1;
        void* block;
        if (in_transaction) {
          Transaction* transaction = opened.transactions.begin();
          if (transaction == nullptr) return fail("the recovered arena gives no transaction");
          Error error = Error::kNone;
          block = transaction->allocate(heap->cache(), size_bytes, 16, nullptr, &error);
          error = transaction->commit(heap->cache());
          if (error != Error::kNone)
            return fail("a transaction in the recovered arena does not commit: %llu",
                        static_cast<uint64_t>(error));
        } else {
          block = arena.allocate(heap->cache(), size_bytes, 16, nullptr);
        }
        if (block == nullptr) continue;
        uint64_t at = arena.offset_of(block);
        for (const Found& found : opened.blocks) {
          if (at < found.offset + found.size_bytes && found.offset < at + size_bytes)
            return fail("the recovered arena gives out the live block at 0x%llx", found.offset);
        }
        opened.blocks.push_back({at, size_bytes});
        std::memset(block, 0x5A, 16);
      }
    }
    return true;
  }

  Exam& exam_;
  Trace& trace_;
  Sites& sites_;
};

}  // namespace

void take_exam(Exam& exam, Trace& trace, Sites& sites) {
  exam.fault[0] = '\0';
  exam.matched = 0;
  Examiner(exam, trace, sites).run();
}

}  // namespace btd::test
