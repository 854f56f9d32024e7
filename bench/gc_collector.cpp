// What does the Boehm collector's mark cost an object?  The lists and graphs of collector.cpp, and
// the time of GC_gcollect(), which also sweeps.
//
//   gc_collector list|shuffled|graph [--objects N] [--degree N] [--runs N]

#include <gc.h>

#include <utility>

#include "support.hpp"

namespace {

constexpr uint64_t kObjectBytes = 64;

uint64_t* volatile first;  // the root: nobody reads it but the collector

// Lies in memory that is not scanned: nothing is collected before all is linked.
uint64_t** make_objects(uint64_t count) {
  GC_disable();
  uint64_t** objects = bench::own_table<uint64_t*>(count);
  for (uint64_t i = 0; i < count; i++) {
    objects[i] = static_cast<uint64_t*>(GC_MALLOC(kObjectBytes));
    if (objects[i] == nullptr) bench::fail("out of memory");
  }
  return objects;
}

void shuffle(uint64_t** objects, uint64_t count) {
  bench::Random random(1);
  for (uint64_t i = count - 1; i > 0; i--) std::swap(objects[i], objects[random.between(0, i)]);
}

void link(uint64_t** objects, uint64_t count, uint64_t degree) {
  bench::Random random(2);
  auto address = [&](uint64_t index) {
    return index < count ? reinterpret_cast<uint64_t>(objects[index]) : 0;
  };
  for (uint64_t i = 0; i < count; i++) {
    objects[i][0] = degree == 1 ? address(i + 1) : address(2 * i + 1);
    if (degree > 1) objects[i][1] = address(2 * i + 2);
    for (uint64_t edge = 2; edge < degree; edge++)
      objects[i][edge] = address(random.between(0, count - 1));
  }
  first = objects[0];
}

}  // namespace

int main(int argc, char** argv) {
  GC_INIT();
  const bench::Options options(argc, argv);
  const char* workload = options.word("list");
  const uint64_t count = options.number("--objects", 4'000'000);
  uint64_t** objects = make_objects(count);
  if (std::strcmp(workload, "list") != 0) shuffle(objects, count);
  link(objects, count, std::strcmp(workload, "graph") == 0 ? options.number("--degree", 4) : 1);
  GC_enable();
  uint64_t first_ns = 0, best_ns = ~uint64_t{0};
  for (uint64_t run = 0; run < options.number("--runs", 5); run++) {
    const uint64_t start = bench::now_ns();
    GC_gcollect();
    const uint64_t elapsed_ns = bench::now_ns() - start;
    if (run == 0) first_ns = elapsed_ns;
    if (elapsed_ns < best_ns) best_ns = elapsed_ns;
  }
  if (GC_get_heap_size() - GC_get_free_bytes() < count * kObjectBytes)
    bench::fail("an object was collected that is reachable");
  bench::Result(workload)
      .number("objects", static_cast<double>(count))
      .number("ns_per_operation", static_cast<double>(best_ns) / static_cast<double>(count))
      .number("first_ns_per_operation", static_cast<double>(first_ns) / static_cast<double>(count));
}
