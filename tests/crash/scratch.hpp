// A directory of a test's own under /dev/shm, gone when the test is, however it ends.
//
// A small process of its own session waits on a pipe whose other end only the test holds: the
// kernel closes it when the test returns, crashes or is killed, and then the directory is removed.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>

namespace btd::test {

class Scratch {
 public:
  // Children that are forked without exec must call leave(), or they keep the directory alive.
  Scratch() {
    char name[] = "/dev/shm/bartender-test-XXXXXX";
    int ends[2];
    if (mkdtemp(name) == nullptr || pipe2(ends, O_CLOEXEC) != 0) {
      std::perror("scratch directory");
      std::exit(2);
    }
    path_ = name;
    keeper_ = fork();
    if (keeper_ == 0) {
      setsid();
      std::signal(SIGHUP, SIG_IGN);
      close(ends[1]);
      char byte;
      while (read(ends[0], &byte, 1) > 0) continue;
      std::error_code ignored;
      std::filesystem::remove_all(path_, ignored);
      _exit(0);
    }
    close(ends[0]);
    alive_ = ends[1];
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    close(alive_);
    waitpid(keeper_, nullptr, 0);
  }

  void leave() const { close(alive_); }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
  pid_t keeper_ = -1;
  int alive_ = -1;
};

}  // namespace btd::test
