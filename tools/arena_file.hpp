// What several subcommands want to know of an arena: how to open it, what state it is in, what
// lives in it, and where arenas are found.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/recovery/view.hpp"
#include "tools/text.hpp"

namespace btd::tools {

// Opens read-only.  Throws Failure with a line that says what it is, and kExitDamaged, kExitRefused
// or kExitFailed.
void open_arena(const std::string& path, ArenaView& view);
// The exit code for an open() that failed.
int exit_of(Error error);

enum class Life : uint8_t {
  kLive,     // a process holds the lock
  kClean,    // closed in good order
  kCrashed,  // its owner died
};
Life life_of(const ArenaView& view);
const char* life_text(Life life);
std::string life_coloured(Life life);

// How a crashed arena's owner died: "process", "machine" (the boot id is not today's), or "unknown"
// (it recorded none).
const char* death_of(const ArenaView& view);

std::string uuid_text(const ArenaHeader& header);
std::string program_of(const ArenaHeader& header);  // printable, whatever the bytes are
uint64_t allocated_bytes(const ArenaView& view);    // what the file takes of its file system
// Opened last, or for a dead arena the last change that the file system knows of, if later.
uint64_t last_change_s(const ArenaView& view);

struct ClassUse {
  uint64_t superblocks = 0;
  uint64_t slots = 0;
  uint64_t live = 0;
};
struct EpochUse {
  uint64_t blocks = 0;
  uint64_t bytes = 0;
};

struct Summary {
  uint64_t live_blocks = 0;
  uint64_t live_bytes = 0;  // slots and large blocks, as handed out
  uint64_t small_live_bytes = 0;
  uint64_t superblock_bytes = 0;
  uint64_t large_blocks = 0;  // live
  uint64_t large_live_bytes = 0;
  uint64_t large_extents = 0;
  uint64_t extent_frames = 0;           // in use
  uint64_t largest_free_frames = 0;     // run of free frames of one zone, never used ones included
  std::map<uint64_t, EpochUse> epochs;  // 0: kept
  std::vector<ClassUse> classes;        // by size class
};
Summary summarize(const ArenaView& view);

// Paths of the arenas to list: files as they are, directories' files, patterns.  With no argument,
// the places where arenas are by default and where BARTENDER_ARENA puts them.
struct Place {
  std::string path;
  bool is_named;  // the user asked for this very file: say why if it is no arena
};
std::vector<Place> find_arenas(const std::vector<std::string>& arguments);

}  // namespace btd::tools
