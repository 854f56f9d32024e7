// What btd_cluster_open() is told.  Invariants checked: what is not said comes from the defaults,
// but on_exit, which is `keep`; a mistake is an error that names it, and never half obeyed.
#define BOOST_TEST_MODULE uri
#include "core/api/uri.hpp"

#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <string>

#include "core/base/units.hpp"

namespace btd::test {
namespace {

struct Fixture {
  Fixture() { default_config(defaults); }

  Error parse(const std::string& uri) {
    why = Line();
    return parse_uri(uri.c_str(), defaults, parsed, why);
  }
  void refuses(const std::string& uri, const char* text) {
    BOOST_TEST((parse(uri) == Error::kInvalid), uri);
    BOOST_TEST(std::string(why.c_str()).find(text) != std::string::npos, why.c_str());
  }

  Config defaults{};
  ClusterUri parsed{};
  Line why;
};

BOOST_FIXTURE_TEST_CASE(a_path_alone_takes_the_defaults, Fixture) {
  defaults.size_bytes = 123 * kMiB;
  BOOST_TEST((parse("/dev/shm/a.arena") == Error::kNone));
  BOOST_TEST(std::string(parsed.path) == "/dev/shm/a.arena");
  BOOST_TEST(parsed.config.size_bytes == 123 * kMiB);
  BOOST_TEST((parsed.config.on_exit == OnExit::kKeep));
  BOOST_TEST(parsed.may_create);
}

BOOST_FIXTURE_TEST_CASE(a_relative_path_becomes_absolute, Fixture) {
  BOOST_TEST((parse("a.arena") == Error::kNone));
  char here[512];
  BOOST_REQUIRE(getcwd(here, sizeof(here)) != nullptr);
  BOOST_TEST(std::string(parsed.path) == std::string(here) + "/a.arena");
}

BOOST_FIXTURE_TEST_CASE(all_options_are_taken, Fixture) {
  BOOST_TEST((parse("/a?size=1G&on_restart=keep&on_exit=discard&create=0&durability=process") ==
              Error::kNone));
  BOOST_TEST(parsed.config.size_bytes == kGiB);
  BOOST_TEST((parsed.config.on_restart == OnRestart::kKeep));
  BOOST_TEST((parsed.config.on_exit == OnExit::kDiscard));
  BOOST_TEST(!parsed.may_create);
}

BOOST_FIXTURE_TEST_CASE(memory_nodes_are_the_uris_own, Fixture) {
  std::strcpy(defaults.nodes, "192.0.2.1:1");
  std::strcpy(defaults.key_file, "/etc/key");
  defaults.replicas = 3;
  BOOST_TEST((parse("/a") == Error::kNone));
  BOOST_TEST(std::string(parsed.config.nodes).empty());
  BOOST_TEST((parse("/a?nodes=192.0.2.7:7070,[2001:db8::7]:7070&near=1G&seal_key_file=/etc/seal"
                    "&spill_policy=large") == Error::kNone));
  BOOST_TEST(std::string(parsed.config.nodes) == "192.0.2.7:7070,[2001:db8::7]:7070");
  BOOST_TEST(parsed.config.near_bytes == kGiB);
  BOOST_TEST(std::string(parsed.config.key_file) == "/etc/key");
  BOOST_TEST(std::string(parsed.config.seal_key_file) == "/etc/seal");
  BOOST_TEST(parsed.config.replicas == 3u);
  BOOST_TEST((parsed.config.spill_policy == SpillPolicy::kLarge));
}

BOOST_FIXTURE_TEST_CASE(mistakes_are_named, Fixture) {
  refuses("", "no path");
  refuses("?size=1G", "no path");
  refuses("/a?", "name=value");
  refuses("/a?size", "name=value");
  refuses("/a?size=1G&", "name=value");
  refuses("/a?size=12Q", "unknown unit");
  refuses("/a?siz=1G", "are known");
  refuses("/a?SIZE=1G", "are known");
  refuses("/a?fork=none", "are known");
  refuses("/a?create=yes", "create is 0 or 1");
  refuses("/a?on_exit=" + std::string(600, 'x'), "too long");
  refuses("/a?replicas=9", "1 to 8");
  BOOST_TEST((parse(std::string(600, 'p')) == Error::kTooLong));
}

}  // namespace
}  // namespace btd::test
