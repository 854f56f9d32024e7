// dlopen of a bare name searches the caller's DT_RUNPATH: an interposed dlopen must still be called
// "by" the program.
//
// The program is linked with -rpath '$ORIGIN'; the plugin is beside it.
#include "check.hpp"

int main() {
  void* module = dlopen("compat_plugin.so", RTLD_NOW | RTLD_LOCAL);
  if (module == nullptr) fprintf(stderr, "%s\n", dlerror());
  compat::check(module != nullptr, "a bare name is found by the program's own run path");
  free(malloc(100000));
  void* again = dlopen("compat_plugin.so", RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  compat::check(again != nullptr, "also with RTLD_DEEPBIND");
  module = dlopen("$ORIGIN/compat_plugin.so", RTLD_NOW | RTLD_LOCAL);
  compat::check(module != nullptr, "$ORIGIN is the program's directory");
  return compat::finish();
}
