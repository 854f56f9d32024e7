#include "core/recovery/place.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "core/base/path_builder.hpp"
#include "core/base/sys.hpp"
#include "core/recovery/open.hpp"

namespace btd {
namespace {

constexpr unsigned kNumbersMax = 1000;
constexpr char kStatePattern[] = "/bartender/%e%n.arena";

// Makes the directory of `path` if it is missing, and its parents if `with_parents`.  False: it is
// not ours alone.
bool prepare_directory(const char* path, bool with_parents) {
  char directory[kSettingTextBytes];
  std::strncpy(directory, path, sizeof(directory) - 1);
  directory[sizeof(directory) - 1] = '\0';
  char* slash = std::strrchr(directory, '/');
  if (slash == nullptr || slash == directory) return false;
  *slash = '\0';
  for (char* at = directory + 1; with_parents && *at != '\0'; at++) {
    if (*at != '/') continue;
    *at = '\0';
    sys::make_directory(directory, 0700);
    *at = '/';
  }
  sys::make_directory(directory, 0700);
  int opened = sys::open(directory, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (opened < 0) return false;
  struct stat status {};
  bool is_good = sys::stat_of(opened, &status) == 0 && status.st_uid == geteuid() &&
                 (status.st_mode & 022) == 0;
  sys::close(opened);
  return is_good;
}

Error open_pattern(const Config& config, const char* pattern, const char* program, FarTier* far,
                   Arena& arena, Line& why) {
  bool has_number = std::strstr(pattern, "%n") != nullptr;
  for (unsigned number = 0;; number++) {
    char path[kSettingTextBytes];
    if (!expand_pattern(pattern, program, number, path, sizeof(path))) {
      why.text(pattern).text(": the path is too long; shorten BARTENDER_ARENA");
      return Error::kUnsupported;
    }
    OpenRequest request{path, config.size_bytes};
    request.on_restart = config.on_restart;
    request.durability = config.durability;
    request.keep_from_children = config.fork == ForkMode::kNone;
    request.program = program;
    request.far = far;
    Line reason;
    Error error = open_arena(request, arena, reason);
    if (error == Error::kNone) return error;
    bool is_next_tried = error == Error::kInUse && has_number && number + 1 < kNumbersMax;
    if (!is_next_tried) {
      why = reason;
      return error;
    }
  }
}

}  // namespace

bool expand_pattern(const char* pattern, const char* program, unsigned number, char* out,
                    size_t out_bytes) {
  PathBuilder path(out, out_bytes);
  for (const char* at = pattern; *at != '\0'; at++) {
    if (*at != '%') {
      path.put(*at);
      continue;
    }
    switch (*++at) {
      case 'e':
        path.text(program);
        break;
      case 'p':
        path.number(static_cast<unsigned>(getpid()));
        break;
      case 'u':
        path.number(geteuid());
        break;
      case 'n':
        if (number > 0) path.put('.').number(number);
        break;
      case '%':
        path.put('%');
        break;
      default:
        return false;  // the settings refuse such a pattern
    }
  }
  return path.finish();
}

Error open_by_config(const Config& config, const char* program, FarTier* far, Arena& arena,
                     Line& why) {
  bool is_default = std::strcmp(config.arena, find_setting("ARENA")->default_text) == 0;
  if (!is_default) return open_pattern(config, config.arena, program, far, arena, why);
  char path[kSettingTextBytes];
  if (expand_pattern(config.arena, program, 0, path, sizeof(path)) &&
      prepare_directory(path, false)) {
    return open_pattern(config, config.arena, program, far, arena, why);
  }
  const char* state_home = secure_getenv("XDG_STATE_HOME");
  const char* home = secure_getenv("HOME");
  char pattern[kSettingTextBytes];
  PathBuilder builder(pattern, sizeof(pattern));
  if (state_home != nullptr && state_home[0] == '/') {
    builder.text(state_home);
  } else if (home != nullptr && home[0] == '/') {
    builder.text(home).text("/.local/state");
  } else {
    why.text(path).text(
        ": its directory cannot be made or is not this user's alone, and HOME is not set; set "
        "BARTENDER_ARENA");
    return Error::kPermission;
  }
  if (!builder.text(kStatePattern).finish() || !prepare_directory(pattern, true)) {
    why.text(path).text(" and ").text(pattern).text(
        ": no directory of this user's alone there; set BARTENDER_ARENA");
    return Error::kPermission;
  }
  return open_pattern(config, pattern, program, far, arena, why);
}

}  // namespace btd
