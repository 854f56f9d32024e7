// What do the nvm_malloc benchmarks take on libpmemobj?  See nvm_malloc.hpp.
//
//   nvm_pmemobj ... --pool FILE [--pool-mib N] [--variant full|no-flush]
//
// pmemobj_reserve, then pmemobj_publish with the link as a pmemobj_set_value of the same redo log:
// the one peer whose interface means what nvm_malloc's does.  Links are offsets in the pool, which
// may be mapped elsewhere next time.  Set PMEM_IS_PMEM_FORCE=1 so that a pool on tmpfs is flushed.
//
// Variants: libpmem leaves its flushes out when PMEM_NO_FLUSH=1; it cannot leave out its drains.

#include <libpmemobj.h>

#include "nvm_malloc.hpp"

namespace {

PMEMobjpool* pool;

struct NamedRoot {
  char name[24];
  uint64_t link;
};

struct Roots {
  NamedRoot entries[bench::kNvmRootsMax];  // in the order they were set; the first free: link 0
};

Roots* roots() {
  return static_cast<Roots*>(pmemobj_direct(pmemobj_root(pool, sizeof(Roots))));  // zero when new
}

struct Pmemobj {
  static constexpr bool kIsPersistent = true;

  struct Reserved {
    void* address;
    pobj_action action;
  };

  static void choose_variant(const char* name, char** argv) {
    if (std::strcmp(name, "no-flush") == 0) {
      // libpmem reads it when it is loaded, which has already happened.
      if (getenv("PMEM_NO_FLUSH") == nullptr) {
        setenv("PMEM_NO_FLUSH", "1", 1);
        execv("/proc/self/exe", argv);
        bench::fail("exec");
      }
    } else if (std::strcmp(name, "full") != 0) {
      bench::fail("libpmemobj has the variants full and no-flush");
    }
  }

  static const char* path(const bench::Options& options) {
    const char* found = options.text("--pool", nullptr);
    if (found == nullptr) bench::fail("--pool FILE is missing");
    return found;
  }

  static void create(const bench::Options& options) {
    pool = pmemobj_create(path(options), "bench", options.number("--pool-mib", 2048) * bench::kMiB,
                          0600);
    if (pool == nullptr || roots() == nullptr) bench::fail(pmemobj_errormsg());
  }
  static void open(const bench::Options& options) {
    pool = pmemobj_open(path(options), "bench");
    if (pool == nullptr) bench::fail(pmemobj_errormsg());
  }
  static void close(const bench::Options& options) {
    pmemobj_close(pool);
    unlink(path(options));
  }

  static Reserved reserve(size_t size_bytes) {
    Reserved reserved;
    reserved.address = pmemobj_direct(pmemobj_reserve(pool, &reserved.action, size_bytes, 0));
    return reserved;
  }
  static void activate(Reserved& reserved) { publish(&reserved.action, 1); }
  static void activate(Reserved& reserved, uint64_t* link) {
    pobj_action actions[2] = {reserved.action, {}};
    pmemobj_set_value(pool, &actions[1], link, to_link(reserved.address));
    publish(actions, 2);
  }
  static void activate_root(Reserved& reserved, const char* name) {
    NamedRoot* entry = roots()->entries;
    while (entry->link != 0) entry++;
    pmemobj_memcpy_persist(pool, entry->name, name, std::strlen(name) + 1);
    activate(reserved, &entry->link);
  }
  static void* find_root(const char* name) {
    for (NamedRoot& entry : roots()->entries) {
      if (entry.link == 0) break;
      if (std::strcmp(entry.name, name) == 0) return from_link(entry.link);
    }
    return nullptr;
  }
  static void release(void* address) {
    PMEMoid block = pmemobj_oid(address);
    pmemobj_free(&block);
  }

  static uint64_t to_link(void* address) {
    return reinterpret_cast<uint64_t>(address) - reinterpret_cast<uint64_t>(pool);
  }
  static void* from_link(uint64_t link) {
    return link == 0 ? nullptr : reinterpret_cast<char*>(pool) + link;
  }
  static void persist(const void* address, size_t size_bytes) {
    pmemobj_persist(pool, address, size_bytes);
  }

 private:
  static void publish(pobj_action* actions, size_t count) {
    if (pmemobj_publish(pool, actions, count) != 0) bench::fail("pmemobj_publish");
  }
};

}  // namespace

int main(int argc, char** argv) { return bench::nvm_main<Pmemobj>(argc, argv); }
