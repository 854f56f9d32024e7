// bartender config: the settings in force here, and where each came from.
#include "core/base/config.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdlib>

#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

std::string value_of(const Config& config, const Setting& setting) {
  char text[kSettingTextBytes];
  return value_text(config, setting, text, sizeof(text)) ? text : "?";
}

bool is_from_environment(const Setting& setting) {
  const char* value = std::getenv((std::string(kEnvironmentPrefix) + setting.name).c_str());
  return value != nullptr && *value != '\0';
}

void print_as_json(const Config& config) {
  Json json = json_document("config");
  json["settings"] = Json::array();
  for (const Setting& setting : kSettings) {
    json["settings"].push_back(
        {{"name", setting.name},
         {"variable", std::string(kEnvironmentPrefix) + setting.name},
         {"value", value_of(config, setting)},
         {"source", is_from_environment(setting) ? "environment" : "default"},
         {"default", setting.default_text},
         {"unit", setting.unit},
         {"range", setting.range},
         {"cost", setting.cost},
         {"what", setting.what}});
  }
  print_json(json);
}

std::string markdown_cell(const std::string& text) {
  std::string cell;
  for (char c : text) cell += c == '|' ? std::string("\\|") : std::string(1, c);
  return cell;
}

// For docs/settings.md: the table without anything of this machine.
void print_as_markdown() {
  fmt::print(
      "| setting | what | accepted | default | unit | cost |\n| --- | --- | --- | --- | --- | --- "
      "|\n");
  for (const Setting& setting : kSettings) {
    std::string value =
        *setting.default_text == '\0' ? "(empty)" : fmt::format("`{}`", setting.default_text);
    fmt::print("| `{}{}` | {} | {} | {} | {} | {} |\n", kEnvironmentPrefix, setting.name,
               markdown_cell(setting.what), markdown_cell(setting.range), value, setting.unit,
               markdown_cell(setting.cost));
  }
}

void print_as_table(const Config& config) {
  Table table({"SETTING", "VALUE", "FROM", "UNIT", "ACCEPTED"});
  for (const Setting& setting : kSettings) {
    std::string value = printable(value_of(config, setting));
    table.row({std::string(kEnvironmentPrefix) + setting.name, value.empty() ? "(empty)" : value,
               is_from_environment(setting) ? green("environment") : "default", setting.unit,
               setting.range});
  }
  table.print();
}

}  // namespace

void add_config(CLI::App& app, int&) {
  CLI::App* command =
      app.add_subcommand("config", "Print the settings in force and where each came from");
  command->footer("Exit status: 0 all settings are good, 64 the environment holds a wrong one.");
  static bool is_json = false;
  static bool is_markdown = false;
  CLI::Option* json = command->add_flag("--json", is_json, "print JSON");
  command->add_flag("--markdown", is_markdown, "print the table of docs/settings.md")
      ->excludes(json);
  command->callback([] {
    if (is_markdown) return print_as_markdown();
    Config config;
    char message[1024];
    if (!parse_config(environ, config, message, sizeof(message))) {
      throw Failure{
          kExitUsage,
          fmt::format("{}; programs would run without an arena; correct or unset it", message)};
    }
    is_json ? print_as_json(config) : print_as_table(config);
  });
}

}  // namespace btd::tools
