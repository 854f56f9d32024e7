// A file that appears whole or not at all, and never in place of another unless asked.
//
// It is written without a name (O_TMPFILE) where the file system can do that, so that a kill in the
// middle leaves nothing behind; else under a hidden temporary name beside its final one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace btd::tools {

class OutputFile {
 public:
  // Throws Failure: `path` exists and may not be replaced, or the directory cannot be written.
  OutputFile(std::string path, bool may_replace);
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();  // without publish(): nothing stays

  int descriptor() const { return descriptor_; }

  // Appends.  Long runs of zeros become holes.  Throws Failure when the disk is full.
  void write(const void* data, size_t size_bytes);
  // Writes over what is there.
  void write_at(uint64_t offset, const void* data, size_t size_bytes);
  void set_length(uint64_t size_bytes);

  // Gives the file its name.  Throws Failure.
  void publish();

 private:
  [[noreturn]] void fail(int error_number) const;
  std::string temporary_name(unsigned attempt) const;
  void link_or_rename();

  std::string path_;
  bool may_replace_;
  std::string temporary_;  // empty: the file has no name yet
  int descriptor_ = -1;
  uint64_t written_bytes_ = 0;
};

}  // namespace btd::tools
