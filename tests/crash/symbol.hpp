// An address of this program as function and source line, by addr2line: for the few lines of a
// report.
#pragma once

#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <string>

namespace btd::test {

inline std::string symbol_of(uint64_t address) {
  char line[512];
  Dl_info info{};
  if (address == 0) return "the first instruction";
  if (dladdr(reinterpret_cast<void*>(address), &info) == 0) {
    std::snprintf(line, sizeof(line), "0x%llx", static_cast<unsigned long long>(address));
    return line;
  }
  char program[400] = "";
  if (readlink("/proc/self/exe", program, sizeof(program) - 1) < 0) return "?";
  // A shared object is known by its path, the program itself by how it was called.
  Dl_info self{};
  dladdr(reinterpret_cast<void*>(&symbol_of), &self);
  const char* file = info.dli_fbase == self.dli_fbase ? program : info.dli_fname;
  uint64_t offset = address - reinterpret_cast<uint64_t>(info.dli_fbase);
  std::snprintf(line, sizeof(line), "addr2line -Cfpie '%s' 0x%llx 2>/dev/null", file,
                static_cast<unsigned long long>(offset));
  std::string text;
  if (FILE* pipe = popen(line, "r")) {
    char part[256];
    while (std::fgets(part, sizeof(part), pipe) != nullptr) text += part;
    pclose(pipe);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  std::snprintf(line, sizeof(line), " [%s+0x%llx]",
                info.dli_sname != nullptr ? info.dli_sname : file,
                static_cast<unsigned long long>(offset));
  return text + line;
}

}  // namespace btd::test
