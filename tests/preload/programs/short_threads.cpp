// 8,000 short threads: neither the process nor the arena grows with the number of threads that ever
// lived.
#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>

#include "check.hpp"

using compat::check;

namespace {

void* run(void* argument) {
  auto index = reinterpret_cast<size_t>(argument);
  void* blocks[40];
  for (size_t i = 0; i < 40; i++) {
    size_t size_bytes = i % 10 == 9 ? 17000 + index % 5 * 3000 : 10 + i * 37;
    blocks[i] = malloc(size_bytes);
    memset(blocks[i], 1, size_bytes);
  }
  for (void* block : blocks) free(block);
  return nullptr;
}

// Four at a time, so that threads of different age overlap.
void run_threads(size_t count) {
  pthread_t threads[4];
  for (size_t done = 0; done < count; done += 4) {
    for (size_t i = 0; i < 4; i++) {
      check(pthread_create(&threads[i], nullptr, run, reinterpret_cast<void*>(done + i)) == 0,
            "pthread_create");
    }
    for (pthread_t thread : threads) pthread_join(thread, nullptr);
  }
}

// KiB that all arena files of this test's directory take.
long arena_kb() {
  const char* path = getenv("COMPAT_ARENA_DIR");
  if (path == nullptr) return 0;
  DIR* directory = opendir(path);
  if (directory == nullptr) return 0;
  long blocks = 0;
  while (dirent* entry = readdir(directory)) {
    struct stat status;
    if (fstatat(dirfd(directory), entry->d_name, &status, 0) == 0 && S_ISREG(status.st_mode))
      blocks += status.st_blocks;
  }
  closedir(directory);
  return blocks / 2;
}

}  // namespace

int main() {
  run_threads(1000);
  long rss_before_kb = compat::process_status("VmRSS");
  long size_before_kb = compat::process_status("VmSize");
  long arena_before_kb = arena_kb();
  run_threads(7000);
  long rss_kb = compat::process_status("VmRSS") - rss_before_kb;
  long size_kb = compat::process_status("VmSize") - size_before_kb;
  long grown_kb = arena_kb() - arena_before_kb;
  printf("grown: resident %ld KiB, address space %ld KiB, arena %ld KiB\n", rss_kb, size_kb,
         grown_kb);
  if (getenv("COMPAT_EXPECT_ARENA") != nullptr)
    check(arena_before_kb > 0, "the arena file is seen");
  check(rss_kb < 4096, "resident memory does not grow");
  check(size_kb < 16 * 8192 + 65536 * 3,
        "address space does not grow");  // glibc keeps stacks and arenas
  check(grown_kb < 4096, "the arena does not grow");
  return compat::finish();
}
