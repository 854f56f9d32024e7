// The settings table.  Invariants checked:
//  1. Every row has all its texts, a default that is accepted, and words that read back to
//  themselves.
//  2. A size is exact or refused with the position of the offending character; nothing overflows.
//  3. A bad value or an unknown name never changes a setting, and the text names variable, position
//  and
//     what is accepted.
//  4. docs/settings.md says of every setting what the table says.
#define BOOST_TEST_MODULE config
#include "core/base/config.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace btd {
namespace {

const Setting& setting(const char* name) {
  const Setting* found = find_setting(name);
  BOOST_REQUIRE(found != nullptr);
  return *found;
}

// The text of the refusal; empty when the value was accepted.
std::string refusal(const char* name, const std::string& value) {
  Config config;
  default_config(config);
  Config const before = config;
  char message[1024] = "";
  if (set_from_text(config, setting(name), value.c_str(), message, sizeof(message))) return "";
  BOOST_TEST(std::memcmp(&config, &before, sizeof(config)) == 0);
  BOOST_TEST(std::strlen(message) > 0);
  return message;
}

uint64_t size_of(const std::string& value) {
  Config config;
  default_config(config);
  char message[1024] = "";
  BOOST_TEST(set_from_text(config, setting("THRESHOLD"), value.c_str(), message, sizeof(message)),
             value << ": " << message);
  return config.threshold_bytes;
}

std::string text_of(const Config& config, const Setting& setting) {
  char text[kSettingTextBytes];
  BOOST_TEST(value_text(config, setting, text, sizeof(text)));
  return text;
}

// Parses an environment given as "NAME=value" strings; returns the message, empty when accepted.
std::string parse(const std::vector<std::string>& variables, Config& config) {
  std::vector<const char*> environment;
  for (const std::string& variable : variables) environment.push_back(variable.c_str());
  environment.push_back(nullptr);
  char message[1024] = "left from before";
  bool const good = parse_config(environment.data(), config, message, sizeof(message));
  BOOST_TEST(good == (message[0] == '\0'));
  return message;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

BOOST_AUTO_TEST_CASE(table_rows_are_complete_and_unique) {
  std::set<std::string> names;
  for (const Setting& row : kSettings) {
    BOOST_TEST_CONTEXT(row.name) {
      BOOST_TEST(names.insert(row.name).second);
      for (const char* text : {row.name, row.unit, row.range, row.cost, row.what}) {
        BOOST_TEST(std::strlen(text) > 0);
      }
      BOOST_TEST(find_setting(row.name) == &row);
    }
  }
  BOOST_TEST(names.size() == 18);
  BOOST_TEST(find_setting("SIZES") == nullptr);
  BOOST_TEST(find_setting("size") == nullptr);
  BOOST_TEST(find_setting("") == nullptr);
}

BOOST_AUTO_TEST_CASE(defaults_are_those_of_the_table) {
  Config config;
  std::memset(&config, 0xAA, sizeof(config));
  default_config(config);
  BOOST_TEST(config.arena == "/dev/shm/bartender-%u/%e%n.arena");
  BOOST_TEST(config.size_bytes == uint64_t{64} << 30);
  BOOST_TEST(config.threshold_bytes == 16384);
  BOOST_TEST((config.durability == Durability::kProcess));
  BOOST_TEST((config.on_restart == OnRestart::kSalvage));
  BOOST_TEST((config.on_exit == OnExit::kDiscard));
  BOOST_TEST((config.on_error == OnError::kVolatile));
  BOOST_TEST((config.on_misuse == OnMisuse::kAbort));
  BOOST_TEST((config.fork == ForkMode::kSnapshot));
  BOOST_TEST((config.log == LogLevel::kError));
  BOOST_TEST(config.only == "");
  for (const Setting& row : kSettings) BOOST_TEST(text_of(config, row) == row.default_text);
}

BOOST_AUTO_TEST_CASE(every_usable_word_is_accepted_and_reads_back) {
  for (const Setting& row : kSettings) {
    for (size_t i = 0; row.kind == SettingKind::kChoice && i < row.choices_usable; i++) {
      BOOST_TEST_CONTEXT(row.name << " = " << row.choices[i]) {
        Config config;
        default_config(config);
        char message[1024] = "";
        BOOST_TEST(set_from_text(config, row, row.choices[i], message, sizeof(message)), message);
        BOOST_TEST(text_of(config, row) == row.choices[i]);
        BOOST_TEST(contains(row.range, row.choices[i]));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(words_reach_their_own_field) {
  Config config;
  BOOST_TEST(
      parse({"BARTENDER_ARENA=/mnt/pmem/%e.%p", "BARTENDER_SIZE=1G", "BARTENDER_THRESHOLD=0",
             "BARTENDER_DURABILITY=process", "BARTENDER_ON_RESTART=discard",
             "BARTENDER_ON_EXIT=keep", "BARTENDER_ON_ERROR=abort", "BARTENDER_ON_MISUSE=ignore",
             "BARTENDER_FORK=none", "BARTENDER_LOG=DEBUG", "BARTENDER_ONLY=python3,sort"},
            config) == "");
  BOOST_TEST(config.arena == "/mnt/pmem/%e.%p");
  BOOST_TEST(config.size_bytes == uint64_t{1} << 30);
  BOOST_TEST(config.threshold_bytes == 0);
  BOOST_TEST((config.on_restart == OnRestart::kDiscard));
  BOOST_TEST((config.on_exit == OnExit::kKeep));
  BOOST_TEST((config.on_error == OnError::kAbort));
  BOOST_TEST((config.on_misuse == OnMisuse::kIgnore));
  BOOST_TEST((config.fork == ForkMode::kNone));
  BOOST_TEST((config.log == LogLevel::kDebug));
  BOOST_TEST(config.only == "python3,sort");
}

BOOST_AUTO_TEST_CASE(sizes_are_powers_of_1024_in_any_case) {
  BOOST_TEST(size_of("0") == 0);
  BOOST_TEST(size_of("4096") == 4096);
  BOOST_TEST(size_of("4096B") == 4096);
  BOOST_TEST(size_of("16K") == 16384);
  BOOST_TEST(size_of("16k") == 16384);
  BOOST_TEST(size_of("16kb") == 16384);
  BOOST_TEST(size_of("16KiB") == 16384);
  BOOST_TEST(size_of("64MiB") == uint64_t{64} << 20);
  BOOST_TEST(size_of("64mib") == uint64_t{64} << 20);
  BOOST_TEST(size_of("1.5G") == (uint64_t{3} << 30) / 2);
  BOOST_TEST(size_of("0.000001T") == (uint64_t{1} << 40) / 1000000);
  BOOST_TEST(size_of("0.999999T") == (uint64_t{999999} << 40) / 1000000);
  BOOST_TEST(size_of("64T") == uint64_t{64} << 40);
  BOOST_TEST(size_of("000016K") == 16384);
}

BOOST_AUTO_TEST_CASE(refused_size_names_variable_position_and_what_is_accepted) {
  BOOST_TEST(refusal("SIZE", "12Q") ==
             "BARTENDER_SIZE: \"12Q\", position 3: unknown unit 'Q'; "
             "accepted: a size from 4M to 64T such as 512M, 16G");
  BOOST_TEST(contains(refusal("SIZE", "-1"), "position 1: expected a digit"));
  BOOST_TEST(contains(refusal("SIZE", " 1G"), "position 1: expected a digit"));
  BOOST_TEST(contains(refusal("SIZE", "1.G"), "position 3: expected a digit after the point"));
  BOOST_TEST(contains(refusal("SIZE", "1.5"), "position 2: a fraction needs a unit"));
  BOOST_TEST(contains(refusal("SIZE", "1.5B"), "position 2: a fraction needs a unit"));
  BOOST_TEST(contains(refusal("SIZE", "1.0000001G"), "position 9: more than six digits"));
  BOOST_TEST(contains(refusal("SIZE", "1GG"), "position 3: unexpected 'G'"));
  BOOST_TEST(contains(refusal("SIZE", "1Gi"), "position 4: expected B after the i"));
  BOOST_TEST(contains(refusal("SIZE", "1G "), "position 3: unexpected ' '"));
  BOOST_TEST(contains(refusal("SIZE", "1iB"), "position 2: unknown unit 'i'"));
  BOOST_TEST(contains(refusal("SIZE", "4BB"), "position 3: unexpected 'B'"));
}

BOOST_AUTO_TEST_CASE(sizes_out_of_range_or_past_64_bits_are_refused) {
  BOOST_TEST(refusal("SIZE", "4M") == "");
  BOOST_TEST(contains(refusal("SIZE", "4194303"), "too small"));
  BOOST_TEST(contains(refusal("SIZE", "0"), "too small"));
  BOOST_TEST(refusal("SIZE", "64T") == "");
  BOOST_TEST(contains(refusal("SIZE", "65T"), "too large"));
  BOOST_TEST(contains(refusal("SIZE", "64.000001T"), "too large"));
  BOOST_TEST(contains(refusal("SIZE", "18446744073709551615"), "position 1: too large"));
  BOOST_TEST(contains(refusal("SIZE", "18446744073709551616"), "position 20: number too large"));
  BOOST_TEST(contains(refusal("SIZE", "99999999999999999999999"), "number too large"));
  BOOST_TEST(contains(refusal("SIZE", "16777215.999999T"), "too large"));
  BOOST_TEST(contains(refusal("SIZE", "16777216T"), "position 9: number too large for the unit"));
  // 2^64 + 16K must not come back as 16K.
  BOOST_TEST(contains(refusal("THRESHOLD", "18014398509481984K"), "number too large for the unit"));
}

BOOST_AUTO_TEST_CASE(size_text_reads_back_to_the_same_size) {
  constexpr unsigned kSeed = 20240601;
  BOOST_TEST_MESSAGE("seed " << kSeed);
  std::mt19937_64 random(kSeed);
  const Setting& threshold = setting("THRESHOLD");
  for (int i = 0; i < 10000; i++) {
    Config config;
    default_config(config);
    config.threshold_bytes = random() >> (18 + random() % 46);
    if (i % 2 == 0) config.threshold_bytes &= ~((uint64_t{1} << random() % 41) - 1);
    BOOST_REQUIRE(size_of(text_of(config, threshold)) == config.threshold_bytes);
  }
  Config config;
  default_config(config);
  config.threshold_bytes = 0;
  BOOST_TEST(text_of(config, threshold) == "0");
  config.threshold_bytes = uint64_t{3} << 29;
  BOOST_TEST(text_of(config, threshold) == "1536M");
  config.threshold_bytes = 16385;
  BOOST_TEST(text_of(config, threshold) == "16385");
}

BOOST_AUTO_TEST_CASE(unknown_word_is_refused_where_it_leaves_the_known_one) {
  BOOST_TEST(refusal("ON_EXIT", "kepp") ==
             "BARTENDER_ON_EXIT: \"kepp\", position 3: unknown word; accepted: discard, keep");
  BOOST_TEST(contains(refusal("ON_EXIT", "keeping"), "position 5: unknown word"));
  BOOST_TEST(contains(refusal("ON_EXIT", "kee"), "position 4: unknown word"));
  BOOST_TEST(contains(refusal("LOG", "2"), "position 1: unknown word"));
}

BOOST_AUTO_TEST_CASE(all_durability_levels_are_accepted) {
  Config config;
  BOOST_TEST(parse({"BARTENDER_DURABILITY=lazy"}, config) == "");
  BOOST_TEST((config.durability == Durability::kLazy));
  BOOST_TEST(parse({"BARTENDER_DURABILITY=STRICT"}, config) == "");
  BOOST_TEST((config.durability == Durability::kStrict));
  BOOST_TEST(refusal("DURABILITY", "eager") ==
             "BARTENDER_DURABILITY: \"eager\", position 1: unknown word; "
             "accepted: process, lazy, strict");
}

BOOST_AUTO_TEST_CASE(arena_pattern_accepts_its_five_escapes_only) {
  BOOST_TEST(refusal("ARENA", "/a/%e-%p-%u-%n-%%") == "");
  BOOST_TEST(contains(refusal("ARENA", "/a/%x"), "position 5: unknown after %: 'x'"));
  BOOST_TEST(contains(refusal("ARENA", "/a/%"), "position 4: nothing follows the %"));
  BOOST_TEST(refusal("ARENA", std::string(511, 'a')) == "");
  BOOST_TEST(contains(refusal("ARENA", std::string(512, 'a')), "position 512: too long"));
}

BOOST_AUTO_TEST_CASE(only_takes_names_not_paths) {
  BOOST_TEST(refusal("ONLY", "python3:sort,git") == "");
  BOOST_TEST(contains(refusal("ONLY", "sort,/bin/ls"), "position 6: a name, not a path: '/'"));
  BOOST_TEST(contains(refusal("ONLY", std::string(600, 'a')), "position 512: too long"));
}

BOOST_AUTO_TEST_CASE(empty_value_means_the_default) {
  Config config;
  BOOST_TEST(parse({"BARTENDER_SIZE=", "BARTENDER_ARENA=", "BARTENDER_LOG="}, config) == "");
  Config defaults;
  default_config(defaults);
  BOOST_TEST(std::memcmp(&config, &defaults, sizeof(config)) == 0);
}

BOOST_AUTO_TEST_CASE(other_variables_are_none_of_our_business) {
  Config config;
  BOOST_TEST(
      parse({"PATH=/bin", "BARTENDER=x", "bartender_size=1", "XBARTENDER_SIZE=Q", "BARTENDER_SIZE"},
            config) == "");
  BOOST_TEST(config.size_bytes == uint64_t{64} << 30);
}

BOOST_AUTO_TEST_CASE(unknown_name_is_refused_with_the_nearest) {
  Config config;
  BOOST_TEST(parse({"BARTENDER_TRESHOLD=1K"}, config) ==
             "BARTENDER_TRESHOLD: unknown setting; the nearest is BARTENDER_THRESHOLD");
  BOOST_TEST(contains(parse({"BARTENDER_SIZ=1G"}, config), "nearest is BARTENDER_SIZE"));
  BOOST_TEST(contains(parse({"BARTENDER_size=1G"}, config), "nearest is BARTENDER_SIZE"));
  BOOST_TEST(contains(parse({"BARTENDER_ON_EXITS=keep"}, config), "nearest is BARTENDER_ON_EXIT"));
  BOOST_TEST(contains(parse({"BARTENDER_=1"}, config), "BARTENDER_: unknown setting"));
  BOOST_TEST(parse({"BARTENDER_" + std::string(5000, 'X') + "=1"}, config).size() < 200);
}

BOOST_AUTO_TEST_CASE(first_error_is_told_and_the_good_values_stay) {
  Config config;
  BOOST_TEST(contains(parse({"BARTENDER_SIZE=12Q", "BARTENDER_ON_ERROR=abort", "BARTENDER_ZZZ=1",
                             "BARTENDER_LOG=loud"},
                            config),
                      "BARTENDER_SIZE: \"12Q\""));
  BOOST_TEST(config.size_bytes == uint64_t{64} << 30);
  BOOST_TEST((config.on_error == OnError::kAbort));
  BOOST_TEST((config.log == LogLevel::kError));
}

BOOST_AUTO_TEST_CASE(first_of_two_equal_names_counts_as_with_getenv) {
  Config config;
  BOOST_TEST(parse({"BARTENDER_SIZE=8M", "BARTENDER_SIZE=12Q"}, config) == "");
  BOOST_TEST(config.size_bytes == uint64_t{8} << 20);
}

BOOST_AUTO_TEST_CASE(message_is_one_bounded_line_whatever_the_value) {
  std::string const hostile = "\n\x1b[31m" + std::string(100000, 'k');
  std::string const message = refusal("ON_EXIT", hostile);
  BOOST_TEST(message.size() < 200);
  for (char c : message) BOOST_TEST((c >= ' ' && c < 0x7F));
  BOOST_TEST(contains(message, "accepted: discard, keep"));

  Config config;
  default_config(config);
  for (size_t room = 0; room < 120; room++) {
    char small[128];
    std::memset(small, 'z', sizeof(small));
    BOOST_REQUIRE(!set_from_text(config, setting("SIZE"), "12Q", small, room));
    BOOST_REQUIRE(small[room] == 'z');
    if (room > 0) BOOST_REQUIRE(std::memchr(small, '\0', room) != nullptr);
  }
}

BOOST_AUTO_TEST_CASE(value_text_that_does_not_fit_says_so) {
  Config config;
  default_config(config);
  char small[4];
  BOOST_TEST(value_text(config, setting("SIZE"), small, 4));
  BOOST_TEST(!value_text(config, setting("SIZE"), small, 3));
  BOOST_TEST(!value_text(config, setting("ARENA"), small, 4));
  BOOST_TEST(small == "/de");
}

// The document wraps no table line, so each setting is one line; each text of the table must be in
// it.
BOOST_AUTO_TEST_CASE(settings_document_says_what_the_table_says) {
  std::ifstream file(BTD_SOURCE_ROOT "/docs/settings.md");
  BOOST_REQUIRE(file.is_open());
  std::vector<std::string> rows;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("| `BARTENDER_")) rows.push_back(line);
  }
  BOOST_REQUIRE(rows.size() == kSettingCount);
  for (size_t i = 0; i < kSettingCount; i++) {
    const Setting& row = kSettings[i];
    std::ostringstream expected;
    expected << "| `" << kEnvironmentPrefix << row.name << "` | " << row.unit << " | " << row.range;
    if (std::strlen(row.default_text) == 0) {
      expected << " | empty | ";
    } else {
      expected << " | `" << row.default_text << "` | ";
    }
    expected << row.cost << " | " << row.what << " |";
    BOOST_TEST(rows[i] == expected.str());
  }
}

}  // namespace
}  // namespace btd
