// More is asked for than the arena's place can hold: the rest comes from DRAM, or NULL with ENOMEM;
// never SIGBUS.
//
// Argument: MiB to take in all.
#include "check.hpp"

using compat::check;

int main(int argc, char** argv) {
  size_t total_bytes = (argc > 1 ? strtoul(argv[1], nullptr, 10) : 64) << 20;
  void* first = malloc(40000);
  check(first != nullptr, "the first block");
  memset(first, 1, 40000);
  int status = compat::finish();
  for (int round = 0; round < 2; round++) {
    struct Node {
      Node* next;
      size_t size_bytes;
    };
    Node* list = nullptr;
    size_t taken_bytes = 0;
    for (size_t i = 0; taken_bytes < total_bytes; i++) {
      size_t size_bytes = i % 4 == 0 ? 400000 : (i % 4 == 1 ? 20000 : 500);
      auto* node = static_cast<Node*>(i % 2 == 0 ? malloc(size_bytes) : calloc(1, size_bytes));
      check(node != nullptr, "there is DRAM left");
      if (node == nullptr) break;
      node->next = list;
      node->size_bytes = size_bytes;
      compat::fill(node + 1, size_bytes - sizeof(Node), i);
      list = node;
      taken_bytes += size_bytes;
    }
    size_t seen = 0;
    for (Node* node = list; node != nullptr; node = node->next) seen++;
    while (list != nullptr) {
      Node* next = list->next;
      check(compat::holds(list + 1, list->size_bytes - sizeof(Node), --seen),
            "contents beyond the arena's room");
      free(list);
      list = next;
    }
  }
  free(first);
  return status != 0 || compat::failure_count != 0 ? 1 : 0;
}
