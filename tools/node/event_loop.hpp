// epoll, and nothing more: who is ready, and a round's end.
#pragma once

#include <sys/epoll.h>

#include <cstdint>

namespace btd::tools {

// Something with a descriptor.  It stays alive to the end of the round in which it is removed.
class Source {
 public:
  virtual ~Source() = default;
  virtual void ready(uint32_t events) = 0;
};

class EventLoop {
 public:
  EventLoop();  // throws Failure
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  void add(int descriptor, uint32_t events, Source& source);  // throws Failure
  void change(int descriptor, uint32_t events, Source& source);
  void remove(int descriptor);
  // Waits for up to wait_ms and calls ready() of each source that is.
  void round(int wait_ms);

 private:
  int descriptor_;
};

}  // namespace btd::tools
