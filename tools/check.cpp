// bartender check: verifies everything an arena says about itself, and repairs a copy of it.
#include "core/recovery/check.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "tools/arena_file.hpp"
#include "tools/output_file.hpp"
#include "tools/pointers.hpp"
#include "tools/progress.hpp"
#include "tools/repair.hpp"
#include "tools/replicas.hpp"
#include "tools/rewrite.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr size_t kLinesMax = 50;  // of findings, for people; JSON has all
constexpr int kRoundsMax = 4;     // an overlap hidden by another fault shows only when that is gone

struct Options {
  std::string path;
  NodeOptions nodes;
  std::string copy;
  bool is_repair = false;
  bool is_pointers = false;
  bool is_json = false;
};

const char* name_of(Fault fault) {
  switch (fault) {
    case Fault::kHeaderCopy:
      return "header-copy";
    case Fault::kReservedRegion:
      return "reserved-region";
    case Fault::kRoot:
      return "root";
    case Fault::kLane:
      return "lane";
    case Fault::kDescriptor:
      return "descriptor";
    case Fault::kInterior:
      return "interior-frame";
    case Fault::kBody:
      return "frame-header";
    case Fault::kLargeState:
      return "large-state";
    case Fault::kStrayState:
      return "stray-state";
    case Fault::kStateValue:
      return "state-value";
    case Fault::kUnreadable:
      return "unreadable";
  }
  return "unknown";
}

std::vector<Finding> check_all(const ArenaView& view, const char* what) {
  Progress progress(what);
  std::vector<Finding> findings;
  check_arena(
      view, [&](const Finding& finding) { findings.push_back(finding); },
      [&](uint64_t done, uint64_t total) { progress.update(done, total); });
  return findings;
}

Json describe(const Finding& finding) {
  Json json;
  json["fault"] = name_of(finding.fault);
  json["what"] = finding.what;
  json["file_offset"] = finding.offset;
  json["size_bytes"] = finding.size_bytes;
  json["frame"] = finding.frame == kNoFrame ? Json(nullptr) : Json(finding.frame);
  return json;
}

void print_findings(const std::vector<Finding>& findings) {
  Table table({"FAULT", ">FRAME", ">FILE OFFSET", ">BYTES", "WHAT"});
  for (size_t i = 0; i < std::min(findings.size(), kLinesMax); i++) {
    const Finding& finding = findings[i];
    table.row({red(name_of(finding.fault)),
               finding.frame == kNoFrame ? "-" : std::to_string(finding.frame),
               fmt::format("{:#x}", finding.offset), std::to_string(finding.size_bytes),
               finding.what});
  }
  table.print();
  if (findings.size() > kLinesMax)
    fmt::print("... and {} more; --json prints all\n", findings.size() - kLinesMax);
}

struct Outcome {
  int status;
  const char* result;
  std::vector<Finding> findings;
  std::vector<LostRange> lost;
  std::vector<Finding> left;  // in the repaired copy
  PointerReport pointers;     // with --pointers
  Json far;                   // null: there is none
};

Outcome repair_copy(const ArenaView& view, const Options& options, std::vector<Finding> findings) {
  Outcome outcome{kExitDamaged, "damaged", findings, {}, findings, {}, {}};
  OutputFile copy(options.copy, false);
  copy_arena(view, copy);
  std::vector<LostRange> lost = repair(copy, findings, view);
  for (int round = 0; round < kRoundsMax; round++) {
    outcome.lost.insert(outcome.lost.end(), lost.begin(), lost.end());
    ArenaView repaired;
    if (ArenaView::open_file(dup(copy.descriptor()), repaired) != Error::kNone) return outcome;
    outcome.left = check_all(repaired, "checking the copy");
    if (outcome.left.empty()) {
      copy.publish();
      outcome.status = kExitRepaired;
      outcome.result = "repaired";
      return outcome;
    }
    lost = repair(copy, outcome.left, repaired);
  }
  return outcome;
}

void refuse_live(const ArenaView& view, const std::string& path) {
  if (!view.is_live()) return;
  throw Failure{
      kExitRefused,
      fmt::format(
          "{}: {} (pid {}) is using it; nothing was changed; check it when the program has ended",
          printable(path), program_of(view.header()), view.header().pid)};
}

Outcome check_structures(const Options& options, const ArenaView& view, FarZone& far) {
  std::vector<Finding> findings = check_all(view, "checking the arena");
  refuse_live(
      view,
      options.path);  // a program may have opened it meanwhile: what was found means nothing then
  if (findings.empty()) {
    Outcome outcome{kExitOk, "clean", {}, {}, {}, {}, {}};
    if (options.is_pointers) outcome.pointers = find_volatile_pointers(options.path, view, far);
    return outcome;
  }
  if (options.copy.empty()) return {kExitDamaged, "damaged", findings, {}, findings, {}, {}};
  return repair_copy(view, options, findings);
}

// A copy of the arena's file is none of what is not in it.
void tell_of_copy(const Options& options, const FarZone& far) {
  fmt::print(stderr,
             "bartender: {}: the copy shares {} and the memory nodes' data with the damaged arena, "
             "so only one of them can be used; move the copy to its name\n",
             printable(options.copy), printable(far.file_path()));
}

Outcome check(const Options& options) {
  ArenaView view;
  open_arena(options.path, view);
  refuse_live(view, options.path);
  FarZone far(options.path, view, options.nodes);
  Outcome outcome = check_structures(options, view, far);
  if (!far.is_used()) return outcome;
  if (outcome.status == kExitRepaired) tell_of_copy(options, far);
  ReplicaReport report = verify_replicas(view, far);
  RewriteReport rewrite;
  // A damaged arena need not say which extents are in use.
  if (options.is_repair && outcome.findings.empty() && report.is_mendable()) {
    rewrite = rewrite_replicas(options.path, view, far, options.nodes, report);
    far.ask_nodes();
    report = verify_replicas(view, far);
  }
  if (outcome.status == kExitOk) outcome.status = report.status();
  if (outcome.status == kExitOk && rewrite.rewritten > 0) outcome.status = kExitRepaired;
  outcome.far = describe(report, far);
  outcome.far["rewritten_copies"] = rewrite.rewritten;
  if (options.is_json) return outcome;
  print_text(report, far);
  if (rewrite.rewritten + rewrite.failed > 0) {
    fmt::print("{} copies on memory nodes were rewritten from good ones{}\n", rewrite.rewritten,
               rewrite.failed == 0 ? "" : red(fmt::format(", {} could not be", rewrite.failed)));
  } else if (report.is_mendable() && !options.is_repair) {
    fmt::print(
        "no copy was changed; `bartender check --repair` rewrites them from the good ones\n");
  }
  return outcome;
}

void print_pointers(const PointerReport& report) {
  Table table({">BLOCK", ">SIZE", ">OFFSET", ">VALUE", "LOOKS LIKE"});
  for (size_t i = 0; i < std::min(report.pointers.size(), kLinesMax); i++) {
    const VolatilePointer& found = report.pointers[i];
    table.row({std::to_string(found.block / kQuantumBytes), std::to_string(found.size_bytes),
               std::to_string(found.offset), fmt::format("{:#x}", found.value),
               yellow(found.into)});
  }
  if (!table.is_empty()) table.print();
  if (report.count > kLinesMax) fmt::print("... and {} more\n", report.count - kLinesMax);
  fmt::print("{} words in {} blocks that roots lead to look like pointers into volatile memory\n",
             report.count, report.blocks);
}

void print_outcome(const Options& options, const Outcome& outcome) {
  if (outcome.findings.empty()) {
    fmt::print("{}: {}{}\n", printable(options.path), green("clean"),
               options.copy.empty() ? "" : "; no copy was made");
    if (options.is_pointers) print_pointers(outcome.pointers);
    return;
  }
  print_findings(outcome.findings);
  for (const LostRange& range : outcome.lost) {
    fmt::print("lost in the copy: {} bytes of data from offset {:#x} ({})\n", range.size_bytes,
               range.offset, range.why);
  }
  if (outcome.status == kExitRepaired) {
    fmt::print("{}: damaged; {}: {}\n", printable(options.path), printable(options.copy),
               yellow("repaired, and clean now"));
  } else if (!options.copy.empty()) {
    fmt::print("{}: {}; the copy could not be made clean and was not kept\n",
               printable(options.path), red("damaged"));
  } else {
    fmt::print(
        "{}: {}; it was not changed; `bartender check --repair --to COPY {}` repairs a copy\n",
        printable(options.path), red("damaged"), printable(options.path));
  }
}

void print_outcome_as_json(const Options& options, const Outcome& outcome) {
  Json json = json_document("check");
  json["path"] = options.path;
  json["result"] = outcome.result;
  json["findings"] = Json::array();
  for (const Finding& finding : outcome.findings) json["findings"].push_back(describe(finding));
  if (options.is_pointers) {
    json["reachable_blocks"] = outcome.pointers.blocks;
    json["volatile_pointer_count"] = outcome.pointers.count;
    json["volatile_pointers"] = Json::array();
    for (const VolatilePointer& found : outcome.pointers.pointers) {
      json["volatile_pointers"].push_back({{"id", found.block / kQuantumBytes},
                                           {"size_bytes", found.size_bytes},
                                           {"offset", found.offset},
                                           {"value", fmt::format("{:#x}", found.value)},
                                           {"looks_like", found.into}});
    }
  }
  if (!options.copy.empty()) {
    json["copy"] = outcome.status == kExitRepaired ? Json(options.copy) : Json(nullptr);
    json["lost"] = Json::array();
    for (const LostRange& range : outcome.lost) {
      json["lost"].push_back(
          {{"offset", range.offset}, {"size_bytes", range.size_bytes}, {"why", range.why}});
    }
    json["left"] = Json::array();
    for (const Finding& finding : outcome.left) json["left"].push_back(describe(finding));
  }
  json["far"] = outcome.far;
  print_json(json);
}

}  // namespace

void add_check(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand("check", "Verify an arena, and repair a copy of it");
  static Options options;
  command->add_option("ARENA", options.path, "the arena's file or device; it is only read")
      ->required();
  CLI::Option* repair_flag = command->add_flag(
      "--repair", options.is_repair,
      "repair a copy, see --to; rewrite bad and missing copies on memory nodes from good ones");
  command
      ->add_option("--to", options.copy,
                   "the copy of a damaged arena to write; it must not exist yet")
      ->needs(repair_flag);
  command->add_flag("--pointers", options.is_pointers,
                    "also list words that roots lead to and that look like pointers into volatile "
                    "memory");
  add_node_options(*command, options.nodes);
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Exit status: 0 clean, 1 damaged but the copy is repaired, or all copies on nodes are,\n"
      "2 damaged, 3 refused (not an arena, newer, in use), 4 cannot be read or written,\n"
      "5 copies on memory nodes are bad or missing, or could not be verified.");
  command->callback([&status] {
    Outcome outcome = check(options);
    options.is_json ? print_outcome_as_json(options, outcome) : print_outcome(options, outcome);
    status = outcome.status;
  });
}

}  // namespace btd::tools
