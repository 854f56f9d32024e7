// What the tests of the collector share: roots written as media has them, and a look at a file as
// the collector sees it.
#pragma once

#include <fcntl.h>
#include <sys/mman.h>

#include <set>

#include "core/gc/collector.hpp"
#include "core/recovery/view.hpp"
#include "core/tx/log.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {

inline void set_root(Arena& arena, uint32_t index, const char* name, const void* value) {
  BOOST_REQUIRE(arena.grow_roots(index + 1));
  Root* root = arena.root(index);
  std::memset(static_cast<void*>(root), 0, sizeof(*root));
  std::strcpy(root->name, name);
  root->value = value == nullptr ? 0 : arena.offset_of(value);
  root->head = root_head(root->name);
}

inline char*& word(char* block, size_t index) { return reinterpret_cast<char**>(block)[index]; }

// Zeroed, so that it points nowhere.
inline char* make(Life& life, size_t size_bytes) {
  char* block = life.allocate(size_bytes);
  BOOST_REQUIRE(block != nullptr);
  std::memset(block, 0, life.arena().usable_size(block));
  return block;
}

struct Mark {
  Marks marks;
  MarkTotals totals{};
  uint64_t data_address;

  explicit Mark(Arena& arena, MarkRequest request = {}, uint8_t own_tag = kStateFree,
                bool trusts_states = true) {
    GcImage image{&arena.header(), arena.mapping().address()};
    image.own_tag = own_tag;
    image.trusts_states = trusts_states;
    BOOST_REQUIRE(marks.open(image) == Error::kNone);
    BOOST_REQUIRE(mark(marks, request, totals) == Error::kNone);
    data_address = reinterpret_cast<uintptr_t>(marks.data());
  }
  Mark(const Mark&) = delete;
  Mark& operator=(const Mark&) = delete;
  ~Mark() { marks.close(); }

  bool has(const void* block) const {
    return marks.is_reached(reinterpret_cast<uintptr_t>(block) - data_address);
  }
  std::set<uint64_t> offsets() const {
    std::set<uint64_t> found;
    marks.for_each_reached([&](const GcBlock& block) { found.insert(block.offset); });
    return found;
  }
};

// A dead arena's file, mapped writable at another address than its own.
struct MappedFile {
  explicit MappedFile(const std::string& path) {
    static ArenaView view;
    BOOST_REQUIRE(ArenaView::open(path.c_str(), view) == Error::kNone);
    header = view.header();
    view.close();
    int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
    BOOST_REQUIRE(file >= 0);
    void* memory = ::mmap(nullptr, header.file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    ::close(file);
    BOOST_REQUIRE(memory != MAP_FAILED);
    bytes = static_cast<char*>(memory);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile() { ::munmap(bytes, header.file_bytes); }

  ArenaHeader header;
  char* bytes;
};

}  // namespace btd::test
