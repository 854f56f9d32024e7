#include "core/spill/far_file.hpp"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/base/crc32c.hpp"
#include "core/base/sys.hpp"
#include "core/spill/userfault.hpp"

namespace btd {
namespace {

uint32_t checksum_of(const FarFileHeader& header) noexcept {
  return crc32c(&header, offsetof(FarFileHeader, checksum));
}

bool write_all(int descriptor, const void* data, size_t size_bytes, uint64_t offset) noexcept {
  return ::pwrite(descriptor, data, size_bytes, static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(size_bytes);
}

}  // namespace

bool read_boot_id(char (&out)[kBootIdBytes]) noexcept {
  char text[64];
  long length = sys::read_file("/proc/sys/kernel/random/boot_id", text, sizeof(text));
  if (length < 36) return false;
  std::memset(out, 0, sizeof(out));
  std::memcpy(out, text, 36);
  return true;
}

Error FarFile::open(const char* path, uint64_t extent_count, const uint8_t (&arena_uuid)[16],
                    bool may_make, bool* is_found, Line& why) noexcept {
  *is_found = false;
  descriptor_ = sys::open(path, O_RDWR | O_NOFOLLOW | (may_make ? O_CREAT : 0), 0600);
  if (descriptor_ < 0) {
    int code = -descriptor_;
    descriptor_ = -1;
    why.text("cannot open ").text(path).text(": ").error_name(code);
    if (code == ENOENT) {
      why.text("; it holds what is near of the arena's far memory, put it back");
      return Error::kNotFound;
    }
    return code == EACCES || code == EPERM ? Error::kPermission : Error::kIo;
  }
  struct statfs file_system {};
  if (::fstatfs(descriptor_, &file_system) != 0 || file_system.f_type != TMPFS_MAGIC) {
    why.text(path).text(" is not in a tmpfs, where alone faults can be served");
    close();
    return Error::kUnsupported;
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    why.text(path).text(" belongs to another process");
    close();
    return Error::kInUse;
  }

  FarFileHeader wanted{};
  wanted.magic = kFarFileMagic;
  wanted.format_version = kFarFileVersion;
  wanted.extent_count = extent_count;
  std::memcpy(wanted.arena_uuid, arena_uuid, sizeof(arena_uuid));
  if (!read_boot_id(wanted.boot_id)) std::memset(wanted.boot_id, '?', 1);
  wanted.checksum = checksum_of(wanted);
  words_bytes_ = round_up(extent_count * sizeof(uint64_t), kPageBytes);
  window_offset_ = round_up(kPageBytes + words_bytes_, kFarExtentBytes);

  FarFileHeader header{};
  long length = sys::pread(descriptor_, &header, sizeof(header), 0);
  Error error = length < 0 ? Error::kIo : check(&header, wanted, is_found, why);
  if (error == Error::kNone && !*is_found && !may_make) {
    why.text(path).text(
        ": missing or damaged, and it holds what is near of the arena's far memory; put it back");
    error = Error::kNotFound;
  }
  if (error == Error::kNone && !*is_found) error = make(wanted);
  if (error == Error::kNone) {
    intptr_t words = sys::map(nullptr, words_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED,
                              descriptor_, kPageBytes);
    if (words < 0) {
      error = Error::kNoMemory;
    } else {
      words_ = reinterpret_cast<void*>(words);
      // A forked child must not change its parent's words.
      sys::advise(words_, words_bytes_, MADV_DONTFORK);
      table_ = ExtentTable(static_cast<uint64_t*>(words_), extent_count);
    }
  }
  if (error != Error::kNone) close();
  return error;
}

Error FarFile::check(FarFileHeader* header, const FarFileHeader& wanted, bool* is_found,
                     Line& why) noexcept {
  if (header->magic == 0) return Error::kNone;  // new, or its maker was killed: no data
  if (header->magic != kFarFileMagic) {
    why.text("the file for far memory holds something else; it is left alone");
    return Error::kForeign;
  }
  if (header->format_version > kFarFileVersion) return Error::kNewer;
  if (header->checksum != checksum_of(*header)) return Error::kNone;
  if (wanted.boot_id[0] == '?' ||
      std::memcmp(header->boot_id, wanted.boot_id, sizeof(wanted.boot_id)) != 0) {
    return Error::kNone;  // copied over a restart: the nodes know better
  }
  if (std::memcmp(header, &wanted, sizeof(wanted)) != 0) {
    why.text("the file for far memory belongs to another arena, or to a window of another size");
    return Error::kMismatch;
  }
  *is_found = true;
  return Error::kNone;
}

Error FarFile::make(const FarFileHeader& wanted) noexcept {
  // 1. Empty, and of full size: every word is zero, no extent has frames.  Killed here: no magic.
  uint64_t size = window_offset_ + wanted.extent_count * kFarExtentBytes + kFarExtentBytes;
  if (sys::truncate(descriptor_, 0) != 0 || sys::truncate(descriptor_, size) != 0)
    return Error::kNoSpace;
  // The words' frames now: a full tmpfs must be an error here, not a SIGBUS in the middle of a
  // change.
  if (::fallocate(descriptor_, 0, 0, static_cast<off_t>(kPageBytes + words_bytes_)) != 0)
    return Error::kNoSpace;
  // 2. The header, without its magic: that comes with confirm().
  FarFileHeader body = wanted;
  body.magic = 0;
  return write_all(descriptor_, &body, sizeof(body), 0) ? Error::kNone : Error::kNoSpace;
}

Error FarFile::confirm() noexcept {
  const uint64_t magic = kFarFileMagic;
  return write_all(descriptor_, &magic, sizeof(magic), 0) ? Error::kNone : Error::kNoSpace;
}

void FarFile::close() noexcept {
  if (words_ != nullptr) sys::unmap(words_, words_bytes_);
  if (descriptor_ >= 0) sys::close(descriptor_);  // and with it the lock
  words_ = nullptr;
  descriptor_ = -1;
  table_ = ExtentTable();
}

bool FarFile::read(uint64_t extent, char* out) const noexcept {
  return sys::pread(descriptor_, out, kFarExtentBytes, window_offset_ + extent * kFarExtentBytes) ==
         static_cast<long>(kFarExtentBytes);
}

bool FarFile::write(uint64_t extent, const char* from) noexcept {
  return write_all(descriptor_, from, kFarExtentBytes, window_offset_ + extent * kFarExtentBytes);
}

bool FarFile::write_page(uint64_t extent, uint32_t page, const char* from) noexcept {
  return write_all(descriptor_, from, kPageBytes,
                   window_offset_ + extent * kFarExtentBytes + page * kPageBytes);
}

bool FarFile::punch(uint64_t extent) noexcept {
  return ::fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     static_cast<off_t>(window_offset_ + extent * kFarExtentBytes),
                     static_cast<off_t>(kFarExtentBytes)) == 0;
}

uint32_t FarFile::frames(uint64_t extent) const noexcept {
  const uint64_t start = window_offset_ + extent * kFarExtentBytes;
  const uint64_t end = start + kFarExtentBytes;
  uint32_t found = 0;
  uint64_t at = start;
  while (at < end) {
    off_t data = ::lseek(descriptor_, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 || static_cast<uint64_t>(data) >= end) break;
    off_t hole = ::lseek(descriptor_, data, SEEK_HOLE);
    uint64_t stop = hole < 0 ? end : min(static_cast<uint64_t>(hole), end);
    for (uint64_t page = (static_cast<uint64_t>(data) - start) / kPageBytes;
         page < (stop - start) / kPageBytes; page++) {
      found |= 1U << page;
    }
    at = max(stop, at + kPageBytes);
  }
  return found;
}

}  // namespace btd
