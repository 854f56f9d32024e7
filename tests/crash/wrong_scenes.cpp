// The test of the test: the same work with commit stores in the wrong order.  A harness that finds
// nothing here could not find it in core either.
#include "core/persist/persist.hpp"
#include "tests/crash/heap_calls.hpp"
#include "tests/crash/worker.hpp"

namespace btd::test {
namespace {

void prepare(Worker& w) {
  w.step(false);
  w.open();
  w.acquire();
  w.allocate(50000);
  w.allocate(900);
  w.step(true);
}

// The caller is told that the block is there before its state says so.
void told_before_commit(Worker& w) {
  prepare(w);
  uint32_t index = w.free_record();
  void* block = allocate_fast(*w.heap(), 900);
  uint8_t* state =
      w.arena().geometry().coarse_states +
      ((reinterpret_cast<uintptr_t>(block) - w.arena().geometry().coarse_base) >> kCoarseShift);
  uint8_t tag = *state;
  *state = kStateFree;
  w.around("wrong: told before the state's store", Step::kNothing, index, 0, [&] {
    BlockRecord& record = w.log().blocks[index];
    record.address = reinterpret_cast<uintptr_t>(block);
    record.size_bytes = 900;
    record.usable_bytes = kSizeClasses[size_class_of(900)].slot_bytes;
    record.epoch = w.log().epoch;
    std::atomic_ref(record.is_live).store(1);
    std::atomic_ref(*state).store(tag);
  });
}

// A large block's extent is given back before its state.
void descriptor_before_state(Worker& w) {
  prepare(w);
  uint32_t index = w.allocate(80000);
  FrameHeader* header = w.frame_header_of(index);
  w.around("wrong: the descriptor cleared before the state", Step::kFree, index, 0, [&] {
    publish(&header->descriptor, Descriptor{});
    publish<uint16_t>(&header->state, 0);
    w.log().blocks[index].is_live = 0;
  });
}

// An extent is split by a head in its middle before the first half is cut.
void head_before_cut(Worker& w) {
  prepare(w);
  uint32_t index = w.allocate(8 * kFrameBytes);
  FrameHeader* header = w.frame_header_of(index);
  uint32_t second = w.free_record();
  uint64_t address = w.log().blocks[index].address;
  w.around("wrong: a head inside an extent that was not cut yet", Step::kNothing, index, 0, [&] {
    auto descriptor = [](uint32_t frames) {
      Descriptor made{static_cast<uint8_t>(ExtentKind::kLarge), 0, 0, frames};
      made.check = descriptor_check(made);
      return made;
    };
    header[4].epoch = header->epoch;
    header[4].checksum = checksum_of(header[4]);
    publish(&header[4].descriptor, descriptor(4));
    publish(&header->descriptor, descriptor(4));
    publish(&header[4].state, header->state);
    w.log().blocks[second] = {
        address + 4 * kFrameBytes, 4 * kFrameBytes, 4 * kFrameBytes, w.log().epoch, 0, 1};
    w.log().blocks[index].usable_bytes = w.log().blocks[index].size_bytes = 4 * kFrameBytes;
  });
}

// Both copies of the header are changed before either has its checksum.
void both_headers_at_once(Worker& w) {
  prepare(w);
  auto* copies = reinterpret_cast<ArenaHeader*>(w.arena().mapping().address());
  w.around("wrong: both header copies torn at once", Step::kNothing, Worker::kNone, 0, [&] {
    for (int copy = 0; copy < 2; copy++)
      std::atomic_ref(copies[copy].sequence).store(copies[copy].sequence + 1);
    for (int copy = 0; copy < 2; copy++) copies[copy].checksum = checksum_of(copies[copy]);
  });
}

}  // namespace

const Scene kWrongScenes[] = {
    {"told-before-commit", 8 * kMiB, {told_before_commit}, false},
    {"descriptor-before-state", 8 * kMiB, {descriptor_before_state}, false},
    {"head-before-cut", 8 * kMiB, {head_before_cut}, false},
    {"both-headers-at-once", 8 * kMiB, {both_headers_at_once}, false},
};
const uint32_t kWrongSceneCount = sizeof(kWrongScenes) / sizeof(kWrongScenes[0]);

}  // namespace btd::test
