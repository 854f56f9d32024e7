// Commits transactions until somebody stops it, or looks at what is left.
//
// usage: commits URI write | commits URI verify COMMITTED | commits URI once
// Each transaction frees one block, allocates another, fills it, hangs it up and counts.  verify:
// at least COMMITTED are there, the last one whole; collection finds nothing that leaked.
#include <bartender.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

constexpr uint64_t kBlocks = 64;
constexpr uint64_t kWords = 30;

struct Root {
  uint64_t count;
  uint64_t* blocks[kBlocks];
};

bool commit_one(btd_cluster* cluster, Root* root) {
  uint64_t number = root->count + 1;
  uint64_t*& place = root->blocks[number % kBlocks];
  if (btd_tx_begin(cluster) != 0 || btd_tx_add(root, sizeof(*root)) != 0) return false;
  if (place != nullptr && btd_tx_free(place) != 0) return false;
  place = btd_tx_malloc(kWords * sizeof(uint64_t));
  if (place == nullptr) return false;
  for (uint64_t i = 0; i < kWords; i++) place[i] = number * 1000 + i;
  root->count = number;
  return btd_tx_commit() == 0;
}

int verify(btd_cluster* cluster, const Root* root, uint64_t committed) {
  std::printf("found %llu commits, at least %llu are due\n",
              static_cast<unsigned long long>(root->count),
              static_cast<unsigned long long>(committed));
  uint64_t wrong = 0;
  for (uint64_t i = 0; i < kBlocks; i++) {
    uint64_t number = root->count - (root->count - i) % kBlocks;
    if (number == 0 || number > root->count) continue;
    const uint64_t* block = root->blocks[i];
    for (uint64_t word = 0; word < kWords; word++) {
      if (block == nullptr || block[word] != number * 1000 + word) {
        wrong++;
        break;
      }
    }
  }
  btd_gc_result collected{};
  int status = btd_gc(cluster, &collected);
  std::printf("%llu blocks wrong\n", static_cast<unsigned long long>(wrong));
  return root->count >= committed && wrong == 0 && status == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (argc < 3) return 2;
  bool is_verify = std::strcmp(argv[2], "verify") == 0;
  btd_cluster* cluster = btd_cluster_open(argv[1]);
  if (cluster == nullptr || btd_active() == 0) return 3;
  Root* root = btd_root_get(cluster, "commits");
  if (root == nullptr) {
    if (is_verify) return 4;
    root = btd_calloc(cluster, 1, sizeof(Root));
    if (root == nullptr || btd_persist(root, sizeof(*root)) != 0 ||
        btd_root_set(cluster, "commits", root) != 0)
      return 5;
  }
  if (is_verify) return verify(cluster, root, std::strtoull(argv[3], nullptr, 10));
  bool is_once = std::strcmp(argv[2], "once") == 0;
  do {
    if (!commit_one(cluster, root)) return 6;
    if (root->count % 1000 == 0)
      std::printf("committed %llu\n", static_cast<unsigned long long>(root->count));
  } while (!is_once);
  return 0;
}
