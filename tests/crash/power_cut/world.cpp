#include "tests/crash/power_cut/world.hpp"

#include <algorithm>

namespace btd::test {

void World::apply(const Event& effect, bool may_be_old) {
  Block* blocks_end = blocks + block_count;
  Word* words_end = words + word_count;
  switch (effect.kind) {
    case EventKind::kBlock: {
      auto at = std::find_if(blocks, blocks_end,
                             [&](const Block& block) { return block.offset == effect.a; });
      if (at == blocks_end && block_count++ == kBlocksMax) std::abort();
      *at = {effect.a, effect.b, 0, 0};
      break;
    }
    case EventKind::kNoBlock: {
      auto at = std::find_if(blocks, blocks_end,
                             [&](const Block& block) { return block.offset == effect.a; });
      if (at == blocks_end) break;
      // Nobody promises anything of a freed block's words.
      uint64_t end = at->offset + at->size_bytes;
      word_count = static_cast<uint32_t>(std::remove_if(words, words_end,
                                                        [&](const Word& word) {
                                                          return word.offset >= effect.a &&
                                                                 word.offset < end;
                                                        }) -
                                         words);
      *at = blocks[--block_count];
      break;
    }
    case EventKind::kWord: {
      auto at =
          std::find_if(words, words_end, [&](const Word& word) { return word.offset == effect.a; });
      uint64_t before = at == words_end ? 0 : at->value;
      if (at == words_end && word_count++ == kWordsMax) std::abort();
      *at = {effect.a, effect.b, may_be_old ? before : effect.b};
      break;
    }
    case EventKind::kRoot:
      roots[effect.a] = effect.b;
      break;
    default:
      break;
  }
}

bool World::knows(uint64_t word_offset) const {
  return std::any_of(words, words + word_count,
                     [&](const Word& word) { return word.offset == word_offset; });
}

bool World::has_block(uint64_t offset) const {
  return std::any_of(blocks, blocks + block_count, [&](const Block& block) {
    return offset >= block.offset && offset < block.offset + block.size_bytes;
  });
}

void World::let_go(uint64_t block_offset) {
  for (uint32_t i = 0; i < block_count; i++) {
    if (blocks[i].offset == block_offset) blocks[i].may_be_gone = 1;
  }
}

void World::allow(const Word& allowed) {
  for (uint32_t i = 0; i < word_count; i++) {
    if (words[i].offset == allowed.offset)
      words[i].other = words[i].value == allowed.value ? allowed.other : allowed.value;
  }
}

void World::mark(uint64_t base) {
  for (uint32_t i = 0; i < block_count; i++) blocks[i].is_reachable = 0;
  for (uint64_t root : roots) {
    if (root != 0) mark_from(root, base);
  }
}

void World::mark_from(uint64_t offset, uint64_t base) {
  for (uint32_t i = 0; i < block_count; i++) {
    Block& block = blocks[i];
    if (offset < block.offset || offset >= block.offset + block.size_bytes) continue;
    if (block.is_reachable) return;
    block.is_reachable = 1;
    for (uint32_t k = 0; k < word_count; k++) {
      if (words[k].offset >= block.offset && words[k].offset < block.offset + block.size_bytes &&
          words[k].value >= base && words[k].value - base < kFileBytesMax)
        mark_from(words[k].value - base, base);
    }
    return;
  }
}

}  // namespace btd::test
