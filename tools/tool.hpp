// What all subcommands share: failures, and where each hooks itself into the command line.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "tools/failure.hpp"

namespace btd::tools {

// Each adds its subcommand to `app`, which stores the exit status in `status` when it is run.
void add_run(CLI::App& app, int& status, const std::vector<std::string>& command);
void add_ls(CLI::App& app, int& status);
void add_info(CLI::App& app, int& status);
void add_salvage(CLI::App& app, int& status);
void add_check(CLI::App& app, int& status);
void add_gc(CLI::App& app, int& status);
void add_rm(CLI::App& app, int& status);
void add_config(CLI::App& app, int& status);
void add_doctor(CLI::App& app, int& status);
void add_node(CLI::App& app, int& status);
void add_version(CLI::App& app, int& status);

}  // namespace btd::tools
