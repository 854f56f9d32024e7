// What the processes do that are stepped through.  Each scene leads to some of the slow paths;
// `step(false)` runs the way there.
#include "tests/crash/worker.hpp"

namespace btd::test {
namespace {

// --- First use
// -----------------------------------------------------------------------------------------------------------

void first_use(Worker& w) {
  w.open();
  w.acquire();
  uint32_t small = w.allocate(100);  // grows the coarse or fine zone, carves
  uint32_t fine = w.allocate(24);
  uint32_t large = w.allocate(100000);
  w.free(small);
  w.free(large);
  w.free(fine);
  w.release();
}

// --- Small blocks
// --------------------------------------------------------------------------------------------------------

// Refills until a second superblock is carved, then frees all: the cache flushes and a superblock
// retires.
void small_blocks(Worker& w, uint64_t size_bytes, uint32_t count) {
  w.step(false);
  w.open();
  w.acquire();
  uint32_t indices[1400];
  for (uint32_t i = 0; i < count; i++) {
    w.step(w.heap()->cache().cached_count(size_class_of(size_bytes)) == 0 || i % 16 == 0);
    indices[i] = w.allocate(size_bytes);
  }
  for (uint32_t i = 0; i < count; i++) {
    w.step(i % 8 == 0 || i + 8 > count);
    w.free(indices[(i * 7) % count]);
  }
  w.step(true);
  w.release();
  w.acquire();
  w.allocate(size_bytes);  // from an orphan
}

void small_coarse(Worker& w) { small_blocks(w, 4096, 80); }
void small_fine(Worker& w) { small_blocks(w, 1200, 120); }
void small_many(Worker& w) { small_blocks(w, 192, 600); }
void small_largest(Worker& w) { small_blocks(w, 32768, 24); }

// --- Large blocks
// --------------------------------------------------------------------------------------------------------

void large_blocks(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  w.step(true);
  uint32_t a = w.allocate(40000);
  uint32_t b = w.allocate(50 * 1024);
  uint32_t c = w.allocate(700 * 1024);  // grows
  uint32_t d = w.allocate(33 * 1024);
  w.free(b);                                  // between two live ones
  uint32_t e = w.allocate(36 * 1024, 16384);  // splits what b left
  w.free(a);                                  // joins nothing
  w.free(e);                                  // joins on both sides
  w.allocate(64 * 1024, 65536);
  w.free(c);
  w.give_back();
  w.allocate(200 * 1024);  // allocates the given-back space again
  w.free(d);
}

void resizing(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  uint32_t a = w.allocate(40000);
  w.step(true);
  w.resize(a, 300000);
  w.resize(a, 300001);
  w.resize(a, 70000);
  uint32_t b = w.allocate(50000);
  w.resize(a, 120000);
  w.resize(b, 34000);
  w.resize(b, 49000);
  w.free(a);
  w.resize(b, 60000);
  w.give_back();
  w.resize(b, 200000);  // into space that must be allocated again
  w.free(b);
}

// --- Recovery and pressure
// -----------------------------------------------------------------------------------------------

void one_large(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 20; i++) w.allocate(1 + w.random() % 5000);
  w.allocate(50000);
  w.step(true);
  w.allocate(90000);
}

void one_large_freed(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 20; i++) w.allocate(1 + w.random() % 5000);
  uint32_t freed = w.allocate(50000);
  w.allocate(60000);
  w.step(true);
  w.free(freed);
}

void one_growth(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  w.allocate(500000);
  w.step(true);
  w.allocate(900000);
}

void reopening(Worker& w) {
  w.step(true);
  w.open();
  w.acquire();
  w.allocate(90000);
  w.allocate(3000);  // adopts an orphan, scans it
}

// Fills the arena with blocks of two lives; the third needs the space of both.
void fill_part(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 40; i++) w.allocate(1 + w.random() % 20000, 16, true);
  for (int i = 0; i < 4; i++) w.allocate(100000 + w.random() % 200000, 16, true);
}

void pressure(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 60; i++) {
    // All that matters here happens when the arena is full; what comes before is stepped elsewhere.
    w.step(w.arena().usage().grown_bytes + 1100000 > w.arena().data_bytes() * 4 / 5);
    if (w.allocate(150000 + w.random() % 300000, 16, true) == Worker::kNone) break;
  }
}

// Survivors that the next life frees by their addresses, as a program with roots does.
void free_survivors(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  w.step(true);
  for (int i = 0; i < 6; i++) w.free(w.some_live(w.random()));
  w.allocate(700);
  w.allocate(45000);
  for (int i = 0; i < 6; i++) w.free(w.some_live(w.random()));
  w.release();
}

// All survivors are freed by their addresses, and then the arena is filled.
void free_survivors_then_fill(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  while (w.live_count() > 0) w.free(w.some_live(0));
  // Some twenty fit; those after them find recovered superblocks to retire, the last finds nothing.
  w.step(true);
  for (int i = 0; i < 100; i++) {
    if (w.allocate(200000, 16, true) == Worker::kNone) break;
  }
  w.step(false);
  for (int i = 0; i < 100; i++) {
    uint32_t index = w.allocate(3000 + w.random() % 20000, 16, true);
    if (index != Worker::kNone) w.free(index);
  }
  w.release();
}

// --- Transactions
// --------------------------------------------------------------------------------------------------------

void begin_with_words(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 4; i++) w.allocate(1 + w.random() % 5000);
  w.allocate(50000);
  w.make_words();
  w.step(true);
}

void transactions(Worker& w) {
  begin_with_words(w);
  w.transact({.what = "the first transaction", .added = {0}});
  w.transact({.what = "words in place and at commit", .added = {1, 2, 40}, .written = {3, 41}});
  w.transact({.what = "blocks", .written = {4, 5}, .sizes = {100, 60000}, .freed = 2, .root = 0});
  w.transact({.what = "an aborted one",
              .added = {6, 7},
              .written = {8},
              .sizes = {100, 60000},
              .freed = 1,
              .aborts = true});
  w.transact({.what = "all at once",
              .added = {0, 9},
              .written = {4},
              .sizes = {24},
              .freed = 1,
              .root = 0});
}

void long_logs(Worker& w) {
  begin_with_words(w);
  w.transact({.what = "a log that goes on in extents",
              .added = {0},
              .written = {1, 2},
              .sizes = {100},
              .freed = 1,
              .log_bytes = 40000});
  w.transact({.what = "a long log aborted",
              .added = {3},
              .sizes = {70000},
              .log_bytes = 30000,
              .aborts = true});
}

void roots(Worker& w) {
  begin_with_words(w);
  w.set_root(0, true);  // makes it
  w.set_root(0, true);
  w.set_root(1, true);
  w.set_root(0, false);
  w.transact({.what = "a root of a transaction", .written = {1}, .root = 2});
  w.set_root(2, true);
}

// malloc_to, free_from and activate: one step each.
void publishing(Worker& w) {
  begin_with_words(w);
  w.transact({.what = "malloc_to", .written = {0}, .sizes = {64}, .reserves = true});
  w.transact({.what = "malloc_to, large", .written = {1}, .sizes = {40000}, .reserves = true});
  w.transact({.what = "activate", .written = {2, 30}, .sizes = {500}, .reserves = true});
  w.transact({.what = "free_from", .written = {0}, .freed = 1});
}

void one_transaction(Worker& w) {
  begin_with_words(w);
  w.transact({.what = "a transaction",
              .added = {0, 1, 30},
              .written = {2, 3},
              .sizes = {100, 40000},
              .freed = 2,
              .root = 0});
}

void after_a_transaction(Worker& w) {
  w.step(true);
  w.open();
  w.acquire();
  w.transact({.what = "the next one", .added = {0, 2}, .written = {1}, .sizes = {100}, .root = 1});
}

// Blocks that the words lead to, and others.
void fill_words(Worker& w) {
  begin_with_words(w);
  w.step(false);
  w.publish_words();
  w.transact({.what = "malloc_to", .written = {0, 1}, .sizes = {64, 40000}, .reserves = true});
  w.transact({.what = "malloc_to", .written = {2, 3}, .sizes = {24, 5000}, .reserves = true});
  for (int i = 0; i < 6; i++) w.allocate(1 + w.random() % 3000);
  w.allocate(90000);
}

void collecting(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  w.allocate(700);
  w.step(true);
  w.collect();
}

void random_work(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  for (int i = 0; i < 60; i++) {
    w.step(w.random() % 2 == 0);
    uint64_t choice = w.random() % 10;
    uint64_t size_bytes = w.random() % 3 == 0 ? 1 + w.random() % 200000 : 1 + w.random() % 6000;
    uint32_t index = w.some_live(w.random());
    if (choice < 5 || index == Worker::kNone) {
      w.allocate(size_bytes, uint64_t{16} << (w.random() % 4 == 0 ? w.random() % 12 : 0), true);
    } else if (choice < 8 || w.log().blocks[index].usable_bytes <= kSmallBytesMax) {
      w.free(index);
    } else if (choice == 8) {
      w.resize(index, kSmallBytesMax + 1 + w.random() % 300000);
    } else {
      w.release();
      w.acquire();
    }
  }
}

}  // namespace

const Scene kScenes[] = {
    {"first use", 8 * kMiB, {first_use}, false},
    {"large blocks", 8 * kMiB, {large_blocks}, false},
    {"resize in place", 8 * kMiB, {resizing}, false},
    {"small blocks, coarse", 8 * kMiB, {small_coarse}, false},
    {"small blocks, fine", 8 * kMiB, {small_fine}, false},
    {"small blocks, many", 8 * kMiB, {small_many}, false},
    {"small blocks, largest", 8 * kMiB, {small_largest}, false},
    {"recovery after a large allocation cut short", 4 * kMiB, {one_large, reopening}, true},
    {"recovery after a large free cut short", 4 * kMiB, {one_large_freed, reopening}, true},
    {"recovery after a growth cut short", 4 * kMiB, {one_growth, reopening}, true},
    {"recovery of a recovery cut short", 4 * kMiB, {one_large_freed, reopening, reopening}, true},
    {"survivors freed", 4 * kMiB, {fill_part, free_survivors}, false},
    {"survivors freed, then pressure", 4 * kMiB, {fill_part, free_survivors_then_fill}, false},
    {"pressure", 4 * kMiB, {fill_part, fill_part, pressure}, false},
    {"transactions", 8 * kMiB, {transactions}, false},
    {"transactions with long logs", 8 * kMiB, {long_logs}, false},
    {"roots", 8 * kMiB, {roots}, false},
    {"malloc_to, free_from, activate", 8 * kMiB, {publishing}, false},
    {"recovery of a transaction cut short",
     4 * kMiB,
     {one_transaction, after_a_transaction, after_a_transaction},
     true},
    {"collector", 4 * kMiB, {fill_words, collecting}, false},
    {"random work", 16 * kMiB, {random_work, random_work, random_work}, true},
};
const uint32_t kSceneCount = sizeof(kScenes) / sizeof(kScenes[0]);

}  // namespace btd::test
