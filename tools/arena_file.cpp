#include "tools/arena_file.hpp"

#include <fmt/core.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>

#include "core/base/config.hpp"
#include "tools/progress.hpp"
#include "tools/tool.hpp"

namespace btd::tools {

int exit_of(Error error) {
  switch (error) {
    case Error::kNone:
      return kExitOk;
    case Error::kCorrupt:
      return kExitDamaged;
    case Error::kForeign:
    case Error::kNewer:
    case Error::kMismatch:
    case Error::kUnsupported:
    case Error::kInUse:
      return kExitRefused;
    default:
      return kExitFailed;
  }
}

void open_arena(const std::string& path, ArenaView& view) {
  Error error = ArenaView::open(path.c_str(), view);
  if (error == Error::kNone) return;
  const char* next = "`bartender ls` lists arenas";
  if (error == Error::kNewer) next = "use the bartender that made it";
  if (error == Error::kCorrupt) next = "keep the file, its data may still be read by other means";
  if (error == Error::kPermission) next = "ask its owner";
  throw Failure{exit_of(error), fmt::format("{}: {}; nothing was changed; {}", printable(path),
                                            fault_text(view.fault()), next)};
}

Life life_of(const ArenaView& view) {
  if (view.is_live()) return Life::kLive;
  return view.header().state == static_cast<uint32_t>(ArenaState::kClean) ? Life::kClean
                                                                          : Life::kCrashed;
}

const char* life_text(Life life) {
  return life == Life::kLive ? "live" : life == Life::kClean ? "clean" : "crashed";
}

std::string life_coloured(Life life) {
  const char* text = life_text(life);
  return life == Life::kLive ? green(text) : life == Life::kClean ? text : red(text);
}

const char* death_of(const ArenaView& view) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string text;
  std::getline(file, text);
  std::erase(text, '-');
  std::string recorded;
  for (uint8_t byte : view.header().boot_id) recorded += fmt::format("{:02x}", byte);
  if (recorded.find_first_not_of('0') == std::string::npos) return "unknown";
  return text == recorded ? "process" : "machine";
}

std::string uuid_text(const ArenaHeader& header) {
  std::string text;
  for (size_t i = 0; i < sizeof(header.uuid); i++) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", header.uuid[i]);
  }
  return text;
}

std::string program_of(const ArenaHeader& header) {
  return printable(std::string(header.program, strnlen(header.program, sizeof(header.program))));
}

uint64_t allocated_bytes(const ArenaView& view) {
  struct stat status {};
  if (fstat(view.descriptor(), &status) != 0) return 0;
  return S_ISCHR(status.st_mode) ? view.file_size_bytes()
                                 : static_cast<uint64_t>(status.st_blocks) * 512;
}

uint64_t last_change_s(const ArenaView& view) {
  struct stat status {};
  uint64_t changed_s = fstat(view.descriptor(), &status) == 0 && S_ISREG(status.st_mode)
                           ? static_cast<uint64_t>(std::max<time_t>(status.st_mtime, 0))
                           : 0;
  return std::max(changed_s, view.header().opened_s);
}

Summary summarize(const ArenaView& view) {
  Progress progress("reading the arena");
  Summary summary;
  summary.classes.resize(kSizeClassCount);
  uint64_t free_from = 0;
  // A run of free frames ends at an extent in use, at the zone's end and at the data's end.
  auto free_until = [&](uint64_t frame) {
    for (const ZoneFrames& zone : zones_of(view.header())) {
      if (free_from >= zone.first || frame <= zone.first) continue;
      summary.largest_free_frames = std::max(summary.largest_free_frames, zone.first - free_from);
      free_from = zone.first;
    }
    if (frame > free_from)
      summary.largest_free_frames = std::max(summary.largest_free_frames, frame - free_from);
  };
  view.for_each_extent([&](const Extent& extent) {
    progress.update(extent.first_frame, view.frame_count());
    free_until(extent.first_frame);
    free_from = extent.first_frame + extent.frame_count;
    summary.extent_frames += extent.frame_count;
    bool is_large = extent.kind == ExtentKind::kLarge;
    if (is_large) {
      summary.large_extents++;
    } else {
      summary.superblock_bytes += extent.frame_count * kFrameBytes;
      summary.classes[extent.size_class].superblocks++;
      summary.classes[extent.size_class].slots += kSizeClasses[extent.size_class].slot_count;
    }
    view.for_each_block_of(extent, [&](const Block& block) {
      summary.live_blocks++;
      summary.live_bytes += block.size_bytes;
      EpochUse& epoch = summary.epochs[block.epoch];
      epoch.blocks++;
      epoch.bytes += block.size_bytes;
      if (is_large) {
        summary.large_blocks++;
        summary.large_live_bytes += block.size_bytes;
      } else {
        summary.classes[extent.size_class].live++;
        summary.small_live_bytes += block.size_bytes;
      }
    });
  });
  free_until(view.frame_count());
  return summary;
}

namespace {

void add_pattern(const std::string& pattern, std::vector<Place>& places) {
  glob_t found{};
  if (glob(pattern.c_str(), 0, nullptr, &found) == 0) {
    for (size_t i = 0; i < found.gl_pathc; i++) places.push_back({found.gl_pathv[i], false});
  }
  globfree(&found);
}

void add_directory(const std::string& directory, std::vector<Place>& places) {
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  std::vector<std::string> paths;
  for (; !error && entries != std::filesystem::directory_iterator(); entries.increment(error)) {
    std::error_code ignored;
    if (entries->is_regular_file(ignored) && !entries->is_symlink(ignored))
      paths.push_back(entries->path());
  }
  std::sort(paths.begin(), paths.end());
  for (std::string& path : paths) places.push_back({std::move(path), false});
}

// The glob(7) pattern that matches every name which the setting ARENA can give in this user's
// hands.
std::string glob_of_setting(const char* arena) {
  std::string pattern;
  for (const char* at = arena; *at != '\0'; at++) {
    if (*at != '%') {
      if (std::strchr("*?[\\", *at) != nullptr) pattern += '\\';
      pattern += *at;
      continue;
    }
    at++;
    if (*at == '\0') break;
    pattern += *at == 'u' ? std::to_string(getuid()) : *at == '%' ? "%" : "*";
  }
  return pattern;
}

void add_default_places(std::vector<Place>& places) {
  add_directory(fmt::format("/dev/shm/bartender-{}", getuid()), places);
  const char* state_home = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  if (state_home != nullptr && *state_home == '/') {
    add_directory(std::string(state_home) + "/bartender", places);
  } else if (home != nullptr && *home == '/') {
    add_directory(std::string(home) + "/.local/state/bartender", places);
  }
  if (const char* arena = std::getenv("BARTENDER_ARENA"); arena != nullptr && *arena != '\0') {
    add_pattern(glob_of_setting(arena), places);
  }
}

}  // namespace

std::vector<Place> find_arenas(const std::vector<std::string>& arguments) {
  std::vector<Place> places;
  if (arguments.empty()) add_default_places(places);
  for (const std::string& argument : arguments) {
    struct stat status {};
    if (lstat(argument.c_str(), &status) == 0) {
      if (S_ISDIR(status.st_mode)) {
        add_directory(argument, places);
      } else {
        places.push_back({argument, true});
      }
    } else if (argument.find_first_of("*?[") != std::string::npos) {
      add_pattern(argument, places);
    } else {
      places.push_back({argument, true});
    }
  }
  // The default place and BARTENDER_ARENA often name the same files.
  std::set<std::string> seen;
  std::erase_if(places, [&](const Place& place) { return !seen.insert(place.path).second; });
  return places;
}

}  // namespace btd::tools
