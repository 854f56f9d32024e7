// Two clusters of the program's own, each with memory nodes of its own, beside the process arena.
//
// fill URI URI    | fills both, closes the first, opens it again, and works on both until it is
//                 | killed
// verify URI URI  | both are as they were, and a child sees them too
// once URI URI    | fills both and ends them without a root: nothing is left
// alone           | an arena that btd_cluster_create() makes with single_node has no far memory
#include <sys/wait.h>

#include <string>

#include "check.hpp"
#include "core/api/bartender.h"

namespace {

constexpr size_t kBlockBytes = 96 * 1024;
constexpr uint64_t kCount = 200;

struct Table {
  uint64_t* blocks[kCount];
};

void write_block(uint64_t* block, uint64_t number) {
  for (size_t i = 0; i < kBlockBytes / 8; i++) block[i] = number * 1'000'003 + i;
}

bool is_whole(const uint64_t* block, uint64_t number) {
  for (size_t i = 0; i < kBlockBytes / 8; i++) {
    if (block[i] != number * 1'000'003 + i) return false;
  }
  return true;
}

void fill(btd_cluster* cluster) {
  auto* table = static_cast<Table*>(btd_calloc(cluster, 1, sizeof(Table)));
  compat::check(table != nullptr && btd_root_set(cluster, "table", table) == 0, "a root");
  for (uint64_t i = 0; i < kCount; i++) {
    table->blocks[i] = static_cast<uint64_t*>(btd_malloc(cluster, kBlockBytes));
    compat::check(table->blocks[i] != nullptr, "a block");
    write_block(table->blocks[i], i);
  }
}

void check_all(btd_cluster* cluster) {
  auto* table = static_cast<Table*>(btd_root_get(cluster, "table"));
  compat::check(table != nullptr, "the table");
  for (uint64_t i = 0; table != nullptr && i < kCount; i++)
    compat::check(is_whole(table->blocks[i], i), "a block is as it was left");
}

btd_cluster* open(const char* uri) {
  btd_cluster* cluster = btd_cluster_open(uri);
  compat::check(cluster != nullptr, uri);
  if (cluster == nullptr) exit(1);
  return cluster;
}

int alone() {
  btd_config config;
  config.single_node = 1;
  btd_cluster* cluster = btd_cluster_create(&config);
  compat::check(cluster != nullptr, "a cluster");
  fill(cluster);
  check_all(cluster);
  btd_root_remove(cluster, "table");
  printf("good\n");
  return compat::failure_count != 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "alone") return alone();
  if (argc != 4) return 2;
  btd_cluster* clusters[2] = {open(argv[2]), open(argv[3])};
  if (std::string(argv[1]) == "once") {
    for (btd_cluster* cluster : clusters) {
      fill(cluster);
      check_all(cluster);
      btd_root_remove(cluster, "table");
      compat::check(btd_cluster_close(cluster) == 0, "a close");
    }
    printf("good\n");
    return compat::failure_count != 0;
  }
  if (std::string(argv[1]) == "fill") {
    for (btd_cluster* cluster : clusters) fill(cluster);
    compat::check(btd_cluster_close(clusters[0]) == 0, "a close");
    clusters[0] = open(argv[2]);
    for (btd_cluster* cluster : clusters) check_all(cluster);
    printf(compat::failure_count == 0 ? "filled\n" : "failed\n");
    fflush(stdout);
    for (;;) {
      for (btd_cluster* cluster : clusters) check_all(cluster);
    }
  }
  for (btd_cluster* cluster : clusters) check_all(cluster);
  // A child's handles are closed; what the parent's pointers lead to is there.
  Table* tables[2] = {static_cast<Table*>(btd_root_get(clusters[0], "table")),
                      static_cast<Table*>(btd_root_get(clusters[1], "table"))};
  pid_t child = fork();
  if (child == 0) {
    for (Table* table : tables) {
      for (uint64_t i = 0; i < kCount; i++) {
        compat::check(is_whole(table->blocks[i], i), "a block in the child");
        memset(table->blocks[i], 0x55, kBlockBytes);
      }
    }
    _exit(compat::failure_count != 0);
  }
  int status = 0;
  compat::check(waitpid(child, &status, 0) == child && status == 0, "the child");
  for (btd_cluster* cluster : clusters) check_all(cluster);
  printf("good\n");
  return compat::failure_count != 0;
}
