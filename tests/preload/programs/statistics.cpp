// mallinfo2, mallinfo, malloc_info and malloc_stats tell the truth: some number of each rises by
// what is allocated.
//
// The formats differ between allocators, so each report is read as a row of numbers; the row after
// 64 MiB of allocations is compared with the row before.
#include <malloc.h>

#include <vector>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kBlockBytes = 65536 - 64;  // under glibc's mmap threshold and over ours
constexpr size_t kBlockCount = 1024;
constexpr size_t kTotalBytes = kBlockBytes * kBlockCount;

std::vector<double> numbers_of(const std::vector<char>& text) {
  std::vector<double> numbers;
  for (size_t i = 0; i < text.size();) {
    if (text[i] >= '0' && text[i] <= '9') {
      char* end = nullptr;
      numbers.push_back(strtod(&text[i], &end));
      i = static_cast<size_t>(end - text.data());
    } else {
      i++;
    }
  }
  return numbers;
}

// Reads everything that `print` writes to the descriptor `descriptor`.
template <typename F>
std::vector<double> report(int descriptor, F print) {
  fflush(nullptr);
  int saved = dup(descriptor);
  FILE* file = tmpfile();
  dup2(fileno(file), descriptor);
  print();
  fflush(nullptr);
  dup2(saved, descriptor);
  close(saved);
  auto end = lseek(fileno(file), 0, SEEK_END);
  check(end > 0, "a report is not empty");
  std::vector<char> text(static_cast<size_t>(end) + 1);
  check(pread(fileno(file), text.data(), static_cast<size_t>(end), 0) == end, "reading a report");
  fclose(file);
  if (getenv("COMPAT_SHOW") != nullptr) fprintf(stderr, "%s\n", text.data());
  return numbers_of(text);
}

bool is_about_total(double rise) { return rise >= 0.99 * kTotalBytes && rise <= 1.3 * kTotalBytes; }

// malloc_info may list one more row after than before; so any pair in either order is accepted.
bool has_risen(const std::vector<double>& before, const std::vector<double>& after) {
  for (double high : after) {
    if (high < 0.99 * kTotalBytes) continue;
    for (double low : before) {
      if (is_about_total(high - low)) return true;
    }
  }
  return false;
}

double in_use() {
  struct mallinfo2 info = mallinfo2();
  return static_cast<double>(info.uordblks) + static_cast<double>(info.hblkhd);
}
double in_use_of_old_interface() {
  struct mallinfo info = mallinfo();
  return static_cast<double>(info.uordblks) + static_cast<double>(info.hblkhd);
}
std::vector<double> info_report() {
  return report(1, [] { check(malloc_info(0, stdout) == 0, "malloc_info"); });
}
std::vector<double> stats_report() {
  return report(2, [] { malloc_stats(); });
}

}  // namespace

int main() {
  static void* blocks[kBlockCount];
  free(malloc(50000));
  report(2, [] { malloc_stats(); });  // buffers and caches of the reports exist from here on
  report(1, [] { malloc_info(0, stdout); });
  double info_before = in_use();
  double old_before = in_use_of_old_interface();
  auto xml_before = info_report();
  auto stats_before = stats_report();
  for (void*& block : blocks) {
    block = malloc(kBlockBytes);
    memset(block, 1, kBlockBytes);
  }
  check(is_about_total(in_use() - info_before), "mallinfo2 sees what was allocated");
  check(is_about_total(in_use_of_old_interface() - old_before), "mallinfo sees what was allocated");
  check(has_risen(xml_before, info_report()), "malloc_info sees what was allocated");
  check(has_risen(stats_before, stats_report()), "malloc_stats sees what was allocated");
  for (void* block : blocks) free(block);
  double rest = in_use() - info_before;
  if (rest > 0.02 * kTotalBytes) fprintf(stderr, "mallinfo2 still counts %.0f bytes\n", rest);
  check(rest <= 0.02 * kTotalBytes, "mallinfo2 sees what was freed");
  errno = 0;
  check(malloc_info(1, stdout) == EINVAL, "malloc_info refuses options");
  return compat::finish();
}
