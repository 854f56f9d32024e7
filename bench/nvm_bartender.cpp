// What do the nvm_malloc benchmarks take on bartender's own interface?  See nvm_malloc.hpp.
//
//   nvm_bartender ... --arena FILE [--durability process|lazy|strict] [--arena-mib N]
//
// btd_reserve, then btd_activate with the link among the words that it stores: what nvm_malloc's
// own functions do.  Links are addresses, since an arena always lies where it lay.  The library is
// found at run time: preload it.
//
// nvm_malloc leaves flushes and drains out when it is compiled so; an arena has levels of
// durability instead, which say what is lost by that.  Each is a contender of its own, whose
// variant is `full`: `strict` is their full, `process` makes neither flush nor drain and outlives
// the process all the same, `lazy` flushes links, roots and what the program persists, but no
// block's state.

#include "core/api/bartender.h"
#include "nvm_malloc.hpp"

namespace {

struct Bartender {
  static constexpr bool kIsPersistent = true;

  struct Reserved {
    void* address;
  };

  static void choose_variant(const char* name, char**) {
    if (std::strcmp(name, "full") != 0)
      bench::fail("bartender has levels of --durability, not variants");
  }

  static const char* path(const bench::Options& options) {
    const char* found = options.text("--arena", nullptr);
    if (found == nullptr) bench::fail("--arena FILE is missing");
    return found;
  }
  static void create(const bench::Options& options) { open_as(options, 1); }
  static void open(const bench::Options& options) { open_as(options, 0); }
  static void close(const bench::Options& options) {
    if (btd_cluster_close(cluster) != 0) bench::fail("btd_cluster_close");
    unlink(path(options));
  }

  static Reserved reserve(size_t size_bytes) { return {btd_reserve(cluster, size_bytes)}; }
  static void activate(Reserved& reserved) { activate(reserved, nullptr); }
  static void activate(Reserved& reserved, uint64_t* link) {
    if (btd_activate(reserved.address, reinterpret_cast<void**>(link), reserved.address, nullptr,
                     nullptr) != 0) {
      bench::fail("btd_activate");
    }
  }
  // One step, as theirs: block and root become what they are together.
  static void activate_root(Reserved& reserved, const char* name) {
    if (btd_tx_begin(cluster) != 0) bench::fail("btd_tx_begin");
    activate(reserved);
    if (btd_root_set(cluster, name, reserved.address) != 0) bench::fail("btd_root_set");
    if (btd_tx_commit() != 0) bench::fail("btd_tx_commit");
  }
  static void* find_root(const char* name) { return btd_root_get(cluster, name); }
  static void release(void* address) { btd_free(address); }

  static uint64_t to_link(void* address) { return reinterpret_cast<uint64_t>(address); }
  static void* from_link(uint64_t link) { return reinterpret_cast<void*>(link); }
  static void persist(const void* address, size_t size_bytes) {
    if (btd_persist(address, size_bytes) != 0) bench::fail("btd_persist");
  }

 private:
  static void open_as(const bench::Options& options, int create) {
    if (btd_active() == 0) bench::fail("libbartender.so is not preloaded");
    char uri[1024];
    std::snprintf(uri, sizeof(uri), "%s?create=%d&size=%lluM&durability=%s", path(options), create,
                  static_cast<unsigned long long>(options.number("--arena-mib", 2048)),
                  options.text("--durability", "process"));
    cluster = btd_cluster_open(uri);
    if (cluster == nullptr) bench::fail("the arena did not open");
  }

  inline static btd_cluster* cluster = nullptr;
};

}  // namespace

int main(int argc, char** argv) { return bench::nvm_main<Bartender>(argc, argv); }
