// What people and programs read on stdout: sizes, times, tables, JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/base/log.hpp"

namespace btd::tools {

using Json = nlohmann::ordered_json;  // members in the order in which the man page explains them

inline constexpr int kJsonSchema = 1;

// {"schema": 1, "command": command}
Json json_document(const char* command);
// Bytes that are no UTF-8 (file names may be anything) are replaced.
std::string json_text(const Json& json, bool is_pretty);
void print_json(const Json& json);

std::string human_size(uint64_t size_bytes);  // "1.5 MiB"
std::string human_time(uint64_t seconds);     // local "2024-05-01 12:00:00"; "-" for 0
std::string human_percent(uint64_t part, uint64_t whole);

// "64", "16K", "1.5MiB", ...: as in the settings.  Throws Failure naming the option.
uint64_t parse_human_size(const char* option, const std::string& text);

// What a Line says, without "bartender: " and the line's end.
std::string message_of(Line& line);

// Control characters of a foreign name would otherwise drive the terminal.
std::string printable(const std::string& text);

bool is_colourful();  // stdout is a terminal and NO_COLOR is not set
std::string red(const std::string& text);
std::string green(const std::string& text);
std::string yellow(const std::string& text);

// Rows under aligned headings.  A heading that starts with '>' is flush right.
class Table {
 public:
  explicit Table(std::vector<std::string> headings);
  void row(std::vector<std::string> cells);
  void print() const;
  bool is_empty() const { return rows_.empty(); }

 private:
  std::vector<std::string> headings_;
  std::vector<bool> is_right_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace btd::tools
