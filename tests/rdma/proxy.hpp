// Between a client and a node: passes bytes on, and does harm to them as it is told.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "rdma/address.hpp"

namespace btd::test {

inline constexpr uint64_t kNever = UINT64_MAX;

// What happens to one direction of one connection.  Offsets count its bytes from the first on.
struct Harm {
  uint64_t cut_at = kNever;   // then both ends are closed
  uint64_t flip_at = kNever;  // a bit of this byte
  uint64_t hold_at = kNever;  // from here on everything is late
  uint32_t hold_ms = 0;
};

// Thread safety: plan() and heard() may be called while it runs.
class Proxy {
 public:
  explicit Proxy(const NodeAddress& node) : node_(node) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    BOOST_REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    listen(listener_, 16);
    text_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { serve(); });
  }
  ~Proxy() {
    is_ending_ = true;
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  Proxy(const Proxy&) = delete;
  Proxy& operator=(const Proxy&) = delete;

  const std::string& text() const { return text_; }
  // For connections from now on.
  void plan(const Harm& to_node, const Harm& to_client) {
    std::lock_guard guard(lock_);
    plan_[0] = to_node;
    plan_[1] = to_client;
  }
  // What the node has said on the newest connection.
  std::string heard() {
    std::lock_guard guard(lock_);
    return heard_;
  }

 private:
  struct Pipe {
    int from, to;
    Harm harm;
    uint64_t passed = 0;
  };

  // One connection at a time: a client has at most one through here.
  void serve() {
    while (!is_ending_) {
      int client = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (client < 0) continue;
      int node = socket(node_.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
      bool is_there =
          connect(node, reinterpret_cast<const sockaddr*>(&node_.storage), node_.length) == 0;
      Pipe pipes[2];
      {
        std::lock_guard guard(lock_);
        pipes[0] = {client, node, plan_[0]};
        pipes[1] = {node, client, plan_[1]};
        heard_.clear();
      }
      while (is_there && !is_ending_ && pass(pipes)) {
      }
      close(client);
      close(node);
    }
  }

  // false: the connection is over.
  bool pass(Pipe (&pipes)[2]) {
    pollfd ready[2] = {{pipes[0].from, POLLIN, 0}, {pipes[1].from, POLLIN, 0}};
    if (poll(ready, 2, 20) < 0) return false;
    for (int i = 0; i < 2; i++) {
      if (ready[i].revents != 0 && !pass(pipes[i], i == 1)) return false;
    }
    return true;
  }

  bool pass(Pipe& pipe, bool is_from_node) {
    std::vector<char> bytes(65536);
    ssize_t got = recv(pipe.from, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got <= 0) return false;
    auto count = static_cast<uint64_t>(got);
    Harm& harm = pipe.harm;
    if (harm.hold_at < pipe.passed + count) {
      for (uint32_t ms = 0; ms < harm.hold_ms && !is_ending_; ms += 10) usleep(10000);
      harm.hold_at = pipe.passed + count;
    }
    bool is_cut = harm.cut_at < pipe.passed + count;
    if (is_cut) count = harm.cut_at - pipe.passed;
    if (harm.flip_at >= pipe.passed && harm.flip_at < pipe.passed + count) {
      bytes[harm.flip_at - pipe.passed] ^= static_cast<char>(1 << harm.flip_at % 8);
    }
    if (is_from_node) {
      std::lock_guard guard(lock_);
      heard_.append(bytes.data(), count);
    }
    pipe.passed += count;
    for (uint64_t sent = 0; sent < count;) {
      ssize_t taken = send(pipe.to, bytes.data() + sent, count - sent, MSG_NOSIGNAL);
      if (taken <= 0) return false;
      sent += static_cast<uint64_t>(taken);
    }
    return !is_cut;
  }

  const NodeAddress node_;
  std::string text_;
  int listener_;
  std::atomic<bool> is_ending_{false};
  std::thread thread_;
  std::mutex lock_;
  Harm plan_[2];       // protected by lock_
  std::string heard_;  // protected by lock_
};

}  // namespace btd::test
