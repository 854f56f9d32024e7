// A scratch directory with a key, and bartenderd in it: the environment's BTD_BARTENDERD.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "rdma/address.hpp"

namespace btd::test {

struct Scratch {
  std::string path;
  Scratch() {
    char name[] = "/dev/shm/bartender-tcp-XXXXXX";
    BOOST_REQUIRE(mkdtemp(name) != nullptr);
    path = name;
    write_key("/key", 0);
  }
  // A key file whose bytes count up from `first`; its path.
  std::string write_key(const char* name, int first) const {
    std::string file = path + name;
    FILE* key = std::fopen(file.c_str(), "w");
    for (int i = 0; i < 32; i++) std::fprintf(key, "%02x", first + i);
    std::fclose(key);
    chmod(file.c_str(), 0600);
    return file;
  }
  ~Scratch() {
    for (const char* name : {"/key", "/seal", "/other", "/store", "/store2"})
      unlink((path + name).c_str());
    rmdir(path.c_str());
  }
};

class Daemon {
 public:
  explicit Daemon(const Scratch& scratch, const char* capacity = "8M",
                  const std::string& listen = "127.0.0.1:0", const char* store_name = "/store",
                  const char* transport = "auto") {
    int out[2];
    BOOST_REQUIRE(pipe2(out, O_CLOEXEC) == 0);
    pid_ = fork();
    if (pid_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      dup2(out[1], 1);
      int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
      dup2(null, 2);
      const char* program = std::getenv("BTD_BARTENDERD");
      std::string store = scratch.path + store_name, key = scratch.path + "/key";
      execl(program, program, "--listen", listen.c_str(), "--store", store.c_str(), "--capacity",
            capacity, "--key-file", key.c_str(), "--transport", transport,
            static_cast<char*>(nullptr));
      _exit(127);
    }
    close(out[1]);
    std::string line;
    char c;
    while (read(out[0], &c, 1) == 1 && c != '\n') line += c;
    out_ = out[0];
    BOOST_REQUIRE_MESSAGE(line.starts_with("bartenderd: listening at "), line);
    line = line.substr(25);
    address_text_ = line.substr(0, line.find(' '));
  }
  ~Daemon() {
    kill_now();
    close(out_);
  }
  void kill_now() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = 0;
  }
  const std::string& address_text() const { return address_text_; }
  pid_t pid() const { return pid_; }
  NodeAddress address() const {
    NodeAddress address;
    BOOST_REQUIRE(parse_address(address_text_.c_str(), address));
    return address;
  }

 private:
  pid_t pid_;
  int out_;
  std::string address_text_;
};

}  // namespace btd::test
