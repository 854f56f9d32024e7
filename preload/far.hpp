// The process's far tier, as its settings name it.
#pragma once

#include "core/base/config.hpp"
#include "core/spill/far_tier.hpp"

namespace btd::preload {

// Ready for the arena to open; nullptr: the settings name no memory nodes.  Once.
FarTier* configure_far(const Config& config);

}  // namespace btd::preload
