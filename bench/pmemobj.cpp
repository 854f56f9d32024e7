// What does libpmemobj, the reference for exact persistent allocation, ask for the same loops?
//
//   pmemobj pair|batch|... --mode atomic|tx --pool FILE [the options of small]
//
// atomic: pmemobj_alloc and pmemobj_free, each failure-atomic by a redo log.  tx: each in a
// transaction of its own.
//
//   pmemobj fill --pool FILE [--count N] [--size BYTES]   allocate, then die by SIGKILL
//   pmemobj open --pool FILE [--size BYTES]               time until the pool is open and a block
//                                                         allocated, as in process.cpp
//
// Set PMEM_IS_PMEM_FORCE=1 so that a pool on tmpfs is flushed as pmem is.

#include <libpmemobj.h>

#include <csignal>

#include "loops.hpp"

namespace {

PMEMobjpool* pool;

struct Atomic {
  static void* allocate(size_t size_bytes) {
    PMEMoid block;
    if (pmemobj_alloc(pool, &block, size_bytes, 0, nullptr, nullptr) != 0) return nullptr;
    return pmemobj_direct(block);
  }
  static void release(void* address) {
    PMEMoid block = pmemobj_oid(address);
    pmemobj_free(&block);
  }
};

struct Transactional {
  static void* allocate(size_t size_bytes) {
    if (pmemobj_tx_begin(pool, nullptr, TX_PARAM_NONE) != 0) return nullptr;
    const PMEMoid block = pmemobj_tx_xalloc(size_bytes, 0, POBJ_XALLOC_NO_ABORT);
    pmemobj_tx_commit();
    pmemobj_tx_end();
    return pmemobj_direct(block);
  }
  static void release(void* address) {
    if (pmemobj_tx_begin(pool, nullptr, TX_PARAM_NONE) != 0) bench::fail("pmemobj_tx_begin");
    pmemobj_tx_xfree(pmemobj_oid(address), POBJ_XFREE_NO_ABORT);
    pmemobj_tx_commit();
    pmemobj_tx_end();
  }
};

// Published 32 at a time: how the blocks came to be there is not what is measured.
void fill(const bench::Options& options) {
  constexpr uint64_t kBatch = 32;
  const uint64_t count = options.number("--count", 1'000'000);
  const uint64_t size_bytes = options.number("--size", 64);
  pobj_action actions[kBatch];
  for (uint64_t done = 0; done < count; done += kBatch) {
    for (pobj_action& action : actions) {
      bench::touch(pmemobj_direct(pmemobj_reserve(pool, &action, size_bytes, 0)));
    }
    if (pmemobj_publish(pool, actions, kBatch) != 0) bench::fail("pmemobj_publish");
  }
  kill(getpid(), SIGKILL);
}

void open_pool(const char* path, const bench::Options& options) {
  const uint64_t start = bench::now_ns();
  pool = pmemobj_open(path, "bench");
  if (pool == nullptr) bench::fail(pmemobj_errormsg());
  void* block = Atomic::allocate(options.number("--size", 64));
  bench::touch(block);
  const uint64_t elapsed_ns = bench::now_ns() - start;
  bench::Result("open").number("ns_per_operation", static_cast<double>(elapsed_ns));
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* path = options.text("--pool", nullptr);
  if (path == nullptr) bench::fail("--pool FILE is missing");
  if (std::strcmp(options.word(""), "open") == 0) {
    open_pool(path, options);
    pmemobj_close(pool);
    return 0;
  }
  pool = pmemobj_create(path, "bench", options.number("--pool-mib", 2048) * bench::kMiB, 0600);
  if (pool == nullptr) bench::fail(pmemobj_errormsg());
  if (std::strcmp(options.word(""), "fill") == 0) fill(options);
  if (std::strcmp(options.text("--mode", "atomic"), "tx") == 0) {
    bench::run_loop<Transactional>(options);
  } else {
    bench::run_loop<Atomic>(options);
  }
  pmemobj_close(pool);
  unlink(path);
}
