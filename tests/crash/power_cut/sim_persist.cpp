#include "tests/crash/power_cut/sim_persist.hpp"

#include <fcntl.h>
#include <unistd.h>

#include "core/base/store_hook.hpp"

namespace btd::test {
namespace {

SimPersist* watcher = nullptr;

}  // namespace

SimPersist::SimPersist(const std::string& path, Arena& arena, Trace& trace, Sites& sites)
    : arena_(arena), trace_(trace), sites_(sites) {
  file_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // Longer than the file may be: only what it holds is looked at.
  void* now = mmap(nullptr, kFileBytesMax, PROT_READ, MAP_SHARED | MAP_NORESERVE, file_, 0);
  void* shadow = mmap(nullptr, kFileBytesMax, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  void* present = mmap(nullptr, kFileBytesMax / kPageBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (file_ < 0 || now == MAP_FAILED || shadow == MAP_FAILED || present == MAP_FAILED) std::abort();
  now_ = static_cast<const uint8_t*>(now);
  shadow_ = static_cast<uint8_t*>(shadow);
  present_ = static_cast<uint8_t*>(present);
  // What is there already is the harness's, which knows it.
  for (off_t at = 0; (at = lseek(file_, at, SEEK_DATA)) >= 0;) {
    off_t end = lseek(file_, at, SEEK_HOLE);
    std::memcpy(shadow_ + at, now_ + at, static_cast<size_t>(end - at));
    std::memset(present_ + at / kPageBytes, 1, static_cast<size_t>(end - at) / kPageBytes);
    at = end;
  }
  watcher = this;
  store_hook = on_store;
}

SimPersist::~SimPersist() {
  store_hook = nullptr;
  watcher = nullptr;
  munmap(const_cast<uint8_t*>(now_), kFileBytesMax);
  munmap(shadow_, kFileBytesMax);
  munmap(present_, kFileBytesMax / kPageBytes);
  close(file_);
}

void SimPersist::add(EventKind kind, uint64_t a, uint64_t b, uint32_t site) {
  Event event;
  event.kind = kind;
  event.thread = thread_;
  event.call = call_;
  event.site = site;
  event.a = a;
  event.b = b;
  if (kind == EventKind::kLine)
    std::memcpy(event.bytes, shadow_ + a * kCacheLineBytes, kCacheLineBytes);
  trace_.add(event);
}

bool SimPersist::is_in_file(const void* address) const {
  char* base = arena_.mapping().address();
  return base != nullptr && address >= base && address < base + arena_.mapping().length_bytes();
}

void SimPersist::look_at(uint64_t line) {
  uint64_t at = line * kCacheLineBytes;
  if (std::memcmp(shadow_ + at, now_ + at, kCacheLineBytes) == 0) return;
  std::memcpy(shadow_ + at, now_ + at, kCacheLineBytes);
  add(EventKind::kLine, line, 0);
}

void SimPersist::look_at_all() {
  static uint8_t seen[kFileBytesMax / kPageBytes];
  std::memset(seen, 0, sizeof(seen));
  for (off_t at = 0; (at = lseek(file_, at, SEEK_DATA)) >= 0;) {
    off_t end = lseek(file_, at, SEEK_HOLE);
    for (auto page = static_cast<uint64_t>(at); page < static_cast<uint64_t>(end);
         page += kPageBytes) {
      seen[page / kPageBytes] = 1;
      if (std::memcmp(shadow_ + page, now_ + page, kPageBytes) == 0) continue;
      for (uint64_t line = page / kCacheLineBytes; line < (page + kPageBytes) / kCacheLineBytes;
           line++)
        look_at(line);
    }
    at = end;
  }
  for (uint64_t page = 0; page < sizeof(seen); page++) {
    if (present_[page] && !seen[page]) {
      std::memset(shadow_ + page * kPageBytes, 0, kPageBytes);
      add(EventKind::kPunch, page, 0);
    }
    present_[page] = seen[page];
  }
}

void SimPersist::on_store(const void* address, size_t size_bytes) {
  watcher->stored(address, size_bytes);
}

void SimPersist::stored(const void* address, size_t) noexcept {
  if (is_in_file(address)) look_at(arena_.offset_of(address) / kCacheLineBytes);
}

[[gnu::noinline]] void SimPersist::flush(const void* address, size_t size_bytes) noexcept {
  auto site = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  if (!is_in_file(address) || size_bytes == 0) return;
  uint32_t index = sites_.index_of(site, false);
  uint64_t first = arena_.offset_of(address) / kCacheLineBytes;
  uint64_t last = (arena_.offset_of(address) + size_bytes - 1) / kCacheLineBytes;
  for (uint64_t line = first; line <= last; line++) {
    look_at(line);
    add(EventKind::kFlush, line, 0, index);
  }
}

[[gnu::noinline]] void SimPersist::drain() noexcept {
  auto site = reinterpret_cast<uint64_t>(__builtin_return_address(0));
  look_at_all();
  add(EventKind::kDrain, 0, 0, sites_.index_of(site, true));
}

void SimPersist::begin_call(uint16_t call) {
  look_at_all();
  call_ = call;
  add(EventKind::kBegin, call, 0);
}

void SimPersist::end_call() {
  look_at_all();
  add(EventKind::kEnd, call_, 0);
}

void SimPersist::effect(EventKind kind, uint64_t a, uint64_t b) { add(kind, a, b); }

}  // namespace btd::test
