// The test of the test: commits in the wrong order, or told before they are durable.  A simulator
// that finds nothing here could not find it in core either.
#include "tests/crash/power_cut/machine.hpp"

namespace btd::test {

const char* const kWrongNames[] = {"told-before-durable", "link-before-block",
                                   "both-headers-at-once", "state-never-flushed",
                                   "three-words-without-a-log"};
const uint32_t kWrongCount = sizeof(kWrongNames) / sizeof(kWrongNames[0]);

void Machine::wrong(uint32_t number) {
  switch (number) {
    case 0:    // the state is stored and flushed, and nobody waits for it
    case 3: {  // not even flushed
      Reservation taken = arena_.reserve(cache(), 64, 16, nullptr);
      publish(static_cast<uint8_t*>(taken.state), static_cast<uint8_t>(taken.live));
      if (number == 0) sim_.flush(taken.state, 1);
      block_effect({static_cast<char*>(taken.block), 64});
      break;
    }
    case 1: {  // a durable pointer to a block that is not
      Reservation taken = arena_.reserve(cache(), 64, 16, nullptr);
      auto pointer = reinterpret_cast<uint64_t>(taken.block);
      publish(slot(0), pointer);
      sim_.persist(slot(0), sizeof(pointer));
      arena_.commit(taken);
      block_effect({static_cast<char*>(taken.block), 64});
      word_effect(slot(0), pointer);
      break;
    }
    case 2: {  // both copies torn by one cut
      auto* copies = reinterpret_cast<ArenaHeader*>(arena_.mapping().address());
      for (int copy = 0; copy < 2; copy++) {
        copies[copy].sequence++;
        copies[copy].checksum = checksum_of(copies[copy]);
        sim_.flush(&copies[copy], sizeof(copies[copy]));
      }
      sim_.drain();
      break;
    }
    case 4: {  // three words that belong together, in one drain and without a log
      uint64_t value = fresh_value();
      for (uint64_t* word : {data(0), data(100), slot(1)}) {
        *word = value;
        sim_.flush(word, sizeof(value));
        word_effect(word, value);
      }
      sim_.drain();
      break;
    }
  }
}

}  // namespace btd::test
