// A program that knows nothing of bartender: threads that allocate, resize and free blocks of all
// sizes, their own and each other's, until killed.
//
//   churn TABLE
//
// It ends by itself only when something is wrong: exit status 3, and a line on stderr.
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "tests/crash/churn_table.hpp"

namespace {

using namespace btd::test;

constexpr uint32_t kOperationsOfThread = 3000;  // then it ends, and another takes its place

ChurnTable* table;
std::atomic<uint64_t> threads_begun{0};

[[noreturn]] void fail(const char* what, const ChurnSlot& slot) {
  char line[200];
  int length = std::snprintf(line, sizeof(line), "churn: %s: block %p of %llu bytes\n", what,
                             reinterpret_cast<void*>(slot.address),
                             static_cast<unsigned long long>(slot.size_bytes));
  if (write(2, line, static_cast<size_t>(length)) < 0) _exit(4);
  _exit(3);
}

struct Random {
  uint64_t state;
  uint64_t next() {
    uint64_t x = state += 0x9E3779B97F4A7C15;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
    return x ^ (x >> 31);
  }
  // Small ones mostly; sometimes of the classes above 2 KiB, now and then a large block.
  uint64_t size_bytes() {
    uint64_t choice = next() % 100;
    if (choice < 70) return 1 + next() % 512;
    if (choice < 92) return 1 + next() % 8192;
    return choice < 98 ? 1 + next() % 40000 : 1 + next() % 200000;
  }
};

void check(const ChurnSlot& slot) {
  if (first_wrong_byte(reinterpret_cast<void*>(slot.address), slot.pattern, slot.size_bytes) !=
      slot.size_bytes)
    fail("the contents changed", slot);
}

// REQUIRES: the slot is busy and was empty.
void allocate(ChurnSlot& slot, Random& random) {
  slot.size_bytes = random.size_bytes();
  slot.pattern = random.next();
  void* block;
  uint64_t choice = random.next() % 10;
  if (choice == 0) {
    block = std::calloc(1, slot.size_bytes);
    auto* bytes = static_cast<const unsigned char*>(block);
    for (uint64_t at = 0; block != nullptr && at < slot.size_bytes; at++) {
      if (bytes[at] != 0) fail("calloc did not clear", slot);
    }
  } else if (choice == 1) {
    uint64_t alignment = uint64_t{16} << random.next() % 9;
    if (posix_memalign(&block, alignment, slot.size_bytes) != 0) block = nullptr;
    if (reinterpret_cast<uintptr_t>(block) % alignment != 0) fail("not aligned", slot);
  } else {
    block = std::malloc(slot.size_bytes);
  }
  slot.address = reinterpret_cast<uintptr_t>(block);
  if (block == nullptr) fail("no memory", slot);
  fill_churn(block, slot.pattern, 0, slot.size_bytes);
  slot.state.store(SlotState::kLive, std::memory_order_release);
}

// REQUIRES: the slot is busy and was live.
void give_up(ChurnSlot& slot) {
  check(slot);
  std::free(reinterpret_cast<void*>(slot.address));
  slot.state.store(SlotState::kEmpty, std::memory_order_release);
}

void resize(ChurnSlot& slot, Random& random) {
  uint64_t kept_bytes = slot.size_bytes;
  // Large blocks grow and shrink in place now and then.
  uint64_t size_bytes = slot.size_bytes > 32768
                            ? slot.size_bytes / 2 + random.next() % slot.size_bytes
                            : random.size_bytes();
  void* block = std::realloc(reinterpret_cast<void*>(slot.address), size_bytes);
  if (block == nullptr) fail("no memory", slot);
  slot.address = reinterpret_cast<uintptr_t>(block);
  slot.size_bytes = size_bytes;
  if (kept_bytes > size_bytes) kept_bytes = size_bytes;
  if (first_wrong_byte(block, slot.pattern, kept_bytes) != kept_bytes)
    fail("realloc lost contents", slot);
  fill_churn(block, slot.pattern, kept_bytes, size_bytes);
  slot.state.store(SlotState::kLive, std::memory_order_release);
}

void* work(void*) {
  Random random{table->seed + ++threads_begun * 0xD1B54A32D192ED03};
  for (uint32_t i = 0; i < kOperationsOfThread; i++) {
    ChurnSlot& slot = table->slots[random.next() % kChurnSlots];
    SlotState state = slot.state.load(std::memory_order_relaxed);
    if (state == SlotState::kBusy ||
        !slot.state.compare_exchange_strong(state, SlotState::kBusy, std::memory_order_acquire))
      continue;
    if (state == SlotState::kEmpty) {
      allocate(slot, random);
    } else if (random.next() % 4 == 0) {
      resize(slot, random);
    } else {
      give_up(slot);
    }
    table->operations.fetch_add(1, std::memory_order_relaxed);
  }
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  int file = argc == 2 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
  void* shared =
      file < 0 ? MAP_FAILED
               : mmap(nullptr, sizeof(ChurnTable), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (shared == MAP_FAILED) {
    std::perror("usage: churn TABLE");
    return 2;
  }
  table = static_cast<ChurnTable*>(shared);
  pthread_t threads[kChurnThreads];
  for (pthread_t& thread : threads) {
    if (pthread_create(&thread, nullptr, work, nullptr) != 0) return 4;
  }
  for (uint32_t i = 0;; i = (i + 1) % kChurnThreads) {
    pthread_join(threads[i], nullptr);
    if (pthread_create(&threads[i], nullptr, work, nullptr) != 0) return 4;
  }
}
