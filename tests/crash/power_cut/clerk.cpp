#include "tests/crash/power_cut/clerk.hpp"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

namespace btd::test {
namespace {

constexpr unsigned kSecondsMax = 60;  // of a program or an exam: more is a hang

}  // namespace

Clerk::Clerk(Exam& exam, Trace& program_trace, Trace& exam_trace, Sites& sites)
    : exam_(exam),
      program_trace_(program_trace),
      exam_trace_(exam_trace),
      sites_(sites),
      order_(map_shared<Order>()) {
  int there[2];
  int back[2];
  if (pipe2(there, O_CLOEXEC) != 0 || pipe2(back, O_CLOEXEC) != 0) std::abort();
  pid_ = fork();
  if (pid_ == 0) {
    close(there[1]);
    close(back[0]);
    serve(there[0], back[1]);
    _exit(0);
  }
  close(there[0]);
  close(back[1]);
  to_ = there[1];
  from_ = back[0];
}

Clerk::~Clerk() {
  close(to_);
  close(from_);
  waitpid(pid_, nullptr, 0);
}

void Clerk::serve(int in, int out) {
  for (char byte; read(in, &byte, 1) == 1;) {
    pid_t child = fork();
    if (child == 0) {
      close(in);
      close(out);
      work();
    }
    int status = 0;
    waitpid(child, &status, 0);
    order_->status = status;
    if (write(out, &byte, 1) != 1) return;
  }
}

void Clerk::work() {
  alarm(kSecondsMax);
  if (order_->is_exam) {
    take_exam(exam_, exam_trace_, sites_);
    _exit(0);
  }
  Program program;
  program.is_strict = order_->is_strict != 0;
  program.calls.assign(order_->calls, order_->calls + order_->call_count);
  run_program(program, order_->path, program_trace_, sites_);
}

std::string Clerk::send(const char* who) {
  char byte = 0;
  if (write(to_, &byte, 1) != 1 || read(from_, &byte, 1) != 1) std::abort();
  int status = order_->status;
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return "";
  return std::string(who) + (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? " hangs"
                             : WIFSIGNALED(status)
                                 ? " dies by signal " + std::to_string(WTERMSIG(status))
                                 : " exits with status " + std::to_string(WEXITSTATUS(status)));
}

std::string Clerk::make_program(const Program& program, const std::string& path) {
  order_->is_exam = 0;
  order_->is_strict = program.is_strict;
  order_->call_count = static_cast<uint32_t>(program.calls.size());
  if (program.calls.size() > kCallsMax || path.size() >= sizeof(order_->path)) std::abort();
  std::copy(program.calls.begin(), program.calls.end(), order_->calls);
  std::strcpy(order_->path, path.c_str());
  unlink(path.c_str());
  close(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  return send("the program");
}

std::string Clerk::examine() {
  order_->is_exam = 1;
  std::string death = send("recovery");
  return death.empty() ? exam_.fault : death;
}

}  // namespace btd::test
