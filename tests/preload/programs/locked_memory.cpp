// mlockall(MCL_CURRENT | MCL_FUTURE): the reservation must not become 64 GiB of locked memory.
#include <sys/mman.h>
#include <sys/resource.h>

#include "check.hpp"

using compat::check;

int main(int argc, char** argv) {
  bool locks_late = argc > 1 && strcmp(argv[1], "late") == 0;
  bool is_limited = argc > 1 && strcmp(argv[1], "limited") == 0;
  if (locks_late) memset(malloc(3000000), 1, 3000000);
  if (is_limited) {
    // An ordinary user has 8 MiB: locking succeeds for now, later mappings are refused.
    rlimit limit = {32u << 20, 32u << 20};
    setrlimit(RLIMIT_MEMLOCK, &limit);
    if (geteuid() == 0 &&
        (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0))
      return 77;
  }
  if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0) {
    printf("mlockall: %s\n", strerror(errno));
    return errno == EPERM || errno == ENOMEM ? 77 : 1;
  }
  size_t refused_count = 0;
  static void* blocks[200];
  for (size_t i = 0; i < 200; i++) {
    blocks[i] = malloc(i % 10 == 0 ? 1000000 : 20000);
    if (blocks[i] == nullptr) {
      check(errno == ENOMEM || errno == EAGAIN, "a refused block says ENOMEM");
      refused_count++;
      continue;
    }
    compat::fill(blocks[i], 20000, i);
  }
  check(is_limited || refused_count == 0, "no block is refused when nothing is limited");
  long locked_kb = compat::process_status("VmLck");
  long resident_kb = compat::process_status("VmRSS");
  printf("locked %ld KiB, resident %ld KiB, refused %zu\n", locked_kb, resident_kb, refused_count);
  check(resident_kb < 400000, "only what is used is resident");
  for (size_t i = 0; i < 200; i++) {
    if (blocks[i] != nullptr)
      check(compat::holds(blocks[i], 20000, i), "contents of a locked block");
    free(blocks[i]);
  }
  pid_t pid = fork();
  if (pid == 0) {
    free(malloc(100000));
    _exit(0);
  }
  check(pid > 0, "fork with locked memory");
  if (pid > 0) compat::check_child(pid, 0, "the child");
  return is_limited ? (compat::failure_count == 0 ? 0 : 1) : compat::finish();
}
