// A far window over fake nodes.
#pragma once

#include <signal.h>
#include <sys/utsname.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/spill/far_window.hpp"
#include "tests/core/support/fake_node.hpp"
#include "tests/core/support/scratch.hpp"

namespace btd::test {

// Nodes are given from outside, so that they outlive a window.
class Far {
 public:
  Far(const std::string& path, std::vector<std::unique_ptr<FakeStore>>& stores,
      uint64_t window_extents, uint64_t near_extents)
      : path_(path) {
    request.path = path_.c_str();
    request.window_bytes = window_extents * kFarExtentBytes;
    request.near_bytes = near_extents * kFarExtentBytes;
    request.node_count = static_cast<uint32_t>(stores.size());
    for (uint32_t thread = 0; thread < kFarHandlersMax + 1; thread++) {
      for (auto& store : stores) {
        nodes_.push_back(std::make_unique<FakeNode>(*store));
        pointers_[thread].push_back(nodes_.back().get());
      }
      if (thread < kFarHandlersMax) request.handler_nodes[thread] = pointers_[thread].data();
    }
    request.evictor_nodes = pointers_[kFarHandlersMax].data();
  }
  ~Far() { window->close(); }

  Error open() { return window->open(request, why); }
  void must_open() {
    Error error = open();
    BOOST_REQUIRE_MESSAGE(error == Error::kNone, why.c_str());
  }

  char* at(uint64_t extent) { return window->base() + extent * kFarExtentBytes; }
  volatile uint64_t& word(uint64_t extent, uint64_t index = 0) {
    return reinterpret_cast<volatile uint64_t*>(at(extent))[index];
  }
  void touch(uint64_t extent) { [[maybe_unused]] uint64_t value = word(extent); }
  ExtentWord state(uint64_t extent) { return window->pager().file.table().load(extent); }
  const FarStats& stats() { return window->stats(); }

  // Until it is so; the test's own time limit ends what never is.
  template <typename Condition>
  static void wait_until(Condition condition) {
    while (!condition()) sched_yield();
  }
  // Makes `extent` far by touching others.
  void push_out(uint64_t extent, uint64_t first_other, uint64_t others) {
    uint64_t turn = 0;
    while (state(extent).state() != ExtentState::kFar) {
      touch(first_other + turn++ % others);
    }
  }

  FarRequest request;
  Line why;
  std::unique_ptr<FarWindow> window = std::make_unique<FarWindow>();

 private:
  std::string path_;
  std::vector<std::unique_ptr<FakeNode>> nodes_;
  std::vector<Node*> pointers_[kFarHandlersMax + 1];
};

// What a thread gets that touches a lost extent: before Linux 6.6 a page cannot be poisoned, and is
// forbidden instead.
inline int lost_signal() {
  utsname kernel{};
  int major = 0, minor = 0;
  ::uname(&kernel);
  if (std::sscanf(kernel.release, "%d.%d", &major, &minor) != 2) return SIGBUS;
  return major < 6 || (major == 6 && minor < 6) ? SIGSEGV : SIGBUS;
}

inline std::vector<std::unique_ptr<FakeStore>> make_stores(size_t count) {
  std::vector<std::unique_ptr<FakeStore>> stores;
  for (size_t i = 0; i < count; i++) stores.push_back(std::make_unique<FakeStore>());
  return stores;
}

}  // namespace btd::test

namespace btd {
inline std::ostream& boost_test_print_type(std::ostream& out, ExtentState state) {
  return out << "ExtentState " << static_cast<int>(state);
}
}  // namespace btd
