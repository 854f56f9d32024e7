// The file or device that a memory node's store lies on: its mapping, and how stores to it become
// durable.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace btd::tools {

enum class Backend : uint8_t { kFile = 0, kTmpfs = 1, kFsdax = 2, kDevdax = 3 };
const char* backend_text(Backend backend);

// flush() and drain() as in core/persist/persist.hpp, except that a drain can fail: a disk may.
//
// Thread safety: one thread.
class Media {
 public:
  virtual ~Media() = default;
  virtual char* base() = 0;
  virtual uint64_t size_bytes() const = 0;
  virtual void flush(const void* address, size_t size_bytes) = 0;
  // Throws Failure: what was flushed may or may not be durable, and no one can tell any more.
  virtual void drain() = 0;
  // Whether a network card may be given it as it is: a file's pages may move, a device's do not.
  virtual bool is_registrable() const { return false; }
};

class MappedMedia final : public Media {
 public:
  // Opens or makes the file, or opens the device; locks it against a second daemon.  A new file
  // gets all of its space at once, so that no later store can fail for want of it. bytes_wanted: of
  // a new file; 0: there must be one.  Throws Failure.
  MappedMedia(const std::string& path, uint64_t bytes_wanted);
  ~MappedMedia() override;
  MappedMedia(const MappedMedia&) = delete;
  MappedMedia& operator=(const MappedMedia&) = delete;

  char* base() override { return base_; }
  uint64_t size_bytes() const override { return size_bytes_; }
  void flush(const void* address, size_t size_bytes) override;
  void drain() override;
  Backend backend() const { return backend_; }
  bool is_new() const { return is_new_; }
  bool is_registrable() const override { return backend_ == Backend::kDevdax; }
  bool survives_power() const { return backend_ != Backend::kTmpfs; }

 private:
  void open_file(uint64_t bytes_wanted);
  void open_device();
  void map();
  [[noreturn]] void fail(const char* what, const char* advice) const;

  std::string path_;
  int descriptor_ = -1;
  char* base_ = nullptr;
  uint64_t size_bytes_ = 0;
  Backend backend_ = Backend::kFile;
  bool is_new_ = false;
  bool is_dirty_ = false;
};

}  // namespace btd::tools
