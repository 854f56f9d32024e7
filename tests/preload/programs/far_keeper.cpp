// Keeps numbered blocks under a root, so that a later life can say whether all of them are there.
//
// fill COUNT  | fills the blocks, says so, and works on them until it is killed
// verify      | checks all blocks of the last life and says how many there are
// collect     | forgets every second block of the last life; the collector frees them and no other
// fork COUNT  | a child checks all blocks, changes them, and must not be noticed
#include <signal.h>
#include <sys/wait.h>

#include "check.hpp"
#include "core/api/bartender.h"

namespace {

constexpr size_t kBlockBytes = 100 * 1024;
constexpr uint64_t kCountMax = 4096;

struct Table {
  uint64_t count;
  uint64_t* blocks[kCountMax];
};

// The first word counts the rounds of fill(); the others follow from it and the block's number.
void write_block(uint64_t* block, uint64_t number, uint64_t round) {
  for (size_t i = 1; i < kBlockBytes / 8; i++) block[i] = number * 1'000'003 + i + round;
  block[0] = round;
}

// A block may have been killed in the middle of a round: then it has words of two, one after the
// other.
bool is_whole(const uint64_t* block, uint64_t number) {
  uint64_t round = block[1] - number * 1'000'003 - 1;
  if (block[0] != round && block[0] + 1 != round) return false;
  bool has_turned = false;
  for (size_t i = 1; i < kBlockBytes / 8; i++) {
    uint64_t found = block[i] - number * 1'000'003 - i;
    if (found != round) has_turned = true;
    if (found != (has_turned ? round - 1 : round)) return false;
  }
  return !has_turned || block[0] + 1 == round;
}

Table* make(btd_cluster* cluster, uint64_t count) {
  auto* table = static_cast<Table*>(btd_calloc(cluster, 1, sizeof(Table)));
  compat::check(table != nullptr && btd_root_set(cluster, "table", table) == 0, "a root");
  for (uint64_t i = 0; i < count; i++) {
    auto* block = static_cast<uint64_t*>(btd_malloc(cluster, kBlockBytes));
    compat::check(block != nullptr, "a block");
    write_block(block, i, 0);
    table->blocks[i] = block;
    table->count = i + 1;
  }
  return table;
}

void check_all(const Table* table) {
  for (uint64_t i = 0; i < table->count; i++)
    compat::check(is_whole(table->blocks[i], i), "a block is as it was left");
}

}  // namespace

int main(int argc, char** argv) {
  btd_config config;
  config.single_node = 0;
  btd_cluster* cluster = btd_cluster_create(&config);
  compat::check(argc > 1 && cluster != nullptr, "a cluster");
  uint64_t count = argc > 2 ? strtoull(argv[2], nullptr, 10) : 0;
  if (strcmp(argv[1], "fill") == 0) {
    Table* table = make(cluster, count);
    printf("filled\n");
    fflush(stdout);
    for (uint64_t round = 1;; round++) {
      // In an order that has no trend, so that every part goes far and comes back.
      for (uint64_t i = 0; i < table->count; i++) {
        uint64_t number = i * 7919 % table->count;
        if (table->count % 7919 == 0) number = i;
        write_block(table->blocks[number], number, round);
      }
    }
  }
  if (strcmp(argv[1], "fork") == 0) {
    Table* table = make(cluster, count);
    pid_t child = fork();
    if (child == 0) {
      check_all(table);
      for (uint64_t i = 0; i < table->count; i++) memset(table->blocks[i], 0x55, kBlockBytes);
      for (uint64_t i = 0; i < table->count; i++)
        compat::check(table->blocks[i][9] == 0x5555555555555555, "what the child wrote");
      _exit(compat::failure_count != 0);
    }
    int status = 0;
    compat::check(waitpid(child, &status, 0) == child && status == 0, "the child");
    check_all(table);
    printf("%llu blocks\n", static_cast<unsigned long long>(table->count));
    btd_root_remove(cluster, "table");
    return compat::failure_count != 0;
  }
  auto* table = static_cast<Table*>(btd_root_get(cluster, "table"));
  compat::check(table != nullptr, "the root of the last life");
  if (table == nullptr) return 1;
  if (strcmp(argv[1], "collect") == 0) {
    uint64_t kept = 0;
    for (uint64_t i = 0; i < table->count; i++)
      if (i % 2 == 0) table->blocks[kept++] = table->blocks[i];
    for (uint64_t i = kept; i < table->count; i++) table->blocks[i] = nullptr;
    uint64_t freed = table->count - kept;
    table->count = 0;  // numbers and places do not fit any more
    btd_gc_result result{};
    compat::check(btd_gc(cluster, &result) == 0, "a collection");
    compat::check(result.freed_blocks == freed, "what it freed");
    for (uint64_t i = 0; i < kept; i++)
      compat::check(is_whole(table->blocks[i], 2 * i), "a block that was kept");
    btd_root_remove(cluster, "table");
    printf("%llu freed\n", static_cast<unsigned long long>(freed));
    return compat::failure_count != 0;
  }
  check_all(table);
  printf("%llu blocks\n", static_cast<unsigned long long>(table->count));
  if (argc > 2) btd_root_remove(cluster, "table");
  return compat::failure_count != 0;
}
