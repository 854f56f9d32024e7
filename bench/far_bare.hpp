// The least that userfaultfd allows: what far memory is compared with in the same run.
#pragma once

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "support.hpp"

namespace bench {

// The least: nothing but a blocking read and a copy, in a thread.
class Bare {
 public:
  // A window with nobody behind it: units are put there before they are asked for.
  Bare(uint64_t bytes, uint64_t unit) : bytes_(bytes), unit_(unit), call_(nullptr) { open(); }
  // Units come after a delay, in which the thread spins; or from `fetch(to, bytes)`, of which one
  // is enough.
  Bare(uint64_t bytes, uint64_t unit, uint64_t delay_ns)
      : Bare(bytes, unit, [delay_ns](char*, uint64_t) {
          const uint64_t due = now_ns() + delay_ns;
          while (delay_ns != 0 && now_ns() < due) {
          }
        }) {}
  template <typename Fetch>
  Bare(uint64_t bytes, uint64_t unit, Fetch fetch) : bytes_(bytes), unit_(unit) {
    static_assert(sizeof(Fetch) <= sizeof(fetch_));
    std::memcpy(fetch_, &fetch, sizeof(fetch));
    call_ = [](char* fetch, char* to, uint64_t size) {
      (*reinterpret_cast<Fetch*>(fetch))(to, size);
    };
    open();
    if (pthread_create(&thread_, nullptr, main, this) != 0) fail("no thread");
  }
  // The thread ends with the fault on the last unit.
  ~Bare() {
    if (call_ != nullptr) {
      static_cast<volatile char*>(base)[bytes_ - 1];
      pthread_join(thread_, nullptr);
    }
    munmap(base, bytes_);
    munmap(data_, unit_);
    close(descriptor_);
    close(file_);
  }
  // What a handler does with a unit that has come, and no more.
  void put(uint64_t index, const char* unit) {
    uffdio_copy copy{};
    copy.dst = reinterpret_cast<uint64_t>(base) + index * unit_;
    copy.src = reinterpret_cast<uint64_t>(unit);
    copy.len = unit_;
    if (ioctl(descriptor_, UFFDIO_COPY, &copy) != 0) fail("a unit cannot be put");
  }
  char* base;

 private:
  void open() {
    descriptor_ = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC));
    uffdio_api api{};
    api.api = UFFD_API;
    if (descriptor_ < 0 || ioctl(descriptor_, UFFDIO_API, &api) != 0) fail("no userfaultfd");
    file_ = memfd_create("bare", MFD_CLOEXEC);
    if (ftruncate(file_, static_cast<off_t>(bytes_)) != 0) fail("no window");
    base = static_cast<char*>(mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0));
    uffdio_register watch{};
    watch.range = {reinterpret_cast<uint64_t>(base), bytes_};
    watch.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (ioctl(descriptor_, UFFDIO_REGISTER, &watch) != 0) fail("cannot watch");
    data_ = own_table<char>(unit_);
  }
  static void* main(void* argument) {
    auto* bare = static_cast<Bare*>(argument);
    while (true) {
      uffd_msg message;
      if (read(bare->descriptor_, &message, sizeof(message)) != sizeof(message)) continue;
      bare->call_(bare->fetch_, bare->data_, bare->unit_);
      uffdio_copy copy{};
      const auto start = reinterpret_cast<uint64_t>(bare->base);
      copy.dst = start + (message.arg.pagefault.address - start) / bare->unit_ * bare->unit_;
      copy.src = reinterpret_cast<uint64_t>(bare->data_);
      copy.len = bare->unit_;
      // It may stop in the middle; what is there already only needs a wake-up.
      while (ioctl(bare->descriptor_, UFFDIO_COPY, &copy) != 0) {
        if (errno != EAGAIN) {
          uffdio_range range{copy.dst, copy.len};
          ioctl(bare->descriptor_, UFFDIO_WAKE, &range);
          break;
        }
        if (copy.copy > 0) {
          copy.dst += static_cast<uint64_t>(copy.copy);
          copy.src += static_cast<uint64_t>(copy.copy);
          copy.len -= static_cast<uint64_t>(copy.copy);
        }
      }
      if (message.arg.pagefault.address >=
          reinterpret_cast<uint64_t>(bare->base) + bare->bytes_ - bare->unit_)
        return nullptr;
    }
  }
  uint64_t bytes_;
  uint64_t unit_;
  alignas(8) char fetch_[8];
  void (*call_)(char* fetch, char* to, uint64_t bytes);
  int descriptor_;
  int file_;
  char* data_;
  pthread_t thread_;
};

}  // namespace bench
