// SECCOMP_MODE_STRICT allows read, write and exit only: warm blocks are freed and given again
// without a system call.
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "check.hpp"

int main() {
  for (int i = 0; i < 10; i++) {
    void* large = malloc(65536);
    void* small = malloc(100);
    memset(large, 1, 65536);
    free(large);
    free(small);
  }
  int status = compat::finish();
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) return 77;
  for (int i = 0; i < 100; i++) {
    void* large = malloc(65536);
    void* small = malloc(100);
    if (large == nullptr || small == nullptr) status = 1;
    memset(large, 2, 65536);
    memset(small, 2, 100);
    free(large);
    free(small);
  }
  syscall(SYS_exit, status);  // exit_group is not allowed
}
