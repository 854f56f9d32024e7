// Static objects allocate in their constructors and free in their destructors, after main has
// returned.
#include <map>
#include <string>
#include <vector>

#include "check.hpp"

namespace {

struct Table {
  Table() {
    for (int i = 0; i < 500; i++) names[i] = std::string(static_cast<size_t>(i) * 60, 'n');
    bytes.assign(200000, 'b');
  }
  ~Table() {
    for (auto& [key, name] : names) {
      if (name.size() != static_cast<size_t>(key) * 60) _exit(96);
      name += std::string(30000, 'x');
    }
    for (char byte : bytes) {
      if (byte != 'b') _exit(95);
    }
    std::vector<std::string> late(100, std::string(20000, 'z'));
    const char line[] = "destroyed\n";
    if (write(1, line, sizeof(line) - 1) < 0) _exit(94);
  }
  std::map<int, std::string> names;
  std::vector<char> bytes;
};

Table table;

}  // namespace

int main() {
  table.names[1000] = std::string(60000, 'm');
  return compat::finish();
}
