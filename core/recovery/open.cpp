#include "core/recovery/open.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <cstring>
#include <new>

#include "core/base/sys.hpp"
#include "core/gc/collector.hpp"
#include "core/persist/durability.hpp"
#include "core/persist/layout.hpp"
#include "core/recovery/boot.hpp"
#include "core/recovery/view.hpp"
#include "core/tx/replay.hpp"

namespace btd {
namespace {

// Epochs may differ by at most this much before the oldest are retired: well before their tags come
// round again (kTagMax).
constexpr uint64_t kEpochSpanMax = 240;
constexpr uint64_t kEpochSpanKept = 200;

constexpr size_t kReadBytes = 512;

// Too large for the stack of a small thread, which may be the one to open the arena; and not an
// object with a destructor, which would run while the program still allocates.
alignas(ArenaView) char view_storage[sizeof(ArenaView)];
ArenaView& view = reinterpret_cast<ArenaView&>(view_storage);

uint64_t start_ticks_of_self() {
  char text[1024];
  if (sys::read_file("/proc/self/stat", text, sizeof(text)) <= 0) return 0;
  // The name in parentheses may hold anything; field 22 is the 20th after it.
  const char* at = std::strrchr(text, ')');
  for (int field = 0; at != nullptr && field < 20; field++) at = std::strchr(at + 1, ' ');
  uint64_t ticks = 0;
  for (at = at == nullptr ? "" : at + 1; *at >= '0' && *at <= '9'; at++)
    ticks = ticks * 10 + static_cast<uint64_t>(*at - '0');
  return ticks;
}

void name_owner(ArenaHeader& header, const OpenRequest& request) {
  header.state = static_cast<uint32_t>(ArenaState::kOpen);
  header.pid = static_cast<uint32_t>(getpid());
  header.pid_start_ticks = start_ticks_of_self();
  boot_id_of_machine(header.boot_id);
  header.opened_s = sys::wall_clock_s();
  std::memset(header.program, 0, sizeof(header.program));
  std::memcpy(header.program, request.program,
              min(std::strlen(request.program), sizeof(header.program) - 1));
  header.durability = static_cast<uint32_t>(request.durability);
}

Error refuse(Line& why, const char* path, Error error, const char* reason, const char* advice) {
  why.text(path).text(": ").text(reason).text("; nothing was written to it; ").text(advice);
  return error;
}

Error refuse_mapping(Line& why, const char* path, Error error) {
  switch (error) {
    case Error::kInUse: {
      why.text(path).text(": in use");
      if (ArenaView::open(path, view) == Error::kNone) {
        why.text(" by process ")
            .number(view.header().pid)
            .text(" (")
            .text(view.header().program)
            .text(")");
      }
      view.close();
      why.text(
          "; it was left alone; wait for it to end, or choose another BARTENDER_ARENA (a pattern "
          "with %n takes the next free name)");
      return error;
    }
    case Error::kUnsupported:
      return refuse(
          why, path, error,
          "cannot hold an arena: it is a directory, a link, a FIFO or a device without DAX",
          "set BARTENDER_ARENA to the path of a file");
    case Error::kPermission:
      return refuse(why, path, error, "access is refused",
                    "set BARTENDER_ARENA to a file that you may write");
    case Error::kNotFound:
      return refuse(why, path, error, "its directory does not exist",
                    "make the directory, or set BARTENDER_ARENA to another");
    case Error::kSandboxed:
      return refuse(why, path, error, "a system call filter forbids to make it",
                    "start the program without its sandbox to have an arena");
    case Error::kNoSpace:
      return refuse(why, path, error, "the file system has no room for it",
                    "free space there, or set BARTENDER_ARENA to another place");
    case Error::kNoMemory:
      return refuse(why, path, error, "the kernel refuses the address space",
                    "raise ulimit -v, or set a smaller BARTENDER_SIZE");
    case Error::kAddressTaken:
      return refuse(why, path, error, "its fixed address is occupied in this process",
                    "read it with bartender salvage, then remove it with bartender rm");
    default:
      return refuse(why, path, error, "the kernel refuses it",
                    "see dmesg, or set BARTENDER_ARENA to another place");
  }
}

// A file or device that holds nothing, or an arena whose making was cut short: then copy B of the
// header is still zero, and copy A begins with the magic or is zero too.  Anything else is
// somebody's.
bool is_never_used(const Mapping& mapping) {
  if (mapping.length_bytes() == 0) return true;
  bool is_device = mapping.backend() == Backend::kDevdax;
  if (!is_device && !mapping.is_hole_from(2 * kArenaHeaderBytes)) return false;
  for (uint64_t at = 0; at < 2 * kArenaHeaderBytes; at += kReadBytes) {
    uint64_t words[kReadBytes / sizeof(uint64_t)];
    if (!mapping.read(at, words, sizeof(words))) return false;
    if (at == 0 && words[0] == kArenaMagic && !is_device) {
      at = kArenaHeaderBytes - kReadBytes;  // on to copy B
      continue;
    }
    for (uint64_t word : words) {
      if (word != 0) return false;
    }
  }
  return true;
}

// The far tier, if the arena is to have one.  Only if it holds data the arena cannot do without:
// then `why` says what is missing.
Error open_far(const OpenRequest& request, Arena& arena, bool has_data, Line* why = nullptr) {
  const ArenaHeader& header = arena.header();
  Line reason;
  Error error = Error::kNone;
  if (request.durability != Durability::kProcess) {
    reason.text(request.path)
        .text(
            ": far memory survives the death of a process, not of the machine; set "
            "BARTENDER_DURABILITY=process");
    error = Error::kInvalid;
  } else if (arena.far_bytes() == 0) {
    reason.text(request.path)
        .text(": an arena that was made without memory nodes, or on a device, has none");
    error = Error::kUnsupported;
  } else if (request.far == nullptr) {
    reason.text(request.path)
        .text(
            ": some of its data is on memory nodes; set BARTENDER_NODES and BARTENDER_KEY_FILE, or "
            "nodes= and key_file= of its uri, as they were");
    error = Error::kInvalid;
  } else {
    FarPlace place{request.path,
                   arena.mapping().backend() == Backend::kTmpfs,
                   arena.far_address(),
                   arena.far_bytes(),
                   {},
                   epoch_for_nodes(header),
                   has_data,
                   !is_other_boot(header)};
    std::memcpy(place.uuid, header.uuid, sizeof(place.uuid));
    error = request.far->open(place, reason);
    if (error == Error::kNone) {
      arena.set_far(*request.far, request.far->near_zone_bytes(),
                    request.far->settings().small_too);
      return error;
    }
  }
  if (has_data) {
    *why = reason;
    why->text("; nothing was changed");
    return error;
  }
  // Sandboxes of helpers are no error of anybody's.
  LogLevel level = error == Error::kSandboxed ? LogLevel::kInfo : LogLevel::kError;
  if (request.far != nullptr) reason.text("; all stays near").write(level);
  return Error::kNone;
}

Error create(const OpenRequest& request, const Mapping& mapping, Arena& arena, Line& why) {
  uint64_t capacity_bytes = request.capacity_bytes;
  if (mapping.backend() == Backend::kDevdax) capacity_bytes = mapping.length_bytes();
  // Of a bounded address space the program needs the larger part itself.
  rlimit limit{};
  if (::getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
    capacity_bytes =
        max(kCapacityBytesMin, min<uint64_t>(capacity_bytes, round_down(limit.rlim_cur / 8, kMiB)));
  }
  bool wants_far = request.far != nullptr && request.far->is_for_new_arenas();
  bool may_have_far = wants_far && request.durability == Durability::kProcess &&
                      mapping.backend() != Backend::kDevdax;
  for (;;) {
    Error error = arena.create(mapping, capacity_bytes, request.keep_from_children,
                               may_have_far ? capacity_bytes : 0);
    if (error == Error::kNone) {
      if (wants_far) open_far(request, arena, false);
      return error;
    }
    // ulimit -v, valgrind, file size limits: a smaller arena is better than none.
    bool is_too_large = error == Error::kNoSpace || error == Error::kNoMemory;
    if (!is_too_large || capacity_bytes / 2 < kCapacityBytesMin)
      return refuse_mapping(why, request.path, error);
    capacity_bytes /= 2;
  }
}

Error damaged_frame(Line& why, const char* path, uint64_t frame, const char* what) {
  why.text(path)
      .text(": frame ")
      .number(frame)
      .text(": ")
      .text(what)
      .text("; nothing was written to it; look with `bartender check ")
      .text(path)
      .text("`, mend a copy with --repair --to COPY");
  return Error::kCorrupt;
}

// Checks every frame header that adopt() will trust.  Writes nothing.
Error validate_frames(const FrameHeader* headers, const char* path, Line& why) {
  for (const ZoneFrames& zone : zones_of(view.header())) {
    uint64_t end = zone.end_grown();
    uint64_t extent_end = zone.first;
    for (uint64_t frame = zone.first; frame < end; frame++) {
      const FrameHeader& media = headers[frame];
      uint64_t word;
      std::memcpy(&word, &media.descriptor, sizeof(word));
      if (word == 0) continue;
      if (frame < extent_end)
        return damaged_frame(why, path, frame, "it claims to start inside another extent");
      Extent extent;
      if (const char* fault = view.parse(media, frame, end, extent))
        return damaged_frame(why, path, frame, fault);
      if (const char* fault = view.body_fault(media)) return damaged_frame(why, path, frame, fault);
      if (extent.kind == ExtentKind::kLarge && !is_large_state_valid(media.state)) {
        return damaged_frame(why, path, frame, "the state of its block is damaged");
      }
      extent_end = frame + extent.frame_count;
    }
  }
  return Error::kNone;
}

// Tells the arena of every extent and every run of free frames.
// ERRORS: kNoMemory: the kernel refuses DRAM.
//
// The only stores to media are descriptors of large extents without a block: an allocation that was
// cut short before its commit, or a free after it.  They are flushed, and durable with the header
// update that ends recovery, before a frame is used again: a head that came back inside another
// extent would make the arena unreadable.
Error adopt_frames(FrameHeader* headers, Arena& arena) {
  for (const ZoneFrames& zone : zones_of(view.header())) {
    auto frame = static_cast<uint32_t>(zone.first);
    auto end = static_cast<uint32_t>(zone.end_grown());
    uint32_t free_from = frame;
    auto end_of_free = [&](uint32_t next) {
      if (next > free_from) arena.adopt_free(free_from, next - free_from);
    };
    while (frame < end) {
      Descriptor descriptor = headers[frame].descriptor;
      bool is_large = descriptor.kind == static_cast<uint8_t>(ExtentKind::kLarge);
      if (is_large && headers[frame].state == 0) {
        publish(&headers[frame].descriptor, Descriptor{});
        arena.persist().flush(&headers[frame].descriptor, sizeof(Descriptor));
        descriptor = {};
      }
      if (descriptor.frame_count == 0) {
        frame++;
        continue;
      }
      end_of_free(frame);
      if (is_large) {
        arena.adopt_large(frame);
      } else if (!arena.adopt_superblock(frame, descriptor.detail)) {
        return Error::kNoMemory;
      }
      arena.note_survivors();
      frame += descriptor.frame_count;
      free_from = frame;
    }
    end_of_free(end);
  }
  // A descriptor that came back over power loss would lie inside whatever takes its frames next.
  arena.persist().drain();
  return Error::kNone;
}

// After the death of the machine states are only as good as the durability they were stored with.
Error distrust_states(Arena& arena, Line& why, const char* path) {
  const ArenaHeader& header = arena.header();
  if (!are_states_doubtful(header)) return Error::kNone;
  GcResult result{};
  Error error = collect_untrusted(header, arena.mapping().address(), arena.persist(), result);
  if (error != Error::kNone) return refuse_mapping(why, path, error);
  Line()
      .text(path)
      .text(": the machine died; ")
      .number(result.kept_blocks)
      .text(" blocks (")
      .size(result.kept_bytes)
      .text(") were kept, ")
      .number(result.freed_blocks)
      .text(" that no root leads to are free")
      .write(LogLevel::kInfo);
  return Error::kNone;
}

Error recover(const OpenRequest& request, const Mapping& mapping, Arena& arena, Line& why) {
  if (Error error = ArenaView::open(request.path, view); error != Error::kNone) {
    return refuse(
        why, request.path, error, fault_text(view.fault()),
        error == Error::kCorrupt
            ? "look with bartender check, mend a copy with bartender check --repair --to COPY"
            : "set BARTENDER_ARENA to another path");
  }
  int damaged = view.damaged_copy();
  if (damaged >= 0 && view.copy_state(damaged) == ArenaView::CopyState::kBad) {
    Line()
        .text(request.path)
        .text(": copy ")
        .text(damaged == 0 ? "A" : "B")
        .text(" of the arena header was damaged; it was restored from the other")
        .write(LogLevel::kInfo);
  }
  if (Error error = arena.attach(mapping, view.header(), request.keep_from_children);
      error != Error::kNone) {
    return refuse_mapping(why, request.path, error);
  }
  auto* headers =
      reinterpret_cast<FrameHeader*>(arena.mapping().address(view.header().frame_header_offset));
  if (Error error = validate_frames(headers, request.path, why); error != Error::kNone)
    return error;

  // From here on the arena is understood, and written to.  First copy B, if it is not good: the
  // next update overwrites copy A, and a kill in the middle of that must find a whole B.
  if (damaged == 1) arena.mend_header_copy();
  bool has_far_data = view.header().far_frames_grown > 0;
  if (has_far_data || request.far != nullptr) {
    if (Error error = open_far(request, arena, has_far_data, &why); error != Error::kNone)
      return error;
  }
  // What a life of a lower level left is durable against the death of a process only; and so is
  // what a kill left between a store and its flush.
  bool is_crashed = view.header().state == static_cast<uint32_t>(ArenaState::kOpen);
  if (request.durability != Durability::kProcess &&
      (is_crashed || static_cast<uint32_t>(request.durability) > view.header().durability))
    arena.persist_metadata();
  // Transactions before the frames: their logs may lie in extents without a live block.
  Replayed replayed;
  if (Error error = replay_lanes(arena, replayed); error != Error::kNone) {
    return refuse(why, request.path, error, "a transaction's log names what no transaction changes",
                  "look with bartender check, read it with bartender salvage");
  }
  if (replayed.committed + replayed.aborted > 0) {
    Line()
        .text(request.path)
        .text(": ")
        .number(replayed.committed)
        .text(" transactions were completed, ")
        .number(replayed.aborted)
        .text(" undone")
        .write(LogLevel::kInfo);
  }
  if (Error error = distrust_states(arena, why, request.path); error != Error::kNone) return error;
  if (Error error = adopt_frames(headers, arena); error != Error::kNone) {
    return refuse_mapping(why, request.path, error);
  }
  arena.may_reclaim_survivors = request.on_restart != OnRestart::kKeep;
  arena.retire_epochs(kEpochSpanMax, kEpochSpanKept);
  return Error::kNone;
}

}  // namespace

uint64_t epoch_for_nodes(const ArenaHeader& header) {
  constexpr unsigned kTimeBits = 40;
  return (header.epoch + 1) << kTimeBits |
         (sys::wall_clock_ms() & ((uint64_t{1} << kTimeBits) - 1));
}

Error open_arena(const OpenRequest& request, Arena& arena, Line& why) {
  ::new (static_cast<void*>(view_storage)) ArenaView;
  Mapping mapping;
  if (request.is_beside) mapping.stand_beside();
  Error error = mapping.open(request.path, request.may_create);
  if (error != Error::kNone) return refuse_mapping(why, request.path, error);
  bool is_new = is_never_used(mapping);
  if (!is_new && request.on_restart == OnRestart::kDiscard &&
      ArenaView::open(request.path, view) == Error::kNone) {
    if (mapping.backend() == Backend::kDevdax) {
      is_new = true;
    } else {
      mapping.unlink();
      mapping.close();
      error = mapping.open(request.path, request.may_create);
      if (error != Error::kNone) return refuse_mapping(why, request.path, error);
      is_new = is_never_used(mapping);
    }
  }
  Persistence persistence = choose_persist(mapping.backend(), request.durability);
  arena.set_persist(persistence.structures, persistence.states);
  if (request.structures != nullptr) arena.set_persist(*request.structures, *request.states);
  error = is_new ? create(request, mapping, arena, why) : recover(request, mapping, arena, why);
  // Before it holds anything that should outlive the machine.
  if (error == Error::kNone && request.durability != Durability::kProcess) {
    error = arena.mapping().make_name_durable();
    if (error != Error::kNone) refuse_mapping(why, request.path, error);
  }
  view.close();
  if (error != Error::kNone) {
    if (arena.mapping().path()[0] == '\0') mapping.close();
    if (request.far != nullptr) request.far->close();
    arena.close();
    return error;
  }
  arena.update_header([&](ArenaHeader& header) {
    header.magic = kArenaMagic;  // with it a new arena begins to exist
    header.epoch++;
    name_owner(header, request);
  });
  arena.start();
  return Error::kNone;
}

}  // namespace btd
