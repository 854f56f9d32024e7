// Of a library that was built without the far tier (-Drdma=false).
#include "core/base/log.hpp"
#include "preload/far.hpp"

namespace btd::preload {

FarTier* make_far(const Config& config) {
  if (config.nodes[0] != '\0') {
    Line()
        .text("BARTENDER_NODES: this build has no far tier; all stays near")
        .write(LogLevel::kError);
  }
  return nullptr;
}

void end_far(FarTier&) {}

}  // namespace btd::preload
