// Calls in rdma/ set errno; the program whose fault or malloc we serve must not see that.
#pragma once

#include <cerrno>

namespace btd {

class ErrnoKept {
 public:
  ErrnoKept() : kept_(errno) {}
  ~ErrnoKept() { errno = kept_; }
  ErrnoKept(const ErrnoKept&) = delete;
  ErrnoKept& operator=(const ErrnoKept&) = delete;

 private:
  int kept_;
};

}  // namespace btd
