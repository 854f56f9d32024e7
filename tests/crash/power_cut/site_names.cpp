#include "tests/crash/power_cut/site_names.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>

namespace btd::test {
namespace {

// The outermost function of an address, and the line in it: what was inlined is not a place of its
// own.
SiteName look_up(uint64_t address) {
  static int anchor;
  char program[400] = "";
  Dl_info self{};
  dladdr(&anchor, &self);
  if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) return {};
  char command[600];
  // The call, not what it returns to.
  std::snprintf(
      command, sizeof(command), "addr2line -Cfie '%s' 0x%llx 2>/dev/null", program,
      static_cast<unsigned long long>(address - 1 - reinterpret_cast<uint64_t>(self.dli_fbase)));
  std::vector<std::string> lines;
  if (FILE* pipe = popen(command, "r")) {
    char line[1024];
    while (std::fgets(line, sizeof(line), pipe) != nullptr) {
      lines.emplace_back(line);
      lines.back().pop_back();
    }
    pclose(pipe);
  }
  if (lines.size() < 2) return {};
  SiteName found;
  found.name = lines[lines.size() - 2];
  found.location = lines.back();
  if (size_t core = found.location.rfind("core/"); core != std::string::npos) {
    found.location = found.location.substr(core);
    found.is_core = true;
  }
  if (size_t note = found.location.find(" ("); note != std::string::npos)
    found.location.resize(note);
  // Without arguments, template arguments and namespaces.
  auto cut = [&](const char* from) {
    if (size_t at = found.name.find(from); at != std::string::npos && at > 0) found.name.resize(at);
  };
  if (size_t at = found.name.find("(anonymous namespace)::"); at != std::string::npos)
    found.name.erase(at, std::string("(anonymous namespace)::").size());
  cut("(");
  cut("<");
  if (size_t at = found.name.find("btd::"); at != std::string::npos) found.name.erase(0, at + 5);
  return found;
}

int line_of(const SiteName& name) {
  size_t colon = name.location.rfind(':');
  return colon == std::string::npos ? 0 : std::atoi(name.location.c_str() + colon + 1);
}

}  // namespace

std::vector<SiteName> names_of(const Sites& sites) {
  std::vector<SiteName> names(sites.count);
  std::map<std::string, std::set<int>> lines;  // of each function's flushes, and of its drains
  for (uint32_t i = 0; i < sites.count; i++) {
    names[i] = look_up(sites.sites[i].address);
    names[i].name += sites.sites[i].is_drain ? " drain" : " flush";
    lines[names[i].name].insert(line_of(names[i]));
  }
  for (SiteName& name : names) {
    const std::set<int>& all = lines[name.name];
    auto before = std::distance(all.begin(), all.find(line_of(name)));
    name.name.append(" ").append(std::to_string(before + 1));
  }
  return names;
}

std::map<std::string, std::string> read_allowed(const char* path) {
  std::map<std::string, std::string> allowed;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    size_t colon = line.find(": ");
    if (line.empty() || line[0] == '#' || colon == std::string::npos) continue;
    allowed[line.substr(0, colon)] = line.substr(colon + 2);
  }
  return allowed;
}

}  // namespace btd::test
