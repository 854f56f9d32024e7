// bartender gc: frees the blocks of a dead arena that no root leads to, or tells how many they are.
#include <fmt/core.h>

#include <algorithm>

#include "core/gc/collector.hpp"
#include "core/recovery/open.hpp"
#include "tools/arena_file.hpp"
#include "tools/mapped_arena.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::string path;
  bool is_dry = false;
  bool is_json = false;
};

struct Outcome {
  uint64_t roots;
  uint64_t waiting_transactions;
  GcResult result;
};

// For people and scripts alike: a run that frees all there is was hardly meant.
void require_roots(const Options& options, const Outcome& outcome) {
  if (outcome.roots > 0) return;
  throw Failure{
      kExitRefused,
      fmt::format("{}: no root is set, so every block would be freed; nothing was "
                  "changed; `bartender rm` removes an arena, `bartender salvage` reads it",
                  printable(options.path))};
}

// What a run would do, from the file as it lies: transactions that wait for their replay, and power
// loss, are recovery's to settle first.
Outcome look(const Options& options, const ArenaView& view) {
  Outcome outcome{};
  outcome.roots = roots_of(view).size();
  Summary summary = summarize(view);
  MappedArena arena(options.path, view);
  OpenTransactions waiting = transactions_of(arena);
  outcome.waiting_transactions = waiting.committed + waiting.open;
  Marks marks;
  MarkTotals totals{};
  arena.mark(marks, totals, summary.live_blocks);
  uint64_t live_blocks = 0, live_bytes = 0;
  marks.for_each_reached([&](const GcBlock& block) {
    live_blocks++;
    live_bytes += block.size_bytes;
  });
  marks.close();
  GcResult& result = outcome.result;
  result.reachable_blocks = result.kept_blocks = live_blocks;
  result.reachable_bytes = result.kept_bytes = live_bytes;
  result.freed_blocks = summary.live_blocks - std::min(summary.live_blocks, live_blocks);
  result.freed_bytes = summary.live_bytes - std::min(summary.live_bytes, live_bytes);
  result.table_bytes = totals.table_bytes;
  return outcome;
}

Outcome run(const Options& options) {
  static Arena arena;  // it is large
  OpenRequest request{options.path.c_str(), 0};
  request.may_create = false;
  request.program = "bartender gc";
  Line why;
  if (Error error = open_arena(request, arena, why); error != Error::kNone) {
    throw Failure{exit_of(error), message_of(why)};
  }
  Outcome outcome{};
  Error error = collect(arena, {}, outcome.result);
  arena.close_in_good_order();
  arena.close();
  if (error == Error::kNone) return outcome;
  throw Failure{kExitFailed, fmt::format("{}: no memory to mark its blocks; none was freed; try "
                                         "again",
                                         printable(options.path))};
}

void print_text(const Options& options, const Outcome& outcome) {
  const GcResult& result = outcome.result;
  fmt::print("{}: {} roots lead to {} blocks ({}); {} blocks ({}) {}\n", printable(options.path),
             outcome.roots, result.reachable_blocks, human_size(result.reachable_bytes),
             result.freed_blocks, human_size(result.freed_bytes),
             options.is_dry ? "would be freed" : "were freed");
  if (options.is_dry && outcome.waiting_transactions > 0) {
    fmt::print(
        "{} transactions wait for recovery, which a run does first: the numbers may change\n",
        outcome.waiting_transactions);
  }
}

void print_as_json(const Options& options, const Outcome& outcome) {
  const GcResult& result = outcome.result;
  Json json = json_document("gc");
  json["path"] = options.path;
  json["dry_run"] = options.is_dry;
  json["roots"] = outcome.roots;
  json["waiting_transactions"] = outcome.waiting_transactions;
  json["reachable_blocks"] = result.reachable_blocks;
  json["reachable_bytes"] = result.reachable_bytes;
  json["freed_blocks"] = result.freed_blocks;
  json["freed_bytes"] = result.freed_bytes;
  json["table_bytes"] = result.table_bytes;
  print_json(json);
}

Outcome collect_file(const Options& options) {
  Outcome looked{};
  {
    ArenaView view;
    open_arena(options.path, view);
    if (view.is_live()) {
      throw Failure{
          kExitRefused,
          fmt::format("{}: {} (pid {}) is using it; nothing was changed; collect it when "
                      "the program has ended, or from within by btd_gc()",
                      printable(options.path), program_of(view.header()), view.header().pid)};
    }
    if (view.header().far_frames_grown > 0) {
      throw Failure{
          kExitRefused,
          fmt::format("{}: some of its blocks are in far memory, where only a program that has the "
                      "arena open can follow pointers; nothing was changed; collect it from within "
                      "by btd_gc()",
                      printable(options.path))};
    }
    if (options.is_dry) return look(options, view);
    looked.roots = roots_of(view).size();
    OpenTransactions waiting = transactions_of(MappedArena(options.path, view));
    looked.waiting_transactions = waiting.committed + waiting.open;
    // The replay of one that is committed may still set a root.
    if (waiting.committed == 0) require_roots(options, looked);
  }
  Outcome outcome = run(options);
  outcome.roots = looked.roots;
  return outcome;
}

}  // namespace

void add_gc(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("gc", "Free the blocks of a dead arena that no root leads to");
  static Options options;
  command->add_option("ARENA", options.path, "the arena's file or device")->required();
  command->add_flag("--dry-run", options.is_dry, "only read it, and tell what would be freed");
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 done, 2 damaged, 3 refused (in use, no root is set, not an arena, newer),\n"
      "4 could not be done.");
  command->callback([&status] {
    Outcome outcome = collect_file(options);
    options.is_json ? print_as_json(options, outcome) : print_text(options, outcome);
    status = kExitOk;
  });
}

}  // namespace btd::tools
