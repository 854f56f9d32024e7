// Names for the places in the code that flush or drain: function, kind, and number within the
// function, by lines of the source.  So neither an edit elsewhere nor the compiler's order of
// things changes a name; what it made of one line has one.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/crash/power_cut/trace.hpp"

namespace btd::test {

struct SiteName {
  std::string name;      // "Arena::write_header flush 1"; the same while the function is
  std::string location;  // file and line
  bool is_core = false;  // not the harness's own
};

// One for each site.  By addr2line, one process for all.
std::vector<SiteName> names_of(const Sites& sites);

// Sites whose loss nobody notices, each with a reason: "name: reason" a line, # begins a comment.
std::map<std::string, std::string> read_allowed(const char* path);

}  // namespace btd::test
