#include "tests/crash/power_cut/site_names.hpp"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <numeric>

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

}  // namespace

std::vector<SiteName> names_of(const Sites& sites) {
  std::vector<SiteName> names(sites.count);
  std::vector<uint32_t> by_address(sites.count);
  std::iota(by_address.begin(), by_address.end(), 0);
  std::sort(by_address.begin(), by_address.end(), [&](uint32_t a, uint32_t b) {
    return sites.sites[a].address < sites.sites[b].address;
  });
  std::map<std::string, int> numbers;
  for (uint32_t i : by_address) {
    names[i] = look_up(sites.sites[i].address);
    names[i].name += sites.sites[i].is_drain ? " drain" : " flush";
    std::string number = std::to_string(++numbers[names[i].name]);
    names[i].name.append(" ").append(number);
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
