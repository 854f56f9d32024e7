#include "tests/crash/power_cut/media.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "core/persist/layout.hpp"

namespace btd::test {

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
  x = (x ^ (x >> 32)) * 0xD6E8FEB86659FD93;
  return x ^ (x >> 32);
}

namespace {

constexpr size_t kWords = kCacheLineBytes / 8;
constexpr int kOtherBoot = 0xA5;  // in each byte of the boot id of a machine that is no more

// 0 for a line of zeros, so that fresh pages change no hash.
uint64_t hash_of(uint64_t line, const uint8_t* bytes) {
  uint64_t words[kWords];
  std::memcpy(words, bytes, sizeof(words));
  uint64_t hash = 0;
  for (size_t i = 0; i < kWords; i++) {
    if (words[i] != 0) hash ^= mix(words[i] + 0x9E3779B97F4A7C15 * (line * kWords + i + 1));
  }
  return hash;
}

}  // namespace

Media::Media() : used_(kFileBytesMax / kPageBytes) {
  void* mapped = mmap(nullptr, kFileBytesMax, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped == MAP_FAILED) std::abort();
  base_ = static_cast<uint8_t*>(mapped);
}

Media::~Media() { munmap(base_, kFileBytesMax); }

void Media::clear(uint64_t length_bytes) {
  for (size_t page = 0; page < used_.size(); page++) {
    if (used_[page]) std::memset(base_ + page * kPageBytes, 0, kPageBytes);
    used_[page] = 0;
  }
  length_bytes_ = length_bytes;
  hash_ = 0;
  next_number_ = 0;
  lines_.clear();
  for (auto& pending : pending_) pending.clear();
  undo_.clear();
}

void Media::copy(const Media& other) {
  clear(other.length_bytes_);
  for (size_t page = 0; page < used_.size(); page++) {
    used_[page] = other.used_[page];
    if (used_[page])
      std::memcpy(base_ + page * kPageBytes, other.base_ + page * kPageBytes, kPageBytes);
  }
  hash_ = other.hash_;
}

void Media::apply(const Event& event) {
  switch (event.kind) {
    case EventKind::kLine:
      store(event.a, event.bytes);
      break;
    case EventKind::kPunch:
      punch(event.a);
      break;
    case EventKind::kFlush:
      if (auto at = lines_.find(event.a); at != lines_.end()) {
        Version& last = at->second.versions.back();
        last.is_kept = true;
        pending_[event.thread].push_back({event.a, last.number});
      }
      break;
    case EventKind::kDrain:
      for (const Pending& pending : pending_[event.thread]) settle(pending.line, pending.number);
      pending_[event.thread].clear();
      break;
    default:
      break;
  }
}

void Media::store(uint64_t number, const uint8_t* bytes) {
  Line& line = lines_[number];
  const uint8_t* before =
      line.versions.empty() ? base_ + number * kCacheLineBytes : line.versions.back().bytes;
  uint8_t copy[kCacheLineBytes];
  std::memcpy(copy, before, sizeof(copy));
  add_torn(line, copy, bytes);
  Version version{next_number_++, false, false, {}};
  std::memcpy(version.bytes, bytes, kCacheLineBytes);
  line.versions.push_back(version);
  // A line that is never flushed: forget some of its past, as if it had been less often unlucky.
  while (line.versions.size() > kVersionsMax) {
    auto at = std::find_if(line.versions.begin() + 1, line.versions.end() - 1,
                           [](const Version& old) { return !old.is_kept; });
    if (at == line.versions.end() - 1) break;
    line.versions.erase(at);
  }
}

// Words that changed together: the first ones alone, the last ones alone, some alone.
void Media::add_torn(Line& line, const uint8_t* before, const uint8_t* after) {
  size_t changed[kWords];
  size_t count = 0;
  for (size_t i = 0; i < kWords; i++) {
    if (std::memcmp(before + i * 8, after + i * 8, 8) != 0) changed[count++] = i;
  }
  if (count < 2) return;
  uint64_t random = mix(next_number_ * 977 + count);
  uint64_t sets[] = {(uint64_t{1} << (1 + random % (count - 1))) - 1,
                     ~uint64_t{0} << (1 + random / 8 % (count - 1)), random >> 16};
  for (uint64_t set : sets) {
    Version torn{next_number_++, true, false, {}};
    std::memcpy(torn.bytes, before, kCacheLineBytes);
    for (size_t i = 0; i < count; i++) {
      if (set >> i & 1) std::memcpy(torn.bytes + changed[i] * 8, after + changed[i] * 8, 8);
    }
    line.versions.push_back(torn);
  }
}

void Media::set(uint64_t line, const uint8_t* bytes) {
  uint8_t* at = base_ + line * kCacheLineBytes;
  hash_ ^= hash_of(line, at) ^ hash_of(line, bytes);
  std::memcpy(at, bytes, kCacheLineBytes);
  used_[line * kCacheLineBytes / kPageBytes] = 1;
}

void Media::settle(uint64_t number, uint32_t version) {
  auto at = lines_.find(number);
  if (at == lines_.end()) return;
  auto& versions = at->second.versions;
  auto end = std::find_if(versions.begin(), versions.end(),
                          [&](const Version& later) { return later.number > version; });
  if (end == versions.begin()) return;
  set(number, (end - 1)->bytes);
  versions.erase(versions.begin(), end);
  if (versions.empty()) lines_.erase(at);
}

void Media::punch(uint64_t page) {
  static const uint8_t zeros[kCacheLineBytes] = {};
  uint64_t first = page * kPageBytes / kCacheLineBytes;
  for (uint64_t line = first; line < first + kPageBytes / kCacheLineBytes; line++) {
    lines_.erase(line);
    if (used_[page]) set(line, zeros);
  }
}

std::vector<Media::Choice> Media::choices(const Plan& plan) {
  open_.clear();
  for (const auto& [line, versions] : lines_) open_.push_back(line);
  std::sort(open_.begin(), open_.end());
  uint64_t whole = 1;
  bool has_torn = false;
  std::vector<std::vector<uint16_t>> options;
  for (uint64_t number : open_) {
    const Line& line = lines_[number];
    std::vector<uint16_t> untorn{0};
    for (size_t i = 0; i < line.versions.size(); i++) {
      if (!line.versions[i].is_torn) untorn.push_back(static_cast<uint16_t>(i + 1));
      has_torn = has_torn || line.versions[i].is_torn;
    }
    whole = std::min<uint64_t>(whole * untorn.size(), uint64_t{1} << 40);
    options.push_back(std::move(untorn));
  }
  std::vector<Choice> chosen;
  uint64_t random = plan.seed;
  if (whole <= plan.all_max) {
    for (uint64_t i = 0; i < whole; i++) {
      Choice choice;
      uint64_t rest = i;
      for (const auto& option : options) {
        choice.push_back(option[rest % option.size()]);
        rest /= option.size();
      }
      chosen.push_back(std::move(choice));
    }
    uint64_t torn =
        has_torn ? std::max<uint64_t>(1, std::min<uint64_t>(whole, plan.samples_max / 4)) : 0;
    for (uint64_t i = 0; i < torn; i++) chosen.push_back(random_choice(random = mix(random + 1)));
    return chosen;
  }
  Choice oldest(open_.size(), 0);
  Choice newest;
  for (uint64_t number : open_)
    newest.push_back(static_cast<uint16_t>(lines_[number].versions.size()));
  chosen.push_back(oldest);
  chosen.push_back(newest);
  // One line that got ahead of all others, or stayed behind them.
  for (uint64_t i = 0; i < std::min<uint64_t>(plan.samples_max / 2, 2 * open_.size()); i++) {
    random = mix(random + 1);
    size_t at = random % open_.size();
    Choice choice = random >> 32 & 1 ? newest : oldest;
    choice[at] = random >> 32 & 1 ? 0 : newest[at];
    chosen.push_back(std::move(choice));
  }
  while (chosen.size() < plan.samples_max)
    chosen.push_back(random_choice(random = mix(random + 1)));
  return chosen;
}

Media::Choice Media::random_choice(uint64_t random) const {
  Choice choice;
  uint64_t lean = random % 4;  // to old, to new, or to neither
  for (uint64_t number : open_) {
    random = mix(random + 1);
    uint64_t count = lines_.at(number).versions.size();
    uint64_t pick = random >> 8;
    choice.push_back(static_cast<uint16_t>(lean == 0 && random % 4 != 0   ? 0
                                           : lean == 1 && random % 4 != 0 ? count
                                                                          : pick % (count + 1)));
  }
  return choice;
}

void Media::choose(const Choice& choice) {
  for (size_t i = 0; i < choice.size(); i++) {
    if (choice[i] == 0) continue;
    const uint8_t* old = base_ + open_[i] * kCacheLineBytes;
    undo_.emplace_back(open_[i], std::vector<uint8_t>(old, old + kCacheLineBytes));
    set(open_[i], lines_[open_[i]].versions[choice[i] - 1].bytes);
  }
}

void Media::undo() {
  for (auto at = undo_.rbegin(); at != undo_.rend(); ++at) set(at->first, at->second.data());
  undo_.clear();
}

// "line of file offset 0x... version i of n": those that are not the newest.
std::string Media::describe(const Choice& choice) const {
  std::string text;
  char part[96];
  for (size_t i = 0; i < choice.size(); i++) {
    const auto& versions = lines_.at(open_[i]).versions;
    bool is_torn = choice[i] > 0 && versions[choice[i] - 1].is_torn;
    std::snprintf(part, sizeof(part), " 0x%llx:%u/%zu%s",
                  static_cast<unsigned long long>(open_[i] * kCacheLineBytes), choice[i],
                  versions.size(), is_torn ? "(torn)" : "");
    text += part;
    if (text.size() > 1500) return text + " ...";
  }
  return text;
}

uint64_t Media::latest_word(uint64_t offset) const {
  uint64_t line = offset / kCacheLineBytes;
  auto at = lines_.find(line);
  const uint8_t* bytes =
      at == lines_.end() ? base_ + line * kCacheLineBytes : at->second.versions.back().bytes;
  uint64_t word;
  std::memcpy(&word, bytes + offset % kCacheLineBytes, sizeof(word));
  return word;
}

// What the recovering machine found, before it wrote: so its shadow of the file has it.
void Media::patch_boot() {
  for (uint64_t copy = 0; copy < 2; copy++) {
    ArenaHeader header;
    std::memcpy(&header, base_ + copy * kArenaHeaderBytes, sizeof(header));
    if (header.magic != kArenaMagic || header.checksum != checksum_of(header)) continue;
    std::memset(header.boot_id, kOtherBoot, sizeof(header.boot_id));
    header.checksum = checksum_of(header);
    auto* bytes = reinterpret_cast<const uint8_t*>(&header);
    uint64_t first = copy * kArenaHeaderBytes / kCacheLineBytes;
    for (uint64_t line = 0; line < kArenaHeaderBytes / kCacheLineBytes; line++)
      set(first + line, bytes + line * kCacheLineBytes);
  }
}

bool Media::write(const std::string& path) const {
  int file = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return false;
  bool is_good = ftruncate(file, 0) == 0 &&
                 (length_bytes_ == 0 || ftruncate(file, static_cast<off_t>(length_bytes_)) == 0);
  for (uint64_t page = 0; page * kPageBytes < length_bytes_; page++) {
    uint64_t first = page;
    while (page * kPageBytes < length_bytes_ && used_[page]) page++;
    if (page == first) continue;
    size_t size_bytes = (page - first) * kPageBytes;
    is_good = pwrite(file, base_ + first * kPageBytes, size_bytes,
                     static_cast<off_t>(first * kPageBytes)) == static_cast<ssize_t>(size_bytes) &&
              is_good;
  }
  // The machine that reads this is not the one that wrote it.
  for (uint64_t copy = 0; copy < 2; copy++) {
    ArenaHeader header;
    std::memcpy(&header, base_ + copy * kArenaHeaderBytes, sizeof(header));
    if (header.magic != kArenaMagic || header.checksum != checksum_of(header)) continue;
    std::memset(header.boot_id, kOtherBoot, sizeof(header.boot_id));
    header.checksum = checksum_of(header);
    is_good = pwrite(file, &header, sizeof(header), static_cast<off_t>(copy * kArenaHeaderBytes)) ==
                  static_cast<ssize_t>(sizeof(header)) &&
              is_good;
  }
  close(file);
  return is_good;
}

}  // namespace btd::test
