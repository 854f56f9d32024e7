// bartender gc: frees the blocks of a dead arena that no root leads to, or tells how many they are.
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "core/gc/collector.hpp"
#include "core/recovery/boot.hpp"
#include "core/recovery/open.hpp"
#include "tools/arena_file.hpp"
#include "tools/far_owner.hpp"
#include "tools/mapped_arena.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::string path;
  NodeOptions nodes;
  bool is_dry = false;
  bool is_json = false;
};

struct Outcome {
  uint64_t roots;
  uint64_t waiting_transactions;
  bool is_after_power_loss;  // the states mean nothing: recovery itself collects
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

// What a run would do, recovery included, from the file as it lies.  But for transactions that wait
// for their replay: that is recovery's to do first.
Outcome look(const Options& options, const ArenaView& view, FarZone& far) {
  Outcome outcome{};
  outcome.roots = roots_of(view).size();
  outcome.is_after_power_loss = are_states_doubtful(view.header());
  Summary summary = summarize(view);
  MappedArena arena(options.path, view, &far);
  OpenTransactions waiting = transactions_of(arena);
  outcome.waiting_transactions = waiting.committed + waiting.open;
  Marks marks;
  MarkTotals totals{};
  arena.mark(marks, totals, summary.live_blocks, !outcome.is_after_power_loss);
  GcResult& result = outcome.result;
  if (outcome.is_after_power_loss) {
    preview_untrusted(marks, result);
  } else {
    result.kept_blocks = totals.blocks;
    result.kept_bytes = totals.bytes;
    result.freed_blocks = summary.live_blocks - std::min(summary.live_blocks, totals.blocks);
    result.freed_bytes = summary.live_bytes - std::min(summary.live_bytes, totals.bytes);
  }
  marks.close();
  result.reachable_blocks = totals.blocks;
  result.reachable_bytes = totals.bytes;
  result.table_bytes = totals.table_bytes;
  return outcome;
}

GcResult run(const Options& options, bool has_far) {
  static Arena arena;  // it is large
  std::optional<FarOwner> far;
  OpenRequest request{options.path.c_str(), 0};
  request.may_create = false;
  request.program = "bartender gc";
  if (has_far) request.far = &far.emplace(options.nodes).tier();
  Line why;
  if (Error error = open_arena(request, arena, why); error != Error::kNone) {
    throw Failure{exit_of(error), message_of(why)};
  }
  GcResult result{};
  Error error = collect(arena, {}, result);
  arena.close_in_good_order();
  if (has_far) far->close();
  arena.close();
  if (error == Error::kNone) return result;
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
  if (outcome.is_after_power_loss) {
    fmt::print("the machine has died since: any program that opens it frees what {} freed here\n",
               options.is_dry ? "would be" : "was");
  }
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
  json["after_power_loss"] = outcome.is_after_power_loss;
  json["reachable_blocks"] = result.reachable_blocks;
  json["reachable_bytes"] = result.reachable_bytes;
  json["freed_blocks"] = result.freed_blocks;
  json["freed_bytes"] = result.freed_bytes;
  json["table_bytes"] = result.table_bytes;
  print_json(json);
}

// Whoever takes over far memory leaves its files behind as their owner.
void require_owner(const Options& options, const ArenaView& view) {
  struct stat status {};
  if (fstat(view.descriptor(), &status) == 0 && status.st_uid == geteuid()) return;
  throw Failure{kExitRefused, fmt::format("{}: it has far memory, and belongs to another user; "
                                          "nothing was changed; collect it as user {}",
                                          printable(options.path), status.st_uid)};
}

Outcome collect_file(const Options& options) {
  Outcome looked{};
  bool has_far = false;
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
    FarZone far(options.path, view, options.nodes);
    has_far = far.is_used();
    if (options.is_dry) return look(options, view, far);
    if (has_far) require_owner(options, view);
    looked.roots = roots_of(view).size();
    OpenTransactions waiting = transactions_of(MappedArena(options.path, view));
    looked.waiting_transactions = waiting.committed + waiting.open;
    // The replay of one that is committed may still set a root.
    if (waiting.committed == 0) require_roots(options, looked);
    // Recovery frees after power loss, and does not tell; and where blocks are far, all that the
    // roots lead to is read before anything is written, since what no node has then would be given
    // up as lost.
    if (has_far || are_states_doubtful(view.header())) looked = look(options, view, far);
  }
  GcResult result = run(options, has_far);
  if (looked.is_after_power_loss) {
    result.freed_blocks = looked.result.freed_blocks;
    result.freed_bytes = looked.result.freed_bytes;
  }
  looked.result = result;
  return looked;
}

}  // namespace

void add_gc(CLI::App& app, int& status) {
  CLI::App* command =
      app.add_subcommand("gc", "Free the blocks of a dead arena that no root leads to");
  static Options options;
  command->add_option("ARENA", options.path, "the arena's file or device")->required();
  command->add_flag("--dry-run", options.is_dry, "only read it, and tell what would be freed");
  add_node_options(*command, options.nodes);
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 done, 2 damaged, 3 refused (in use, no root is set, not an arena, newer),\n"
      "4 could not be done, 5 memory nodes do not give what roots lead to.");
  command->callback([&status] {
    Outcome outcome = collect_file(options);
    options.is_json ? print_as_json(options, outcome) : print_text(options, outcome);
    status = kExitOk;
  });
}

}  // namespace btd::tools
