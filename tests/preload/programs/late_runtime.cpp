// A program without libstdc++ loads a C++ module (as python does): operator new throws there too.
//
// Argument: path of late_plugin.  Nothing here may need libstdc++; the driver checks that it is not
// linked.
#include "check.hpp"

int main(int argc, char** argv) {
  if (argc < 2) return 4;
  free(malloc(100000));
  void* module = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) fprintf(stderr, "%s\n", dlerror());
  compat::check(module != nullptr, "dlopen");
  auto run = reinterpret_cast<int (*)()>(dlsym(module, "late_plugin_run"));
  int step = run();
  if (step != 0) fprintf(stderr, "late_plugin_run stopped at %d\n", step);
  compat::check(step == 0, "operator new of a late C++ runtime");
  return compat::finish();
}
