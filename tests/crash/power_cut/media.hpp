// What media may hold: for each line the contents that are durable, and every one since.
//
// The stores to one line reach media in program order, those to two lines in any.  A flush and then
// a drain by the same thread make what the line held at the flush durable; nothing else does. Media
// tear a line between its aligned words of 8 bytes, not within one.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <vector>

#include "tests/crash/power_cut/trace.hpp"

namespace btd::test {

class Media {
 public:
  Media();
  ~Media();
  Media(const Media&) = delete;
  Media& operator=(const Media&) = delete;

  // All zero.
  void clear(uint64_t length_bytes);
  // As `other` is with its lines as chosen.
  void copy(const Media& other);

  // A store, flush, drain or punch; all else is ignored.
  void apply(const Event& event);

  // For each line that is not durable as it is now: which of its contents media got; 0 the durable
  // one, 1 the one after it, ...
  using Choice = std::vector<uint16_t>;
  struct Plan {
    uint64_t all_max;      // all choices if they are no more
    uint64_t samples_max;  // else so many
    uint64_t seed;
  };
  std::vector<Choice> choices(const Plan& plan);
  // Until undo(), this is what the media holds.  REQUIRES: no apply() since choices().
  void choose(const Choice& choice);
  void undo();
  // Of what the media holds as chosen.
  uint64_t hash() const { return hash_; }
  // Where the choice differs from all that was stored, for a report.
  std::string describe(const Choice& choice) const;

  // What the program sees.
  uint64_t latest_word(uint64_t offset) const;

  // Marks the header as that of another boot, as write() does.
  void patch_boot();
  // Makes `path` the image as chosen, after another machine's boot.
  bool write(const std::string& path) const;
  const uint8_t* bytes() const { return base_; }

 private:
  struct Version {
    uint32_t number;
    bool is_torn;
    bool is_kept;  // a flush waits for it
    uint8_t bytes[kCacheLineBytes];
  };
  struct Line {
    std::vector<Version> versions;  // after the durable one, oldest first
  };
  struct Pending {
    uint64_t line;
    uint32_t number;
  };
  static constexpr size_t kThreadsMax = 4;
  static constexpr size_t kVersionsMax = 24;

  void store(uint64_t line, const uint8_t* bytes);
  void add_torn(Line& line, const uint8_t* before, const uint8_t* after);
  void settle(uint64_t line, uint32_t number);
  void set(uint64_t line, const uint8_t* bytes);
  void punch(uint64_t page);
  Choice random_choice(uint64_t random) const;

  uint8_t* base_;  // what is durable, or chosen
  uint64_t length_bytes_ = 0;
  uint64_t hash_ = 0;
  uint32_t next_number_ = 0;
  std::vector<uint8_t> used_;  // by page: it may be other than zero
  std::unordered_map<uint64_t, Line> lines_;
  std::vector<Pending> pending_[kThreadsMax];
  std::vector<uint64_t> open_;  // lines of the choices, in their order
  std::vector<std::pair<uint64_t, std::vector<uint8_t>>> undo_;
};

uint64_t mix(uint64_t x);

}  // namespace btd::test
