// How a tool ends when it cannot do what it was asked to: exit codes, and the line that says why.
#pragma once

#include <string>

namespace btd::tools {

// docs/man/bartender.1 lists these; scripts rely on them.
enum Exit : int {
  kExitOk = 0,        // done; check: the arena is clean
  kExitRepaired = 1,  // check: the copy was repaired and is clean now
  kExitDamaged = 2,   // the arena is damaged
  kExitRefused = 3,   // not an arena, a newer one, or in use
  kExitFailed = 4,    // could not be done: no such file, access refused, disk full, ...
  kExitPartial = 5,   // done in part: some data is on memory nodes that could not be asked
  kExitUsage = 64,    // the command line or a setting is wrong
  // `run` passes on the program's status; its own troubles are those of env(1), timeout(1), ...
  kExitRunFailed = 125,
  kExitNotExecutable = 126,
  kExitNotFound = 127,
};

// Ends the command: main() prints "bartender: <message>" and exits with `status`.
// A message is "<what happened>; <what is safe>; <what to type next>".
struct Failure {
  int status;
  std::string message;
};

}  // namespace btd::tools
