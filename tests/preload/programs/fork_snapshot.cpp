// fork gives the child a private copy: it sees the values at the fork, neither side sees the
// other's later writes.
#include <malloc.h>
#include <signal.h>
#include <sys/prctl.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kBlockSizes[] = {100, 3000, 16384, 200000, 8u << 20};
constexpr size_t kBlockCount = 5;

struct Channel {
  int to_child[2];
  int to_parent[2];
  Channel() {
    if (pipe(to_child) != 0 || pipe(to_parent) != 0) _exit(92);
  }
};

void send(int descriptor) {
  if (write(descriptor, "x", 1) != 1) _exit(91);
}
void receive(int descriptor) {
  char byte;
  if (read(descriptor, &byte, 1) != 1) _exit(90);
}

void verify_all(void* const* blocks, uint64_t seed, const char* what) {
  for (size_t i = 0; i < kBlockCount; i++) {
    check(blocks[i] != nullptr && compat::holds(blocks[i], kBlockSizes[i], seed + i), what);
  }
}
void fill_all(void* const* blocks, uint64_t seed) {
  for (size_t i = 0; i < kBlockCount; i++) compat::fill(blocks[i], kBlockSizes[i], seed + i);
}

int generation(void** blocks, int depth);

// The child's part: `blocks` hold seed 100 * depth.
[[noreturn]] void child(void** blocks, Channel& channel, int depth) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  uint64_t seed = 100u * static_cast<uint64_t>(depth);
  receive(channel.to_child[0]);  // the parent has written, freed and allocated meanwhile
  verify_all(blocks, seed, "the child sees the values at the fork, not the parent's later writes");
  for (size_t i = 0; i < kBlockCount; i++) {
    check(malloc_usable_size(blocks[i]) >= kBlockSizes[i], "usable size of an inherited block");
  }
  fill_all(blocks, 7777);
  void* fresh[200];
  for (size_t i = 0; i < 200; i++) {
    fresh[i] = malloc(compat::kSizes[i % compat::kSizeCount]);
    compat::fill(fresh[i], compat::kSizes[i % compat::kSizeCount], i);
  }
  send(channel.to_parent[1]);
  receive(channel.to_child[0]);
  verify_all(blocks, 7777, "the child keeps its own writes");
  for (size_t i = 0; i < 200; i++) {
    check(compat::holds(fresh[i], compat::kSizes[i % compat::kSizeCount], i),
          "the child's new blocks");
    free(fresh[i]);
  }
  // Inherited blocks are freed, grown and shrunk as if they were the child's own.
  free(blocks[1]);
  blocks[1] = malloc(kBlockSizes[1]);
  blocks[3] = realloc(blocks[3], 400000);
  check(compat::holds(blocks[3], kBlockSizes[3], 7777 + 3), "an inherited block after realloc");
  blocks[4] = realloc(blocks[4], kBlockSizes[4]);
  fill_all(blocks, 100u * static_cast<uint64_t>(depth + 1));
  int status = depth < 3 ? generation(blocks, depth + 1) : 0;
  for (size_t i = 0; i < kBlockCount; i++) free(blocks[i]);
  // exit, not _exit: what the library does at the end must not touch the parent's arena either.
  exit(status != 0 || compat::failure_count != 0 ? 1 : 0);
}

int generation(void** blocks, int depth) {
  uint64_t seed = 100u * static_cast<uint64_t>(depth);
  fill_all(blocks, seed);
  Channel channel;
  fflush(nullptr);
  pid_t pid = fork();
  check(pid >= 0, "fork");
  if (pid == 0) child(blocks, channel, depth);
  fill_all(blocks, 5555);
  void* freed = malloc(300000);
  free(freed);
  void* fresh = malloc(500000);
  compat::fill(fresh, 500000, 1);
  send(channel.to_child[1]);
  receive(channel.to_parent[0]);  // the child has written and allocated
  verify_all(blocks, 5555, "the child's writes are not seen by the parent");
  check(compat::holds(fresh, 500000, 1), "the parent's new block");
  for (size_t i = 0; i < 400; i++) free(malloc(compat::kSizes[i % compat::kSizeCount]));
  send(channel.to_child[1]);
  compat::check_child(pid, 0, "the child's checks");
  verify_all(blocks, 5555, "nothing changed when the child ended");
  check(compat::holds(fresh, 500000, 1), "the parent's new block at the end");
  free(fresh);
  return compat::failure_count == 0 ? 0 : 1;
}

}  // namespace

int main() {
  void* blocks[kBlockCount];
  for (size_t i = 0; i < kBlockCount; i++) blocks[i] = malloc(kBlockSizes[i]);
  generation(blocks, 1);
  int status = compat::finish();
  for (void* block : blocks) free(block);
  return status;
}
