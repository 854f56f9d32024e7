#include "core/api/uri.hpp"

#include <unistd.h>

#include <cstring>

namespace btd {
namespace {

constexpr const char* kNames[] = {"SIZE",          "DURABILITY",  "ON_RESTART", "ON_EXIT",
                                  "NODES",         "NEAR",        "REPLICAS",   "KEY_FILE",
                                  "SEAL_KEY_FILE", "SPILL_POLICY"};
constexpr char kAccepted[] =
    "size, durability, on_restart, on_exit, create, nodes, near, replicas, key_file, "
    "seal_key_file and spill_policy are known";

bool is_name(const char* text, size_t length, const char* upper) {
  if (std::strlen(upper) != length) return false;
  for (size_t i = 0; i < length; i++) {
    char wanted = upper[i] == '_' ? '_' : static_cast<char>(upper[i] + ('a' - 'A'));
    if (text[i] != wanted) return false;
  }
  return true;
}

Error refuse(Line& why, const char* uri, const char* reason) {
  why.text(uri).text(": ").text(reason);
  return Error::kInvalid;
}

// One "name=value" of `length` characters.
Error parse_option(const char* uri, const char* option, size_t length, ClusterUri& out, Line& why) {
  const auto* equals = static_cast<const char*>(std::memchr(option, '=', length));
  if (equals == nullptr) return refuse(why, uri, "name=value is expected after the ?");
  auto name_length = static_cast<size_t>(equals - option);
  char value[kSettingTextBytes] = {};
  size_t value_length = length - name_length - 1;
  if (value_length >= sizeof(value)) return refuse(why, uri, "a value is too long");
  std::memcpy(value, equals + 1, value_length);
  if (is_name(option, name_length, "CREATE")) {
    bool is_known = std::strcmp(value, "0") == 0 || std::strcmp(value, "1") == 0;
    if (!is_known) return refuse(why, uri, "create is 0 or 1");
    out.may_create = value[0] == '1';
    return Error::kNone;
  }
  for (const char* name : kNames) {
    if (!is_name(option, name_length, name)) continue;
    char message[400];
    if (set_from_text(out.config, *find_setting(name), value, message, sizeof(message)))
      return Error::kNone;
    return refuse(why, uri, message);
  }
  return refuse(why, uri, kAccepted);
}

}  // namespace

Error parse_uri(const char* uri, const Config& defaults, ClusterUri& out, Line& why) {
  out.config = defaults;
  out.config.on_exit = OnExit::kKeep;
  out.config.nodes[0] = '\0';
  out.may_create = true;
  size_t path_length = std::strcspn(uri, "?");
  if (path_length == 0) return refuse(why, uri, "no path");
  // The file is found again by its name, when it is removed: the directory may be another by then.
  size_t at = 0;
  if (uri[0] != '/') {
    if (::getcwd(out.path, sizeof(out.path)) == nullptr) {
      why.text(uri).text(": the current directory has no path");
      return Error::kNotFound;
    }
    at = std::strlen(out.path);
    if (at + 1 < sizeof(out.path)) out.path[at++] = '/';
  }
  if (at + path_length >= sizeof(out.path)) {
    why.text(uri).text(": the path is too long");
    return Error::kTooLong;
  }
  std::memcpy(out.path + at, uri, path_length);
  out.path[at + path_length] = '\0';

  for (const char* option = uri + path_length; *option != '\0';) {
    option++;  // the ? or the &
    size_t length = std::strcspn(option, "&");
    if (Error error = parse_option(uri, option, length, out, why); error != Error::kNone)
      return error;
    option += length;
  }
  return Error::kNone;
}

}  // namespace btd
