#include "tools/node/event_loop.hpp"

#include <fmt/core.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "tools/failure.hpp"

namespace btd::tools {

EventLoop::EventLoop() : descriptor_(epoll_create1(EPOLL_CLOEXEC)) {
  if (descriptor_ < 0) {
    throw Failure{kExitFailed,
                  fmt::format("epoll: {}; nothing was changed; try again", std::strerror(errno))};
  }
}

EventLoop::~EventLoop() { ::close(descriptor_); }

void EventLoop::add(int descriptor, uint32_t events, Source& source) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &source;
  if (epoll_ctl(descriptor_, EPOLL_CTL_ADD, descriptor, &event) != 0) {
    throw Failure{kExitFailed,
                  fmt::format("epoll: {}; no extent was changed; try again", std::strerror(errno))};
  }
}

void EventLoop::change(int descriptor, uint32_t events, Source& source) {
  epoll_event event{};
  event.events = events;
  event.data.ptr = &source;
  epoll_ctl(descriptor_, EPOLL_CTL_MOD, descriptor, &event);
}

void EventLoop::remove(int descriptor) {
  epoll_ctl(descriptor_, EPOLL_CTL_DEL, descriptor, nullptr);
}

void EventLoop::round(int wait_ms) {
  epoll_event events[64];
  int count = epoll_wait(descriptor_, events, 64, wait_ms);
  for (int i = 0; i < count; i++) {
    static_cast<Source*>(events[i].data.ptr)->ready(events[i].events);
  }
}

}  // namespace btd::tools
