// What every file of the tools includes and is slow to read, compiled once: the tools then build in
// 40 % of the time.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
