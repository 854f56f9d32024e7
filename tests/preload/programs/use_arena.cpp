// Fills blocks with a recognisable text and ends in the way the argument says; what is left is the
// driver's business.
//
// exit N | quick-exit | _exit | abort | kill | fault | hold (waits for stdin's end) | exec PROG
// ARGS | threads | large N
#include <dirent.h>
#include <signal.h>

#include "check.hpp"

namespace {

// Lines `bartender salvage --strings` must find again.
constexpr char kText[] = "the data of a program that died";

char* text_block(size_t size_bytes, char letter) {
  auto* block = static_cast<char*>(malloc(size_bytes));
  if (block == nullptr) return nullptr;
  memset(block, letter, size_bytes);
  memcpy(block, kText, sizeof(kText));
  return block;
}

int thread_count() {
  int count = 0;
  DIR* directory = opendir("/proc/self/task");
  while (dirent* entry = readdir(directory)) {
    if (entry->d_name[0] != '.') count++;
  }
  closedir(directory);
  return count;
}

}  // namespace

int main(int argc, char** argv) {
  const char* end = argc > 1 ? argv[1] : "exit";
  char* kept[3] = {text_block(200000, 'a'), text_block(1000, 'b'), text_block(20000, 'c')};
  for (char* block : kept) compat::check(block != nullptr && strcmp(block, kText) == 0, "a block");
  printf("state %d\n", compat::library_state());
  fflush(stdout);
  if (compat::finish() != 0) return 3;
  int number = argc > 2 ? atoi(argv[2]) : 0;
  if (strcmp(end, "exit") == 0) exit(number);
  if (strcmp(end, "quick-exit") == 0) quick_exit(number);
  if (strcmp(end, "_exit") == 0) _exit(number);
  if (strcmp(end, "abort") == 0) abort();
  if (strcmp(end, "kill") == 0) kill(getpid(), SIGKILL);
  if (strcmp(end, "fault") == 0) *compat::opaque(static_cast<volatile int*>(nullptr)) = 1;
  if (strcmp(end, "hold") == 0) {
    char byte;
    while (read(0, &byte, 1) > 0) continue;
    for (char* block : kept) compat::check(strcmp(block, kText) == 0, "a block after the wait");
    return compat::failure_count == 0 ? 0 : 1;
  }
  if (strcmp(end, "exec") == 0) {
    execvp(argv[2], argv + 2);
    return 9;
  }
  if (strcmp(end, "threads") == 0) {
    for (int i = 0; i < 100; i++) free(malloc(1000000));
    printf("threads %d\n", thread_count());
    return 0;
  }
  if (strcmp(end, "large") == 0) {
    // Blocks of one byte over a MiB, kept: the arena must not round them up to the next class of
    // four a doubling.
    for (int i = 0; i < number; i++) memset(malloc((1 << 20) + 1), 1, (1 << 20) + 1);
    printf("holding\n");
    fflush(stdout);
    char byte;
    while (read(0, &byte, 1) > 0) continue;
    return 0;
  }
  return 4;
}
