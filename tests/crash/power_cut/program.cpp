#include "tests/crash/power_cut/program.hpp"

#include "core/persist/layout.hpp"
#include "tests/crash/power_cut/media.hpp"

namespace btd::test {
namespace {

const char* const kNames[] = {
    "open",   "reopen",   "anchor",      "malloc",    "free",      "resize",   "release",
    "thread", "root_set", "root_remove", "malloc_to", "free_from", "activate", "copy",
    "store",  "begin",    "add",         "write",     "tx_malloc", "tx_free",  "tx_root_set",
    "commit", "abort",    "fill_roots",  "collect",   "wrong"};
static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(Op::kWrong) + 1);

constexpr uint32_t kNewest = ~0u;

}  // namespace

std::string Call::text() const {
  return std::string(kNames[static_cast<size_t>(op)]) + "(" +
         (a == kNewest ? "newest" : std::to_string(a)) + ")";
}

std::string Program::text() const {
  std::string text = is_strict ? "strict:" : "lazy:";
  for (size_t i = 0; i < calls.size(); i++)
    text += (i == first_cut && i > 0 ? " | " : " ") + calls[i].text();
  return text;
}

std::vector<std::vector<Call>> alphabet(bool is_strict) {
  std::vector<std::vector<Call>> all = {
      {{Op::kMalloc, 64}},
      {{Op::kMalloc, 40000}},
      {{Op::kFree, kNewest}},
      {{Op::kRootSet, 1}},
      {{Op::kRootRemove, 1}},
      {{Op::kMallocTo, 100}},
      {{Op::kMallocTo, 40000}},
      {{Op::kFreeFrom, 0}},
      {{Op::kActivate, 500}},
      {{Op::kCopy, 3}},
      {{Op::kStore, 0}},
      {{Op::kBegin, 0}, {Op::kAdd, 3}, {Op::kTxMalloc, 64}, {Op::kTxRootSet, 2}, {Op::kCommit, 0}},
      {{Op::kBegin, 0}, {Op::kAdd, 2}, {Op::kTxMalloc, 64}, {Op::kTxFree, 0}, {Op::kAbort, 0}},
      {{Op::kReopen, 0}},
      {{Op::kReopen, 0}, {Op::kCollect, 0}},
      {{Op::kBegin, 0}, {Op::kAdd, 3}, {Op::kTxMalloc, 64}, {Op::kReopen, 0}},
  };
  if (is_strict) {
    all.push_back({{Op::kMalloc, 5000}});
    all.push_back({{Op::kMalloc, 48}});  // of the fine zone
    all.push_back({{Op::kFree, 0}});
    all.push_back({{Op::kMalloc, 1200000}});  // grows
    all.push_back({{Op::kResize, 100000}});
    all.push_back({{Op::kResize, 36000}});
    all.push_back({{Op::kRelease, 0}});
    all.push_back({{Op::kFree, 0}, {Op::kFree, 0}, {Op::kRelease, 0}});
    all.push_back({{Op::kMalloc, 100000}});
    all.push_back({{Op::kBegin, 0}, {Op::kAdd, 600}, {Op::kAdd, 100}, {Op::kCommit, 0}});
  }
  return all;
}

std::vector<std::vector<Call>> scripts(bool is_strict) {
  std::vector<std::vector<Call>> all = {
      // A transaction cut by the death of its process, and another one on its words.
      {{Op::kBegin, 0},
       {Op::kAdd, 3},
       {Op::kReopen, 0},
       {Op::kBegin, 0},
       {Op::kAdd, 3},
       {Op::kCommit, 0}},
      // A root named by a transaction that came to nothing, set by another thread.
      {{Op::kBegin, 0},
       {Op::kTxRootSet, 1},
       {Op::kAbort, 0},
       {Op::kThread, 1},
       {Op::kMalloc, 64},
       {Op::kRootSet, 1}},
      {{Op::kMalloc, 64},
       {Op::kBegin, 0},
       {Op::kTxRootSet, 1},
       {Op::kThread, 1},
       {Op::kRootSet, kOverOthers + 1},
       {Op::kMalloc, 64}},
      {{Op::kBegin, 0},
       {Op::kTxRootSet, 1},
       {Op::kThread, 1},
       {Op::kBegin, 0},
       {Op::kTxRootSet, kOverOthers + 1},
       {Op::kCommit, 0},
       {Op::kMalloc, 64}},
      // Logs that go on in extents.
      {{Op::kBegin, 0},
       {Op::kAdd, 500},
       {Op::kWrite, 200},
       {Op::kTxMalloc, 64},
       {Op::kCommit, 0},
       {Op::kMalloc, 100000},
       {Op::kCopy, 3}},
      {{Op::kBegin, 0}, {Op::kAdd, 700}, {Op::kAbort, 0}, {Op::kMalloc, 100000}, {Op::kCopy, 3}},
      {{Op::kBegin, 0},
       {Op::kWrite, 700},
       {Op::kReopen, 0},
       {Op::kMalloc, 100000},
       {Op::kCopy, 700}},
      // Extents whose blocks are gone, joined after a restart, and a block across the heads of
      // both.
      {{Op::kMalloc, 40000},
       {Op::kMalloc, 40000},
       {Op::kMalloc, 64},
       {Op::kFree, 2},
       {Op::kFree, 2},
       {Op::kReopen, 0},
       {Op::kMalloc, 90000},
       {Op::kMallocTo, 40000}},
      {{Op::kMallocTo, 40000},
       {Op::kMallocTo, 40000},
       {Op::kFreeFrom, 0},
       {Op::kFreeFrom, 0},
       {Op::kReopen, 0},
       {Op::kMallocTo, 90000},
       {Op::kMallocTo, 40000}},
      {{Op::kMallocTo, 40000},
       {Op::kMallocTo, 40000},
       {Op::kFreeFrom, 0},
       {Op::kFreeFrom, 0},
       {Op::kRelease, 0},
       {Op::kMallocTo, 90000},
       {Op::kMallocTo, 40000}},
      // Two transactions at once.
      {{Op::kBegin, 0},
       {Op::kAdd, 3},
       {Op::kTxMalloc, 64},
       {Op::kThread, 1},
       {Op::kBegin, 0},
       {Op::kAdd, 3},
       {Op::kTxMalloc, 64},
       {Op::kCommit, 0},
       {Op::kThread, 0},
       {Op::kCommit, 0},
       {Op::kThread, 1},
       {Op::kFreeFrom, 0},
       {Op::kMalloc, 64}},
      // Another thread frees, and gives out, what a transaction has made.
      {{Op::kBegin, 0},
       {Op::kTxMalloc, 64},
       {Op::kCommit, 0},
       {Op::kThread, 1},
       {Op::kFreeFrom, 0},
       {Op::kThread, 0},
       {Op::kMalloc, 64},
       {Op::kMalloc, 64},
       {Op::kThread, 1},
       {Op::kMallocTo, 64}},
      // The collector: blocks of an earlier life, small and large, some of them still wanted.
      {{Op::kMalloc, 64},
       {Op::kMalloc, 40000},
       {Op::kMallocTo, 64},
       {Op::kMallocTo, 40000},
       {Op::kRootSet, 1},
       {Op::kMalloc, 64},
       {Op::kReopen, 0},
       {Op::kMalloc, 64},
       {Op::kCollect, 0},
       {Op::kMallocTo, 100},
       {Op::kCollect, 0},
       {Op::kFreeFrom, 0}},
      // The collector frees small blocks alone, and has nothing else to wait for.
      {{Op::kMalloc, 64}, {Op::kReopen, 0}, {Op::kCollect, 0}, {Op::kMalloc, 64}},
      // It empties superblocks, and their frames are for others.
      {{Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kMalloc, 16000},
       {Op::kReopen, 0},
       {Op::kCollect, 0},
       {Op::kMalloc, 64}},
      // A life in `process`, which flushes nothing; what it leaves is as durable as the next one
      // is.
      {{Op::kOpen, 1},
       {Op::kAnchor, 0},
       {Op::kAnchor, 1},
       {Op::kMalloc, 64},
       {Op::kMalloc, 48},
       {Op::kMalloc, 40000},
       {Op::kRootSet, 1},
       {Op::kMallocTo, 200},
       {Op::kCopy, 3},
       {Op::kReopen, 0},
       {Op::kStore, 0},
       {Op::kMalloc, 64}},
      // One thread gives frames back, another takes them.
      {{Op::kMalloc, 40000},
       {Op::kMalloc, 40000},
       {Op::kMalloc, 64},
       {Op::kThread, 1},
       {Op::kFree, 0},
       {Op::kFree, 0},
       {Op::kRelease, 0},
       {Op::kThread, 0},
       {Op::kMallocTo, 90000}},
      {{Op::kThread, 1},
       {Op::kMalloc, 40000},
       {Op::kMalloc, 64},
       {Op::kFree, 0},
       {Op::kFree, 0},
       {Op::kRelease, 0},
       {Op::kThread, 0},
       {Op::kMallocTo, 100000}},
  };
  // A place of a root used again.
  if (is_strict)
    all.push_back({{Op::kFillRoots, kRootCount}, {Op::kMalloc, 64}, {Op::kRootSet, 1}});
  return all;
}

Program random_program(uint64_t seed, bool is_strict, uint32_t count) {
  Program program;
  program.is_strict = is_strict;
  program.calls = {{Op::kOpen, 0}, {Op::kAnchor, 0}, {Op::kAnchor, 1}};
  auto random = [&seed](uint64_t below) { return (seed = mix(seed + 0x9E3779B97F4A7C15)) % below; };
  auto size = [&]() -> uint32_t {
    uint64_t kind = random(10);
    return static_cast<uint32_t>(kind < 6   ? 1 + random(1000)
                                 : kind < 8 ? 1 + random(30000)
                                            : 33000 + random(200000));
  };
  // Some blocks to begin with, made before the first cut.
  for (uint64_t i = random(6); i > 0; i--) program.calls.push_back({Op::kMalloc, size()});
  for (uint64_t i = random(3); i > 0; i--) program.calls.push_back({Op::kMallocTo, size()});
  program.first_cut = static_cast<uint32_t>(program.calls.size());
  for (uint32_t i = 0; i < count; i++) {
    switch (random(26)) {
      case 0:
      case 1:
      case 2:
        program.calls.push_back({Op::kMalloc, size()});
        break;
      case 3:
      case 4:
        program.calls.push_back(
            {Op::kFree, static_cast<uint32_t>(random(2) == 0 ? kNewest : random(20))});
        break;
      case 5:
        program.calls.push_back({Op::kResize, static_cast<uint32_t>(33000 + random(300000))});
        break;
      case 6:
        program.calls.push_back({random(2) == 0 ? Op::kRelease : Op::kStore, 0});
        break;
      case 7:
        program.calls.push_back({Op::kRootSet, static_cast<uint32_t>(1 + random(4))});
        break;
      case 8:
        program.calls.push_back({Op::kRootRemove, static_cast<uint32_t>(1 + random(4))});
        break;
      case 9:
        program.calls.push_back({Op::kMallocTo, size()});
        break;
      case 10:
        program.calls.push_back({Op::kFreeFrom, 0});
        break;
      case 11:
        program.calls.push_back({Op::kActivate, size()});
        break;
      case 12:
        program.calls.push_back(
            {Op::kCopy, static_cast<uint32_t>(1 + random(random(4) == 0 ? 300 : 8))});
        break;
      case 13:
      case 14:
        program.calls.push_back({Op::kBegin, 0});
        break;
      case 15:
        program.calls.push_back(
            {Op::kAdd, static_cast<uint32_t>(1 + random(random(4) == 0 ? 600 : 8))});
        break;
      case 16:
        program.calls.push_back(
            {Op::kWrite, static_cast<uint32_t>(1 + random(random(4) == 0 ? 300 : 8))});
        break;
      case 17:
      case 18:
        program.calls.push_back({Op::kTxMalloc, size()});
        break;
      case 19:
        program.calls.push_back({Op::kTxFree, 0});
        break;
      case 20:
        program.calls.push_back({Op::kTxRootSet, static_cast<uint32_t>(1 + random(4))});
        break;
      case 21:
      case 22:
        program.calls.push_back({Op::kCommit, 0});
        break;
      case 23:
        program.calls.push_back({Op::kAbort, 0});
        break;
      case 24:
        program.calls.push_back({Op::kThread, static_cast<uint32_t>(random(2))});
        break;
      case 25:
        if (random(2) == 0) program.calls.push_back({Op::kReopen, 0});
        if (random(2) == 0) program.calls.push_back({Op::kCollect, 0});
        if (random(8) == 0) program.calls.push_back({Op::kMalloc, 1200000});
        break;
    }
  }
  return program;
}

}  // namespace btd::test
