// A program that closes every descriptor from 3 to 1023 and reopens them: its own files stay
// untouched, the heap goes on.
//
// Arguments: "hold" waits for a line on stdin before the end, so that the driver can look at the
// arena meanwhile; "all" closes with close_range(3, ~0) what a descriptor above 1023 would survive.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "check.hpp"

using compat::check;

int main(int argc, char** argv) {
  bool closes_all = argc > 1 && strcmp(argv[1], "all") == 0;
  void* old_large = malloc(1000000);
  void* old_small = malloc(100);
  compat::fill(old_large, 1000000, 1);
  compat::fill(old_small, 100, 2);
  FILE* mark =
      tmpfile();  // a file of the program's own, which nobody else may write to or lengthen
  if (closes_all) {
    syscall(SYS_close_range, 3u, ~0u, 0u);
  } else {
    for (int descriptor = 3; descriptor < 1024; descriptor++) close(descriptor);
  }
  int first = open("/tmp", O_TMPFILE | O_RDWR, 0600);
  check(first == 3, "descriptor 3 is the program's now");
  check(write(first, "mine", 4) == 4, "write");
  for (int descriptor = 4; descriptor < 1024; descriptor++) {
    int got = open("/dev/null", O_RDWR);
    check(got == descriptor, "each descriptor is free again");
  }
  // The heap goes on: growth, fork, frees.
  for (int round = 0; round < 3; round++) {
    compat::Churn churn(static_cast<uint64_t>(round));
    for (int i = 0; i < 3000; i++) churn.step();
    void* large[40];
    for (size_t i = 0; i < 40; i++) {
      large[i] = malloc(2000000);
      check(large[i] != nullptr, "a large block");
      if (large[i] != nullptr) compat::fill(large[i], 2000000, i);
    }
    for (size_t i = 0; i < 40; i++) {
      check(compat::holds(large[i], 2000000, i), "contents after the descriptors went");
      free(large[i]);
    }
    pid_t pid = fork();
    if (pid == 0) {
      check(compat::holds(old_large, 1000000, 1), "the block in a child");
      free(old_large);
      free(malloc(300000));
      exit(compat::failure_count == 0 ? 0 : 1);
    }
    compat::check_child(pid, 0, "a child after the descriptors went");
  }
  check(compat::holds(old_large, 1000000, 1), "the old large block");
  check(compat::holds(old_small, 100, 2), "the old small block");
  struct stat status;
  check(fstat(first, &status) == 0 && status.st_size == 4 && status.st_blocks <= 8,
        "the program's own file is untouched");
  (void)mark;
  if (argc > 1 && strcmp(argv[1], "hold") == 0) {
    printf("holding\n");
    fflush(stdout);
    char line[16];
    check(fgets(line, sizeof(line), stdin) != nullptr, "the driver's line");
    check(compat::holds(old_large, 1000000, 1), "the old block after the wait");
  }
  int result = compat::finish();
  free(old_large);
  free(old_small);
  return result;
}
