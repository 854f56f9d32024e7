// What do the nvm_malloc benchmarks take on malloc and free, whatever is preloaded?  See
// nvm_malloc.hpp for arguments and output.
//
// malloc knows neither reservation nor links: reserve is malloc, activate stores the link, and
// nothing is flushed, so `full` is the only variant.  There are no roots, hence no `recovery`.

#include "nvm_malloc.hpp"

namespace {

struct Malloc {
  static constexpr bool kIsPersistent = false;

  struct Reserved {
    void* address;
  };

  static void choose_variant(const char* name, char**) {
    if (std::strcmp(name, "full") != 0) bench::fail("malloc flushes nothing: only --variant full");
  }
  static void create(const bench::Options&) {}
  static void close(const bench::Options&) {}

  static Reserved reserve(size_t size_bytes) { return {std::malloc(size_bytes)}; }
  static void activate(Reserved& reserved) { bench::use(reserved.address); }
  static void activate(Reserved& reserved, uint64_t* link) { *link = to_link(reserved.address); }
  static void activate_root(Reserved&, const char*) {}
  static void release(void* address) { std::free(address); }

  static uint64_t to_link(void* address) { return reinterpret_cast<uint64_t>(address); }
  static void persist(const void*, size_t) {}
};

}  // namespace

int main(int argc, char** argv) { return bench::nvm_main<Malloc>(argc, argv); }
