// The kernel's own way to keep more than fits: swap to zram, compressed memory of this machine.
//
// A device and a swap area of our own, which nothing of ours outlives: a child of its own waits for
// our end, however it comes, and takes both away.
#pragma once

#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/swap.h>
#include <sys/wait.h>

#include "support.hpp"

namespace bench {

class ZramSwap {
 public:
  // Of this size before compression.  Ends the program with a line if this machine cannot have it.
  explicit ZramSwap(uint64_t bytes) {
    if (pipe2(alive_, O_CLOEXEC) != 0) fail("no pipe");
    char text[32] = {};
    read_text("/sys/class/zram-control/hot_add", text, sizeof(text));
    number_ = std::atoi(text);
    // From here on somebody takes it away.
    guard_ = fork();
    if (guard_ == 0) guard();
    close(alive_[0]);
    std::snprintf(text, sizeof(text), "%lu", bytes);
    if (!write_text(path("/sys/block/zram%d/disksize"), text)) fail("zram takes no size");
    make_swap_area(bytes / kPageBytes);
    // Before any other swap area.
    if (swapon(path("/dev/zram%d"), SWAP_FLAG_PREFER | 0x7FFF) != 0) fail("swapon is refused");
  }
  ~ZramSwap() {
    close(alive_[1]);
    waitpid(guard_, nullptr, 0);
  }

 private:
  const char* path(const char* format) {
    std::snprintf(path_, sizeof(path_), format, number_);
    return path_;
  }
  [[noreturn]] void guard() {
    for (int ours : {SIGINT, SIGTERM, SIGHUP}) signal(ours, SIG_IGN);
    close(alive_[1]);
    char end;
    while (read(alive_[0], &end, 1) < 0 && errno == EINTR) {
    }
    swapoff(path("/dev/zram%d"));
    char text[32];
    std::snprintf(text, sizeof(text), "%d", number_);
    write_text("/sys/class/zram-control/hot_remove", text);
    _exit(0);
  }
  // What mkswap(8) writes: a page that says what it is, and how many pages there are.
  void make_swap_area(uint64_t pages) {
    struct {
      char boot_block[1024];
      uint32_t version = 1;
      uint32_t last_page;
      char rest[kPageBytes - 1024 - 8 - 10] = {};
      char magic[10] = {'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2'};
    } header{};
    static_assert(sizeof(header) == kPageBytes);
    header.last_page = static_cast<uint32_t>(pages - 1);
    int device = open(path("/dev/zram%d"), O_WRONLY | O_CLOEXEC);
    if (device < 0 || write(device, &header, kPageBytes) != static_cast<ssize_t>(kPageBytes))
      fail("no swap area on zram");
    close(device);
  }
  static void read_text(const char* from, char* text, size_t bytes) {
    int file = open(from, O_RDONLY | O_CLOEXEC);
    if (file < 0 || read(file, text, bytes - 1) <= 0) fail("this machine has no zram for us");
    close(file);
  }
  static bool write_text(const char* to, const char* text) {
    int file = open(to, O_WRONLY | O_CLOEXEC);
    const auto bytes = static_cast<ssize_t>(std::strlen(text));
    const bool is_written = file >= 0 && write(file, text, std::strlen(text)) == bytes;
    if (file >= 0) close(file);
    return is_written;
  }

  int number_ = -1;
  int alive_[2];
  pid_t guard_;
  char path_[64];
};

// Memory that can be sent to swap; half of each page can be compressed away.
class Swappable {
 public:
  explicit Swappable(uint64_t bytes) : bytes_(bytes) {
    base = static_cast<char*>(
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base == MAP_FAILED || madvise(base, bytes, MADV_NOHUGEPAGE) != 0) fail("no memory");
    Random random(bytes);
    for (uint64_t at = 0; at < bytes; at += 8)
      *reinterpret_cast<uint64_t*>(base + at) = (at & 2048) == 0 ? 0 : random.next() << 16 ^ at;
  }
  ~Swappable() { munmap(base, bytes_); }
  // All but what the kernel insists on keeping; dirty pages are compressed.
  void push_out() {
    for (int tries = 0; madvise(base, bytes_, MADV_PAGEOUT) == 0 && tries < 100; tries++)
      if (near_pages() < bytes_ / kPageBytes / 100) return;
    fail("the kernel swaps nothing out");
  }
  char* base;

 private:
  uint64_t near_pages() {
    const uint64_t pages = bytes_ / kPageBytes;
    auto* is_near = own_table<unsigned char>(pages);
    if (mincore(base, bytes_, is_near) != 0) fail("mincore");
    uint64_t count = 0;
    for (uint64_t i = 0; i < pages; i++) count += is_near[i] & 1;
    munmap(is_near, pages);
    return count;
  }
  uint64_t bytes_;
};

}  // namespace bench
