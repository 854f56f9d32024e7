// bartender ls: which arenas there are, whose, and what is in them.
#include <fmt/core.h>

#include "tools/arena_file.hpp"
#include "tools/replicas.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::vector<std::string> places;
  bool is_json = false;
};

// Nodes are not asked: what is there follows from the files.
Json describe(const std::string& path, ArenaView& view) {
  Summary summary = summarize(view);
  const ArenaHeader& header = view.header();
  Life life = life_of(view);
  Json json;
  json["path"] = path;
  json["state"] = life_text(life);
  json["pid"] = header.pid;
  json["program"] = program_of(header);
  json["capacity_bytes"] = header.capacity_bytes;
  json["allocated_bytes"] = allocated_bytes(view);
  json["live_bytes"] = summary.live_bytes;
  json["live_blocks"] = summary.live_blocks;
  json["epoch"] = header.epoch;
  json["opened_s"] = header.opened_s;
  json["changed_s"] = last_change_s(view);
  json["uuid"] = uuid_text(header);
  json["far"] = nullptr;
  if (view.far_end() > 0) {
    FarZone far(path, view, {});
    json["far"] = describe(use_of(view, far), view, far);
  }
  return json;
}

int list(const Options& options) {
  Json json = json_document("ls");
  json["arenas"] = Json::array();
  Table table({"ARENA", "STATE", ">PID", ">SIZE", ">ON DISK", ">FAR", ">LIVE", ">BLOCKS", "PROGRAM",
               "OPENED"});
  int status = kExitOk;
  for (const Place& place : find_arenas(options.places)) {
    ArenaView view;
    Error error = ArenaView::open(place.path.c_str(), view);
    // Other files are none of our business, unless asked for by name; a program may also just have
    // ended well.
    bool is_other =
        error == Error::kForeign || error == Error::kUnsupported || error == Error::kNotFound;
    if (is_other && !place.is_named) continue;
    if (error != Error::kNone) {
      const char* state = error == Error::kCorrupt ? "damaged" : "refused";
      json["arenas"].push_back(
          {{"path", place.path}, {"state", state}, {"reason", fault_text(view.fault())}});
      table.row({printable(place.path), red(state), "-", "-", "-", "-", "-", "-",
                 fault_text(view.fault()), "-"});
      if (place.is_named) status = exit_of(error);
      continue;
    }
    Json arena = describe(place.path, view);
    Life life = life_of(view);
    table.row({printable(place.path), life_coloured(life),
               life == Life::kLive ? arena["pid"].dump() : "-", human_size(arena["capacity_bytes"]),
               human_size(arena["allocated_bytes"]),
               arena["far"].is_null() ? "-" : human_size(arena["far"]["used_bytes"]),
               human_size(arena["live_bytes"]), arena["live_blocks"].dump(),
               program_of(view.header()), human_time(view.header().opened_s)});
    json["arenas"].push_back(std::move(arena));
  }
  if (options.is_json) {
    print_json(json);
  } else if (table.is_empty()) {
    fmt::print("no arenas\n");
  } else {
    table.print();
  }
  return status;
}

}  // namespace

void add_ls(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("ls", "List arenas: live, clean or crashed");
  static Options options;
  command->add_option("PLACE", options.places,
                      "directories, files or patterns; by default /dev/shm/bartender-<uid>, "
                      "~/.local/state/bartender "
                      "and where BARTENDER_ARENA points");
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 listed; 2, 3 or 4: a file asked for by name is damaged, no arena, or cannot "
      "be read.");
  command->callback([&status] { status = list(options); });
}

}  // namespace btd::tools
