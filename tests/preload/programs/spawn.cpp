// vfork, posix_spawn, system, popen, clone and fork+exec: nothing special happens to the parent.
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kBlockCount = 50;
void* blocks[kBlockCount];
size_t block_bytes(size_t i) { return i % 4 == 0 ? 20000 + i * 3000 : 16 + i * 50; }

void verify(const char* what) {
  for (size_t i = 0; i < kBlockCount; i++) check(compat::holds(blocks[i], block_bytes(i), i), what);
  compat::Churn churn(4);
  for (int i = 0; i < 500; i++) churn.step();
}

// Path of the arena that this process has mapped, or "none".
void find_arena(char* path, size_t path_bytes) {
  snprintf(path, path_bytes, "none");
  FILE* maps = fopen("/proc/self/maps", "r");
  char line[1024];
  while (fgets(line, sizeof(line), maps) != nullptr) {
    char* name = strchr(line, '/');
    if (name == nullptr || strstr(name, ".arena") == nullptr) continue;
    name[strcspn(name, "\n")] = 0;
    snprintf(path, path_bytes, "%s", name);
    break;
  }
  fclose(maps);
}

int only_exit(void*) { _exit(5); }

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2) {
    // The program that the others execute: no descriptor of the parent's arena has come through
    // exec.
    DIR* directory = opendir("/proc/self/fd");
    while (dirent* entry = readdir(directory)) {
      char target[512];
      ssize_t length = readlinkat(dirfd(directory), entry->d_name, target, sizeof(target) - 1);
      if (length <= 0) continue;
      target[length] = 0;
      check(strcmp(target, argv[2]) != 0, "no descriptor of the parent's arena is inherited");
    }
    closedir(directory);
    compat::Churn churn(8);
    for (int i = 0; i < 500; i++) churn.step();
    return compat::failure_count == 0 ? atoi(argv[1]) : 1;
  }
  for (size_t i = 0; i < kBlockCount; i++) {
    blocks[i] = malloc(block_bytes(i));
    compat::fill(blocks[i], block_bytes(i), i);
  }
  char three[] = "3";
  char arena[1024];
  find_arena(arena, sizeof(arena));
  if (getenv("COMPAT_EXPECT_ARENA") != nullptr)
    check(arena[0] == '/', "the arena is found in /proc/self/maps");
  char* arguments[] = {argv[0], three, arena, nullptr};
  for (int round = 0; round < 20; round++) {
    pid_t pid = vfork();
    if (pid == 0) {
      execv(arguments[0], arguments);
      _exit(9);
    }
    compat::check_child(pid, 3, "vfork and exec");
    pid = vfork();
    if (pid == 0) _exit(4);
    compat::check_child(pid, 4, "vfork and _exit");
    verify("a block after vfork");

    check(posix_spawn(&pid, arguments[0], nullptr, nullptr, arguments, environ) == 0,
          "posix_spawn");
    compat::check_child(pid, 3, "posix_spawn");
    check(posix_spawnp(&pid, "no-such-program-anywhere", nullptr, nullptr, arguments, environ) != 0,
          "posix_spawnp fails");
    verify("a block after posix_spawn");

    pid = fork();
    if (pid == 0) {
      execv(arguments[0], arguments);
      _exit(9);
    }
    compat::check_child(pid, 3, "fork and exec");
    verify("a block after fork and exec");

    // clone without the handlers of fork, as container runtimes and Go call it.
    pid = static_cast<pid_t>(syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) syscall(SYS_exit_group, 6);
    compat::check_child(pid, 6, "raw clone");
    alignas(16) static char stack[65536];
    pid = clone(only_exit, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, nullptr);
    compat::check_child(pid, 5, "clone with CLONE_VM");
    verify("a block after clone");
  }
  check(WEXITSTATUS(system("exit 7")) == 7, "system");
  FILE* pipe = popen("echo hello", "r");
  char line[64] = "";
  check(fgets(line, sizeof(line), pipe) != nullptr && strcmp(line, "hello\n") == 0, "popen");
  check(pclose(pipe) == 0, "pclose");
  verify("a block at the end");
  int status = compat::finish();
  for (void* block : blocks) free(block);
  return status;
}
