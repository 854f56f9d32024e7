// Writes small arena images for cli_test.py: make_image FILE [CHANGE...]
//
//   (none)         three superblocks with live slots, two live large blocks, one of them text
//   set:OFFSET:V   then sets a byte of the file
//   clean          closed in good order
//   rebooted       last open in another boot
//   lazy           its owner's durability
//   epoch:N        opened N times
//   seal:FIELD:V   sets format_version or page_bytes in both header copies, with a right checksum
//   root:NAME:O    sets a root to data offset O
//   word:O:V       stores V at data offset O
//   link:O:T       stores the address of data offset T at data offset O
//   lock           holds the arena's lock until standard input ends, after printing "locked"
//
// Prints the offsets that tests need as JSON.
#include <fcntl.h>
#include <fmt/core.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/base/config.hpp"
#include "tests/support/image.hpp"

namespace {

using namespace btd;

void fill(test::ArenaImage& image) {
  uint8_t old_tag = tag_of_epoch(3), tag = tag_of_epoch(5);
  image.superblock(0, size_class_of(64), 3);
  image.slot(0, 0, old_tag);
  image.slot(0, 7, tag);
  image.data(7 * 64, "seventh slot");
  image.superblock(kSizeClasses[size_class_of(64)].frame_count, size_class_of(32768), 5);
  image.slot(kSizeClasses[size_class_of(64)].frame_count, 1, tag);
  image.superblock(test::ArenaImage::kCoarseFrames, size_class_of(48), 4);
  image.slot(test::ArenaImage::kCoarseFrames, 2, kStateKept);
  image.large(100, 8, 3, tag);
  image.large(120, 2, 0, old_tag);
  image.data(100 * kFrameBytes + 10,
             std::string("first line\nsecond line\nabc\n\x01") + "\xff" + "last words");
  // Across the border of the pieces in which files are read.
  image.data(100 * kFrameBytes + 65530, "over the border");
}

template <typename T>
void put(test::ArenaImage& image, uint64_t offset, const T& value) {
  for (size_t at = 0; at < sizeof(value); at++)
    image.set_byte(offset + at, reinterpret_cast<const uint8_t*>(&value)[at]);
}

}  // namespace

int main(int argc, char** argv) {
  uint32_t roots = 0;
  if (argc < 2) return 64;
  test::ArenaImage image(argv[1]);
  fill(image);
  for (int i = 2; i < argc; i++) {
    std::string change = argv[i];
    size_t first = change.find(':'), second = change.find(':', first + 1);
    std::string name = change.substr(0, first);
    auto number = [&](size_t at) { return std::strtoull(change.c_str() + at + 1, nullptr, 0); };
    if (name == "set") {
      image.set_byte(number(first), static_cast<uint8_t>(number(second)));
    } else if (name == "clean") {
      image.header.state = static_cast<uint32_t>(ArenaState::kClean);
      image.write_headers();
    } else if (name == "rebooted") {
      image.header.boot_id[0] ^= 1;
      image.write_headers();
    } else if (name == "lazy") {
      image.header.durability = static_cast<uint32_t>(Durability::kLazy);
      image.write_headers();
    } else if (name == "epoch") {
      image.header.epoch = number(first);
      image.write_headers();
    } else if (name == "seal") {
      auto& field = change.find("page_bytes") != std::string::npos ? image.header.page_bytes
                                                                   : image.header.format_version;
      field = static_cast<uint32_t>(number(second));
      image.write_headers();
    } else if (name == "root") {
      btd::Root root{};
      std::strcpy(root.name, change.substr(first + 1, second - first - 1).c_str());
      root.head = root_head(root.name);
      root.value = image.header.data_offset + number(second);
      put(image, image.header.root_table_offset + roots++ * sizeof(root), root);
      image.header.roots_grown = kRootsPerPage;
      image.write_headers();
    } else if (name == "word" || name == "link") {
      uint64_t value = number(second);
      if (name == "link") value += image.header.base_address + image.header.data_offset;
      put(image, image.header.data_offset + number(first), value);
    } else if (name == "lock") {
      struct flock lock {};
      lock.l_type = F_WRLCK;
      if (fcntl(image.file(), F_OFD_SETLK, &lock) != 0) return 1;
      fmt::print("locked\n");
      std::fflush(stdout);
      while (getchar() != EOF) {
      }
      return 0;
    } else {
      return 64;
    }
  }
  fmt::print(
      "{{\"root\": {}, \"frame_headers\": {}, \"coarse_states\": {}, \"fine_states\": {}, "
      "\"data\": {}, \"file\": {}}}\n",
      image.header.root_table_offset, image.header.frame_header_offset,
      image.header.coarse_state_offset, image.header.fine_state_offset, image.header.data_offset,
      image.header.file_bytes);
  return 0;
}
