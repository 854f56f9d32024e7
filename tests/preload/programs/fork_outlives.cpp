// A daemon: the parent exits (with 0: its arena goes), the child goes on with every block that it
// inherited.
//
// The grandchild reports through a pipe that its first ancestor reads; that one ends only when all
// is said.
#include <signal.h>
#include <sys/wait.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kBlockCount = 40;
void* blocks[kBlockCount];

size_t block_bytes(size_t i) { return i % 3 == 0 ? 40000 + i * 1000 : 50 + i * 90; }

[[noreturn]] void daemon_work(int parent_pipe, int report_pipe) {
  alarm(60);
  char byte;
  while (read(parent_pipe, &byte, 1) > 0) continue;  // until the parent is gone
  for (size_t i = 0; i < kBlockCount; i++) {
    check(compat::holds(blocks[i], block_bytes(i), i), "an inherited block after the parent's end");
    blocks[i] = realloc(blocks[i], block_bytes(i) * 2);
    check(compat::holds(blocks[i], block_bytes(i), i), "and after realloc");
  }
  {
    compat::Churn churn(3);
    for (int i = 0; i < 5000; i++) churn.step();
  }
  for (void* block : blocks) free(block);
  char verdict = compat::failure_count == 0 ? 'g' : 'b';
  if (write(report_pipe, &verdict, 1) != 1) _exit(1);
  exit(0);
}

// Builds the heap, forks the daemon and ends with 0.  A program of its own, started by exec, so
// that the arena is its own.
int daemon_parent(int report_pipe) {
  int parent[2];
  check(pipe(parent) == 0, "pipe");
  for (size_t i = 0; i < kBlockCount; i++) {
    blocks[i] = malloc(block_bytes(i));
    compat::fill(blocks[i], block_bytes(i), i);
  }
  if (compat::finish() != 0) return 1;
  pid_t child = fork();
  if (child == 0) {
    close(parent[1]);
    setsid();
    daemon_work(parent[0], report_pipe);
  }
  // After the fork the parent overwrites everything: the daemon must not see it.
  for (size_t i = 0; i < kBlockCount; i++) memset(blocks[i], 0xEE, block_bytes(i));
  for (size_t i = 0; i < kBlockCount; i += 2) free(blocks[i]);
  return child > 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) return daemon_parent(atoi(argv[1]));
  int report[2];
  check(pipe(report) == 0, "pipe");
  pid_t pid = fork();
  if (pid == 0) {
    char descriptor[16];
    snprintf(descriptor, sizeof(descriptor), "%d", report[1]);
    execl(argv[0], argv[0], descriptor, static_cast<char*>(nullptr));
    _exit(9);
  }
  close(report[1]);
  compat::check_child(pid, 0, "the daemon's parent");
  char verdict = '?';
  ssize_t got;
  do {
    got = read(report[0], &verdict, 1);
  } while (got < 0 && errno == EINTR);
  check(got == 1 && verdict == 'g', "the daemon's checks");
  free(malloc(100000));
  return compat::finish();
}
