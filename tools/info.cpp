// bartender info: all there is to know of one arena, short of its blocks.
#include <fmt/core.h>

#include <algorithm>

#include "tools/arena_file.hpp"
#include "tools/mapped_arena.hpp"
#include "tools/replicas.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Numbers {
  uint64_t used_bytes;       // of the data, in extents
  uint64_t free_bytes;       // of the capacity, in no extent
  uint64_t free_slot_bytes;  // in superblocks, in no live block
  uint64_t largest_free_bytes;
  uint64_t grown_bytes;     // data and its metadata that have been backed
  uint64_t metadata_bytes;  // of those
};

Numbers numbers_of(const ArenaView& view, const Summary& summary) {
  const ArenaHeader& header = view.header();
  Numbers numbers{};
  numbers.used_bytes = summary.extent_frames * kFrameBytes;
  uint64_t capacity_bytes = header.capacity_bytes;
  for (const ZoneFrames& zone : zones_of(header))
    if (zone.is_far) capacity_bytes += zone.count * kFrameBytes;
  numbers.free_bytes = capacity_bytes - std::min(capacity_bytes, numbers.used_bytes);
  numbers.free_slot_bytes = summary.superblock_bytes - summary.small_live_bytes;
  numbers.largest_free_bytes =
      std::min(numbers.free_bytes, summary.largest_free_frames * kFrameBytes);
  numbers.metadata_bytes = 2 * kArenaHeaderBytes;
  uint64_t near_frames = 0;
  for (const ZoneFrames& zone : zones_of(header)) {
    uint64_t states_per_frame = zone.is_fine ? kFineStatesPerFrame : kCoarseStatesPerFrame;
    numbers.metadata_bytes += zone.grown * (sizeof(FrameHeader) + states_per_frame);
    if (!zone.is_far) near_frames += zone.grown;
  }
  numbers.grown_bytes = numbers.metadata_bytes + near_frames * kFrameBytes;
  return numbers;
}

double ratio(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

Json describe(const std::string& path, const ArenaView& view, const Summary& summary,
              const FarZone& far) {
  const ArenaHeader& header = view.header();
  Numbers numbers = numbers_of(view, summary);
  Life life = life_of(view);
  Json json = json_document("info");
  json["path"] = path;
  json["uuid"] = uuid_text(header);
  json["state"] = life_text(life);
  json["death"] = life == Life::kCrashed ? Json(death_of(view)) : Json(nullptr);
  json["program"] = program_of(header);
  json["pid"] = header.pid;
  json["created_s"] = header.created_s;
  json["opened_s"] = header.opened_s;
  json["changed_s"] = last_change_s(view);
  json["format_version"] = header.format_version;
  json["damaged_header_copy"] = view.damaged_copy() < 0 ? Json(nullptr) : Json(view.damaged_copy());
  json["epoch"] = header.epoch;
  json["oldest_epoch"] = header.oldest_epoch;
  json["base_address"] = fmt::format("{:#x}", header.base_address);
  json["capacity_bytes"] = header.capacity_bytes;
  json["file_bytes"] = view.file_size_bytes();
  json["allocated_bytes"] = allocated_bytes(view);
  json["live_bytes"] = summary.live_bytes;
  json["live_blocks"] = summary.live_blocks;
  json["large_blocks"] = summary.large_blocks;
  json["large_bytes"] = summary.large_live_bytes;
  json["used_bytes"] = numbers.used_bytes;
  json["free_bytes"] = numbers.free_bytes;
  json["free_slot_bytes"] = numbers.free_slot_bytes;
  json["largest_free_extent_bytes"] = numbers.largest_free_bytes;
  json["metadata_bytes"] = numbers.metadata_bytes;
  json["metadata_share"] = ratio(numbers.metadata_bytes, numbers.grown_bytes);
  json["internal_fragmentation"] = ratio(numbers.free_slot_bytes, summary.superblock_bytes);
  json["external_fragmentation"] = 1 - ratio(numbers.largest_free_bytes, numbers.free_bytes);
  json["far"] = view.far_end() == 0 ? Json(nullptr) : describe(use_of(view, far), view, far);
  json["roots"] = Json::array();
  for (const RootEntry& root : roots_of(view)) {
    json["roots"].push_back({{"name", root.name}, {"address", fmt::format("{:#x}", root.address)}});
  }
  OpenTransactions waiting;
  if (header.lanes_grown > 0) waiting = transactions_of(MappedArena(path, view));
  json["lanes"] = header.lanes_grown;
  json["transactions"] = {
      {"committed", waiting.committed}, {"open", waiting.open}, {"records", waiting.records}};
  json["epochs"] = Json::array();
  for (auto [epoch, use] : summary.epochs) {
    json["epochs"].push_back({{"epoch", epoch == 0 ? Json("kept") : Json(epoch)},
                              {"blocks", use.blocks},
                              {"bytes", use.bytes}});
  }
  json["size_classes"] = Json::array();
  for (size_t i = 0; i < kSizeClassCount; i++) {
    const ClassUse& use = summary.classes[i];
    if (use.superblocks == 0) continue;
    json["size_classes"].push_back({{"slot_bytes", kSizeClasses[i].slot_bytes},
                                    {"superblocks", use.superblocks},
                                    {"slots", use.slots},
                                    {"live", use.live},
                                    {"fill", ratio(use.live, use.slots)}});
  }
  return json;
}

void print_far(const ArenaView& view, const FarZone& far) {
  const FarUse use = use_of(view, far);
  auto bytes = [&](FarExtent::Where where) {
    return use.extents[static_cast<size_t>(where)] * kFarExtentBytes;
  };
  auto line = [](const char* name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
  };
  line("far memory",
       fmt::format("{} in use; {} near, {} on nodes", human_size(use.used_bytes),
                   human_size(bytes(FarExtent::Where::kNear)),
                   human_size(bytes(FarExtent::Where::kFar) + bytes(FarExtent::Where::kBoth))));
  if (uint64_t unknown = bytes(FarExtent::Where::kNowhere); unknown > 0)
    line("", red(fmt::format("{} lost, or on nodes that were not asked", human_size(unknown))));
  line("its file",
       fmt::format("{} ({}{})", printable(far.file_path()), human_size(far.file_bytes()),
                   far.has_file() ? "" : "; missing, or of another boot"));
  for (uint32_t i = 0; i < far.node_count(); i++) {
    line(i == 0 ? "memory nodes" : "",
         fmt::format("{} {}", far.node_name(i),
                     far.is_reachable(i)
                         ? fmt::format("{} extents", far.node(i).handshake().accept().arena_extents)
                         : red("does not answer")));
  }
}

void print_text(const std::string& path, const ArenaView& view, const Summary& summary,
                const FarZone& far) {
  const ArenaHeader& header = view.header();
  Numbers numbers = numbers_of(view, summary);
  Life life = life_of(view);
  std::string state = life_coloured(life);
  if (life == Life::kLive) state += fmt::format(", pid {}", header.pid);
  if (life == Life::kCrashed) {
    std::string death = death_of(view);
    state += death == "unknown" ? "" : " by the death of the " + death;
    state += fmt::format(", last pid {}", header.pid);
  }
  auto line = [](const char* name, const std::string& value) {
    fmt::print("{:<20} {}\n", name, value);
  };
  line("arena", printable(path));
  line("uuid", uuid_text(header));
  line("state", state);
  if (view.damaged_copy() >= 0) {
    bool is_stale = view.copy_state(view.damaged_copy()) == ArenaView::CopyState::kStale;
    line("arena header",
         yellow(fmt::format("copy {} is {}", view.damaged_copy() == 0 ? "A" : "B",
                            is_stale ? "older: its owner died between the two" : "damaged")));
  }
  line("program", program_of(header));
  line("created, opened", human_time(header.created_s) + ", " + human_time(header.opened_s));
  line("epoch", fmt::format("{}, oldest {}", header.epoch, header.oldest_epoch));
  line("base address", fmt::format("{:#x}", header.base_address));
  line("capacity", human_size(header.capacity_bytes));
  line("allocated", fmt::format("{} of the file's {}", human_size(allocated_bytes(view)),
                                human_size(view.file_size_bytes())));
  line("live", fmt::format("{} in {} blocks, {} of them large", human_size(summary.live_bytes),
                           summary.live_blocks, summary.large_blocks));
  line("free", fmt::format("{}, and {} in slots", human_size(numbers.free_bytes),
                           human_size(numbers.free_slot_bytes)));
  if (far.is_used()) print_far(view, far);
  line("largest free extent", human_size(numbers.largest_free_bytes));
  if (header.lanes_grown > 0) {
    OpenTransactions waiting = transactions_of(MappedArena(path, view));
    line("transactions", fmt::format("{} lanes; {} committed and {} open ones wait for recovery",
                                     header.lanes_grown, waiting.committed, waiting.open));
  }
  line("metadata", fmt::format("{}, {} of the grown part", human_size(numbers.metadata_bytes),
                               human_percent(numbers.metadata_bytes, numbers.grown_bytes)));
  line(
      "fragmentation",
      fmt::format(
          "{} of superblocks is in free slots, {} of free space is outside the largest free extent",
          human_percent(numbers.free_slot_bytes, summary.superblock_bytes),
          human_percent(numbers.free_bytes - numbers.largest_free_bytes, numbers.free_bytes)));
  if (!summary.epochs.empty()) {
    fmt::print("\n");
    Table epochs({">EPOCH", ">BLOCKS", ">BYTES"});
    for (auto [epoch, use] : summary.epochs) {
      epochs.row({epoch == 0 ? "kept" : std::to_string(epoch), std::to_string(use.blocks),
                  human_size(use.bytes)});
    }
    epochs.print();
  }
  Table roots({"ROOT", ">ADDRESS"});
  for (const RootEntry& root : roots_of(view))
    roots.row({root.name, fmt::format("{:#x}", root.address)});
  if (!roots.is_empty()) {
    fmt::print("\n");
    roots.print();
  }
  Table classes({">SLOT", ">SUPERBLOCKS", ">SLOTS", ">LIVE", ">FILL"});
  for (size_t i = 0; i < kSizeClassCount; i++) {
    const ClassUse& use = summary.classes[i];
    if (use.superblocks == 0) continue;
    classes.row({human_size(kSizeClasses[i].slot_bytes), std::to_string(use.superblocks),
                 std::to_string(use.slots), std::to_string(use.live),
                 human_percent(use.live, use.slots)});
  }
  if (!classes.is_empty()) {
    fmt::print("\n");
    classes.print();
  }
}

}  // namespace

void add_info(CLI::App& app, int& status) {
  CLI::App* command = app.add_subcommand(
      "info", "Describe one arena: state, space, blocks per epoch, size classes");
  static std::string path;
  static NodeOptions nodes;
  static bool is_json = false;
  command->add_option("ARENA", path, "the arena's file or device")->required();
  add_node_options(*command, nodes);
  command->add_flag("--json", is_json, "print JSON");
  command->footer(
      "Exit status: 0 described, 2 damaged, 3 not an arena or newer, 4 cannot be read.");
  command->callback([&status] {
    ArenaView view;
    open_arena(path, view);
    Summary summary = summarize(view);
    FarZone far(path, view, nodes);
    is_json ? print_json(describe(path, view, summary, far)) : print_text(path, view, summary, far);
    status = kExitOk;
  });
}

}  // namespace btd::tools
