// The kernel reads and writes far blocks as it does any memory: each call of the list below, on
// blocks that are far when it comes, and again on blocks that are near.
//
//   far_system_calls DIRECTORY    a directory on a file system with O_DIRECT; without it that part
//                                 is left out, and said so
//
// It says how many calls were made on far blocks, so that the driver knows that they were far.
#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kBlockBytes = 256 * 1024;
constexpr size_t kAlign = 4096;
constexpr size_t kBlockCount = 160;  // 40 MiB, beside which 8 MiB near are little
constexpr size_t kPartBytes = 100 * 1024;
constexpr uint64_t kNothing = 0;

char* blocks[kBlockCount];
uint64_t seeds[kBlockCount];
size_t next_block = 0;
uint64_t far_calls = 0;
uint64_t calls = 0;

// Whether no page of the range is here.  Unlike a load, the question fetches nothing.
bool is_far(const char* start, size_t size_bytes) {
  unsigned char pages[kBlockBytes / 4096 + 1];
  if (mincore(const_cast<char*>(start), size_bytes, pages) != 0) return false;
  for (size_t i = 0; i < (size_bytes + 4095) / 4096; i++)
    if ((pages[i] & 1) != 0) return false;
  return true;
}

void refill(size_t block) {
  seeds[block] = block * 1000 + calls + 1;
  compat::fill(blocks[block], kBlockBytes, seeds[block]);
}

// The next block in turn, which is far if it can be; the blocks in between have pushed it out.
size_t take() {
  for (size_t tries = 0; tries < kBlockCount; tries++) {
    const size_t block = next_block++ % kBlockCount;
    if (is_far(blocks[block], kPartBytes)) return block;
  }
  return next_block++ % kBlockCount;
}

// Calls `call(block)` on a far block, then on the same one near; it says whether all was well.
// What it has written is what `written_seed` makes of the block's beginning; kNothing: nothing.
template <typename Call>
void on_far_and_near(const char* what, uint64_t written_seed, Call call) {
  const size_t block = take();
  for (int turn = 0; turn < 2; turn++) {
    calls++;
    if (is_far(blocks[block], kPartBytes)) far_calls++;
    check(call(blocks[block], seeds[block]), what);
    if (written_seed != kNothing)
      check(compat::holds(blocks[block], kPartBytes, written_seed), what);
    else
      check(compat::holds(blocks[block], kBlockBytes, seeds[block]), what);
  }
  refill(block);
}

bool is_part(ssize_t length) { return length == static_cast<ssize_t>(kPartBytes); }

// Both ends hold a part, so nobody has to read while somebody writes.
void make_pair(int (&pair)[2]) {
  check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
  int bytes = 4 * kPartBytes;
  for (int end : pair)
    for (int which : {SO_SNDBUF, SO_RCVBUF})
      setsockopt(end, SOL_SOCKET, which, &bytes, sizeof(bytes));
}

char near_part[kPartBytes];  // not in the heap

bool is_as_sent(int from, uint64_t seed) {
  memset(near_part, 0, kPartBytes);
  return is_part(recv(from, near_part, kPartBytes, MSG_WAITALL)) &&
         compat::holds(near_part, kPartBytes, seed);
}

void plain_calls() {
  int file = memfd_create("part", MFD_CLOEXEC);
  compat::fill(near_part, kPartBytes, 77);
  check(is_part(pwrite(file, near_part, kPartBytes, 0)), "pwrite");
  on_far_and_near("pread", 77, [=](char* block, uint64_t) {
    return is_part(pread(file, block, kPartBytes, 0));
  });
  on_far_and_near("read", 77, [=](char* block, uint64_t) {
    return lseek(file, 0, SEEK_SET) == 0 && is_part(read(file, block, kPartBytes));
  });
  on_far_and_near("readv", 77, [=](char* block, uint64_t) {
    iovec parts[2] = {{block, 5000}, {block + 5000, kPartBytes - 5000}};
    return is_part(preadv(file, parts, 2, 0));
  });
  on_far_and_near("write", kNothing, [=](char* block, uint64_t seed) {
    return lseek(file, 0, SEEK_SET) == 0 && is_part(write(file, block, kPartBytes)) &&
           is_part(pread(file, near_part, kPartBytes, 0)) &&
           compat::holds(near_part, kPartBytes, seed);
  });
  on_far_and_near("writev", kNothing, [=](char* block, uint64_t seed) {
    iovec parts[2] = {{block, 5000}, {block + 5000, kPartBytes - 5000}};
    return is_part(pwritev(file, parts, 2, 0)) && is_part(pread(file, near_part, kPartBytes, 0)) &&
           compat::holds(near_part, kPartBytes, seed);
  });
  on_far_and_near("getrandom", kNothing, [](char* block, uint64_t seed) {
    bool is_good = getrandom(block + kPartBytes, 5000, 0) == 5000;
    compat::fill(block, kBlockBytes, seed);
    return is_good;
  });
  close(file);
}

void socket_calls() {
  int pair[2];
  make_pair(pair);
  on_far_and_near("send", kNothing, [&](char* block, uint64_t seed) {
    return is_part(send(pair[0], block, kPartBytes, 0)) && is_as_sent(pair[1], seed);
  });
  on_far_and_near("sendmsg", kNothing, [&](char* block, uint64_t seed) {
    iovec part{block, kPartBytes};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return is_part(sendmsg(pair[0], &message, 0)) && is_as_sent(pair[1], seed);
  });
  static char sent[kPartBytes];
  compat::fill(sent, kPartBytes, 78);
  on_far_and_near("recv", 78, [&](char* block, uint64_t) {
    return is_part(send(pair[0], sent, kPartBytes, 0)) &&
           is_part(recv(pair[1], block, kPartBytes, MSG_WAITALL));
  });
  on_far_and_near("recvmsg", 78, [&](char* block, uint64_t) {
    iovec part{block, kPartBytes};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return is_part(send(pair[0], sent, kPartBytes, 0)) &&
           is_part(recvmsg(pair[1], &message, MSG_WAITALL));
  });
  close(pair[0]);
  close(pair[1]);
}

void other_processes() {
  on_far_and_near("process_vm_readv", kNothing, [](char* block, uint64_t seed) {
    iovec here{near_part, kPartBytes};
    iovec there{block, kPartBytes};
    return is_part(process_vm_readv(getpid(), &here, 1, &there, 1, 0)) &&
           compat::holds(near_part, kPartBytes, seed);
  });
  compat::fill(near_part, kPartBytes, 79);
  on_far_and_near("process_vm_writev", 79, [](char* block, uint64_t) {
    compat::fill(near_part, kPartBytes, 79);
    iovec here{near_part, kPartBytes};
    iovec there{block, kPartBytes};
    return is_part(process_vm_writev(getpid(), &here, 1, &there, 1, 0));
  });
}

void memory_calls() {
  on_far_and_near("mlock", kNothing, [](char* block, uint64_t) {
    // The limit of an ordinary user may be small.
    bool is_good = mlock(block, 8 * kAlign) == 0 || errno == ENOMEM || errno == EPERM;
    return munlock(block, 8 * kAlign) == 0 && is_good;
  });
  on_far_and_near("MADV_POPULATE_READ", kNothing, [](char* block, uint64_t) {
    return madvise(block, kPartBytes / kAlign * kAlign, MADV_POPULATE_READ) == 0;
  });
  on_far_and_near("MADV_POPULATE_WRITE", kNothing, [](char* block, uint64_t) {
    return madvise(block, kPartBytes / kAlign * kAlign, MADV_POPULATE_WRITE) == 0;
  });
  on_far_and_near("futex", kNothing, [](char* block, uint64_t) {
    uint32_t value;
    memcpy(&value, block, sizeof(value));
    // Nobody waits, and the value is another: both come back at once.
    return syscall(SYS_futex, block, FUTEX_WAKE_PRIVATE, 1) == 0 &&
           syscall(SYS_futex, block, FUTEX_WAIT_PRIVATE, value + 1, nullptr) == -1 &&
           errno == EAGAIN;
  });
}

// The path of a file lies in a far block, and so does what stat says of it.
void path_calls() {
  for (const char* path : {"/proc/self/exe", "/dev/null"}) {
    size_t block = take();
    strcpy(blocks[block] + 70'000, path);
    size_t answer = take();
    for (size_t i = 0; i < kBlockCount / 2; i++) {  // out again
      size_t other = take();
      if (other == block || other == answer) continue;
      check(compat::holds(blocks[other], kBlockBytes, seeds[other]), "a block that is touched");
    }
    if (is_far(blocks[block], kPartBytes)) far_calls++;
    calls++;
    auto* status = reinterpret_cast<struct stat*>(blocks[answer]);
    check(stat(blocks[block] + 70'000, status) == 0, "stat of a far path");
    check(S_ISREG(status->st_mode) == (path[1] == 'p'), "what stat says");
    int file = open(blocks[block] + 70'000, O_RDONLY | O_CLOEXEC);
    check(file >= 0, "open of a far path");
    close(file);
    refill(block);
    refill(answer);
  }
}

void direct_calls(const char* directory) {
  char path[4096];
  snprintf(path, sizeof(path), "%s/direct", directory);
  int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0600);
  if (file < 0) {
    printf("no O_DIRECT in %s\n", directory);
    return;
  }
  unlink(path);
  constexpr size_t kDirectBytes = 96 * 1024;
  on_far_and_near("O_DIRECT write", kNothing, [=](char* block, uint64_t) {
    return pwrite(file, block, kDirectBytes, 0) == kDirectBytes;
  });
  size_t source = take();
  uint64_t seed = seeds[source];
  check(pwrite(file, blocks[source], kBlockBytes, 0) == kBlockBytes, "O_DIRECT write");
  on_far_and_near("O_DIRECT read", seed, [=](char* block, uint64_t) {
    return pread(file, block, kBlockBytes, 0) == kBlockBytes;
  });
  close(file);
}

}  // namespace

int main(int argc, char** argv) {
  for (size_t i = 0; i < kBlockCount; i++) {
    blocks[i] = static_cast<char*>(aligned_alloc(kAlign, kBlockBytes));
    check(blocks[i] != nullptr, "a block");
    refill(i);
  }
  plain_calls();
  socket_calls();
  other_processes();
  memory_calls();
  path_calls();
  if (argc > 1) direct_calls(argv[1]);
  for (size_t i = 0; i < kBlockCount; i++)
    check(compat::holds(blocks[i], kBlockBytes, seeds[i]), "a block at the end");
  printf("%llu calls, %llu on far blocks\n", static_cast<unsigned long long>(calls),
         static_cast<unsigned long long>(far_calls));
  for (char* block : blocks) free(block);
  return compat::finish();
}
