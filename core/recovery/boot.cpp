#include "core/recovery/boot.hpp"

#include <cstring>

#include "core/base/config.hpp"
#include "core/base/sys.hpp"

namespace btd {

void boot_id_of_machine(uint8_t (&id)[16]) {
  char text[64];
  std::memset(id, 0, sizeof(id));
  if (sys::read_file("/proc/sys/kernel/random/boot_id", text, sizeof(text)) < 36) return;
  int digits = 0;
  for (const char* at = text; *at != '\0' && digits < 32; at++) {
    int value = *at >= '0' && *at <= '9'   ? *at - '0'
                : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10
                                           : -1;
    if (value < 0) continue;
    id[digits / 2] = static_cast<uint8_t>(id[digits / 2] << 4 | value);
    digits++;
  }
}

bool is_other_boot(const ArenaHeader& header) {
  uint8_t id[16];
  boot_id_of_machine(id);
  return std::memcmp(id, header.boot_id, sizeof(id)) != 0;
}

bool are_states_doubtful(const ArenaHeader& header) {
  // A good end says little in `lazy`: the states of that life were never flushed.
  bool is_owner_dead = header.state == static_cast<uint32_t>(ArenaState::kOpen) ||
                       header.durability == static_cast<uint32_t>(Durability::kLazy);
  return is_owner_dead && header.durability != static_cast<uint32_t>(Durability::kStrict) &&
         is_other_boot(header);
}

}  // namespace btd
