#include "core/base/config.hpp"

#include <cstring>

#include "core/base/units.hpp"

namespace btd {

const Setting kSettings[kSettingCount] = {
    {.name = "ARENA",
     .unit = "path pattern",
     .range = "a path of at most 511 characters with %e (program), %p (pid), %u (uid), "
              "%n (first free number) or %% in it",
     .default_text = "/dev/shm/bartender-%u/%e%n.arena",
     .cost = "none; the arena takes space where the path points, and in /dev/shm that is memory",
     .what = "where the arena lives; the kind of file there (tmpfs, disk, DAX) decides the backend",
     .kind = SettingKind::kPattern,
     .offset = offsetof(Config, arena),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {},
     .choices_usable = 0},
    {.name = "SIZE",
     .unit = "bytes",
     .range = "a size from 4M to 64T such as 512M, 16G",
     .default_text = "64G",
     .cost = "address space and sparse metadata; media is taken as blocks are",
     .what = "capacity of a new arena; an existing arena keeps the one it was created with",
     .kind = SettingKind::kSize,
     .offset = offsetof(Config, size_bytes),
     .bytes_min = 4 * kMiB,
     .bytes_max = uint64_t{64} << 40,
     .choices = {},
     .choices_usable = 0},
    {.name = "THRESHOLD",
     .unit = "bytes",
     .range = "a size from 0 to 64T such as 0, 16K, 1M",
     .default_text = "16K",
     .cost =
         "smaller: more of the program's data can be salvaged, and more of it occupies the arena",
     .what = "requests of at least this size go to the arena, the rest to the next allocator; "
             "0 sends everything",
     .kind = SettingKind::kSize,
     .offset = offsetof(Config, threshold_bytes),
     .bytes_min = 0,
     .bytes_max = uint64_t{64} << 40,
     .choices = {},
     .choices_usable = 0},
    {.name = "DURABILITY",
     .unit = "word",
     .range = "process, lazy, strict",
     .default_text = "process",
     .cost = "process: nothing, a store to a shared mapping outlives the process as it is; lazy: "
             "flushes where extents, roots and transactions change, none per malloc or free; "
             "strict: one line flushed and one wait for each malloc and each free",
     .what = "what the arena survives: process is the death of the process at any instruction; "
             "lazy is power loss too, for what is reachable from roots; strict is power loss too, "
             "for every block; `bartender doctor PATH` tells what the media there can keep",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, durability),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"process", "lazy", "strict"},
     .choices_usable = 3},
    {.name = "ON_RESTART",
     .unit = "word",
     .range = "salvage, keep, discard",
     .default_text = "salvage",
     .cost = "salvage: nothing; keep: survivors occupy the arena until it is removed",
     .what =
         "what happens to survivors when an arena is opened again: salvage leaves them readable "
         "and reclaims the oldest under pressure, keep never reclaims, discard starts afresh",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, on_restart),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"salvage", "keep", "discard"},
     .choices_usable = 3},
    {.name = "ON_EXIT",
     .unit = "word",
     .range = "discard, keep",
     .default_text = "discard",
     .cost = "keep: the file stays, in /dev/shm as used memory, until `bartender rm`",
     .what = "what happens to the arena when the program ends with exit status 0 and it held no "
             "survivors of an earlier life; any other end keeps it",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, on_exit),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"discard", "keep"},
     .choices_usable = 2},
    {.name = "ON_ERROR",
     .unit = "word",
     .range = "volatile, abort",
     .default_text = "volatile",
     .cost = "volatile: the program runs, but nothing of it can be salvaged",
     .what =
         "what happens when the arena cannot be opened or a setting is wrong: one line and plain "
         "DRAM, or one line and abort()",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, on_error),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"volatile", "abort"},
     .choices_usable = 2},
    {.name = "ON_MISUSE",
     .unit = "word",
     .range = "abort, ignore",
     .default_text = "abort",
     .cost = "none; the check is part of every free",
     .what =
         "what happens after a double or invalid free has been reported: abort(), or the free is "
         "ignored",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, on_misuse),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"abort", "ignore"},
     .choices_usable = 2},
    {.name = "FORK",
     .unit = "word",
     .range = "snapshot, none",
     .default_text = "snapshot",
     .cost = "snapshot: fork() copies the live part of the arena; none: nothing",
     .what = "what a forked child sees: a private copy as after any fork, or nothing: it must not "
             "touch the arena and is only good for exec",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, fork),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"snapshot", "none"},
     .choices_usable = 2},
    {.name = "NODES",
     .unit = "addresses",
     .range = "up to 8 numeric addresses with ports such as 192.0.2.7:7070,[2001:db8::7]:7070",
     .default_text = "",
     .cost = "two or three threads and a userfaultfd in each process with an arena; what went far "
             "comes back over the network when it is touched",
     .what = "memory nodes (bartenderd) that take what does not fit near; none: all stays on this "
             "machine. Needs root or access to /dev/userfaultfd, and DURABILITY=process",
     .kind = SettingKind::kNames,
     .offset = offsetof(Config, nodes),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {},
     .choices_usable = 0},
    {.name = "NEAR",
     .unit = "bytes",
     .range = "a size from 0 to 64T such as 512M, 16G",
     .default_text = "0",
     .cost = "smaller: more of the data is fetched over the network",
     .what = "with NODES: how much of the data is kept on this machine, at least 4M; 0 is a "
             "quarter of its memory",
     .kind = SettingKind::kSize,
     .offset = offsetof(Config, near_bytes),
     .bytes_min = 0,
     .bytes_max = uint64_t{64} << 40,
     .choices = {},
     .choices_usable = 0},
    {.name = "REPLICAS",
     .unit = "count",
     .range = "1 to 8",
     .default_text = "2",
     .cost = "each takes a copy of what is far, and each write-back goes to all",
     .what = "with NODES: how many nodes have each far extent; at most all there are. With 2 any "
             "node may die without a loss",
     .kind = SettingKind::kSize,
     .offset = offsetof(Config, replicas),
     .bytes_min = 1,
     .bytes_max = 8,
     .choices = {},
     .choices_usable = 0},
    {.name = "KEY_FILE",
     .unit = "path",
     .range = "a path of at most 511 characters",
     .default_text = "",
     .cost = "none",
     .what =
         "with NODES: the file with the key that the nodes have too, 64 hexadecimal digits that "
         "only its owner may read",
     .kind = SettingKind::kPath,
     .offset = offsetof(Config, key_file),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {},
     .choices_usable = 0},
    {.name = "SEAL_KEY_FILE",
     .unit = "path",
     .range = "a path of at most 511 characters",
     .default_text = "",
     .cost = "encryption of each extent that goes or comes, some 15 microseconds",
     .what =
         "with NODES: a key file like KEY_FILE, but the nodes do not have it: extents are sealed "
         "with AES-256-GCM before they leave; empty: they are not",
     .kind = SettingKind::kPath,
     .offset = offsetof(Config, seal_key_file),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {},
     .choices_usable = 0},
    {.name = "SPILL_POLICY",
     .unit = "word",
     .range = "all, large",
     .default_text = "all",
     .cost = "large: small blocks that do not fit near go to volatile memory",
     .what =
         "with NODES: what may go far once near is full: blocks of every size, or only those of "
         "64K and more",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, spill_policy),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"all", "large"},
     .choices_usable = 2},
    {.name = "PARANOID",
     .unit = "0 or 1",
     .range = "0, 1",
     .default_text = "0",
     .cost = "1: every word that a commit or btd_persist() makes durable is looked at",
     .what = "whether commits and btd_persist() report words that point to memory which ends with "
             "the process: its stack, its heap, a vtable or function of a module",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, paranoid),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"0", "1"},
     .choices_usable = 2},
    {.name = "LOG",
     .unit = "word",
     .range = "off, error, info, debug",
     .default_text = "error",
     .cost = "info, debug: lines on stderr, never on the fast path",
     .what = "how much bartender says on stderr",
     .kind = SettingKind::kChoice,
     .offset = offsetof(Config, log),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {"off", "error", "info", "debug"},
     .choices_usable = 4},
    {.name = "ONLY",
     .unit = "program names",
     .range = "program names without a slash, separated by commas or colons, "
              "at most 511 characters",
     .default_text = "",
     .cost = "none",
     .what =
         "programs that use the arena, by the name of their executable; all others stay volatile; "
         "empty means every program",
     .kind = SettingKind::kNames,
     .offset = offsetof(Config, only),
     .bytes_min = 0,
     .bytes_max = 0,
     .choices = {},
     .choices_usable = 0},
};

static_assert(static_cast<unsigned>(LogLevel::kDebug) == 3, "LOG's words are indexed by LogLevel");

namespace {

constexpr size_t kPrefixLength = sizeof(kEnvironmentPrefix) - 1;

// Appends to a caller's buffer; what does not fit is cut, and the text always ends in a NUL.
class Text {
 public:
  Text(char* buffer, size_t buffer_bytes) : buffer_(buffer), capacity_(buffer_bytes) { end(); }

  Text& add(const char* text, size_t length) {
    size_t room = capacity_ == 0 ? 0 : capacity_ - 1 - length_;
    fits_ = fits_ && length <= room;
    length = min(length, room);
    if (length != 0) std::memcpy(buffer_ + length_, text, length);
    length_ += length;
    end();
    return *this;
  }
  Text& add(const char* text) { return add(text, std::strlen(text)); }

  Text& number(uint64_t value) {
    char digits[20];
    size_t at = sizeof(digits);
    do {
      digits[--at] = static_cast<char>('0' + value % 10);
      value /= 10;
    } while (value != 0);
    return add(digits + at, sizeof(digits) - at);
  }

  // Control characters would break the promise of one line.
  Text& printable(const char* text, size_t length) {
    for (size_t i = 0; i < length; i++) {
      bool plain = static_cast<unsigned char>(text[i]) >= ' ' && text[i] != 0x7F;
      add(plain ? text + i : "?", 1);
    }
    return *this;
  }

  bool fits() const { return fits_; }

 private:
  void end() {
    if (capacity_ != 0) buffer_[length_] = '\0';
  }

  char* buffer_;
  size_t capacity_;
  size_t length_ = 0;
  bool fits_ = true;
};

// Why a value was refused, and at which character (0-based; people read it 1-based).
struct Refusal {
  size_t at = 0;
  const char* why = nullptr;  // nullptr: accepted
  bool quote = false;         // the character belongs into the text
};

// ctype.h would ask the locale, which is not there yet.
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Bits to shift for a unit letter; -1: no unit.
int unit_shift(char letter) {
  switch (lower(letter)) {
    case 'b':
      return 0;
    case 'k':
      return 10;
    case 'm':
      return 20;
    case 'g':
      return 30;
    case 't':
      return 40;
    default:
      return -1;
  }
}

// digits ["." digits] [K|M|G|T ["i"] ["B"] | "B"], all powers of 1024, any case.  Fractions of a
// byte are rounded down.  Six digits after the point (below 2^20) times the largest unit (2^40) fit
// in 64 bits.
Refusal parse_size(const char* text, uint64_t* size_bytes) {
  size_t at = 0;
  uint64_t whole = 0;
  if (!is_digit(text[0])) return {0, "expected a digit", false};
  for (; is_digit(text[at]); at++) {
    if (__builtin_mul_overflow(whole, uint64_t{10}, &whole) ||
        __builtin_add_overflow(whole, static_cast<uint64_t>(text[at] - '0'), &whole)) {
      return {at, "number too large", false};
    }
  }
  uint64_t fraction = 0;
  uint64_t fraction_scale = 1;
  size_t const point = at;
  if (text[at] == '.') {
    at++;
    if (!is_digit(text[at])) return {at, "expected a digit after the point", false};
    for (; is_digit(text[at]); at++) {
      if (fraction_scale == 1000000) return {at, "more than six digits after the point", false};
      fraction = fraction * 10 + static_cast<uint64_t>(text[at] - '0');
      fraction_scale *= 10;
    }
  }
  size_t const unit = at;
  int shift = 0;
  if (text[at] != '\0') {
    shift = unit_shift(text[at]);
    if (shift < 0) return {at, "unknown unit", true};
    at++;
    if (shift != 0) {
      bool const binary = lower(text[at]) == 'i';
      if (binary) at++;
      if (lower(text[at]) == 'b') {
        at++;
      } else if (binary) {
        return {at, "expected B after the i", false};
      }
    }
    if (text[at] != '\0') return {at, "unexpected", true};
  }
  if (fraction_scale != 1 && shift == 0) return {point, "a fraction needs a unit", false};
  if (whole > UINT64_MAX >> shift) return {unit, "number too large for the unit", false};
  if (__builtin_add_overflow(whole << shift, (fraction << shift) / fraction_scale, size_bytes)) {
    return {unit, "number too large for the unit", false};
  }
  return {};
}

size_t choice_count(const Setting& setting) {
  size_t count = 0;
  while (count < 4 && setting.choices[count] != nullptr) count++;
  return count;
}

// The position is where the value leaves the word that it follows longest.
Refusal parse_choice(const Setting& setting, const char* text, uint8_t* choice) {
  size_t furthest = 0;
  for (size_t i = 0; i < choice_count(setting); i++) {
    const char* word = setting.choices[i];
    size_t at = 0;
    while (word[at] != '\0' && lower(text[at]) == word[at]) at++;
    if (word[at] == '\0' && text[at] == '\0') {
      if (i >= setting.choices_usable) return {0, "not in this version", false};
      *choice = static_cast<uint8_t>(i);
      return {};
    }
    furthest = max(furthest, at);
  }
  return {furthest, "unknown word", false};
}

Refusal check_pattern(const char* text) {
  for (size_t at = 0; text[at] != '\0'; at++) {
    if (at + 1 == kSettingTextBytes) return {at, "too long", false};
    if (text[at] != '%') continue;
    at++;
    if (text[at] == '\0') return {at - 1, "nothing follows the %", false};
    if (std::strchr("epun%", text[at]) == nullptr) return {at, "unknown after %:", true};
  }
  return {};
}

Refusal check_names(const char* text) {
  for (size_t at = 0; text[at] != '\0'; at++) {
    if (at + 1 == kSettingTextBytes) return {at, "too long", false};
    if (text[at] == '/') return {at, "a name, not a path:", true};
  }
  return {};
}

Refusal check_path(const char* text) {
  return std::strlen(text) < kSettingTextBytes ? Refusal{} : Refusal{0, "too long", false};
}

// Whole values only reach `config`, so a refused one leaves it as it was.
Refusal set_field(Config& config, const Setting& setting, const char* value) {
  char* field = reinterpret_cast<char*>(&config) + setting.offset;
  if (setting.kind == SettingKind::kSize) {
    uint64_t size_bytes = 0;
    Refusal refusal = parse_size(value, &size_bytes);
    if (refusal.why != nullptr) return refusal;
    if (size_bytes < setting.bytes_min) return {0, "too small", false};
    if (size_bytes > setting.bytes_max) return {0, "too large", false};
    std::memcpy(field, &size_bytes, sizeof(size_bytes));
    return {};
  }
  if (setting.kind == SettingKind::kChoice) {
    uint8_t choice = 0;
    Refusal refusal = parse_choice(setting, value, &choice);
    if (refusal.why == nullptr) std::memcpy(field, &choice, sizeof(choice));
    return refusal;
  }
  Refusal refusal = setting.kind == SettingKind::kPattern ? check_pattern(value)
                    : setting.kind == SettingKind::kNames ? check_names(value)
                                                          : check_path(value);
  if (refusal.why != nullptr) return refusal;
  size_t const length = std::strlen(value);
  std::memset(field, 0, kSettingTextBytes);
  std::memcpy(field, value, length);
  return {};
}

void describe(const Setting& setting, const char* value, const Refusal& refusal, char* message,
              size_t message_bytes) {
  // A value of megabytes must not push the reason out of the line.
  constexpr size_t kQuotedMax = 60;
  size_t const length = std::strlen(value);
  Text text(message, message_bytes);
  text.add(kEnvironmentPrefix).add(setting.name).add(": \"");
  text.printable(value, min(length, kQuotedMax)).add(length > kQuotedMax ? "...\"" : "\"");
  text.add(", position ").number(refusal.at + 1).add(": ").add(refusal.why);
  if (refusal.quote) text.add(" '").printable(value + refusal.at, 1).add("'");
  text.add("; accepted: ").add(setting.range);
}

// Levenshtein's distance, one row at a time.  Both are cut at 32 characters: no name is longer.
size_t edit_distance(const char* a, size_t a_length, const char* b) {
  constexpr size_t kLongest = 32;
  size_t const b_length = min(std::strlen(b), kLongest);
  size_t row[kLongest + 1];
  for (size_t j = 0; j <= b_length; j++) row[j] = j;
  for (size_t i = 1; i <= min(a_length, kLongest); i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b_length; j++) {
      size_t const above = row[j];
      size_t const replaced = diagonal + (lower(a[i - 1]) == lower(b[j - 1]) ? 0 : 1);
      row[j] = min(replaced, min(above, row[j - 1]) + 1);
      diagonal = above;
    }
  }
  return row[b_length];
}

const Setting& nearest_setting(const char* name, size_t length) {
  size_t best = 0;
  for (size_t i = 1; i < kSettingCount; i++) {
    if (edit_distance(name, length, kSettings[i].name) <
        edit_distance(name, length, kSettings[best].name)) {
      best = i;
    }
  }
  return kSettings[best];
}

void describe_unknown(const char* name, size_t length, char* message, size_t message_bytes) {
  constexpr size_t kQuotedMax = 60;
  Text text(message, message_bytes);
  text.add(kEnvironmentPrefix).printable(name, min(length, kQuotedMax));
  text.add(length > kQuotedMax ? "...: unknown setting" : ": unknown setting");
  text.add("; the nearest is ").add(kEnvironmentPrefix).add(nearest_setting(name, length).name);
}

// Index in the table, or kSettingCount.
size_t setting_index(const char* name, size_t length) {
  size_t i = 0;
  while (i < kSettingCount && (std::strlen(kSettings[i].name) != length ||
                               std::memcmp(kSettings[i].name, name, length) != 0)) {
    i++;
  }
  return i;
}

}  // namespace

const Setting* find_setting(const char* name) {
  size_t const index = setting_index(name, std::strlen(name));
  return index == kSettingCount ? nullptr : &kSettings[index];
}

void default_config(Config& config) {
  std::memset(&config, 0, sizeof(config));
  for (const Setting& setting : kSettings) set_field(config, setting, setting.default_text);
}

bool set_from_text(Config& config, const Setting& setting, const char* value, char* message,
                   size_t message_bytes) {
  const char* text = value[0] == '\0' ? setting.default_text : value;
  Refusal const refusal = set_field(config, setting, text);
  if (refusal.why == nullptr) return true;
  describe(setting, text, refusal, message, message_bytes);
  return false;
}

bool parse_config(const char* const* environment, Config& config, char* message,
                  size_t message_bytes) {
  default_config(config);
  Text(message, message_bytes);
  bool good = true;
  bool seen[kSettingCount] = {};
  for (; *environment != nullptr; environment++) {
    if (std::strncmp(*environment, kEnvironmentPrefix, kPrefixLength) != 0) continue;
    const char* name = *environment + kPrefixLength;
    const char* equals = std::strchr(name, '=');
    if (equals == nullptr) continue;  // no variable at all: getenv(3) does not see it either
    size_t const length = static_cast<size_t>(equals - name);
    size_t const index = setting_index(name, length);
    if (index == kSettingCount) {
      if (good) describe_unknown(name, length, message, message_bytes);
      good = false;
      continue;
    }
    if (seen[index]) continue;
    seen[index] = true;
    // Only the first error is told: a later one must not overwrite it.
    good = set_from_text(config, kSettings[index], equals + 1, message, good ? message_bytes : 0) &&
           good;
  }
  return good;
}

bool value_text(const Config& config, const Setting& setting, char* out, size_t out_bytes) {
  const char* field = reinterpret_cast<const char*>(&config) + setting.offset;
  Text text(out, out_bytes);
  if (setting.kind == SettingKind::kChoice) {
    uint8_t const choice = static_cast<uint8_t>(*field);
    return text.add(choice < choice_count(setting) ? setting.choices[choice] : "?").fits();
  }
  if (setting.kind != SettingKind::kSize) return text.add(field).fits();

  // The largest unit that divides it: exact, and what people write.
  uint64_t size_bytes;
  std::memcpy(&size_bytes, field, sizeof(size_bytes));
  const char* unit = "TGMK";
  unsigned shift = 40;
  while (shift != 0 &&
         (size_bytes == 0 || round_down(size_bytes, uint64_t{1} << shift) != size_bytes)) {
    shift -= 10;
    unit++;
  }
  text.number(size_bytes >> shift);
  if (shift != 0) text.add(unit, 1);
  return text.fits();
}

}  // namespace btd
