// bartender rm: removes arenas, and nothing else.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/spill/far_file.hpp"
#include "tools/arena_file.hpp"
#include "tools/far_zone.hpp"
#include "tools/node_observer.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::vector<std::string> paths;
  NodeOptions nodes;
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

// Removes the window's file if it is this arena's.  A file of another boot, or whose making was cut
// short, is of no use to anybody.
void remove_far_file(const std::string& path, const ArenaHeader& arena) {
  FarFileHeader header{};
  int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return;
  bool is_ours = read(file, &header, sizeof(header)) == sizeof(header) &&
                 (header.magic == kFarFileMagic || header.magic == 0) &&
                 std::memcmp(header.arena_uuid, arena.uuid, sizeof(arena.uuid)) == 0;
  close(file);
  if (is_ours && unlink(path.c_str()) != 0) {
    fmt::print(stderr, "bartender: {}: {}; the arena is removed, but not this file of it; rm it\n",
               printable(path), std::strerror(errno));
  }
}

struct Left {
  std::string node;  // empty: nobody knows which
  std::string why;
};

// Has each node forget the arena; returns those that did not.
std::vector<Left> forget(const ArenaHeader& arena, const NodeOptions& options) {
  std::vector<Left> left;
  if (options.nodes.empty()) return {{"", "no memory nodes are named"}};
  wire::Forget which;
  std::memcpy(which.arena, arena.uuid, sizeof(which.arena));
  for (size_t at = 0; at <= options.nodes.size();) {
    const size_t end = std::min(options.nodes.find(',', at), options.nodes.size());
    const std::string node = options.nodes.substr(at, end - at);
    at = end + 1;
    try {
      NodeStatus status = NodeObserver(node, options.key_file).forget(which);
      if (status == NodeStatus::kRefused) {
        left.push_back({node, "a program that uses it is connected, such as a child of its owner"});
      } else if (status != NodeStatus::kGood && status != NodeStatus::kNotFound) {
        left.push_back({node, "it hung up"});
      }
    } catch (const Failure& failure) {
      left.push_back({node, failure.message.substr(0, failure.message.find(';'))});
    }
  }
  return left;
}

struct Removed {
  bool has_far = false;
  std::string uuid;
  std::vector<Left> left;
};

Removed remove_arena(const std::string& path, const Options& options) {
  const bool is_forced = options.is_forced;
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
  Removed removed;
  const bool is_known = error == Error::kNone;
  const std::string far_file = is_known ? far_file_of(path, view) : "";
  remove_locked(path);
  if (!is_known) return removed;
  // Not before: with the arena's name gone nobody can need them any more.  A kill in between leaves
  // them, for `bartender node --forget` and rm.
  removed.uuid = uuid_text(view.header());
  // One that never spilled has at most a place among a node's arenas.
  removed.has_far =
      view.header().far_frames_grown > 0 || (view.far_end() > 0 && !options.nodes.nodes.empty());
  if (view.far_end() > 0) remove_far_file(far_file, view.header());
  if (removed.has_far) removed.left = forget(view.header(), options.nodes);
  return removed;
}

// What is still on nodes, and what to type.
void tell(const std::string& path, const Removed& removed, const Options& options) {
  const std::string key_file = options.nodes.key_file.empty() ? "FILE" : options.nodes.key_file;
  for (const Left& left : removed.left) {
    fmt::print(
        stderr,
        "bartender: {}: its far memory stays on {}: {}; the arena is removed; type: bartender "
        "node {} --key-file {} --forget {}\n",
        printable(path), left.node.empty() ? "its memory nodes" : printable(left.node), left.why,
        left.node.empty() ? "ADDRESS" : printable(left.node), printable(key_file), removed.uuid);
  }
}

int remove_all(const Options& options) {
  Json json = json_document("rm");
  json["arenas"] = Json::array();
  int status = kExitOk;
  for (const std::string& path : options.paths) {
    try {
      const Removed removed = remove_arena(path, options);
      Json arena = {{"path", path}, {"removed", true}};
      if (removed.has_far) {
        arena["uuid"] = removed.uuid;
        arena["left_on_nodes"] = Json::array();
        for (const Left& left : removed.left) {
          arena["left_on_nodes"].push_back(
              {{"address", left.node.empty() ? Json(nullptr) : Json(left.node)},
               {"reason", left.why}});
        }
      }
      json["arenas"].push_back(arena);
      tell(path, removed, options);
      if (!removed.left.empty()) status = std::max<int>(status, kExitPartial);
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
  add_node_options(*command, options.nodes);
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 all removed, 2 damaged, 3 refused (live, not an arena, newer), 4 could not "
      "be removed,\n"
      "5 removed, but nodes still have far memory of it.");
  command->callback([&status] { status = remove_all(options); });
}

}  // namespace btd::tools
