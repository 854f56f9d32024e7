// bartender version: of this program and of the arenas it reads.
#include <fmt/core.h>

#include "core/persist/layout.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {

void add_version(CLI::App& app, int&) {
  CLI::App* command =
      app.add_subcommand("version", "Print the version, and that of the arena format");
  static bool is_json = false;
  command->add_flag("--json", is_json, "print JSON");
  command->callback([] {
    if (!is_json) {
      fmt::print("bartender {}, arena format {}\n", BTD_VERSION, kFormatVersion);
      return;
    }
    Json json = json_document("version");
    json["version"] = BTD_VERSION;
    json["format_version"] = kFormatVersion;
    print_json(json);
  });
}

}  // namespace btd::tools
