// bartender run: starts a program with the library in front of its malloc.
//
// The loader ignores LD_PRELOAD without a word for static, set-user-ID and foreign programs; the
// user would learn of it after the crash, from an arena that is not there.  So it is found out
// before: by the file's mode and ELF header, and by asking the program's own loader to list what it
// would load.
#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>

#include "core/base/config.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr int kInterpretersMax = 4;       // as many levels of #! as Linux follows
constexpr int kLoaderPatienceMs = 10000;  // for `ld.so --list`, which takes milliseconds

struct Options {
  std::vector<std::string> values{kSettingCount};
  std::string library;
  bool is_dry_run = false;
  bool is_json = false;
};

[[noreturn]] void refuse(const std::string& what, const char* next) {
  throw Failure{kExitRunFailed, fmt::format("{}; nothing was started; {}", what, next)};
}

// --- Settings
// ------------------------------------------------------------------------------------------------------------

// "ON_EXIT" -> "--on-exit"
std::string option_of(const Setting& setting) {
  std::string option = "--";
  for (const char* at = setting.name; *at != '\0'; at++) {
    option += *at == '_' ? '-' : static_cast<char>(std::tolower(static_cast<unsigned char>(*at)));
  }
  return option;
}

void put_settings(const Options& options) {
  char message[1024];
  Config config;
  default_config(config);
  for (size_t i = 0; i < kSettingCount; i++) {
    if (options.values[i].empty()) continue;
    if (!set_from_text(config, kSettings[i], options.values[i].c_str(), message, sizeof(message))) {
      refuse(message, fmt::format("correct {}", option_of(kSettings[i])).c_str());
    }
    setenv((std::string(kEnvironmentPrefix) + kSettings[i].name).c_str(), options.values[i].c_str(),
           1);
  }
  // The library would go on without an arena; whoever types `run` wants one.
  if (!parse_config(environ, config, message, sizeof(message)))
    refuse(message, "correct or unset it");
}

// --- The library
// -----------------------------------------------------------------------------------------------------------

std::string find_library(const std::string& given) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<fs::path> candidates;
  if (!given.empty()) {
    candidates.push_back(given);
  } else {
    fs::path directory = fs::read_symlink("/proc/self/exe", error).parent_path();
    fs::path prefix = directory.parent_path();
    candidates = {prefix / "preload/libbartender.so",
                  prefix / BTD_LIBRARY_DIR / "bartender/libbartender.so",
                  prefix / BTD_LIBRARY_DIR / "libbartender.so",
                  prefix / "lib/bartender/libbartender.so", prefix / "lib/libbartender.so"};
  }
  for (const fs::path& candidate : candidates) {
    if (!fs::is_regular_file(candidate, error)) continue;
    std::string path = fs::canonical(candidate, error);
    if (path.find_first_of(": \t\n") != std::string::npos) {
      refuse(fmt::format(
                 "{} has a space or colon in its path, which LD_PRELOAD takes for the end of it",
                 printable(path)),
             "move or link the library elsewhere and give it with --library");
    }
    return path;
  }
  refuse(
      fmt::format("libbartender.so was not found{}",
                  given.empty() ? " near this program" : fmt::format(" at {}", printable(given))),
      "give its path with --library");
}

void put_library(const std::string& library) {
  const char* others = std::getenv("LD_PRELOAD");
  std::string value = library;
  if (others != nullptr && *others != '\0') value += std::string(":") + others;
  setenv("LD_PRELOAD", value.c_str(), 1);
}

// --- The program
// -------------------------------------------------------------------------------------------------------------

// As execvp(3) finds it.
std::string find_program(const std::string& name) {
  auto is_file = [](const std::string& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 && !S_ISDIR(status.st_mode);
  };
  bool is_found = false;
  auto is_usable = [&](const std::string& path) {
    if (!is_file(path)) return false;
    is_found = true;
    return access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) {
    if (is_usable(name)) return name;
    is_found = is_found || access(name.c_str(), F_OK) == 0;  // a directory
  } else if (!name.empty()) {
    const char* path = std::getenv("PATH");
    std::string directories = path != nullptr ? path : "/bin:/usr/bin";
    for (size_t at = 0; at <= directories.size();) {
      size_t end = std::min(directories.find(':', at), directories.size());
      std::string directory = directories.substr(at, end - at);
      std::string candidate = directory.empty() ? name : directory + "/" + name;
      if (is_usable(candidate)) return candidate;
      at = end + 1;
    }
  }
  throw Failure{is_found ? kExitNotExecutable : kExitNotFound,
                fmt::format("{}: {}; nothing was started; check the name", printable(name),
                            is_found ? "it is not executable" : "there is no such program")};
}

// The first 64 KiB, which hold the #! line and every ELF program header that linkers make; nothing:
// not readable.
std::optional<std::string> head_of(const std::string& path) {
  int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return std::nullopt;
  std::string head(64 * 1024, '\0');
  ssize_t count = read(file, head.data(), head.size());
  close(file);
  if (count < 0) return std::nullopt;
  head.resize(static_cast<size_t>(count));
  return head;
}

void refuse_privileged(const std::string& path) {
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) return;
  bool is_setuid = (status.st_mode & S_ISUID) != 0 && status.st_uid != getuid();
  bool is_setgid =
      (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && status.st_gid != getgid();
  bool has_capabilities =
      getuid() != 0 && getxattr(path.c_str(), "security.capability", nullptr, 0) > 0;
  if (is_setuid || is_setgid || has_capabilities) {
    refuse(fmt::format("{} runs with the rights of another user (set-user-ID, set-group-ID or "
                       "capabilities), and the loader "
                       "preloads nothing into such programs",
                       printable(path)),
           "run a copy without these bits, or the program that it starts");
  }
}

// The #! line's interpreter; empty: it is no script.  `argument` is the rest of the line.
std::string interpreter_of(const std::string& head, std::string& argument) {
  if (!head.starts_with("#!")) return "";
  std::string line = head.substr(2, head.find('\n') - 2);
  size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return "";
  size_t end = std::min(line.find_first_of(" \t\r", begin), line.size());
  size_t rest = line.find_first_not_of(" \t", end);
  argument = rest == std::string::npos ? "" : line.substr(rest);
  while (!argument.empty() && std::strchr(" \t\r", argument.back()) != nullptr) argument.pop_back();
  return line.substr(begin, end - begin);
}

// What `#!/usr/bin/env [-S] NAME` will run; empty: cannot be told.
std::string program_of_env(const std::string& argument) {
  std::string rest = argument.starts_with("-S")
                         ? argument.substr(argument.find_first_not_of(" \t", 2) == std::string::npos
                                               ? argument.size()
                                               : argument.find_first_not_of(" \t", 2))
                         : argument;
  std::string name = rest.substr(0, rest.find_first_of(" \t"));
  return name.empty() || name[0] == '-' || name.find('=') != std::string::npos ? "" : name;
}

// PT_INTERP of a 64-bit ELF file; nothing: there is none, so the program is static.
std::optional<std::string> loader_of(const std::string& head) {
  Elf64_Ehdr elf;
  if (head.size() < sizeof(elf)) return std::nullopt;
  std::memcpy(&elf, head.data(), sizeof(elf));
  for (unsigned i = 0; i < elf.e_phnum && elf.e_phentsize >= sizeof(Elf64_Phdr); i++) {
    uint64_t at = elf.e_phoff + uint64_t{i} * elf.e_phentsize;
    if (elf.e_phoff > head.size() || at + sizeof(Elf64_Phdr) > head.size()) break;
    Elf64_Phdr segment;
    std::memcpy(&segment, head.data() + at, sizeof(segment));
    if (segment.p_type != PT_INTERP) continue;
    if (segment.p_offset > head.size() || segment.p_filesz > head.size() - segment.p_offset) break;
    return std::string(head.data() + segment.p_offset,
                       strnlen(head.data() + segment.p_offset, segment.p_filesz));
  }
  return std::nullopt;
}

struct Ended {
  bool is_whole = false;    // it was started and has ended in time
  bool is_killed = false;   // by a signal of its own
  bool is_success = false;  // with status 0
  std::string output;
};

// Runs a program without input for its standard output.
Ended run_quietly(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return {};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  int error = posix_spawn(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  Ended ended;
  char piece[4096];
  pollfd readable{ends[0], POLLIN, 0};
  while (error == 0 && poll(&readable, 1, kLoaderPatienceMs) > 0) {
    ssize_t count = read(ends[0], piece, sizeof(piece));
    if (count <= 0) {
      ended.is_whole = count == 0;
      break;
    }
    ended.output.append(piece, static_cast<size_t>(count));
  }
  close(ends[0]);
  if (error != 0) return {};
  if (!ended.is_whole) kill(child, SIGKILL);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  ended.is_killed = ended.is_whole && WIFSIGNALED(status);
  ended.is_success = ended.is_whole && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return ended;
}

// Throws unless the library will be in the process that `path` becomes.
// REQUIRES: LD_PRELOAD is set as the program will see it.
void verify(const std::string& path, const std::string& library, int depth = 0) {
  refuse_privileged(path);
  std::optional<std::string> head = head_of(path);
  if (!head) {
    // Executable, but not readable: the loader can do what we cannot.
    fmt::print(stderr,
               "bartender: {} cannot be read, so it is not known whether the library will be in "
               "it; it is started all the same; see `bartender ls`\n",
               printable(path));
    return;
  }
  std::string argument;
  std::string interpreter = interpreter_of(*head, argument);
  bool is_elf = head->starts_with(ELFMAG);
  if (!is_elf && interpreter.empty()) interpreter = "/bin/sh";  // as execvp(3) does
  if (!interpreter.empty()) {
    if (depth == kInterpretersMax)
      refuse(fmt::format("{}: too many levels of #! interpreters", printable(path)),
             "start the last one yourself");
    verify(interpreter.find('/') == std::string::npos ? "./" + interpreter : interpreter, library,
           depth + 1);
    if (std::filesystem::path(interpreter).filename() == "env") {
      std::string program = program_of_env(argument);
      if (!program.empty()) verify(find_program(program), library, depth + 1);
    }
    return;
  }
  std::optional<std::string> library_head = head_of(library);
  bool is_same_machine = library_head && library_head->size() > 20 && head->size() > 20 &&
                         (*head)[EI_CLASS] == (*library_head)[EI_CLASS] &&
                         head->compare(18, 2, *library_head, 18, 2) == 0;
  if (!is_same_machine) {
    refuse(fmt::format("{} is a program for another machine than {} (32 bit?)", printable(path),
                       printable(library)),
           "use a libbartender.so built for it");
  }
  std::optional<std::string> loader = loader_of(*head);
  if (!loader) {
    refuse(fmt::format("{} is statically linked, and nothing can be preloaded into it",
                       printable(path)),
           "link it dynamically");
  }
  Ended listed = run_quietly({*loader, "--list", path});
  // A loader without --list (before glibc 2.27's), or the program lacks a library: it will say so
  // itself.
  if (!listed.is_killed && !listed.is_success) return;
  if (listed.is_killed || listed.output.find(library) == std::string::npos) {
    refuse(fmt::format("the loader of {} would not load {}", printable(path), printable(library)),
           "run it with LD_DEBUG=libs to see why");
  }
}

void print_plan(const std::string& library, const std::vector<std::string>& command,
                const std::string& program, bool is_json) {
  std::vector<std::string> variables{std::string("LD_PRELOAD=") + std::getenv("LD_PRELOAD")};
  for (const Setting& setting : kSettings) {
    std::string name = std::string(kEnvironmentPrefix) + setting.name;
    if (const char* value = std::getenv(name.c_str())) variables.push_back(name + "=" + value);
  }
  if (is_json) {
    Json json = json_document("run");
    json["library"] = library;
    json["program"] = program;
    json["arguments"] = command;
    json["environment"] = variables;
    print_json(json);
    return;
  }
  for (const std::string& variable : variables) fmt::print("{}\n", printable(variable));
  fmt::print("{}\n", printable(program));
}

void run_program(const Options& options, const std::vector<std::string>& command) {
  if (command.empty())
    refuse("no program was named", "type `bartender run [options] -- PROG ARGS`");
  put_settings(options);
  std::string library = find_library(options.library);
  std::string program = find_program(command[0]);
  put_library(library);
  verify(program, library);
  if (options.is_dry_run) return print_plan(library, command, program, options.is_json);
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  execvp(arguments[0], arguments.data());
  int error = errno;
  throw Failure{error == ENOENT ? kExitNotFound : kExitNotExecutable,
                fmt::format("{}: {}; nothing was started; check the program", printable(command[0]),
                            std::strerror(error))};
}

}  // namespace

void add_run(CLI::App& app, int& status, const std::vector<std::string>& command) {
  CLI::App* run = app.add_subcommand(
      "run", "Run a program on a persistent arena: bartender run [OPTIONS] [--] PROG [ARGS...]");
  static Options options;
  for (size_t i = 0; i < kSettingCount; i++) {
    const Setting& setting = kSettings[i];
    run->add_option(option_of(setting), options.values[i],
                    fmt::format("{} ({})", setting.what, setting.range))
        ->type_name(setting.unit)
        ->default_str(setting.default_text)
        ->multi_option_policy(
            CLI::MultiOptionPolicy::TakeLast)  // so that an alias can be overruled
        ->group("Settings, each also " + std::string(kEnvironmentPrefix) +
                "NAME in the environment");
  }
  run->add_option("--library", options.library,
                  "libbartender.so; by default the one next to this program");
  run->add_flag("--dry-run", options.is_dry_run,
                "verify, print the environment and the program's path, and start nothing");
  run->add_flag("--json", options.is_json, "with --dry-run: print JSON");
  run->footer(
      "Exit status: that of the program; 125 the library cannot be in it (static, set-user-ID, "
      "...) or a setting is\n"
      "wrong, 126 it is not executable, 127 it was not found.");
  run->callback([&status, &command] {
    run_program(options, command);
    status = kExitOk;
  });
}

}  // namespace btd::tools
