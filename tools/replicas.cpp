#include "tools/replicas.hpp"

#include <fmt/core.h>

#include <algorithm>
#include <bit>

#include "core/base/crc32c.hpp"
#include "tools/failure.hpp"
#include "tools/progress.hpp"

namespace btd::tools {
namespace {

using Kind = FarFinding::Kind;

constexpr size_t kLinesMax = 50;  // of findings, for people; JSON has all
constexpr uint32_t kPollUs = 500000;

// One of several that are asked for at the same time, in the slot of its index.
struct Asked {
  uint64_t extent;
  FarExtent known;
  uint32_t good = 0;  // nodes, a bit each
  uint32_t bad = 0;
  uint32_t crc = 0;  // of the first good copy
  bool differs = false;
};

// Extents of the far zone that the arena's own extents touch.
std::vector<bool> extents_in_use(const ArenaView& view, const FarZone& far, uint64_t* bytes) {
  std::vector<bool> in_use(far.extent_count());
  const uint64_t begin = view.far_begin(), end = view.far_end();
  view.for_each_extent([&](const Extent& extent) {
    const uint64_t first = extent.first_frame * kFrameBytes;
    const uint64_t last = first + extent.frame_count * kFrameBytes - 1;
    if (first < begin || first >= end) return;
    if (bytes != nullptr) *bytes += last + 1 - first;
    for (uint64_t i = (first - begin) / kFarExtentBytes; i <= (last - begin) / kFarExtentBytes; i++)
      if (i < in_use.size()) in_use[i] = true;
  });
  return in_use;
}

void take(Asked& asked, const NodeCompletion& done, uint32_t node, const char* bytes) {
  if (done.status == NodeStatus::kCorrupt) asked.bad |= 1U << node;
  if (done.status != NodeStatus::kGood || done.generation != asked.known.generation ||
      done.length_bytes != kFarExtentBytes) {
    return;
  }
  const uint32_t crc = crc32c(bytes, kFarExtentBytes);
  if (asked.good == 0) asked.crc = crc;
  asked.differs |= asked.crc != crc;
  asked.good |= 1U << node;
}

// From every node that should have it.
void ask(FarZone& far, std::vector<Asked>& batch) {
  uint32_t pending[kFarNodesMax] = {};
  for (uint32_t node = 0; node < far.node_count(); node++) {
    for (uint32_t slot = 0; slot < batch.size(); slot++) {
      const FarExtent& known = batch[slot].known;
      if ((known.holders >> node & 1) != 0 && far.is_reachable(node) &&
          far.node(node).read(slot, batch[slot].extent, known.generation)) {
        pending[node]++;
      }
    }
  }
  for (uint32_t node = 0; node < far.node_count(); node++) {
    while (pending[node] > 0) {  // each is reported, at the latest by its deadline
      NodeCompletion done[kNodeDepth];
      const uint32_t count = far.node(node).poll(done, kNodeDepth, kPollUs);
      pending[node] -= count;
      for (uint32_t i = 0; i < count; i++)
        take(batch[done[i].slot], done[i], node, far.node(node).buffer(done[i].slot));
    }
  }
}

void judge(const Asked& asked, bool all_answer, ReplicaReport& report) {
  const auto copies = static_cast<uint32_t>(std::popcount(asked.good));
  report.by_copies[copies]++;
  auto add = [&](Kind kind, FarFault fault) {
    report.findings.push_back(
        {kind, asked.extent, copies, fault, asked.known.generation, asked.good, asked.bad});
  };
  if (asked.differs) {
    add(Kind::kDiffers, FarFault::kNone);
  } else if (copies == 0 && all_answer) {
    add(Kind::kLost, asked.bad != 0 ? FarFault::kCorrupt : FarFault::kLost);
  } else if (copies == 0) {
    add(Kind::kUnverified, FarFault::kAway);
  } else if (asked.bad != 0) {
    add(Kind::kBadCopy, FarFault::kNone);
  } else if (copies < report.wanted) {
    add(Kind::kFewCopies, FarFault::kNone);
  }
}

const char* name_of(Kind kind) {
  static constexpr const char* kNames[] = {"few-copies", "bad-copy", "unverified", "lost",
                                           "differs"};
  return kNames[static_cast<size_t>(kind)];
}

const char* result_of(const ReplicaReport& report) {
  if (report.count(Kind::kLost) + report.count(Kind::kDiffers) > 0) return "damaged";
  if (report.count(Kind::kUnverified) > 0) return "unverified";
  return report.findings.empty() ? "clean" : "degraded";
}

Json describe_nodes(const FarZone& far) {
  Json nodes = Json::array();
  for (uint32_t i = 0; i < far.node_count(); i++) {
    Json extents(nullptr);
    if (far.is_reachable(i)) extents = far.node(i).handshake().accept().arena_extents;
    nodes.push_back(
        {{"address", far.node_name(i)}, {"reachable", far.is_reachable(i)}, {"extents", extents}});
  }
  return nodes;
}

}  // namespace

uint64_t ReplicaReport::count(Kind kind) const {
  return static_cast<uint64_t>(std::ranges::count(findings, kind, &FarFinding::kind));
}

int ReplicaReport::status() const {
  if (count(Kind::kLost) + count(Kind::kDiffers) > 0) return kExitDamaged;
  return findings.empty() ? kExitOk : kExitPartial;
}

ReplicaReport verify_replicas(const ArenaView& view, FarZone& far) {
  using Where = FarExtent::Where;
  ReplicaReport report;
  report.wanted = std::min(replicas_wanted(), far.node_count());
  const std::vector<bool> in_use = extents_in_use(view, far, nullptr);
  bool all_answer = true;
  for (uint32_t i = 0; i < far.node_count(); i++) all_answer &= far.is_reachable(i);
  Progress progress("reading replicas");
  std::vector<Asked> batch;
  for (uint64_t extent = 0; extent <= in_use.size(); extent++) {
    const bool is_end = extent == in_use.size();
    if (!is_end && in_use[extent]) {
      const FarExtent known = far.look(extent);
      if (known.where == Where::kNear) report.near++;
      if (known.where == Where::kFar || known.where == Where::kBoth) report.extents++;
      const bool is_lost = known.fault == FarFault::kLost;
      if (known.where == Where::kNowhere || known.fault != FarFault::kNone) {
        report.by_copies[0]++;
        report.findings.push_back(
            {is_lost ? Kind::kLost : Kind::kUnverified, extent, 0, known.fault});
      } else if (known.where == Where::kFar || known.where == Where::kBoth) {
        batch.push_back({extent, known});
      }
    }
    if (batch.size() == kNodeDepth || (is_end && !batch.empty())) {
      ask(far, batch);
      for (const Asked& asked : batch) judge(asked, all_answer, report);
      batch.clear();
      progress.update(extent, in_use.size());
    }
  }
  return report;
}

Json describe(const ReplicaReport& report, const FarZone& far) {
  Json json;
  json["result"] = result_of(report);
  json["extent_bytes"] = kFarExtentBytes;
  json["extents"] = report.extents;
  json["near_extents"] = report.near;
  json["replicas"] = report.wanted;
  json["extents_by_copies"] = report.by_copies;
  json["findings"] = Json::array();
  for (const FarFinding& finding : report.findings) {
    json["findings"].push_back(
        {{"fault", name_of(finding.kind)},
         {"extent", finding.extent},
         {"copies", finding.copies},
         {"why",
          finding.fault == FarFault::kNone ? Json(nullptr) : Json(fault_name(finding.fault))}});
  }
  json["nodes"] = describe_nodes(far);
  return json;
}

void print_text(const ReplicaReport& report, const FarZone& far) {
  Table table({"FAULT", ">EXTENT", ">COPIES", "WHY"});
  for (size_t i = 0; i < std::min(report.findings.size(), kLinesMax); i++) {
    const FarFinding& finding = report.findings[i];
    table.row({yellow(name_of(finding.kind)), std::to_string(finding.extent),
               std::to_string(finding.copies),
               finding.fault == FarFault::kNone ? "-" : fault_text(finding.fault)});
  }
  if (!table.is_empty()) table.print();
  if (report.findings.size() > kLinesMax)
    fmt::print("... and {} more; --json prints all\n", report.findings.size() - kLinesMax);
  for (uint32_t i = 0; i < far.node_count(); i++) {
    if (!far.is_reachable(i)) fmt::print("node {}: {}\n", far.node_name(i), red("does not answer"));
  }
  std::string copies;
  for (size_t i = 0; i < report.by_copies.size(); i++) {
    if (report.by_copies[i] > 0)
      copies += fmt::format("{}{} with {}", copies.empty() ? "" : ", ", report.by_copies[i], i);
  }
  std::string result = result_of(report);
  fmt::print("far memory: {}; {} extents of 64 KiB on nodes{}, {} near\n",
             result == "clean"     ? green(result)
             : result == "damaged" ? red(result)
                                   : yellow(result),
             report.extents,
             copies.empty() ? "" : fmt::format(" (copies wanted: {}; {})", report.wanted, copies),
             report.near);
}

FarUse use_of(const ArenaView& view, const FarZone& far) {
  FarUse use;
  const std::vector<bool> in_use = extents_in_use(view, far, &use.used_bytes);
  for (uint64_t i = 0; i < in_use.size(); i++)
    if (in_use[i]) use.extents[static_cast<size_t>(far.look(i).where)]++;
  return use;
}

Json describe(const FarUse& use, const ArenaView& view, const FarZone& far) {
  auto bytes = [&](FarExtent::Where where) {
    return use.extents[static_cast<size_t>(where)] * kFarExtentBytes;
  };
  Json json;
  json["capacity_bytes"] = view.far_end() - view.far_begin();
  json["used_bytes"] = use.used_bytes;
  json["window_file"] = far.is_used() ? Json(far.file_path()) : Json(nullptr);
  json["window_file_good"] = far.has_file();
  json["window_file_bytes"] = far.file_bytes();
  json["near_bytes"] = bytes(FarExtent::Where::kNear);
  json["far_bytes"] = bytes(FarExtent::Where::kFar) + bytes(FarExtent::Where::kBoth);
  json["zero_bytes"] = bytes(FarExtent::Where::kZero);
  json["unknown_bytes"] = bytes(FarExtent::Where::kNowhere);
  json["nodes"] = describe_nodes(far);
  return json;
}

}  // namespace btd::tools
