// What did a command cost?  Runs it and prints the wall time, CPU time, page faults and peak memory
// of the command and everything it waited for.
//
//   measure COMMAND [ARGUMENT...]
//
// A program of its own because ru_maxrss also remembers the process that called exec: started from
// Python, every command would seem to need Python's 20 MB.

#include <cerrno>

#include "support.hpp"

int main(int argc, char** argv) {
  if (argc < 2) bench::fail("measure COMMAND [ARGUMENT...]");
  const uint64_t start = bench::now_ns();
  const pid_t child = fork();
  if (child < 0) bench::fail("fork");
  if (child == 0) {
    dup2(STDERR_FILENO, STDOUT_FILENO);  // our own line must stay alone on stdout
    execvp(argv[1], argv + 1);
    _exit(errno == ENOENT ? 127 : 126);
  }
  int status = 0;
  rusage usage;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  const double wall_seconds = 1e-9 * static_cast<double>(bench::now_ns() - start);
  getrusage(RUSAGE_CHILDREN, &usage);
  const double cpu_seconds =
      static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
      1e-6 * static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  std::printf(
      "{\"workload\": \"command\", \"wall_seconds\": %.6g, \"ns_per_operation\": %.9g, "
      "\"cpu_seconds\": %.6g, \"page_faults\": %ld, \"peak_rss_bytes\": %llu}\n",
      wall_seconds, cpu_seconds * 1e9, cpu_seconds, usage.ru_minflt + usage.ru_majflt,
      static_cast<unsigned long long>(usage.ru_maxrss) * 1024);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
