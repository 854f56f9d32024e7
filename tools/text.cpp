#include "tools/text.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>

#include "core/base/config.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

// Width on screen: neither colour sequences nor UTF-8 continuation bytes take a column.
size_t width_of(const std::string& text) {
  size_t width = 0;
  bool is_sequence = false;
  for (char c : text) {
    if (c == '\033') is_sequence = true;
    if (!is_sequence && (static_cast<unsigned char>(c) & 0xC0) != 0x80) width++;
    if (c == 'm') is_sequence = false;
  }
  return width;
}

std::string coloured(const char* sequence, const std::string& text) {
  return is_colourful() ? fmt::format("\033[{}m{}\033[0m", sequence, text) : text;
}

}  // namespace

Json json_document(const char* command) {
  Json json;
  json["schema"] = kJsonSchema;
  json["command"] = command;
  return json;
}

std::string json_text(const Json& json, bool is_pretty) {
  return json.dump(is_pretty ? 2 : -1, ' ', false, Json::error_handler_t::replace);
}

void print_json(const Json& json) { fmt::print("{}\n", json_text(json, true)); }

std::string human_size(uint64_t size_bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (size_bytes < 1024) return fmt::format("{} B", size_bytes);
  size_t unit = 0;
  double value = static_cast<double>(size_bytes);
  while (value >= 1023.95) {  // 1023.96 would be printed as 1024.0
    value /= 1024;
    unit++;
  }
  std::string text = fmt::format("{:.1f}", value);
  if (text.ends_with(".0")) text.resize(text.size() - 2);
  return fmt::format("{} {}", text, kUnits[unit]);
}

std::string human_time(uint64_t seconds) {
  if (seconds == 0) return "-";
  auto time = static_cast<time_t>(seconds);
  std::tm parts{};
  char text[64];
  if (localtime_r(&time, &parts) == nullptr) return "-";
  strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &parts);
  return text;
}

std::string human_percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  return fmt::format("{:.1f} %", 100.0 * static_cast<double>(part) / static_cast<double>(whole));
}

uint64_t parse_human_size(const char* option, const std::string& text) {
  // THRESHOLD takes every size; its parser is the one that all settings use.
  Config config;
  default_config(config);
  char message[512];
  const Setting* any_size = find_setting("THRESHOLD");
  if (!set_from_text(config, *any_size, text.c_str(), message, sizeof(message))) {
    throw Failure{kExitUsage, fmt::format("{}: \"{}\" is no size; nothing was done; accepted: {}",
                                          option, printable(text), any_size->range)};
  }
  return config.threshold_bytes;
}

std::string message_of(Line& line) {
  std::string text = line.c_str();
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const std::string prefix = "bartender: ";
  if (text.starts_with(prefix)) text.erase(0, prefix.size());
  return text;
}

std::string printable(const std::string& text) {
  std::string result = text;
  for (char& c : result) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = '?';
  }
  return result;
}

bool is_colourful() {
  static const bool is_on = isatty(STDOUT_FILENO) == 1 && std::getenv("NO_COLOR") == nullptr;
  return is_on;
}
std::string red(const std::string& text) { return coloured("31", text); }
std::string green(const std::string& text) { return coloured("32", text); }
std::string yellow(const std::string& text) { return coloured("33", text); }

Table::Table(std::vector<std::string> headings) : headings_(std::move(headings)) {
  for (std::string& heading : headings_) {
    is_right_.push_back(heading.starts_with('>'));
    if (is_right_.back()) heading.erase(0, 1);
  }
}

void Table::row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

void Table::print() const {
  std::vector<size_t> widths;
  for (const std::string& heading : headings_) widths.push_back(width_of(heading));
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); i++) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  auto print_row = [&](const std::vector<std::string>& row) {
    std::string line;
    for (size_t i = 0; i < row.size(); i++) {
      std::string padding(widths[i] - width_of(row[i]), ' ');
      if (i > 0) line += "  ";
      line += is_right_[i] ? padding + row[i] : row[i] + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    fmt::print("{}\n", line);
  };
  print_row(headings_);
  for (const auto& row : rows_) print_row(row);
}

}  // namespace btd::tools
