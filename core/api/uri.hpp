// What btd_cluster_open() is told: PATH[?name=value[&name=value]...].
//
// Names and values are those of the settings, in lower case, so the table of core/base/config.hpp
// knows what is good and says so.
#pragma once

#include "core/base/config.hpp"
#include "core/base/log.hpp"
#include "core/base/result.hpp"

namespace btd {

struct ClusterUri {
  char path[kSettingTextBytes];  // absolute
  Config config;
  bool may_create;
};

// Takes what is not said from `defaults`; on_exit is then `keep`: who names a file wants it; and
// there are no memory nodes: each arena with some has threads of its own.
// ERRORS: kInvalid: no path, an unknown name, a bad value; kTooLong; kNotFound: there is no current
// directory; `why` says it in words.
Error parse_uri(const char* uri, const Config& defaults, ClusterUri& out, Line& why);

}  // namespace btd
