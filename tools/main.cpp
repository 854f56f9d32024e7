// bartender: look at, save and tidy up the arenas of dead and living programs.  One file a
// subcommand.
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <exception>

#include "tools/tool.hpp"

namespace btd::tools {
namespace {

bool has_no_value(const char* option) {
  for (const char* flag : {"--help", "-h", "--json", "--dry-run"}) {
    if (std::strcmp(option, flag) == 0) return true;
  }
  return std::strchr(option, '=') != nullptr;
}

// Where the program of `bartender run [options] [--] PROG ARGS` starts.  Done by hand: what follows
// PROG is none of our options, even if it looks like one.
int find_program(int argc, char** argv) {
  int at = 2;
  while (at < argc && argv[at][0] == '-') {
    if (std::strcmp(argv[at], "--") == 0) return at;
    at += has_no_value(argv[at]) ? 1 : 2;
  }
  return at < argc ? at : argc;
}

// "ls " if that is what was typed: the help to point to.
std::string subcommand_of(const CLI::App& app, int argc, char** argv) {
  for (const CLI::App* command : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (argc > 1 && command->get_name() == argv[1]) return command->get_name() + " ";
  }
  return "";
}

std::string one_line(std::string text) {
  for (char& c : text) {
    if (c == '\n') c = ' ';
  }
  return text;
}

int run(int argc, char** argv) {
  bool is_run = argc > 1 && std::strcmp(argv[1], "run") == 0;
  int own_argc = is_run ? find_program(argc, argv) : argc;
  int command_at =
      own_argc < argc && std::strcmp(argv[own_argc], "--") == 0 ? own_argc + 1 : own_argc;
  std::vector<std::string> command(argv + command_at, argv + argc);

  CLI::App app(
      "Bartender keeps the data of programs that died: it runs unmodified programs on a persistent "
      "arena, and reads what is left of "
      "them.",
      "bartender");
  app.footer(
      "Exit status: 0 done, 1 repaired, 2 damaged, 3 refused (not an arena, newer, in use),\n"
      "4 could not be done, 64 wrong usage.  `run` passes on the status of the program.");
  app.require_subcommand(1);
  app.set_version_flag("--version", "bartender " BTD_VERSION);
  int status = kExitOk;
  add_run(app, status, command);
  add_ls(app, status);
  add_info(app, status);
  add_salvage(app, status);
  add_check(app, status);
  add_gc(app, status);
  add_rm(app, status);
  add_config(app, status);
  add_doctor(app, status);
  add_node(app, status);
  add_version(app, status);
  try {
    app.parse(own_argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help, --version
    fmt::print(stderr, "bartender: {}; nothing was done; see `bartender {}--help`\n",
               one_line(error.what()), subcommand_of(app, argc, argv));
    return is_run ? kExitRunFailed : kExitUsage;
  }
  return status;
}

}  // namespace
}  // namespace btd::tools

int main(int argc, char** argv) {
  using namespace btd::tools;
  int status = kExitFailed;
  try {
    status = run(argc, argv);
  } catch (const Failure& failure) {
    std::fflush(stdout);
    fmt::print(stderr, "bartender: {}\n", failure.message);
    return failure.status;
  } catch (const std::exception& error) {
    std::fflush(stdout);
    fmt::print(stderr, "bartender: {}; no arena was changed; try again\n", error.what());
    return kExitFailed;
  }
  // A full disk behind stdout shows only now.
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    fmt::print(stderr,
               "bartender: the output could not be written; no arena was changed; free some space "
               "and try again\n");
    return kExitFailed;
  }
  return status;
}
