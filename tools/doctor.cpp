// bartender doctor: what an arena at this place would survive, and how its stores get to media.
//
// Nothing is left behind: where there is no file yet, one without a name is asked in its place.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/persist/durability.hpp"
#include "core/persist/flush_speed.hpp"
#include "core/persist/pmem.hpp"
#include "tools/arena_file.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

struct Options {
  std::string path = "/dev/shm";
  bool is_json = false;
};

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int number() const { return number_; }

 private:
  int number_;
};

[[noreturn]] void fail(const std::string& path, const char* why) {
  throw Failure{kExitFailed, fmt::format("{}: {}; nothing was changed; give the path of an arena, "
                                         "of a DAX device, or of a directory for arenas",
                                         printable(path), why)};
}

// What an arena made in this directory would be.
Backend backend_in(const std::string& directory) {
  Descriptor file(open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (file.number() >= 0) return backend_of(file.number());
  // Not every file system has files without a name, nor may everybody write everywhere; then
  // whether MAP_SYNC would be granted stays open, and the weaker answer is the safe one.
  Descriptor place(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (place.number() < 0) fail(directory, std::strerror(errno));
  return backend_of(place.number());
}

Backend backend_at(const std::string& path) {
  struct stat status {};
  if (lstat(path.c_str(), &status) != 0) {
    if (errno != ENOENT) fail(path, std::strerror(errno));
    std::string parent = std::filesystem::path(path).parent_path().string();
    return backend_in(parent.empty() ? "." : parent);
  }
  if (S_ISDIR(status.st_mode)) return backend_in(path);
  if (S_ISCHR(status.st_mode) && dax_device_bytes(status.st_rdev) > 0) return Backend::kDevdax;
  if (!S_ISREG(status.st_mode)) fail(path, "it is neither a file nor a directory nor a DAX device");
  Descriptor file(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (file.number() < 0) fail(path, std::strerror(errno));
  return backend_of(file.number());
}

const char* name_of(Backend backend) {
  switch (backend) {
    case Backend::kTmpfs:
      return "tmpfs";
    case Backend::kFile:
      return "file";
    case Backend::kFsdax:
      return "fsdax";
    default:
      return "devdax";
  }
}

const char* text_of(Backend backend) {
  switch (backend) {
    case Backend::kTmpfs:
      return "tmpfs: memory of this machine, gone when it stops";
    case Backend::kFile:
      return "file: pages of the kernel's cache, on media after msync";
    case Backend::kFsdax:
      return "fsdax: persistent memory under a file system, mapped with MAP_SYNC";
    default:
      return "devdax: persistent memory as a device";
  }
}

const char* name_of(PersistKind kind) {
  switch (kind) {
    case PersistKind::kFlush:
      return "flush";
    case PersistKind::kEadr:
      return "eadr";
    case PersistKind::kMsync:
      return "msync";
    default:
      return "none";
  }
}

std::string way_text(PersistKind kind) {
  switch (kind) {
    case PersistKind::kFlush:
      return fmt::format("{} and a fence", cpu::name_of(flush_speeds().fastest));
    case PersistKind::kEadr:
      return "a fence; the caches survive power loss (eADR)";
    default:
      return "msync";
  }
}

const char* name_of(Survival survival) {
  switch (survival) {
    case Survival::kNothing:
      return "nothing";
    case Survival::kNotTold:
      return "undefined";
    case Survival::kReachable:
      return "reachable";
    default:
      return "exact";
  }
}

const char* text_of(Survival survival) {
  switch (survival) {
    case Survival::kNothing:
      return "no";
    case Survival::kNotTold:
      return "not promised";
    case Survival::kReachable:
      return "what roots reach";
    default:
      return "yes, exactly";
  }
}

constexpr struct {
  Durability level;
  const char* name;
} kLevels[] = {{Durability::kProcess, "process"},
               {Durability::kLazy, "lazy"},
               {Durability::kStrict, "strict"}};

// The level of the arena's last open; nullptr: there is no arena.
const char* recorded_level(const std::string& path) {
  ArenaView view;
  if (ArenaView::open(path.c_str(), view) != Error::kNone) return nullptr;
  for (auto [level, name] : kLevels) {
    if (view.header().durability == static_cast<uint32_t>(level)) return name;
  }
  return "unknown";
}

void print_as_json(const std::string& path, Backend backend) {
  Json json = json_document("doctor");
  const char* recorded = recorded_level(path);
  json["path"] = path;
  json["backend"] = name_of(backend);
  json["map_sync"] = backend == Backend::kFsdax || backend == Backend::kDevdax;
  json["way"] = name_of(persist_kind(backend));
  json["eadr"] = has_eadr();
  json["libpmem"] = is_libpmem_loaded();
  json["arena_durability"] = recorded == nullptr ? Json(nullptr) : Json(recorded);
  const FlushSpeeds& speeds = flush_speeds();
  json["fastest"] = speeds.is_any ? Json(cpu::name_of(speeds.fastest)) : Json(nullptr);
  json["instructions"] = Json::array();
  for (size_t i = 0; i < cpu::kFlushInstructionCount; i++) {
    if (!speeds.of[i].is_there) continue;
    auto instruction = static_cast<cpu::FlushInstruction>(i);
    json["instructions"].push_back({{"name", cpu::name_of(instruction)},
                                    {"fresh_ns", speeds.of[i].fresh_ns},
                                    {"reflush_ns", reflush_ns(instruction)}});
  }
  json["levels"] = Json::array();
  for (auto [level, name] : kLevels) {
    json["levels"].push_back({{"level", name},
                              {"process_death", name_of(after_process_death(backend, level))},
                              {"power_loss", name_of(after_power_loss(backend, level))}});
  }
  print_json(json);
}

void print_as_text(const std::string& path, Backend backend) {
  bool is_dax = backend == Backend::kFsdax || backend == Backend::kDevdax;
  fmt::print("place      {}\n", printable(path));
  fmt::print("backend    {}\n", text_of(backend));
  fmt::print("MAP_SYNC   {}\n", is_dax ? "granted" : "not granted");
  fmt::print("eADR       {}\n", has_eadr() ? "yes" : "no");
  fmt::print("libpmem    {}\n",
             is_libpmem_loaded() ? "there" : "not there; the kernel was asked in its place");
  fmt::print("durable by {}\n", way_text(persist_kind(backend)));
  if (const char* recorded = recorded_level(path))
    fmt::print("arena      last opened with durability {}\n", recorded);
  fmt::print("\n");
  Table levels({"DURABILITY", "PROCESS DIES", "POWER FAILS"});
  for (auto [level, name] : kLevels) {
    levels.row({name, text_of(after_process_death(backend, level)),
                text_of(after_power_loss(backend, level))});
  }
  levels.print();
  fmt::print("\n");
  const FlushSpeeds& speeds = flush_speeds();
  Table instructions({"FLUSH", ">NEXT LINE", ">SAME LINE", ""});
  for (size_t i = 0; i < cpu::kFlushInstructionCount; i++) {
    if (!speeds.of[i].is_there) continue;
    auto instruction = static_cast<cpu::FlushInstruction>(i);
    instructions.row({cpu::name_of(instruction), fmt::format("{} ns", speeds.of[i].fresh_ns),
                      fmt::format("{} ns", reflush_ns(instruction)),
                      instruction == speeds.fastest ? "taken" : ""});
  }
  if (!instructions.is_empty()) instructions.print();
}

}  // namespace

void add_doctor(CLI::App& app, int&) {
  CLI::App* command =
      app.add_subcommand("doctor", "Tell which failures an arena at a place survives, and how");
  static Options options;
  command->add_option("PATH", options.path,
                      "an arena, a directory for arenas, or a DAX device; by default /dev/shm");
  command->add_flag("--json", options.is_json, "print JSON");
  command->footer("Exit status: 0 told, 4 the place cannot be looked at.");
  command->callback([] {
    Backend backend = backend_at(options.path);
    load_libpmem();
    options.is_json ? print_as_json(options.path, backend) : print_as_text(options.path, backend);
  });
}

}  // namespace btd::tools
