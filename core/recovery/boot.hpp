// Which boot of which machine an arena was last open in: it tells the death of a process, which
// loses no store, from that of a machine, which loses what was not durable.
#pragma once

#include <cstdint>

#include "core/persist/layout.hpp"

namespace btd {

// Zeros where the kernel does not tell.
void boot_id_of_machine(uint8_t (&id)[16]);

// Whether the machine has died, or was shut down, since the arena was last opened.
bool is_other_boot(const ArenaHeader& header);

// Whether recovery distrusts the states on media and collects (collect_untrusted).  The same boot
// id means that every store is there, whoever made it.
bool are_states_doubtful(const ArenaHeader& header);

}  // namespace btd
