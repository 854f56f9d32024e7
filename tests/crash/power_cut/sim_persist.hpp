// The persistence interface of an arena under simulation: writes down each flush and drain, and
// between them each change of the arena's file.
//
// Changes are found by comparing the file with a shadow: the lines of a flush at that flush, the
// line of a published word before and after its store, all lines at each drain and at each call's
// begin and end.  Several words of one line that changed unseen in between may have reached media
// in any order; Media makes such torn lines of it.
//
// Thread safety: one thread.  A program of several threads is one that takes turns: as_thread().
#pragma once

#include <cstdint>
#include <string>

#include "core/heap/arena.hpp"
#include "core/persist/persist.hpp"
#include "tests/crash/power_cut/trace.hpp"

namespace btd::test {

class SimPersist final : public Persist {
 public:
  // `path` exists.  From here on all that happens to the file is written down.
  SimPersist(const std::string& path, Arena& arena, Trace& trace, Sites& sites);
  ~SimPersist();

  void flush(const void* address, size_t size_bytes) noexcept override;
  void drain() noexcept override;

  void as_thread(uint8_t thread) { thread_ = thread; }
  void begin_call(uint16_t call);
  void end_call();
  // Between begin_call() and end_call().
  void effect(EventKind kind, uint64_t a, uint64_t b);
  // The program's own store of a word, seen alone.
  void stored(const void* address, size_t size_bytes) noexcept;

 private:
  static void on_store(const void* address, size_t size_bytes);
  bool is_in_file(const void* address) const;
  void look_at(uint64_t line);
  void look_at_all();
  void add(EventKind kind, uint64_t a, uint64_t b, uint32_t site = 0);

  Arena& arena_;
  Trace& trace_;
  Sites& sites_;
  int file_ = -1;
  const uint8_t* now_ = nullptr;  // the file
  uint8_t* shadow_ = nullptr;     // what of it was written down
  uint8_t* present_ = nullptr;    // by page: it held something
  uint8_t thread_ = 0;
  uint16_t call_ = 0;
};

}  // namespace btd::test
