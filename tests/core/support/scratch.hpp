// What the tests of core share: a directory that cleans up after itself, the lives of an arena in
// it, and a seed.
#pragma once

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "core/heap/arena.hpp"
#include "core/recovery/open.hpp"

namespace btd::test {

// A directory of its own under /dev/shm.  Its name holds the pid, so that whoever comes next
// removes what a killed test left.
class Scratch {
 public:
  Scratch() {
    remove_stale();
    char name[96];
    std::snprintf(name, sizeof(name), "%s%d-XXXXXX", kPrefix, static_cast<int>(getpid()));
    BOOST_REQUIRE(mkdtemp(name) != nullptr);
    path_ = name;
    owner_ = getpid();
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    std::error_code ignored;
    if (getpid() == owner_) std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  static constexpr const char* kPrefix = "/dev/shm/bartender-core-test-";

  static void remove_stale() {
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm", ignored)) {
      const std::string path = entry.path().string();
      if (path.rfind(kPrefix, 0) != 0) continue;
      const int pid = std::atoi(path.c_str() + std::strlen(kPrefix));
      if (pid > 0 && kill(pid, 0) != 0 && errno == ESRCH)
        std::filesystem::remove_all(path, ignored);
    }
  }

  std::string path_;
  pid_t owner_ = 0;
};

// A test that hangs is killed by the kernel, whoever runs it.  BTD_TEST_PATIENCE: so many times the
// time, on an emulated machine.
inline void limit_time(unsigned seconds) {
  const char* given = std::getenv("BTD_TEST_PATIENCE");
  alarm(seconds * (given == nullptr ? 1 : static_cast<unsigned>(std::atoi(given))));
}

// First thing in a forked child: it dies of a fault or a hang at once, and never goes on with the
// parent's test cases.
inline void become_child() {
  limit_time(30);
  for (int number : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGALRM}) signal(number, SIG_DFL);
}

// In a forked child: file systems mounted from now on are seen by it alone.  False: this machine
// does not allow it.
inline bool own_mounts() {
  if (::unshare(CLONE_NEWNS) != 0) {
    // Without privileges: in a user namespace, in which this user is still himself.
    const std::string user = std::to_string(getuid()) + " " + std::to_string(getuid()) + " 1";
    const std::string group = std::to_string(getgid()) + " " + std::to_string(getgid()) + " 1";
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    if (!(std::ofstream("/proc/self/setgroups") << "deny" << std::flush)) return false;
    if (!(std::ofstream("/proc/self/uid_map") << user << std::flush)) return false;
    if (!(std::ofstream("/proc/self/gid_map") << group << std::flush)) return false;
  }
  return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0;
}

// BTD_TEST_SEED repeats a run.
inline uint64_t seed() {
  static const uint64_t value = [] {
    const char* given = std::getenv("BTD_TEST_SEED");
    uint64_t drawn = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
    std::printf("seed: BTD_TEST_SEED=%llu\n", static_cast<unsigned long long>(drawn));
    std::fflush(stdout);
    return drawn;
  }();
  return value;
}

inline std::string read_all(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline uint64_t file_blocks(const std::string& path) {
  struct stat status {};
  BOOST_REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<uint64_t>(status.st_blocks);
}

// One life of an arena: from its opening until the owner is gone.  end() leaves on media what a
// kill would: nothing is closed in good order, the header still says "open".
class Life {
 public:
  explicit Life(const std::string& path, uint64_t capacity_bytes = 64 * kMiB,
                OnRestart on_restart = OnRestart::kSalvage,
                Durability durability = Durability::kProcess, FarTier* far = nullptr)
      : path_(path), far_(far) {
    OpenRequest request{path_.c_str(), capacity_bytes};
    request.on_restart = on_restart;
    request.durability = durability;
    request.program = "core-test";
    request.far = far;
    error = open_arena(request, *arena_, why_);
    if (error == Error::kNone) heap_ = arena_->acquire_heap();
  }
  Life(const Life&) = delete;
  Life& operator=(const Life&) = delete;
  ~Life() { end(); }

  void end() {
    if (heap_ != nullptr && far_ != nullptr) far_->close();
    if (heap_ != nullptr) arena_->close();
    heap_ = nullptr;
  }

  bool is_open() const { return error == Error::kNone && heap_ != nullptr; }
  std::string why() { return why_.c_str(); }
  Arena& arena() { return *arena_; }
  Heap& heap() { return *heap_; }
  ThreadCache& cache() { return heap_->cache(); }

  char* allocate(size_t size_bytes, size_t alignment = 16, bool* is_zero = nullptr) {
    return static_cast<char*>(arena_->allocate(cache(), size_bytes, alignment, is_zero));
  }
  Verdict free(void* pointer) { return free_by(cache(), pointer); }
  // As preload does it.
  Verdict free_by(ThreadCache& cache, void* pointer) {
    ThreadCache* mine = &cache;
    bool is_freed = ThreadCache::free(
        pointer, arena_->geometry(), mine, [] { return false; },
        [&](uint8_t* state, const Bin* bin) { return cache.give_away(pointer, state, bin); });
    if (!is_freed && !arena_->is_strict()) is_freed = arena_->free_warm(cache, pointer);
    return is_freed ? Verdict::kGood : arena_->free(cache, pointer);
  }

  Error error;

 private:
  std::string path_;
  FarTier* far_;
  Line why_;
  std::unique_ptr<Arena> arena_ = std::make_unique<Arena>();
  Heap* heap_ = nullptr;
};

// Bytes that tell a block from every other.
inline void fill(void* block, size_t size_bytes, uint64_t mark) {
  auto* bytes = static_cast<uint8_t*>(block);
  for (size_t i = 0; i < size_bytes; i++)
    bytes[i] = static_cast<uint8_t>((mark * 0x9E3779B97F4A7C15 >> (8 * (i % 8))) + i / 8);
}

inline bool is_filled(const void* block, size_t size_bytes, uint64_t mark) {
  auto* bytes = static_cast<const uint8_t*>(block);
  for (size_t i = 0; i < size_bytes; i++) {
    if (bytes[i] != static_cast<uint8_t>((mark * 0x9E3779B97F4A7C15 >> (8 * (i % 8))) + i / 8))
      return false;
  }
  return true;
}

inline bool is_all_zero(const char* bytes, size_t size_bytes) {
  return size_bytes == 0 || (bytes[0] == 0 && std::memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}

}  // namespace btd::test

namespace btd {
inline std::ostream& boost_test_print_type(std::ostream& out, Verdict verdict) {
  return out << "Verdict " << static_cast<int>(verdict);
}
inline std::ostream& boost_test_print_type(std::ostream& out, Error error) {
  return out << "Error " << static_cast<int>(error);
}
}  // namespace btd
