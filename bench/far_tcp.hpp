// The real transport on loopback: bartenderd as a child, its connections, and beside them a raw
// link that only moves bytes.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "core/spill/far_window.hpp"
#include "rdma/client.hpp"
#include "support.hpp"

namespace bench {

// A memory node with its store in a directory of ours, and connections to it: a set for each
// handler, one for the evictor, one for ourselves.  Nothing is left of it.
class TcpNode {
 public:
  // `program`: the path of bartenderd; `directory`: for its store and key.
  TcpNode(const char* program, const char* directory, uint64_t extents, uint32_t handler_count)
      : directory_(directory) {
    path("key");
    FILE* key = std::fopen(path_, "w");
    if (key == nullptr) fail("no key");
    for (int i = 0; i < 32; i++) std::fprintf(key, "%02x", i);
    std::fclose(key);
    chmod(path_, 0600);
    char address[64];
    start(program, extents, address);
    static const uint8_t kArena[16] = {'b', 'e', 'n', 'c', 'h'};
    btd::NodeClientsRequest request;
    request.nodes = address;
    request.key_file = path_;
    request.arena = kArena;
    request.epoch = 1;
    request.set_count = handler_count + 2;
    btd::Line why;
    path("key");
    if (clients_.open(request, why) != btd::Error::kNone) {
      std::fputs(why.c_str(), stderr);
      fail("no connections");
    }
    handler_count_ = handler_count;
    if (ours().connect(10'000) != btd::NodeStatus::kGood) fail("no connection to bartenderd");
  }
  ~TcpNode() {
    clients_.close();
    kill(daemon_, SIGKILL);
    waitpid(daemon_, nullptr, 0);
    for (const char* name : {"key", "store"}) {
      path(name);
      unlink(path_);
    }
  }

  void fill_in(btd::FarRequest& request) {
    request.node_count = 1;
    request.replica_count = 1;
    request.handler_count = handler_count_;
    for (uint32_t i = 0; i < handler_count_; i++) request.handler_nodes[i] = clients_.set(i);
    request.evictor_nodes = clients_.set(handler_count_);
  }
  btd::Node& ours() { return *clients_.set(handler_count_ + 1)[0]; }

 private:
  void path(const char* name) { std::snprintf(path_, sizeof(path_), "%s/%s", directory_, name); }
  void start(const char* program, uint64_t extents, char (&address)[64]) {
    int out[2];
    if (pipe2(out, O_CLOEXEC) != 0) fail("no pipe");
    char store[512];
    char capacity[32];
    std::snprintf(store, sizeof(store), "%s/store", directory_);
    std::snprintf(capacity, sizeof(capacity), "%luM", std::max<uint64_t>(extents / 8, 16));
    daemon_ = fork();
    if (daemon_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(out[1], 1);
      execl(program, program, "--listen", "127.0.0.1:0", "--store", store, "--capacity", capacity,
            "--key-file", path_, "--transport", "tcp", static_cast<char*>(nullptr));
      _exit(127);
    }
    close(out[1]);
    FILE* lines = fdopen(out[0], "r");
    char line[256];
    if (std::fgets(line, sizeof(line), lines) == nullptr ||
        std::sscanf(line, "bartenderd: listening at %63s", address) != 1)
      fail("bartenderd does not start");
    std::fclose(lines);
  }

  const char* directory_;
  char path_[512];
  pid_t daemon_;
  uint32_t handler_count_ = 0;
  btd::NodeClients clients_;
};

// A process that sends as many bytes as it is asked for, whatever they are, and nothing else.
class RawLink {
 public:
  RawLink() {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 ||
        listen(listener, 1) != 0 ||
        getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length) != 0)
      fail("no raw link");
    server_ = fork();
    if (server_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      serve(accept(listener, nullptr, nullptr));
    }
    link_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(link_, reinterpret_cast<sockaddr*>(&address), length) != 0) fail("no raw link");
    at_once(link_);
    close(listener);
  }
  ~RawLink() {
    close(link_);
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
  }
  void ask(uint32_t bytes) {
    if (write(link_, &bytes, sizeof(bytes)) != sizeof(bytes)) fail("the raw link is gone");
  }
  void take(char* to, uint64_t bytes) {
    if (recv(link_, to, bytes, MSG_WAITALL) != static_cast<ssize_t>(bytes))
      fail("the raw link is gone");
  }

 private:
  static void at_once(int link) {
    int yes = 1;
    setsockopt(link, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  }
  [[noreturn]] static void serve(int link) {
    at_once(link);
    auto* bytes = own_table<char>(btd::kFarExtentBytes);
    uint32_t count;
    while (recv(link, &count, sizeof(count), MSG_WAITALL) == sizeof(count)) {
      for (uint32_t sent = 0; sent < count;) {
        ssize_t now = send(link, bytes + sent, count - sent, MSG_NOSIGNAL);
        if (now <= 0) _exit(0);
        sent += static_cast<uint32_t>(now);
      }
    }
    _exit(0);
  }
  pid_t server_;
  int link_;
};

}  // namespace bench
