// A filter that kills on every system call but those that glibc's malloc may make; growth must not
// need another one.
//
// Argument: "allow": mmap, munmap, madvise, mprotect, futex, fallocate are allowed; "no-fallocate",
// "no-memory": fallocate, or all of them, fail with an error instead (brk does not: glibc takes its
// error for an address); "before": the filter comes before the first routed allocation and refuses
// open, as a sandbox would.
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr unsigned kAllow = SECCOMP_RET_ALLOW;
constexpr unsigned kNoSpace = SECCOMP_RET_ERRNO | EPERM;
constexpr unsigned kNoMemory = SECCOMP_RET_ERRNO | ENOMEM;

struct Rule {
  unsigned call;
  unsigned action;
};

bool install(const Rule* rules, size_t count, unsigned otherwise) {
  sock_filter program[64];
  unsigned short length = 0;
  program[length++] = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
  for (size_t i = 0; i < count; i++) {
    program[length++] = BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, rules[i].call, 0, 1);
    program[length++] = BPF_STMT(BPF_RET | BPF_K, rules[i].action);
  }
  program[length++] = BPF_STMT(BPF_RET | BPF_K, otherwise);
  sock_fprog whole = {length, program};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &whole) == 0;
}

}  // namespace

int main(int argc, char** argv) {
  const char* mode = argc > 1 ? argv[1] : "allow";
  unsigned memory_action = strcmp(mode, "no-memory") == 0 ? kNoMemory : kAllow;
  unsigned fallocate_action = strcmp(mode, "allow") == 0 ? kAllow : kNoSpace;
  if (strcmp(mode, "no-memory") == 0) fallocate_action = kNoMemory;
  bool is_before = strcmp(mode, "before") == 0;
  void* old = is_before ? nullptr : malloc(200000);
  if (old != nullptr) compat::fill(old, 200000, 1);
  // After the filter neither dlsym nor stdio's first use may need a system call: ask now.
  int status = compat::finish();
  printf(" \n");
  fflush(stdout);
  const Rule kStrict[] = {
      {SYS_mmap, memory_action},    {SYS_munmap, memory_action},
      {SYS_madvise, memory_action}, {SYS_mprotect, memory_action},
      {SYS_mremap, memory_action},  {SYS_brk, kAllow},
      {SYS_futex, kAllow},          {SYS_fallocate, fallocate_action},
      {SYS_write, kAllow},          {SYS_exit, kAllow},
      {SYS_exit_group, kAllow},     {SYS_rt_sigreturn, kAllow},
      {SYS_clock_gettime, kAllow},  {SYS_getpid, kAllow},
  };
  const Rule kNoFiles[] = {{SYS_open, SECCOMP_RET_ERRNO | EACCES},
                           {SYS_openat, SECCOMP_RET_ERRNO | EACCES},
                           {SYS_mkdir, SECCOMP_RET_ERRNO | EACCES},
                           {SYS_mkdirat, SECCOMP_RET_ERRNO | EACCES}};
  bool installed =
      is_before ? install(kNoFiles, 4, kAllow)
                : install(kStrict, sizeof(kStrict) / sizeof(kStrict[0]), SECCOMP_RET_KILL_PROCESS);
  check(installed, "seccomp");
  // Growth in every way: small classes never used before, large blocks, realloc, calloc, and giving
  // back.
  bool may_be_refused = memory_action != kAllow;
  size_t given_count = 0;
  for (int round = 0; round < 3; round++) {
    static void* blocks[3000];
    for (size_t i = 0; i < 3000; i++) {
      size_t size_bytes = i % 20 == 0 ? 100000 + i * 10 : i * 3;
      blocks[i] = i % 3 == 0 ? calloc(1, size_bytes) : malloc(size_bytes);
      check(blocks[i] != nullptr || (may_be_refused && errno == ENOMEM), "malloc under the filter");
      if (blocks[i] == nullptr) continue;
      given_count++;
      compat::fill(blocks[i], size_bytes, i);
    }
    for (size_t i = 0; i < 3000; i++) {
      size_t size_bytes = i % 20 == 0 ? 100000 + i * 10 : i * 3;
      if (blocks[i] != nullptr)
        check(compat::holds(blocks[i], size_bytes, i), "contents under the filter");
      if (i % 2 == 0 && blocks[i] != nullptr) {
        void* grown = realloc(blocks[i], size_bytes * 2 + 1);
        if (grown != nullptr) blocks[i] = grown;
      }
      free(blocks[i]);
    }
  }
  check(given_count > 0, "blocks were given");
  if (old != nullptr) check(compat::holds(old, 200000, 1), "the old block");
  free(old);
  // Not exit: its handlers may unlink the arena, which the filter does not allow.
  syscall(SYS_exit_group, status != 0 || compat::failure_count != 0 ? 1 : 0);
}
