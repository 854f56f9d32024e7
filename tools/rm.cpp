// bartender rm: removes arenas, and nothing else.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "tools/arena_file.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::vector<std::string> paths;
  bool is_forced = false;
  bool is_json = false;
};

// Holds the arena's lock while the name goes, so that no program can open it in between.
void remove_locked(const std::string& path) {
  int file = open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) throw Failure{kExitFailed, std::strerror(errno)};
  struct Closer {
    int file;
    ~Closer() { close(file); }
  } closer{file};
  struct flock lock {};
  lock.l_type = F_WRLCK;
  if (fcntl(file, F_OFD_SETLK, &lock) != 0) throw Failure{kExitRefused, "a program is using it"};
  struct stat opened {
  }, named{};
  bool is_same = fstat(file, &opened) == 0 && lstat(path.c_str(), &named) == 0 &&
                 opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
  if (!is_same) throw Failure{kExitRefused, "another file has taken its name meanwhile"};
  if (!S_ISREG(opened.st_mode))
    throw Failure{kExitRefused, "it is a device, which cannot be removed"};
  if (unlink(path.c_str()) != 0) throw Failure{kExitFailed, std::strerror(errno)};
}

void remove_arena(const std::string& path, bool is_forced) {
  ArenaView view;
  Error error = ArenaView::open(path.c_str(), view);
  bool is_ours = error == Error::kNone || error == Error::kCorrupt || error == Error::kNewer ||
                 error == Error::kMismatch;
  if (!is_ours) throw Failure{exit_of(error), fault_text(view.fault())};
  if (error != Error::kNone && !is_forced) {
    throw Failure{exit_of(error),
                  std::string(fault_text(view.fault())) + " (--force removes it all the same)"};
  }
  if (error == Error::kNone && view.is_live()) {
    throw Failure{kExitRefused, fmt::format("{} (pid {}) is using it", program_of(view.header()),
                                            view.header().pid)};
  }
  remove_locked(path);
}

int remove_all(const Options& options) {
  Json json = json_document("rm");
  json["arenas"] = Json::array();
  int status = kExitOk;
  for (const std::string& path : options.paths) {
    try {
      remove_arena(path, options.is_forced);
      json["arenas"].push_back({{"path", path}, {"removed", true}});
    } catch (const Failure& failure) {
      json["arenas"].push_back({{"path", path}, {"removed", false}, {"reason", failure.message}});
      fmt::print(stderr, "bartender: {}: {}; it was not removed; `bartender ls` lists arenas\n",
                 printable(path), failure.message);
      status = std::max(status, failure.status);
    }
  }
  if (options.is_json) print_json(json);
  return status;
}

}  // namespace

void add_rm(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("rm", "Remove arenas that no program uses");
  static Options options;
  command->add_option("ARENA", options.paths, "the arenas' files")->required();
  command->add_flag("--force", options.is_forced,
                    "also remove damaged arenas and those of newer versions; never live ones");
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 all removed, 2 damaged, 3 refused (live, not an arena, newer), 4 could not "
      "be removed.");
  command->callback([&status] { status = remove_all(options); });
}

}  // namespace btd::tools
