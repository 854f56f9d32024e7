// What does the collector's mark cost an object?
//
//   collector list|shuffled|graph [--objects N] [--threads N] [--degree N] [--runs N] [--stack
//   ENTRIES]
//             [--path FILE]
//
// list: a linked list of 64 B objects, in the order of their allocation; shuffled: in random order;
// graph: each object points to --degree (2..8)
// random others, all reachable.  The peers' number is
// Makalu's, 59 ns an object for 4 million (Bhandari et al., OOPSLA 2016).  This program knows
// core/: it makes an arena of its own, and marks it --runs times; the best and the first are told,
// since the first also faults pages in.

#include <unistd.h>

#include <string>
#include <vector>

#include "bench/support.hpp"
#include "core/gc/mark.hpp"
#include "core/heap/arena.hpp"
#include "core/recovery/open.hpp"

namespace {

constexpr uint64_t kObjectBytes = 64;

btd::Arena arena;

std::vector<uint64_t*> make_objects(btd::ThreadCache& cache, uint64_t count) {
  std::vector<uint64_t*> objects(count);
  for (auto& object : objects) {
    object = static_cast<uint64_t*>(arena.allocate(cache, kObjectBytes, 16, nullptr));
    if (object == nullptr) bench::fail("the arena is full");
    std::memset(object, 0, kObjectBytes);
  }
  return objects;
}

void shuffle(std::vector<uint64_t*>& objects) {
  bench::Random random(1);
  for (uint64_t i = objects.size() - 1; i > 0; i--)
    std::swap(objects[i], objects[random.between(0, i)]);
}

// A list, or a graph: a heap-shaped tree, so that all is reached, and what is left of the degree at
// random.  In shuffled objects all of it is random to memory.
void link(std::vector<uint64_t*>& objects, uint64_t degree) {
  bench::Random random(2);
  auto address = [&](uint64_t index) {
    return index < objects.size() ? reinterpret_cast<uintptr_t>(objects[index]) : 0;
  };
  for (uint64_t i = 0; i < objects.size(); i++) {
    objects[i][0] = degree == 1 ? address(i + 1) : address(2 * i + 1);
    if (degree > 1) objects[i][1] = address(2 * i + 2);
    for (uint64_t edge = 2; edge < degree; edge++)
      objects[i][edge] = address(random.between(0, objects.size() - 1));
  }
}

void set_root(const void* value) {
  if (!arena.grow_roots(1)) bench::fail("no space for a root");
  btd::Root* root = arena.root(0);
  std::memset(static_cast<void*>(root), 0, sizeof(*root));
  std::strcpy(root->name, "first");
  root->head = btd::root_head(root->name);
  root->value = arena.offset_of(value);
}

// Of all threads: what others take from this machine meanwhile is not in it.
uint64_t cpu_ns() {
  timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

// What following the list costs by itself: one dependent load an object.
double floor_of(const uint64_t* object, uint64_t count) {
  const uint64_t start = cpu_ns();
  while (object != nullptr)
    object = reinterpret_cast<const uint64_t*>(*static_cast<const volatile uint64_t*>(object));
  return static_cast<double>(cpu_ns() - start) / static_cast<double>(count);
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options(argc, argv);
  const char* workload = options.word("list");
  const uint64_t count = options.number("--objects", 4'000'000);
  const bool is_graph = std::strcmp(workload, "graph") == 0;
  const std::string path =
      options.text("--path", ("/dev/shm/bartender-bench-" + std::to_string(getpid())).c_str());

  btd::OpenRequest request{path.c_str(), count * kObjectBytes * 2 + 64 * bench::kMiB};
  btd::Line why;
  if (btd::open_arena(request, arena, why) != btd::Error::kNone) bench::fail(why.c_str());
  unlink(path.c_str());
  btd::Heap* heap = arena.acquire_heap();
  if (heap == nullptr) bench::fail("no heap");
  std::vector<uint64_t*> objects = make_objects(heap->cache(), count);
  if (std::strcmp(workload, "list") != 0) shuffle(objects);
  link(objects, is_graph ? options.number("--degree", 4) : 1);
  set_root(objects[0]);
  const double floor_ns = is_graph ? 0 : floor_of(objects[0], count);
  objects = {};

  btd::GcImage image{&arena.header(), arena.mapping().address()};
  btd::MarkRequest how;
  how.threads = static_cast<uint32_t>(options.number("--threads", 1));
  how.stack_entries = static_cast<uint32_t>(options.number("--stack", how.stack_entries));
  btd::MarkTotals totals{};
  uint64_t first_ns = 0, best_ns = ~uint64_t{0}, best_cpu_ns = ~uint64_t{0};
  for (uint64_t run = 0; run < options.number("--runs", 5); run++) {
    btd::Marks marks;
    const uint64_t start = bench::now_ns(), cpu_start = cpu_ns();
    if (marks.open(image) != btd::Error::kNone ||
        btd::mark(marks, how, totals) != btd::Error::kNone)
      bench::fail("no memory for the marks");
    const uint64_t elapsed_ns = bench::now_ns() - start;
    const uint64_t spent_ns = cpu_ns() - cpu_start;
    if (spent_ns < best_cpu_ns) best_cpu_ns = spent_ns;
    if (totals.blocks != count) bench::fail("not every object was reached");
    if (run == 0) first_ns = elapsed_ns;
    if (elapsed_ns < best_ns) best_ns = elapsed_ns;
    marks.close();
  }
  const double grown_bytes = static_cast<double>(arena.usage().grown_bytes);
  bench::Result(workload)
      .number("objects", static_cast<double>(count))
      .number("threads", static_cast<double>(how.threads))
      .number("ns_per_operation", static_cast<double>(best_ns) / static_cast<double>(count))
      .number("cpu_ns_per_operation", static_cast<double>(best_cpu_ns) / static_cast<double>(count))
      .number("first_ns_per_operation", static_cast<double>(first_ns) / static_cast<double>(count))
      .number("floor_ns_per_operation", floor_ns)
      .number("postponed", static_cast<double>(totals.postponed))
      .number("table_share", static_cast<double>(totals.table_bytes) / grown_bytes);
  return 0;
}
