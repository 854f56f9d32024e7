// A cache that is warm after kill -9.
//
// The first run loads a million entries, which takes as long as it takes, and kills itself.  The
// next one has them at once.  The lines that know of bartender are marked with a *.
//
// The root is set when all is loaded: a run that is killed before leaves no cache, never half of
// one.
#include <bartender.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>

namespace {

constexpr int kEntries = 1000000;

struct Value {
  long number;
  char text[24];
};

using Cache = btd::unordered_map<long, Value>;  // *
btd::persistent<double> load_s{"load_s"};       // *

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Value value_of(long key) {
  Value value{};
  value.number = key * 2654435761;
  std::snprintf(value.text, sizeof(value.text), "value %ld", key);
  return value;
}

bool is_right(long key, const Value& value) {
  return value.number == key * 2654435761 && std::atol(value.text + 6) == key;
}

}  // namespace

int main() {
  auto start = std::chrono::steady_clock::now();
  btd::root<Cache> root("cache");  // *
  Cache* cache = root.get();       // *
  if (cache == nullptr) {
    cache = ::new (btd_malloc(btd::process_cluster(), sizeof(Cache)).address) Cache;  // *
    cache->reserve(kEntries);
    for (long key = 0; key < kEntries; key++) cache->emplace(key, value_of(key));
    root.set(cache);  // *
    load_s = seconds_since(start);
    std::printf("loaded %d entries in %.0f ms; now kill -9\n", kEntries, load_s * 1e3);
    std::fflush(stdout);
    raise(SIGKILL);
  }
  bool is_first_right = is_right(4711, cache->at(4711));
  // All CPU time of the process: its start, its libraries, and the recovery of the arena.
  double restart_s = static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
  long right = is_first_right ? 0 : -1;
  for (const auto& [key, value] : *cache) right += is_right(key, value);
  std::printf(
      "first answer %.1f ms after the start, instead of loading for %.0f ms; %ld of %d entries "
      "right\n",
      restart_s * 1e3, load_s * 1e3, right, kEntries);
  return right == kEntries ? 0 : 1;
}
