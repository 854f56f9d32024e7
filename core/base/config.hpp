// The settings: one struct, one table.  The environment (BARTENDER_<NAME>), the options of
// `bartender run`, `bartender config`, docs/settings.md and the error texts all come from the table
// or are checked against it, so a setting exists everywhere or nowhere.
//
// Read once, before the first allocation: nothing here allocates, and nothing keeps a pointer into
// the environment, which the program may overwrite later.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/log.hpp"

namespace btd {

// The enumerators' values are the indices of their words in Setting::choices.
enum class Durability : uint8_t { kProcess = 0, kLazy = 1, kStrict = 2 };
enum class OnRestart : uint8_t { kSalvage = 0, kKeep = 1, kDiscard = 2 };
enum class OnExit : uint8_t { kDiscard = 0, kKeep = 1 };
enum class OnError : uint8_t { kVolatile = 0, kAbort = 1 };
enum class OnMisuse : uint8_t { kAbort = 0, kIgnore = 1 };
enum class ForkMode : uint8_t { kSnapshot = 0, kNone = 1 };
enum class SpillPolicy : uint8_t { kAll = 0, kLarge = 1 };

inline constexpr size_t kSettingTextBytes = 512;  // longest text of a setting, with its NUL

struct Config {
  char arena[kSettingTextBytes];  // path pattern, with %e %p %u %n %% still in it
  uint64_t size_bytes;
  uint64_t threshold_bytes;  // 0: every request goes to the arena
  Durability durability;
  OnRestart on_restart;
  OnExit on_exit;
  OnError on_error;
  OnMisuse on_misuse;
  ForkMode fork;
  char nodes[kSettingTextBytes];      // memory nodes' addresses, separated by commas; empty: none
  uint64_t near_bytes;                // 0: a quarter of the machine's memory
  uint64_t replicas;                  // nodes that have each far extent
  char key_file[kSettingTextBytes];   // shared with the nodes
  char seal_key_file[kSettingTextBytes];  // never leaves this machine; empty: extents are not sealed
  SpillPolicy spill_policy;
  bool paranoid;  // report pointers from the arena to volatile memory
  LogLevel log;
  char only[kSettingTextBytes];  // program names separated by ',' or ':'; empty: every program
};

enum class SettingKind : uint8_t { kSize, kChoice, kPattern, kNames, kPath };

struct Setting {
  const char* name;  // "SIZE"; the environment variable is kEnvironmentPrefix and this
  const char* unit;
  const char* range;         // what is accepted; error texts end with it
  const char* default_text;  // in the same words as the environment
  const char* cost;
  const char* what;

  SettingKind kind;
  uint16_t offset;         // of the field in Config
  uint64_t bytes_min;      // kSize only; of REPLICAS a count, not bytes
  uint64_t bytes_max;      // kSize only
  const char* choices[4];  // kChoice only; nullptr after the last
  uint8_t
      choices_usable;  // kChoice only; the words after these are known, but refused in this version
};

inline constexpr char kEnvironmentPrefix[] = "BARTENDER_";
inline constexpr size_t kSettingCount = 18;
extern const Setting kSettings[kSettingCount];

// The setting called `name` (without the prefix, upper case), or nullptr.
const Setting* find_setting(const char* name);

void default_config(Config& config);

// Defaults, overlaid with every BARTENDER_* variable of the NULL-terminated `environment`.  An
// empty value means the default; of two entries with one name the first counts, as with getenv(3).
//
// ERRORS: false, and `message` (always NUL-terminated, no line end) describes the first bad
// variable, when a name is unknown or a value is not accepted.  `config` then holds the good values
// and defaults for the rest, so that ON_ERROR and LOG are obeyed while the error is reported.
[[nodiscard]] bool parse_config(const char* const* environment, Config& config, char* message,
                                size_t message_bytes);

// Sets one field.  ERRORS: false, `message` as in parse_config, and `config` is unchanged.
[[nodiscard]] bool set_from_text(Config& config, const Setting& setting, const char* value,
                                 char* message, size_t message_bytes);

// Writes the field in the words that set_from_text() reads back to the same value.
// ERRORS: false when it does not fit in `out_bytes`; kSettingTextBytes is always enough.
[[nodiscard]] bool value_text(const Config& config, const Setting& setting, char* out,
                              size_t out_bytes);

}  // namespace btd
