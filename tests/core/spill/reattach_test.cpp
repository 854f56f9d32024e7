// Taking over.  Invariants checked: after a kill at any moment every extent has what the program
// last wrote into it, from the frames or from a node, on the same boot; of another boot it has the
// highest committed generation that reads right; what is nowhere is poisoned; nothing is decided
// while a node that is needed is away.
#define BOOST_TEST_MODULE reattach
#include "core/spill/reattach.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <thread>

#include "tests/core/support/far.hpp"
#include "tests/core/support/shared_node.hpp"

namespace btd {

std::ostream& boost_test_print_type(std::ostream& out, Reattach action) {
  return out << "Reattach " << static_cast<int>(action);
}

namespace {

constexpr uint64_t kExtents = 64;

ExtentWord word(ExtentState state, uint64_t generation = 0, uint32_t holders = 0,
                bool is_dirty = false) {
  return ExtentWord{}
      .with(state)
      .with_generation(generation)
      .with_holders(holders)
      .with_dirty(is_dirty);
}

BOOST_AUTO_TEST_CASE(every_state_is_decided_as_the_table_in_extent_word_says) {
  using enum ExtentState;
  using enum Reattach;
  struct {
    ExtentWord word;
    uint32_t frames;
    NodeCopies copies;
    uint32_t answered;
    Reattach action;
    ExtentWord after;
  } const kCases[] = {
      {word(kZero), 0, {}, 3, kPunch, word(kZero)},
      // Given back, and a node was not told yet: it stays in the word.
      {word(kZero, 4, 1), 0, {4, 1}, 3, kPunch, word(kZero, 4, 1)},
      {word(kNear, 4, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 4, 3, true)},
      {word(kNear, 4, 3), kAllPages, {}, 0, kKeep, word(kIdle, 4, 3, true)},
      {word(kMapping, 4, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 4, 3, true)},
      {word(kUnmapping, 4, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 4, 3, true)},
      // The write-back may have been committed on some.
      {word(kEvicting, 5, 3, true), kAllPages, {5, 2}, 3, kKeep, word(kIdle, 5, 2, true)},
      {word(kEvicting, 5, 3, true), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 5, 0, true)},
      {word(kIdle, 4, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 4, 3)},
      {word(kIdle, 4, 3), kAllPages, {4, 1}, 3, kKeep, word(kIdle, 4, 1)},
      {word(kIdle, 4, 3), kAllPages, {}, 3, kKeep, word(kIdle, 4, 0, true)},  // holders forgot
      {word(kIdle, 4, 3), kAllPages, {9, 1}, 3, kKeep, word(kIdle, 9, 0, true)},
      {word(kFar, 4, 3), 0, {4, 3}, 3, kPunch, word(kFar, 4, 3)},
      {word(kFar, 4, 3), 0, {4, 2}, 3, kPunch, word(kFar, 4, 2)},
      {word(kFar, 4, 3), 0, {4, 2}, 2, kPunch, word(kFar, 4, 3)},  // one has not answered
      {word(kFar, 4, 3), 0, {3, 3}, 3, kLost, word(kPoisoned, 4, 0)},
      {word(kFar, 4, 3), 0, {}, 0, kPunch, word(kFar, 4, 3)},
      {word(kFetching, 4, 3), 0, {4, 3}, 3, kPunch, word(kFar, 4, 3)},
      {word(kFetching, 4, 3), 0x00F0, {4, 3}, 3, kMerge, word(kIdle, 4, 3, true)},
      {word(kFetching, 4, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 4, 3, true)},
      {word(kFetching, 4, 3), 0x00F0, {3, 3}, 3, kLost, word(kPoisoned, 4, 0)},
      {word(kFetching), 0, {}, 3, kPunch, word(kZero)},
      {word(kFetching), 0x0001, {}, 3, kFillZero, word(kIdle, 0, 0, true)},
      {word(kFetching, 4, 1, true), 0x0001, {4, 1}, 3, kFillZero, word(kIdle, 4, 1, true)},
      {word(kPunching, 5, 3), 0x00F0, {5, 3}, 3, kPunch, word(kFar, 5, 3)},
      {word(kPunching, 5, 3), 0, {5, 1}, 3, kPunch, word(kFar, 5, 1)},
      {word(kPunching, 5, 3), kAllPages, {4, 3}, 3, kKeep, word(kIdle, 5, 0, true)},
      {word(kPunching, 5, 3), 0x00F0, {4, 3}, 3, kLost, word(kPoisoned, 5, 0)},
      {word(kPunching), 0x00F0, {}, 3, kPunch, word(kZero)},
      {word(kDiscarding, 5, 3), 0x00F0, {5, 3}, 3, kPunch, word(kZero, 5, 3)},
      {word(kPoisoned, 5), 0, {5, 3}, 3, kPunch, word(kPoisoned, 5)},
      {word(kPoisoned, 5, 3), 0, {5, 1}, 3, kPunch, word(kFar, 5, 1)},
      {word(kPoisoned, 5, 3), 0, {}, 0, kPunch, word(kFar, 5, 3)},
      {word(kPoisoned, 5, 3), 0, {4, 3}, 3, kLost, word(kPoisoned, 5, 0)},
  };
  for (size_t i = 0; i < std::size(kCases); i++) {
    const auto& one = kCases[i];
    ReattachDecision decision = decide(one.word, one.frames, one.copies, one.answered);
    BOOST_TEST(decision.action == one.action, "case " << i);
    BOOST_TEST(decision.word.state() == one.after.state(), "case " << i);
    BOOST_TEST(decision.word.generation() == one.after.generation(), "case " << i);
    BOOST_TEST(decision.word.holders() == one.after.holders(), "case " << i);
    BOOST_TEST(decision.word.is_dirty() == one.after.is_dirty(), "case " << i);
  }
}

struct Fixture {
  Fixture() { test::limit_time(55); }
  test::Scratch scratch;
  std::vector<std::unique_ptr<test::FakeStore>> stores = test::make_stores(2);
};

BOOST_FIXTURE_TEST_CASE(a_closed_window_opens_with_all_it_had, Fixture) {
  {
    test::Far far(scratch.file("far"), stores, kExtents, 16);
    far.must_open();
    for (uint64_t i = 0; i < kExtents; i += 2) test::fill(far.at(i), kFarExtentBytes, i);
  }
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  BOOST_TEST(far.window->reattached().near > 4U);
  BOOST_TEST(far.window->reattached().far > 10U);
  for (uint64_t i = 0; i < kExtents; i += 2)
    BOOST_TEST(test::is_filled(far.at(i), kFarExtentBytes, i));
  for (uint64_t i = 1; i < kExtents; i += 2) BOOST_TEST(far.word(i) == 0U);
}

BOOST_FIXTURE_TEST_CASE(without_the_file_the_nodes_have_what_was_written_back, Fixture) {
  std::vector<uint64_t> were_far;
  {
    test::Far far(scratch.file("far"), stores, kExtents, 16);
    far.must_open();
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far.at(i), kFarExtentBytes, i);
    far.window->pager().is_stopping = true;  // the evictor rests
    for (uint64_t i = 0; i < kExtents; i++)
      if (far.state(i).state() == ExtentState::kFar) were_far.push_back(i);
  }
  BOOST_TEST(were_far.size() > 32U);
  ::unlink(scratch.file("far").c_str());
  stores[0]->flip(were_far[0], 77);  // one copy is bad: the other is taken
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  BOOST_TEST(far.window->reattached().far >= were_far.size());
  for (uint64_t extent : were_far)
    BOOST_TEST(test::is_filled(far.at(extent), kFarExtentBytes, extent));
}

BOOST_FIXTURE_TEST_CASE(the_highest_generation_wins_over_the_more_frequent, Fixture) {
  std::vector<char> bytes(kFarExtentBytes, 'a');
  stores.push_back(std::make_unique<test::FakeStore>());
  stores[0]->put(3, 7, bytes.data());
  stores[1]->put(3, 7, bytes.data());
  bytes.assign(kFarExtentBytes, 'b');
  stores[2]->put(3, 8, bytes.data());
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  BOOST_TEST(far.at(3)[17] == 'b');
  BOOST_TEST(far.state(3).generation() == 8U);
}

BOOST_FIXTURE_TEST_CASE(frames_of_another_boot_are_worth_nothing, Fixture) {
  {
    test::Far far(scratch.file("far"), stores, kExtents, 16);
    far.must_open();
    for (uint64_t i = 0; i < 8; i++) test::fill(far.at(i), kFarExtentBytes, i);
  }
  int file = ::open(scratch.file("far").c_str(), O_RDWR);
  FarFileHeader header{};
  BOOST_REQUIRE(::pread(file, &header, sizeof(header), 0) == long(sizeof(header)));
  header.boot_id[0] ^= 1;
  header.checksum = crc32c(&header, offsetof(FarFileHeader, checksum));
  BOOST_REQUIRE(::pwrite(file, &header, sizeof(header), 0) == long(sizeof(header)));
  ::close(file);
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  BOOST_TEST(far.window->reattached().near == 0U);
  for (uint64_t i = 0; i < 8; i++) BOOST_TEST(far.word(i) == 0U);
}

// A page that was written to while the rest of its extent was still being fetched.
BOOST_FIXTURE_TEST_CASE(frames_that_are_here_win_and_the_others_are_fetched, Fixture) {
  {
    test::Far far(scratch.file("far"), stores, kExtents, 16);
    far.must_open();
    for (uint64_t i = 0; i < kExtents; i++) test::fill(far.at(i), kFarExtentBytes, i);
    far.push_out(5, 32, 32);
    far.window->pager().is_stopping = true;
    ExtentTable& table = far.window->pager().file.table();
    table.store(5, table.load(5).with(ExtentState::kFetching));
    int file = ::open(scratch.file("far").c_str(), O_RDWR);
    char page[4096];
    std::memset(page, 'w', sizeof(page));
    BOOST_REQUIRE(::pwrite(file, page, sizeof(page),
                           long(far.window->pager().file.window_offset() + 5 * kFarExtentBytes +
                                2 * 4096)) == 4096);
    ::close(file);
  }
  for (auto& store : stores) store->is_dead = true;
  {
    test::Far far(scratch.file("far"), stores, kExtents, 16);
    BOOST_TEST(far.open() == Error::kBusy);  // and nothing is decided
  }
  for (auto& store : stores) store->is_dead = false;
  test::Far far(scratch.file("far"), stores, kExtents, 16);
  far.must_open();
  BOOST_TEST(far.window->reattached().merged == 1U);
  std::vector<char> expected(kFarExtentBytes);
  test::fill(expected.data(), kFarExtentBytes, 5);
  std::memset(expected.data() + 2 * 4096, 'w', 4096);
  BOOST_TEST(std::memcmp(far.at(5), expected.data(), kFarExtentBytes) == 0);
}

// A program that is killed at a random moment of paging.  It says in shared memory what it is about
// to write and what it has written, so that each word must be one or the other.
BOOST_FIXTURE_TEST_CASE(a_client_killed_at_any_moment_finds_every_word, Fixture) {
  constexpr int kKills = 40;
  constexpr uint64_t kWords = 16;  // one a page
  struct Progress {
    std::atomic<uint64_t> before[kExtents][kWords];
    std::atomic<uint64_t> after[kExtents][kWords];
    std::atomic<uint64_t> steps;
    std::atomic<uint64_t> wrong;
  };
  auto* progress = static_cast<Progress*>(
      mmap(nullptr, sizeof(Progress), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
  auto store = std::make_unique<test::SharedStore>(kExtents);
  std::mt19937_64 random(test::seed());
  for (int life = 0; life < kKills; life++) {
    const uint64_t seed = random();
    const uint64_t steps_before = progress->steps;
    pid_t child = fork();
    if (child == 0) {
      test::become_child();
      test::SharedNode nodes[2] = {test::SharedNode(*store), test::SharedNode(*store)};
      Node* handler_nodes[] = {&nodes[0]};
      Node* evictor_nodes[] = {&nodes[1]};
      auto window = std::make_unique<FarWindow>();
      std::string path = scratch.file("far");
      FarRequest request = test::one_node_request(path, kExtents, handler_nodes, evictor_nodes);
      Line why;
      if (window->open(request, why) != Error::kNone) _exit(1);
      auto at = [&](uint64_t extent, uint64_t page) -> std::atomic<uint64_t>& {
        return *reinterpret_cast<std::atomic<uint64_t>*>(window->base() + extent * kFarExtentBytes +
                                                         page * 4096 + 8 * page);
      };
      for (uint64_t extent = 0; extent < kExtents; extent++) {
        for (uint64_t page = 0; page < kWords; page++) {
          uint64_t value = at(extent, page);
          if (value != progress->after[extent][page] && value != progress->before[extent][page])
            progress->wrong++;
          progress->after[extent][page] = value;
        }
      }
      std::mt19937_64 mine(seed);
      while (true) {
        uint64_t extent = mine() % kExtents;
        uint64_t page = mine() % kWords;
        uint64_t value = mine();
        progress->before[extent][page] = value;
        at(extent, page) = value;
        progress->after[extent][page] = value;
        progress->steps++;
      }
    }
    // Every life does something before it is killed.
    test::Far::wait_until([&] {
      return progress->steps > steps_before + 20 + seed % 500 ||
             waitpid(child, nullptr, WNOHANG) != 0;
    });
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
  }
  BOOST_TEST(progress->wrong.load() == 0U);
  BOOST_TEST(progress->steps.load() > 20U * kKills);
  std::printf("%d kills, %llu writes, %llu words wrong\n", kKills,
              static_cast<unsigned long long>(progress->steps.load()),
              static_cast<unsigned long long>(progress->wrong.load()));
  munmap(progress, sizeof(Progress));
}

}  // namespace
}  // namespace btd
