// Linked statically: no preload can reach it; `bartender run` must say so.
#include <cstdio>

int main() {
  puts("static");
  return 0;
}
