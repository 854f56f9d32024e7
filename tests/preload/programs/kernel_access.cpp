// The kernel reads and writes blocks: read, write, readv, pipes, sockets, mutexes (futex), mlock.
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "check.hpp"

using compat::check;

int main() {
  constexpr size_t kBytes = 3000000;
  int descriptor = open("/dev/zero", O_RDONLY | O_CLOEXEC);
  for (size_t size_bytes : {size_t{200}, size_t{20000}, kBytes}) {
    // Fresh memory: the kernel is the first to touch it.
    auto* block = static_cast<char*>(malloc(size_bytes));
    check(read(descriptor, block, size_bytes) == static_cast<ssize_t>(size_bytes),
          "read() into a fresh block");
    check(compat::all_zero(block, size_bytes), "what read() stored");
    compat::fill(block, size_bytes, 4);
    int pair[2];
    check(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
    size_t part_bytes = size_bytes < 60000 ? size_bytes : 60000;
    check(write(pair[0], block, part_bytes) == static_cast<ssize_t>(part_bytes),
          "write() from a block");
    auto* copy = static_cast<char*>(malloc(part_bytes));
    iovec parts[2] = {{copy, part_bytes / 2}, {copy + part_bytes / 2, part_bytes - part_bytes / 2}};
    check(readv(pair[1], parts, 2) == static_cast<ssize_t>(part_bytes), "readv() into a block");
    check(memcmp(block, copy, part_bytes) == 0, "what went through the socket");
    close(pair[0]);
    close(pair[1]);
    check(mlock(block, size_bytes < 65536 ? size_bytes : 65536) == 0 || errno == ENOMEM ||
              errno == EPERM,
          "mlock of a block");
    munlock(block, size_bytes);
    free(copy);
    free(block);
  }
  // A mutex and a condition in a block, as every C++ program has them.
  struct Shared {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int turn;
  };
  auto* shared = static_cast<Shared*>(calloc(1, sizeof(Shared) + 20000));
  pthread_mutex_init(&shared->lock, nullptr);
  pthread_cond_init(&shared->changed, nullptr);
  auto run = [](void* argument) -> void* {
    auto* both = static_cast<Shared*>(argument);
    for (int i = 0; i < 1000; i++) {
      pthread_mutex_lock(&both->lock);
      while (both->turn != 1) pthread_cond_wait(&both->changed, &both->lock);
      both->turn = 0;
      pthread_cond_signal(&both->changed);
      pthread_mutex_unlock(&both->lock);
    }
    return nullptr;
  };
  pthread_t thread;
  check(pthread_create(&thread, nullptr, run, shared) == 0, "pthread_create");
  for (int i = 0; i < 1000; i++) {
    pthread_mutex_lock(&shared->lock);
    while (shared->turn != 0) pthread_cond_wait(&shared->changed, &shared->lock);
    shared->turn = 1;
    pthread_cond_signal(&shared->changed);
    pthread_mutex_unlock(&shared->lock);
  }
  pthread_join(thread, nullptr);
  free(shared);
  close(descriptor);
  return compat::finish();
}
