// The far tiers of this process's arenas, each as its settings name it.
#pragma once

#include "core/base/config.hpp"
#include "core/spill/far_tier.hpp"

namespace btd::preload {

// Ready for an arena to open.  nullptr: the settings name no memory nodes, or there is no memory for
// it, and a line has said so.
FarTier* make_far(const Config& config);
// Closes it, whose arena is not used any more.  Not in a forked child.
void end_far(FarTier& far);

}  // namespace btd::preload
