// An arena with known blocks, damaged byte by byte, and files that are no arenas at all.
//
//   corruption [--quick] [--seed S]
//
// Each byte of both copies of the arena header (of one, of the other, of both), a sample of the
// root area and every byte of a sample of frame headers is flipped and zeroed.  Opening then either
// refuses, with a line that says why and without a change to the file, or gives all blocks, right
// in place, size and contents.  It never crashes or hangs.  Where one copy of the header is whole
// it must open; where both are damaged alike it must refuse.  Damage of the root area must be found
// by check.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <random>
#include <string>
#include <vector>

#include "core/base/log.hpp"
#include "core/recovery/check.hpp"
#include "core/recovery/open.hpp"
#include "core/recovery/view.hpp"
#include "tests/crash/churn_table.hpp"
#include "tests/crash/file_image.hpp"
#include "tests/crash/guard.hpp"
#include "tests/crash/heap_calls.hpp"
#include "tests/crash/scratch.hpp"

namespace {

using namespace btd;
using namespace btd::test;

constexpr unsigned kSecondsMax = 20;
constexpr uint64_t kReportsMax = 12;
constexpr uint64_t kCapacityBytes = 8 * kMiB;
constexpr uint64_t kOpened = 0, kRefused = 1;

struct Known {
  uint64_t size_bytes;
  uint64_t usable_bytes;
  uint64_t pattern;
};

enum class Must { kOpen, kRefuse, kEither };

class Harness {
 public:
  explicit Harness(uint64_t seed) : random_(seed) {
    make_arena();
    whole_.read(path_);
    ArenaView view;
    if (ArenaView::open(path_.c_str(), view) == Error::kNone) header_ = view.header();
  }

  bool is_prepared() const { return blocks_.size() > 100 && header_.epoch == 2; }

  void damage_headers(uint64_t stride) {
    begin("one header copy");
    for (uint64_t copy = 0; copy < 2; copy++) {
      for (uint64_t at = 0; at < kArenaHeaderBytes; at += at < 320 ? 1 : stride) {
        for (bool is_flip : {true, false}) {
          damage(is_flip, Must::kOpen, {copy * kArenaHeaderBytes + at});
        }
      }
    }
    end();
    begin("both header copies");
    for (uint64_t at = 0; at < kArenaHeaderBytes; at++) {
      for (bool is_flip : {true, false})
        damage(is_flip, Must::kRefuse, {at, kArenaHeaderBytes + at});
    }
    end();
    begin("two places of the header");
    for (int i = 0; i < 200; i++) {
      damage(true, Must::kRefuse,
             {random_() % kArenaHeaderBytes, kArenaHeaderBytes + random_() % kArenaHeaderBytes});
    }
    end();
  }

  void damage_root_area(int count) {
    begin("root area");
    uint64_t first = header_.root_table_offset;
    for (int i = 0; i < count; i++) {
      uint64_t at = first + random_() % (header_.frame_header_offset - first);
      if (i < 4)
        at = i % 2 == 0 ? first + static_cast<uint64_t>(i) * kRegionAlignment / 2
                        : header_.frame_header_offset - 1;
      // The first place for a module may hold the beginning of a record that a kill cut short.
      uint64_t first_module = header_.site_table_offset + kModulesAt;
      bool is_begun = at >= first_module && at < first_module + sizeof(ModuleRecord);
      damage(true, Must::kEither, {at}, !is_begun);
    }
    end();
  }

  // The headers of heads and of frames inside extents and free ones, of both zones.
  void damage_frame_headers(uint64_t frames) {
    begin("frame headers");
    std::vector<uint64_t> all;
    for (uint64_t frame = 0; frame < header_.coarse_frames_grown; frame++) all.push_back(frame);
    for (uint64_t frame = 0; frame < header_.fine_frames_grown; frame++)
      all.push_back(header_.coarse_frame_count + frame);
    std::shuffle(all.begin(), all.end(), random_);
    if (all.size() > frames) all.resize(frames);
    for (uint64_t frame : all) {
      for (uint64_t byte = 0; byte < sizeof(FrameHeader); byte++) {
        uint64_t at = header_.frame_header_offset + frame * sizeof(FrameHeader) + byte;
        for (bool is_flip : {true, false}) damage(is_flip, Must::kEither, {at});
      }
    }
    end();
  }

  void wrong_files() {
    begin("files that are no arenas");
    wrong_file(
        "empty", [&](const std::string& path) { whole_file(path, ""); }, Must::kOpen,
        false);  // an empty file becomes an arena
    wrong_file("text",
               [&](const std::string& path) { whole_file(path, std::string(70'000, 'x')); });
    wrong_file("zeros",
               [&](const std::string& path) { whole_file(path, std::string(70'000, '\0')); });
    for (uint64_t bytes : {uint64_t{1}, uint64_t{4096}, uint64_t{8192}, header_.frame_header_offset,
                           header_.data_offset, header_.file_bytes - 1}) {
      wrong_file("truncated", [&](const std::string& path) {
        whole_.write(path);
        if (truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) report("cannot truncate");
      });
    }
    auto rewrite = [&](auto change) {
      return [this, change](const std::string& path) {
        FileImage image = whole_;
        for (uint64_t copy = 0; copy < 2; copy++) {
          ArenaHeader header;
          std::memcpy(&header, image.at(copy * kArenaHeaderBytes), sizeof(header));
          change(header);
          header.checksum = checksum_of(header);
          std::memcpy(image.at(copy * kArenaHeaderBytes), &header, sizeof(header));
        }
        image.write(path);
      };
    };
    wrong_file("newer version", rewrite([](ArenaHeader& header) { header.format_version++; }));
    wrong_file("other page size", rewrite([](ArenaHeader& header) { header.page_bytes *= 4; }));
    wrong_file("other frame size", rewrite([](ArenaHeader& header) { header.frame_bytes *= 2; }));
    wrong_file("longer than the file",
               rewrite([](ArenaHeader& header) { header.file_bytes *= 2; }));
    wrong_file("data outside",
               rewrite([](ArenaHeader& header) { header.data_offset = header.file_bytes; }));
    wrong_file("grown too far", rewrite([](ArenaHeader& header) {
                 header.coarse_frames_grown = header.coarse_frame_count + 64;
               }));
    wrong_file("no frames", rewrite([](ArenaHeader& header) {
                 header.coarse_frame_count = header.fine_frame_count = 0;
               }));
    wrong_file("epoch 0", rewrite([](ArenaHeader& header) { header.epoch = 0; }));
    wrong_file("kernel address",
               rewrite([](ArenaHeader& header) { header.base_address = 0xFFFF800000000000; }));
    wrong_file("crooked address", rewrite([](ArenaHeader& header) { header.base_address += 8; }));
    wrong_file("directory", [](const std::string& path) { mkdir(path.c_str(), 0700); });
    wrong_file("FIFO", [](const std::string& path) { mkfifo(path.c_str(), 0600); });
    wrong_file("link", [&](const std::string& path) {
      whole_.write(path + ".target");
      if (symlink((path + ".target").c_str(), path.c_str()) != 0) report("cannot link");
    });
    wrong_file(
        "missing directory", [](const std::string&) {}, Must::kRefuse, true, "/nowhere/at/all");
    if (geteuid() == 0) {
      wrong_file("read-only", [&](const std::string& path) {
        whole_.write(path);
        chmod(path.c_str(), 0444);
        if (seteuid(65534) != 0) report("cannot change the user");
      });
    } else {
      wrong_file("read-only", [&](const std::string& path) {
        whole_.write(path);
        chmod(path.c_str(), 0444);
      });
    }
    if (geteuid() != getuid() && seteuid(getuid()) != 0) std::exit(2);
    end();
  }

  uint64_t cases = 0;
  uint64_t violations = 0;

 private:
  // Blocks of two epochs and of all kinds, some freed; left as a kill leaves it.
  void make_arena() {
    for (int life = 0; life < 2; life++) {
      Arena& arena = *new_arena();
      Line why;
      if (open(path_, arena, why) != Error::kNone) {
        std::fprintf(stderr, "%s\n", why.c_str());
        return;
      }
      Heap* heap = arena.acquire_heap();
      std::vector<char*> mine;
      for (int i = 0; i < 120; i++) {
        uint64_t size_bytes =
            i % 10 == 0 ? 33'000 + random_() % 100'000 : 1 + random_() % (i % 3 == 0 ? 9'000 : 300);
        auto* block = static_cast<char*>(arena.allocate(heap->cache(), size_bytes, 16, nullptr));
        if (block == nullptr) continue;
        blocks_[block] = {size_bytes, arena.usable_size(block), random_()};
        fill_churn(block, blocks_[block].pattern, 0, size_bytes);
        mine.push_back(block);
      }
      for (size_t i = 0; i < mine.size(); i += 5) {
        free_block(arena, *heap, mine[i]);
        blocks_.erase(mine[i]);
      }
      arena.close();
    }
  }

  static Arena* new_arena() {
    alignas(Arena) static char bytes[sizeof(Arena)];
    std::memset(bytes, 0, sizeof(bytes));
    return ::new (bytes) Arena;
  }

  static Error open(const std::string& path, Arena& arena, Line& why) {
    OpenRequest request{.path = path.c_str(),
                        .capacity_bytes = kCapacityBytes,
                        .on_restart = OnRestart::kKeep,
                        .program = "corruption"};
    return open_arena(request, arena, why);
  }

  static void whole_file(const std::string& path, const std::string& text) {
    if (FILE* file = std::fopen(path.c_str(), "w")) {
      std::fwrite(text.data(), 1, text.size(), file);
      std::fclose(file);
    }
  }

  // Changes the bytes at `places` of the whole arena and opens it.
  void damage(bool is_flip, Must must, std::initializer_list<uint64_t> places,
              bool must_be_found = false) {
    // The file differs from the whole one only where the last case left something.
    if (is_written_to_) whole_.write(path_);
    is_written_to_ = false;
    int file = ::open(path_.c_str(), O_RDWR | O_CLOEXEC);
    char whole[2];
    int count = 0;
    bool is_changed = true;
    for (uint64_t place : places) {
      whole[count] = 0;
      if (pread(file, &whole[count], 1, static_cast<off_t>(place)) != 1)
        report("the file cannot be read");
      char bad = is_flip ? static_cast<char>(~whole[count]) : '\0';
      is_changed = is_changed && bad != whole[count];
      if (pwrite(file, &bad, 1, static_cast<off_t>(place)) != 1)
        report("the file cannot be written");
      count++;
    }
    where_ = *places.begin();
    is_flip_ = is_flip;
    if (is_changed) {
      cases++;
      if (must_be_found) check_finds();
      uint64_t outcome = open_and_compare(must);
      outcomes_[outcome]++;
      // Opening writes; refusing must not have.
      is_written_to_ = outcome == kOpened || places.size() == 1;
      if (outcome == kRefused && cases % 16 == 0) check_untouched(file, places);
    }
    count = 0;
    for (uint64_t place : places) {
      if (pwrite(file, &whole[count++], 1, static_cast<off_t>(place)) != 1)
        report("the file cannot be written");
    }
    close(file);
  }

  void check_finds() {
    ArenaView view;
    if (ArenaView::open(path_.c_str(), view) != Error::kNone) return;
    bool is_found = false;
    check_arena(view, [&](const Finding&) { is_found = true; });
    if (!is_found) report("check does not find the damage");
  }

  void check_untouched(int file, std::initializer_list<uint64_t> places) {
    FileImage now;
    if (!now.read(file)) return report("the file cannot be read");
    for (uint64_t place : places) {
      uint8_t* byte = now.at(place);
      uint8_t* whole = whole_.at(place);
      if (byte != nullptr) *byte = whole == nullptr ? 0 : *whole;
    }
    if (now.first_difference(whole_) != FileImage::kSame)
      report("refused, but written to at offset " + std::to_string(now.first_difference(whole_)));
  }

  uint64_t open_and_compare(Must must) {
    Arena& arena = *new_arena();
    Line why;
    Error error = Error::kNone;
    std::string fault;
    std::string death = Guard::run(kSecondsMax, [&] {
      error = open(path_, arena, why);
      if (error != Error::kNone) return;
      fault = compare(arena);
      if (arena.header().epoch != header_.epoch + 1) fault = "the epoch is not the next one";
      arena.close();
    });
    if (!death.empty()) {
      if (arena.mapping().address() != nullptr)
        munmap(arena.mapping().address(), arena.mapping().length_bytes());
      report("opening: " + death);
      return kOpened;
    }
    if (error != Error::kNone) {
      if (must == Must::kOpen)
        report(std::string("one copy is whole, but it is refused: ") + why.c_str());
      check_line(why);
      return kRefused;
    }
    if (must == Must::kRefuse) report("both copies are damaged, but it opens");
    if (fault.empty()) fault = count_blocks();
    if (!fault.empty()) report("it opens, but " + fault);
    return kOpened;
  }

  std::string compare(Arena& arena) {
    for (const auto& [address, known] : blocks_) {
      if (!arena.contains(address) || arena.look_up(address) != Verdict::kGood)
        return "a block is lost";
      if (arena.usable_size(address) != known.usable_bytes) return "a block has another size";
      if (first_wrong_byte(address, known.pattern, known.size_bytes) != known.size_bytes)
        return "a block has other contents";
    }
    return "";
  }

  std::string count_blocks() {
    ArenaView view;
    if (ArenaView::open(path_.c_str(), view) != Error::kNone) return "the view refuses it";
    if (view.damaged_copy() >= 0) return "a header copy is still damaged";
    size_t count = 0;
    view.for_each_block([&](const Block&) { count++; });
    return count == blocks_.size() ? ""
                                   : "there are " + std::to_string(count) + " blocks, not " +
                                         std::to_string(blocks_.size());
  }

  // What happened; what is safe; what to type next.
  void check_line(Line& why) {
    std::string text = why.c_str();
    size_t parts = 1;
    for (char c : text) parts += c == ';';
    if (parts < 3 || text.size() < 40)
      report("the line does not say what happened, what is safe and what to do: " + text);
  }

  template <typename Make>
  void wrong_file(const char* what, Make make, Must must = Must::kRefuse, bool has_view = true,
                  const char* fixed_path = nullptr) {
    std::string path =
        fixed_path != nullptr ? fixed_path : scratch_.file("wrong-" + std::to_string(cases));
    make(path);
    cases++;
    Arena& arena = *new_arena();
    Line why;
    Error error = Error::kNone;
    std::string death = Guard::run(kSecondsMax, [&] {
      error = open(path, arena, why);
      if (error == Error::kNone) arena.close();
    });
    where_ = 0;
    std::string name = std::string(what) + ": ";
    if (!death.empty()) {
      if (arena.mapping().address() != nullptr)
        munmap(arena.mapping().address(), arena.mapping().length_bytes());
      report(name + death);
    } else if (error == Error::kNone && must == Must::kRefuse) {
      report(name + "it opens");
    } else if (error != Error::kNone && must == Must::kOpen) {
      report(name + why.c_str());
    } else if (error != Error::kNone) {
      check_line(why);
    }
    outcomes_[error == Error::kNone ? kOpened : kRefused]++;
    if (!has_view) return;
    ArenaView view;
    bool may_be_read =
        std::strcmp(what, "read-only") == 0 || std::strcmp(what, "crooked address") == 0;
    std::string view_death =
        Guard::run(kSecondsMax, [&] { error = ArenaView::open(path.c_str(), view); });
    if (!view_death.empty()) report(name + "the view: " + view_death);
    if (error == Error::kNone && !may_be_read) report(name + "the view takes it");
  }

  void begin(const char* what) {
    what_ = what;
    outcomes_[kOpened] = outcomes_[kRefused] = 0;
  }
  void end() {
    std::printf("  %-26s %6llu opened with all blocks, %6llu refused\n", what_,
                static_cast<unsigned long long>(outcomes_[kOpened]),
                static_cast<unsigned long long>(outcomes_[kRefused]));
    std::fflush(stdout);
  }

  void report(const std::string& fault) {
    if (++violations > kReportsMax) return;
    std::printf("VIOLATION: %s, byte %llu %s:\n  %s\n", what_,
                static_cast<unsigned long long>(where_), is_flip_ ? "flipped" : "zeroed",
                fault.c_str());
    std::fflush(stdout);
  }

  Scratch scratch_;
  std::string path_ = scratch_.file("work.arena");
  std::mt19937_64 random_;
  FileImage whole_;
  ArenaHeader header_{};
  std::map<char*, Known> blocks_;
  bool is_written_to_ = false;
  const char* what_ = "";
  uint64_t where_ = 0;
  bool is_flip_ = false;
  uint64_t outcomes_[2] = {};
};

}  // namespace

int main(int argc, char** argv) {
  uint64_t seed = std::random_device{}();
  bool is_quick = false;
  for (int i = 1; i < argc; i++) {
    if (std::strcmp(argv[i], "--quick") == 0) {
      is_quick = true;
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr, "usage: corruption [--quick] [--seed S]\n");
      return 2;
    }
  }
  log_level = LogLevel::kOff;
  auto start = std::chrono::steady_clock::now();
  Harness harness(seed);
  if (!harness.is_prepared()) {
    std::fprintf(stderr, "the arena to be damaged could not be made, seed %llu\n",
                 static_cast<unsigned long long>(seed));
    return 1;
  }
  // Quick: past the fields, in the reserved bytes, every 8th.
  harness.damage_headers(is_quick ? 8 : 1);
  harness.damage_root_area(is_quick ? 200 : 5000);
  harness.damage_frame_headers(is_quick ? 60 : 1000);
  harness.wrong_files();
  std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  auto number = [](uint64_t value) { return static_cast<unsigned long long>(value); };
  std::printf("%.1f s\nseed: %llu\nkill points: %llu, violations: %llu\n", seconds.count(),
              number(seed), number(harness.cases), number(harness.violations));
  bool is_good = harness.violations == 0 && harness.cases > 1000;
  std::printf("%d passed, %d failed\n", is_good ? 1 : 0, is_good ? 0 : 1);
  return is_good ? 0 : 1;
}
