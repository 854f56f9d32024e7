// What a program did to the media of its arena: stores, flushes, drains and calls, in order.
//
// Written by the process that uses the arena, into memory shared with the harness, which replays it
// (media.hpp) once that process has ended.  A flush or a drain changes nothing that the program can
// see; so one trace serves to ask what would be lost without any one of them.
//
// Thread safety: one writer, and readers after it has ended.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "core/base/units.hpp"

namespace btd::test {

enum class EventKind : uint8_t {
  kLine,      // the line now holds these bytes
  kPunch,     // a page was given back to the file system: it reads as zeros
  kFlush,     // of one line, by a thread
  kDrain,     // by a thread
  kBegin,     // a call begins
  kEnd,       // and returns; from here on its effects are durable
  kBlock,     // effect of the call: a block is live (a: file offset, b: bytes)
  kNoBlock,   // effect: it is not any more; b: 1: at some time in the call
  kWord,      // effect: the word at file offset a has the value b
  kRoot,      // effect: root number a points to file offset b; 0: it is removed
  kMayWords,  // until the call ends the words of later kWord events may be old or new, each alone
};

struct Event {
  EventKind kind;
  uint8_t thread;
  uint16_t call;
  uint32_t site;  // flush, drain: where in the code; an index into the list of sites
  uint64_t a;     // line or page number, from the start of the file
  uint64_t b;
  uint8_t bytes[kCacheLineBytes];  // kLine
};

// As much of a file as any arena here has.
inline constexpr uint64_t kFileBytesMax = 64 * kMiB;
inline constexpr uint64_t kPageBytes = 4096;

template <typename T>
T* map_shared(size_t count = 1) {
  void* mapped = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) {
    std::perror("shared memory");
    std::exit(2);
  }
  return static_cast<T*>(mapped);
}

// Flushes and drains are told apart by the address they return to.
struct Sites {
  static constexpr uint32_t kMax = 256;
  struct Site {
    uint64_t address;
    uint32_t is_drain;
    uint32_t visits;
  };
  uint32_t count;
  std::atomic<uint32_t> lock;  // several jobs may use one list
  Site sites[kMax];

  uint32_t index_of(uint64_t address, bool is_drain) {
    while (lock.exchange(1, std::memory_order_acquire) != 0) continue;
    uint32_t index = find_or_add(address, is_drain);
    lock.store(0, std::memory_order_release);
    return index;
  }

 private:
  uint32_t find_or_add(uint64_t address, bool is_drain) {
    for (uint32_t i = 0; i < count; i++) {
      if (sites[i].address == address && (sites[i].is_drain != 0) == is_drain) {
        sites[i].visits++;
        return i;
      }
    }
    if (count == kMax) std::abort();
    sites[count] = {address, is_drain, 1};
    return count++;
  }
};

class Trace {
 public:
  static constexpr uint32_t kEventsMax = 4'000'000;

  Trace() : header_(map_shared<Header>()), events_(map_shared<Event>(kEventsMax)) {}

  void clear() { header_->count = 0; }
  // The room is for millions of events; a page of it that was used once stays.
  void add(const Event& event) {
    if (header_->count == kEventsMax) std::abort();
    events_[header_->count++] = event;
  }
  uint32_t count() const { return header_->count; }
  const Event& operator[](uint32_t index) const { return events_[index]; }

 private:
  struct Header {
    uint32_t count;
  };
  Header* header_;
  Event* events_;
};

}  // namespace btd::test
