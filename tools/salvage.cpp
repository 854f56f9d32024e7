// bartender salvage: what a dead program left: a list of its blocks, one of them as a file, or all
// readable text.  Only ever reads the arena, so it works on a live one too; then blocks may change
// while they are read.
#include <fmt/core.h>

#include <algorithm>

#include "tools/arena_file.hpp"
#include "tools/far_zone.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr size_t kPieceBytes = 1 << 20;
constexpr uint64_t kNoId = ~uint64_t{0};

struct Options {
  std::string path;
  NodeOptions nodes;
  std::string min_size = "0";
  uint64_t id = kNoId;
  std::string output;
  bool has_strings = false;
  uint64_t length_min = 4;
  uint64_t limit = 0;
  bool is_forced = false;
  bool is_json = false;
};

std::vector<Block> blocks_of(const ArenaView& view, const Options& options) {
  std::vector<Block> blocks;
  if (options.id != kNoId) {
    Block block;
    if (!view.find_block(options.id, block)) {
      throw Failure{kExitFailed,
                    fmt::format("{} has no live block with id {}; nothing was written; `bartender "
                                "salvage {}` lists them",
                                printable(options.path), options.id, printable(options.path))};
    }
    blocks.push_back(block);
    return blocks;
  }
  uint64_t bytes_min = parse_human_size("--min-size", options.min_size);
  Progress progress("reading the arena");
  uint64_t data_bytes = view.frame_count() * kFrameBytes;
  view.for_each_block([&](const Block& block) {
    if (block.size_bytes >= bytes_min) blocks.push_back(block);
    progress.update(block.offset, data_bytes);
  });
  std::sort(blocks.begin(), blocks.end(), [](const Block& a, const Block& b) {
    return a.size_bytes != b.size_bytes ? a.size_bytes > b.size_bytes : a.id < b.id;
  });
  if (options.limit != 0 && blocks.size() > options.limit) blocks.resize(options.limit);
  return blocks;
}

// Blocks that are, or may be, on memory nodes and could not be had from there.
struct Missing {
  uint64_t blocks = 0;
  uint64_t bytes = 0;
  FarFault fault = FarFault::kNone;  // of the first

  void add(const Block& block, FarFault why) {
    if (blocks++ == 0) fault = why;
    bytes += block.size_bytes;
  }
};

// One line on stderr, if anything is missing; the exit status.
int tell(const Missing& missing, uint64_t total_blocks, const char* what) {
  if (missing.blocks == 0) return kExitOk;
  fmt::print(stderr, "bartender: {} of {} blocks ({}) {}: {}; the others are whole; {}\n",
             missing.blocks, total_blocks, human_size(missing.bytes), what,
             fault_text(missing.fault), fault_hint(missing.fault));
  return kExitPartial;
}

bool is_near(const ArenaView& view, const Block& block) {
  return block.offset < view.far_begin() || block.offset >= view.far_end();
}

// Calls f(const char* piece, size_t bytes) for the block's bytes in order.  Returns why that had to
// end before the block's end, if it had to: for what is far no zeros are given.
template <typename F>
FarFault read_block(const ArenaView& view, FarZone& far, const Block& block, F&& f) {
  static std::vector<char> piece(kPieceBytes);
  for (uint64_t at = 0; at < block.size_bytes;) {
    size_t part = static_cast<size_t>(std::min<uint64_t>(piece.size(), block.size_bytes - at));
    if (!view.read_data(block.offset + at, piece.data(), part)) {
      if (!is_near(view, block)) return far.is_used() ? far.fault() : FarFault::kLost;
      fmt::print(stderr,
                 "bartender: block {} cannot be read whole; zeros stand for what is missing from "
                 "offset {}; go on\n",
                 block.id, at);
    }
    f(piece.data(), part);
    at += part;
  }
  return FarFault::kNone;
}

bool is_text(char c) { return (c >= ' ' && c <= '~') || c == '\t'; }

// Calls f(offset, text) for each run of at least `length_min` printable ASCII characters.  A run
// longer than 64 KiB is cut, so that a block of text without line ends needs no memory of its size.
template <typename F>
FarFault for_each_string(const ArenaView& view, FarZone& far, const Block& block,
                         uint64_t length_min, F&& f) {
  constexpr size_t kLengthMax = 64 * 1024;
  std::string run;
  uint64_t at = 0;
  auto end_run = [&] {
    if (run.size() >= length_min && !run.empty()) f(at - run.size(), run);
    run.clear();
  };
  FarFault fault = read_block(view, far, block, [&](const char* piece, size_t size_bytes) {
    for (size_t i = 0; i < size_bytes; i++, at++) {
      if (is_text(piece[i])) {
        run += piece[i];
        if (run.size() < kLengthMax) continue;
        at++;
        end_run();
        at--;
      } else if (!run.empty()) {
        end_run();
      }
    }
  });
  end_run();
  return fault;
}

Json describe(const Block& block) {
  Json json;
  json["id"] = block.id;
  json["address"] = fmt::format("{:#x}", block.address);
  json["size_bytes"] = block.size_bytes;
  json["epoch"] = block.tag == kStateKept ? Json("kept") : Json(block.epoch);
  json["kind"] = block.is_large ? "large" : "small";
  return json;
}

// An array of any length, one element a line: millions of blocks are not held as one JSON document.
class JsonArray {
 public:
  JsonArray(Json head, const char* name) {
    std::string text = json_text(head, false);
    text.pop_back();
    fmt::print("{},\"{}\":[", text, name);
  }
  void add(const Json& json) {
    fmt::print("{}\n{}", is_first_ ? "" : ",", json_text(json, false));
    is_first_ = false;
  }
  void end() { fmt::print("\n]}}\n"); }

 private:
  bool is_first_ = true;
};

Json head_of(const ArenaView& view, const Options& options) {
  Json json = json_document("salvage");
  json["path"] = options.path;
  json["uuid"] = uuid_text(view.header());
  json["state"] = life_text(life_of(view));
  json["program"] = program_of(view.header());
  json["epoch"] = view.header().epoch;
  return json;
}

int list(const ArenaView& view, const FarZone& far, const Options& options) {
  std::vector<Block> blocks = blocks_of(view, options);
  Missing missing;
  auto look = [&](const Block& block) {
    FarZone::Range range = far.look_at(block.offset, block.size_bytes);
    if (range.fault != FarFault::kNone) missing.add(block, range.fault);
    return range;
  };
  constexpr const char* kWhat = "cannot be exported";
  if (options.is_json) {
    JsonArray array(head_of(view, options), "blocks");
    for (const Block& block : blocks) {
      FarZone::Range range = look(block);
      Json json = describe(block);
      json["where"] = range.is_far ? "far" : "near";
      json["may_be_older"] = range.is_far && far.may_be_older();
      json["fault"] =
          range.fault == FarFault::kNone ? Json(nullptr) : Json(fault_name(range.fault));
      array.add(json);
    }
    array.end();
    return tell(missing, blocks.size(), kWhat);
  }
  if (blocks.empty()) {
    fmt::print("no surviving blocks\n");
    return kExitOk;
  }
  // Not a Table: there may be millions.
  fmt::print("{:>12}  {:>14}  {:>12}  {:>10}  {:>5}{}\n", "ID", "ADDRESS", "BYTES", "SIZE", "EPOCH",
             far.is_used() ? "  WHERE" : "");
  for (const Block& block : blocks) {
    std::string epoch = block.tag == kStateKept ? "kept" : std::to_string(block.epoch);
    FarZone::Range range = look(block);
    std::string where = range.is_far ? "  far" : "  near";
    if (range.fault != FarFault::kNone) where += fmt::format(": {}", fault_name(range.fault));
    fmt::print("{:>12}  {:>#14x}  {:>12}  {:>10}  {:>5}{}\n", block.id, block.address,
               block.size_bytes, human_size(block.size_bytes), epoch, far.is_used() ? where : "");
  }
  return tell(missing, blocks.size(), kWhat);
}

int print_strings(const ArenaView& view, FarZone& far, const Options& options) {
  std::vector<Block> blocks = blocks_of(view, options);
  uint64_t total = 0, done = 0;
  Missing missing;
  for (const Block& block : blocks) total += block.size_bytes;
  constexpr const char* kWhat = "could not be read whole";
  Progress progress("reading blocks");
  auto each = [&](auto&& use) {
    for (const Block& block : blocks) {
      FarFault fault = for_each_string(
          view, far, block, options.length_min,
          [&](uint64_t offset, const std::string& text) { use(block, offset, text); });
      if (fault != FarFault::kNone) missing.add(block, fault);
      progress.update(done += block.size_bytes, total);
    }
  };
  if (!options.is_json) {
    each([](const Block& block, uint64_t offset, const std::string& text) {
      fmt::print("{} {} {}\n", block.id, offset, text);
    });
    return tell(missing, blocks.size(), kWhat);
  }
  JsonArray array(head_of(view, options), "strings");
  each([&](const Block& block, uint64_t offset, const std::string& text) {
    array.add({{"id", block.id}, {"offset", offset}, {"text", text}});
  });
  array.end();
  return tell(missing, blocks.size(), kWhat);
}

[[noreturn]] void fail(const Block& block, FarFault fault, const char* what) {
  throw Failure{kExitPartial, fmt::format("block {}: {}; {}; {}", block.id, fault_text(fault), what,
                                          fault_hint(fault))};
}

void export_block(const ArenaView& view, FarZone& far, const Options& options) {
  Block block = blocks_of(view, options).front();
  if (FarFault fault = far.look_at(block.offset, block.size_bytes).fault; fault != FarFault::kNone)
    fail(block, fault, "nothing was written");
  if (options.output == "-") {
    FarFault fault = read_block(view, far, block, [](const char* piece, size_t size_bytes) {
      std::fwrite(piece, 1, size_bytes, stdout);
    });
    if (fault != FarFault::kNone)
      fail(block, fault, "what was written is right, but not all of it");
    return;
  }
  OutputFile file(options.output, options.is_forced);
  Progress progress("writing the block");
  uint64_t done = 0;
  FarFault fault = read_block(view, far, block, [&](const char* piece, size_t size_bytes) {
    file.write(piece, size_bytes);
    progress.update(done += size_bytes, block.size_bytes);
  });
  if (fault != FarFault::kNone) fail(block, fault, "nothing was written");
  file.publish();
  if (options.is_json) {
    Json json = head_of(view, options);
    json["block"] = describe(block);
    json["output"] = options.output;
    print_json(json);
  } else {
    fmt::print("{} bytes of block {} are in {}\n", block.size_bytes, block.id,
               printable(options.output));
  }
}

int salvage(const Options& options) {
  ArenaView view;
  open_arena(options.path, view);
  FarZone far(options.path, view, options.nodes);
  if (far.may_be_older()) {
    fmt::print(stderr,
               "bartender: {}: the machine died: what was near of its far memory is lost, and what "
               "nodes have may be older than what the program saw last; compare what you export\n",
               printable(options.path));
  }
  if (options.has_strings) return print_strings(view, far, options);
  if (options.output.empty()) return list(view, far, options);
  export_block(view, far, options);
  return kExitOk;
}

}  // namespace

void add_salvage(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "salvage", "List the blocks that a program left, export one, or print their text");
  static Options options;
  command
      ->add_option("ARENA", options.path,
                   "the arena's file or device; it is only read, and may be live")
      ->required();
  command->add_option("--min-size", options.min_size,
                      "leave out smaller blocks (64, 16K, 1.5M, ...)");
  CLI::Option* id = command->add_option("--id", options.id, "this block only");
  CLI::Option* output =
      command->add_option("--output", options.output, "write the block to this file; - is stdout")
          ->needs(id);
  command->add_flag("--force", options.is_forced, "replace the output file if it exists")
      ->needs(output);
  CLI::Option* strings = command->add_flag("--strings", options.has_strings,
                                           "print lines of `id offset text` for all readable text");
  strings->excludes(output);
  command->add_option("--length", options.length_min, "shortest text for --strings, 4 by default")
      ->needs(strings)
      ->check(CLI::Range(1, 65536));
  command->add_option("--limit", options.limit, "the biggest N blocks only");
  add_node_options(*command, options.nodes);
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer(
      "Blocks come biggest first; SIZE is what the allocator handed out, at least what was asked "
      "for.\n"
      "Exit status: 0 done, 2 damaged, 3 not an arena or newer, 4 no such block, or a file cannot "
      "be read or written,\n"
      "5 some of what was asked for is on memory nodes that could not be asked.");
  command->callback([&status] { status = salvage(options); });
}

}  // namespace btd::tools
