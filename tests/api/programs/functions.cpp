// Every function of bartender.h, good and bad, each case in a process of its own: `functions CASE`.
// Without a case the names are listed.  The environment names the arena; other arenas are made in
// the directory BTD_TEST_DIRECTORY.
#include <bartender.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

int failures = 0;

void check(bool is_good, const char* what, int line) {
  if (is_good) return;
  std::printf("line %d: %s (errno %s)\n", line, what, strerrorname_np(errno));
  failures++;
}
#define CHECK(condition) check(condition, #condition, __LINE__)
// The call fails, and says so by this errno.
#define FAILS(call, number)                                  \
  (errno = 0, check((call) == -1, #call " is -1", __LINE__), \
   check(errno == (number), #call ": " #number, __LINE__))
#define IS_NULL(call, number)                                       \
  (errno = 0, check((call) == nullptr, #call " is NULL", __LINE__), \
   check(errno == (number), #call ": " #number, __LINE__))

btd_cluster* cluster() {
  static btd_cluster* made = btd_cluster_create(nullptr);
  return made;
}

std::string path(const char* name) {
  return std::string(getenv("BTD_TEST_DIRECTORY")) + "/" + name;
}
std::string uri(const char* name, const char* options = "?size=64M") {
  return path(name) + options;
}

struct Node {
  Node* next;
  long value;
};

Node* new_node() {
  auto* node = static_cast<Node*>(btd_calloc(cluster(), 1, sizeof(Node)));
  CHECK(node != nullptr);
  return node;
}

bool is_live(void* block) { return btd_usable_size(block) != 0; }

void* word_of(const char* text) { return const_cast<char*>(text); }

// --- Clusters

void create() {
  CHECK(btd_active() == 1);
  btd_config settings{};
  settings.single_node = 1;
  CHECK(btd_cluster_create(&settings) == cluster());
  CHECK(cluster() != nullptr);
  CHECK(btd_active() == 1);
  char* base = btd_cluster_base(cluster());
  CHECK(btd_cluster_of(base) == cluster());
  int here = 0;
  CHECK(btd_cluster_of(&here) == nullptr);
  FAILS(btd_cluster_close(cluster()), EINVAL);
  FAILS(btd_cluster_close(nullptr), EINVAL);
}

void open_close() {
  btd_cluster* one = btd_cluster_open(uri("one.arena").c_str());
  btd_cluster* two = btd_cluster_open(uri("two.arena", "").c_str());
  CHECK(one != nullptr && two != nullptr && one != two && one != cluster());
  auto* block = static_cast<char*>(btd_malloc(one, 100));
  CHECK(btd_cluster_of(block) == one && btd_usable_size(block) >= 100);
  auto* other = static_cast<char*>(btd_malloc(two, 100000));
  CHECK(btd_cluster_of(other) == two);
  CHECK(btd_memcpy(block, "hello", 6) == block);
  CHECK(btd_root_set(one, "hello", block) == 0);
  FAILS(btd_root_set(two, "hello", block), EINVAL);
  CHECK(btd_tx_begin(one) == 0);
  FAILS(btd_cluster_close(one), EBUSY);
  FAILS(btd_tx_begin(two), EINVAL);
  IS_NULL(btd_memcpy(other, "x", 1), EINVAL);
  CHECK(btd_tx_commit() == 0);
  CHECK(btd_cluster_close(one) == 0);
  FAILS(btd_cluster_close(one), EINVAL);
  IS_NULL(btd_malloc(one, 1), EINVAL);
  FAILS(btd_tx_begin(one), EINVAL);
  one = btd_cluster_open(uri("one.arena", "?create=0").c_str());
  CHECK(one != nullptr);
  char* found = btd_root_get(one, "hello");
  CHECK(found == block && std::strcmp(found, "hello") == 0);
  CHECK(btd_recovered(found) == 1);
  btd_free(found);
  CHECK(btd_usable_size(found) == 0);
  btd_free(other);
  CHECK(btd_cluster_close(two) == 0 && btd_cluster_close(one) == 0);
  one = btd_cluster_open(uri("gone.arena", "?size=64M&on_exit=discard").c_str());
  CHECK(btd_malloc(one, 50000) != nullptr);
  CHECK(btd_cluster_close(one) == 0);
  CHECK(access(path("gone.arena").c_str(), F_OK) != 0);
}

void bad_uris() {
  IS_NULL(btd_cluster_open(nullptr), EINVAL);
  IS_NULL(btd_cluster_open(""), EINVAL);
  IS_NULL(btd_cluster_open("?size=1G"), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?size").c_str()), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?size=12Q").c_str()), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?sizes=1G").c_str()), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?create=2").c_str()), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?durability=most").c_str()), EINVAL);
  IS_NULL(btd_cluster_open(uri("a", "?create=0").c_str()), ENOENT);
  IS_NULL(btd_cluster_open(uri("no/such/directory").c_str()), ENOENT);
  IS_NULL(btd_cluster_open(path(std::string(600, 'x').c_str()).c_str()), ENAMETOOLONG);
  IS_NULL(btd_cluster_open(path("").c_str()), ENOTSUP);
}

void foreign_file() {
  int file = open(path("foreign").c_str(), O_CREAT | O_RDWR, 0600);
  std::vector<char> text(100000, 'x');
  CHECK(write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  IS_NULL(btd_cluster_open(path("foreign").c_str()), EMEDIUMTYPE);
  std::vector<char> now(text.size());
  CHECK(pread(file, now.data(), now.size(), 0) == static_cast<ssize_t>(now.size()) && now == text);
}

void truncated_arena() {
  btd_cluster* one = btd_cluster_open(uri("cut.arena").c_str());
  CHECK(one != nullptr && btd_malloc(one, 100) != nullptr && btd_cluster_close(one) == 0);
  CHECK(truncate(path("cut.arena").c_str(), 1 << 20) == 0);
  IS_NULL(btd_cluster_open(path("cut.arena").c_str()), EUCLEAN);
}

void newer_format() {
  btd_cluster* one = btd_cluster_open(uri("new.arena").c_str());
  CHECK(one != nullptr && btd_cluster_close(one) == 0);
  int file = open(path("new.arena").c_str(), O_RDWR);
  for (off_t copy : {0, 4096}) {
    uint32_t version = 99;
    CHECK(pwrite(file, &version, sizeof(version), copy + 8) == sizeof(version));
  }
  // The checksum is wrong too, so the arena is newer or damaged; never opened.
  errno = 0;
  CHECK(btd_cluster_open(path("new.arena").c_str()) == nullptr);
  CHECK(errno == EPROTONOSUPPORT || errno == EUCLEAN || errno == EMEDIUMTYPE);
}

void one_file_twice() {
  btd_cluster* one = btd_cluster_open(uri("busy.arena").c_str());
  CHECK(one != nullptr);
  IS_NULL(btd_cluster_open(uri("busy.arena").c_str()), EBUSY);
  // Another process, which is no child of ours by fork alone.
  std::string command = "exec '" + std::string(getenv("BTD_TEST_PROGRAM")) + "' expect_busy";
  CHECK(std::system(command.c_str()) == 0);
  CHECK(btd_cluster_close(one) == 0);
}
void expect_busy() { IS_NULL(btd_cluster_open(path("busy.arena").c_str()), EBUSY); }

void too_many_clusters() {
  std::vector<btd_cluster*> all;
  for (int i = 0; i < BTD_CLUSTERS_MAX; i++) {
    all.push_back(btd_cluster_open(uri(std::to_string(i).c_str()).c_str()));
    CHECK(all.back() != nullptr);
    CHECK(btd_cluster_of(btd_malloc(all.back(), 10)) == all.back());
  }
  IS_NULL(btd_cluster_open(uri("more").c_str()), EMFILE);
  for (btd_cluster* one : all) CHECK(btd_cluster_close(one) == 0);
}

// --- Blocks

void blocks() {
  for (size_t size : {0, 1, 8, 16, 100, 4000, 32768, 32769, 1000000}) {
    auto* block = static_cast<char*>(btd_malloc(cluster(), size));
    CHECK(block != nullptr && btd_cluster_of(block) == cluster());
    CHECK(btd_usable_size(block) >= size && btd_recovered(block) == 0);
    std::memset(block, 1, size);
    char* bigger = btd_realloc(cluster(), block, size * 3 + 50);
    CHECK(bigger != nullptr && (size == 0 || (bigger[0] == 1 && bigger[size - 1] == 1)));
    btd_free(bigger);
    CHECK(!is_live(bigger));
    auto* zero = static_cast<char*>(btd_calloc(cluster(), size, 3));
    for (size_t i = 0; i < size * 3; i++) {
      if (zero[i] != 0) CHECK(!"calloc gives zeros");
    }
    btd_free(zero);
  }
  for (size_t alignment = 1; alignment <= 1 << 20; alignment *= 2) {
    void* block = btd_aligned(cluster(), alignment, 100);
    CHECK(block != nullptr && reinterpret_cast<uintptr_t>(block) % alignment == 0);
    btd_free(block);
  }
  IS_NULL(btd_aligned(cluster(), 0, 1), EINVAL);
  IS_NULL(btd_aligned(cluster(), 24, 1), EINVAL);
  IS_NULL(btd_malloc(cluster(), SIZE_MAX), ENOMEM);
  IS_NULL(btd_malloc(cluster(), PTRDIFF_MAX), ENOMEM);
  IS_NULL(btd_calloc(cluster(), SIZE_MAX / 2, 3), ENOMEM);
  int here = 0;
  IS_NULL(btd_realloc(cluster(), &here, 10), EINVAL);
  IS_NULL(btd_malloc(reinterpret_cast<btd_cluster*>(&here), 10), EINVAL);
  CHECK(btd_realloc(cluster(), btd_malloc(cluster(), 10), 0) == nullptr);
  char* made = btd_realloc(cluster(), nullptr, 10);
  CHECK(btd_cluster_of(made) == cluster());
  CHECK(btd_usable_size(nullptr) == 0);
  // No cluster: malloc().
  void* plain = btd_malloc(nullptr, 10);
  CHECK(plain != nullptr && btd_cluster_of(plain) == nullptr && btd_usable_size(plain) >= 10);
  btd_free(plain);
  errno = 77;
  btd_free(nullptr);
  btd_free(std::malloc(10));
  CHECK(errno == 77);
}

// What the compiler and the allocator both like: odd sizes and alignments, all of them compared.
void bytes() {
  std::vector<char> pattern(3 << 20);
  for (size_t i = 0; i < pattern.size(); i++) pattern[i] = static_cast<char>(i * 7 + i / 251);
  auto* block = static_cast<char*>(btd_calloc(cluster(), 1, pattern.size() + 64));
  for (size_t size : {1ul, 2ul, 3ul, 4ul, 7ul, 8ul, 9ul, 16ul, 63ul, 64ul, 100ul, 4096ul, 65536ul,
                      65537ul, 1000000ul, 3ul << 20}) {
    for (size_t at : {0, 1, 4, 8, 13}) {
      std::memset(block, 0, size + 64);
      CHECK(btd_memcpy(block + at, pattern.data(), size) == block + at);
      CHECK(std::memcmp(block + at, pattern.data(), size) == 0);
      CHECK(block[at + size] == 0 && (at == 0 || block[at - 1] == 0));
      CHECK(btd_memset(block + at, 5, size) == block + at);
      CHECK(block[at] == 5 && block[at + size - 1] == 5 && block[at + size] == 0);
    }
  }
  CHECK(btd_memcpy(block, pattern.data(), 0) == block);
  char here[8] = {};
  CHECK(btd_memcpy(here, "1234567", 8) == here && std::strcmp(here, "1234567") == 0);
  char* base = btd_cluster_base(cluster());
  struct btd_statistics now;
  CHECK(btd_statistics(cluster(), &now) == 0);
  IS_NULL(btd_memcpy(base + now.capacity_bytes - 8, pattern.data(), 16), EINVAL);
  IS_NULL(btd_memset(base + now.capacity_bytes / 2, 1, 16), EINVAL);  // not grown
  CHECK(btd_persist(block, 100) == 0 && btd_flush(block, 100) == 0);
  btd_drain();
  FAILS(btd_persist(here, 8), EINVAL);
  FAILS(btd_flush(here, 8), EINVAL);
  // In a transaction.
  std::memset(block, 1, 100);
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_memcpy(block, "second", 7) == block && std::strcmp(block, "second") == 0);
  CHECK(btd_memset(block + 50, 9, 10) == block + 50 && block[59] == 9);
  CHECK(btd_tx_abort() == 0);
  CHECK(block[0] == 1 && block[6] == 1 && block[50] == 1 && block[59] == 1);
}

// --- Roots

void roots() {
  Node* node = new_node();
  CHECK(btd_root_set(cluster(), "a", node) == 0);
  CHECK(btd_root_get(cluster(), "a") == node);
  CHECK(btd_root_set(cluster(), "a", &node->value) == 0);
  CHECK(btd_root_get(cluster(), "a") == &node->value);
  std::string longest(BTD_ROOT_NAME_MAX, 'n');
  std::string too_long(BTD_ROOT_NAME_MAX + 1, 'n');
  CHECK(btd_root_set(cluster(), longest.c_str(), node) == 0);
  CHECK(btd_root_get(cluster(), longest.c_str()) == node);
  FAILS(btd_root_set(cluster(), too_long.c_str(), node), ENAMETOOLONG);
  IS_NULL(btd_root_get(cluster(), too_long.c_str()), ENAMETOOLONG);
  FAILS(btd_root_remove(cluster(), too_long.c_str()), ENAMETOOLONG);
  FAILS(btd_root_set(cluster(), "", node), EINVAL);
  FAILS(btd_root_set(cluster(), nullptr, node), EINVAL);
  int here = 0;
  FAILS(btd_root_set(cluster(), "here", &here), EINVAL);
  IS_NULL(btd_root_get(cluster(), "here"), ENOENT);
  FAILS(btd_root_remove(cluster(), "here"), ENOENT);
  FAILS(btd_root_set(nullptr, "a", node), EINVAL);
  IS_NULL(btd_root_get(nullptr, "a"), EINVAL);
  unsigned position = 0;
  const char* name = nullptr;
  void* value = nullptr;
  FAILS(btd_root_next(nullptr, &position, &name, &value), EINVAL);
  int found = 0;
  while (btd_root_next(cluster(), &position, &name, &value) == 1) found++;
  CHECK(found == 2);
  CHECK(btd_root_remove(cluster(), "a") == 0);
  IS_NULL(btd_root_get(cluster(), "a"), ENOENT);
  FAILS(btd_root_remove(cluster(), "a"), ENOENT);
  CHECK(btd_root_set(cluster(), "nothing", nullptr) == 0);
}

// All 2,048, twice: removed ones make room.
void many_roots() {
  Node* node = new_node();
  for (int round = 0; round < 2; round++) {
    for (int i = 0; i < BTD_ROOTS_MAX; i++) {
      std::string name = "root " + std::to_string(round) + " " + std::to_string(i);
      CHECK(btd_root_set(cluster(), name.c_str(), node) == 0);
    }
    FAILS(btd_root_set(cluster(), "one more", node), ENOSPC);
    CHECK(btd_tx_begin(cluster()) == 0);
    FAILS(btd_root_set(cluster(), "one more", node), ENOSPC);
    CHECK(btd_tx_commit() == 0);
    unsigned position = 0;
    const char* name;
    void* value;
    int found = 0;
    while (btd_root_next(cluster(), &position, &name, &value) == 1) found += value == node;
    CHECK(found == BTD_ROOTS_MAX);
    struct btd_statistics now;
    CHECK(btd_statistics(cluster(), &now) == 0 && now.roots == BTD_ROOTS_MAX);
    for (int i = 0; i < BTD_ROOTS_MAX; i++) {
      std::string name = "root " + std::to_string(round) + " " + std::to_string(i);
      CHECK(btd_root_get(cluster(), name.c_str()) == node);
      CHECK(btd_root_remove(cluster(), name.c_str()) == 0);
    }
  }
}

BTD_PERSISTENT(long, visits)

void persistent() {
  CHECK(visits() != nullptr && *visits() == 0);
  (*visits())++;
  CHECK(btd_root_get(cluster(), "visits") == visits() && *visits() == 1);
  IS_NULL(btd_persistent(cluster(), "visits", 4096), EINVAL);
  IS_NULL(btd_persistent(cluster(), "", 8), EINVAL);
  IS_NULL(btd_persistent(cluster(), std::string(64, 'x').c_str(), 8), ENAMETOOLONG);
  std::vector<std::thread> threads;
  void* found[8] = {};
  for (void*& one : found)
    threads.emplace_back([&one] { one = btd_persistent(cluster(), "race", 64); });
  for (std::thread& thread : threads) thread.join();
  for (void* one : found) CHECK(one == found[0] && one != nullptr);
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_persistent(cluster(), "undone", 64) != nullptr);
  CHECK(btd_tx_abort() == 0);
  IS_NULL(btd_root_get(cluster(), "undone"), ENOENT);
}

// --- Allocate and publish

void publish() {
  Node* head = new_node();
  auto** where = reinterpret_cast<void**>(&head->next);
  Node* first = btd_malloc_to(cluster(), where, sizeof(Node));
  CHECK(first != nullptr && head->next == first && is_live(first));
  CHECK(btd_free_from(where) == 0 && head->next == nullptr && !is_live(first));
  CHECK(btd_free_from(where) == 0);
  void* outside = nullptr;
  IS_NULL(btd_malloc_to(cluster(), &outside, 10), EINVAL);
  FAILS(btd_free_from(&outside), EINVAL);
  IS_NULL(btd_malloc_to(cluster(), where, SIZE_MAX), ENOMEM);
  CHECK(head->next == nullptr);
  head->next = reinterpret_cast<Node*>(&head->value);  // no block starts there
  FAILS(btd_free_from(where), EINVAL);
  CHECK(head->next == reinterpret_cast<Node*>(&head->value));
  head->next = nullptr;
  // In a transaction they are part of it.
  CHECK(btd_tx_begin(cluster()) == 0);
  first = btd_malloc_to(cluster(), where, sizeof(Node));
  CHECK(first != nullptr && head->next == first && !is_live(first));
  CHECK(btd_tx_abort() == 0);
  CHECK(head->next == nullptr && !is_live(first));
  first = btd_malloc_to(cluster(), where, sizeof(Node));
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_free_from(where) == 0 && head->next == nullptr && is_live(first));
  CHECK(btd_tx_abort() == 0);
  CHECK(head->next == first && is_live(first));
}

void reserve() {
  Node* head = new_node();
  auto link = [](Node*& where) { return reinterpret_cast<void**>(&where); };
  Node* one = btd_reserve(cluster(), sizeof(Node));
  CHECK(one != nullptr && !is_live(one));
  one->next = nullptr;
  one->value = 41;
  void** last = reinterpret_cast<void**>(&head->value);
  CHECK(btd_activate(one, link(head->next), one, last, one) == 0);
  CHECK(is_live(one) && head->next == one && *last == one && one->value == 41);
  FAILS(btd_activate(one, nullptr, nullptr, nullptr, nullptr), EINVAL);
  FAILS(btd_cancel(one), EINVAL);
  FAILS(btd_cancel(&one), EINVAL);
  CHECK(btd_cancel(nullptr) == 0);
  Node* two = btd_reserve(cluster(), 100000);
  void* outside = nullptr;
  FAILS(btd_activate(two, &outside, two, nullptr, nullptr), EINVAL);
  CHECK(outside == nullptr);
  CHECK(btd_activate(two, link(two->next), one, nullptr, nullptr) == 0);  // a link in itself
  CHECK(is_live(two) && two->next == one);
  Node* three = btd_reserve(cluster(), 64);
  CHECK(btd_cancel(three) == 0);
  FAILS(btd_activate(three, nullptr, nullptr, nullptr, nullptr), EINVAL);
  IS_NULL(btd_reserve(cluster(), SIZE_MAX), ENOMEM);
  Node* four = btd_reserve(cluster(), 64);
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_activate(four, link(head->next), four, nullptr, nullptr) == 0 && head->next == four);
  CHECK(btd_tx_abort() == 0);
  CHECK(head->next == one && !is_live(four));
  FAILS(btd_activate(four, nullptr, nullptr, nullptr, nullptr), EINVAL);
  // Many at a time, ended in another order.
  std::vector<void*> many;
  for (int i = 0; i < 5000; i++) many.push_back(btd_reserve(cluster(), 48));
  for (int i = 0; i < 5000; i++) {
    void* block = many[static_cast<size_t>(i * 7919 % 5000)];
    CHECK((i % 2 == 0 ? btd_cancel(block)
                      : btd_activate(block, nullptr, nullptr, nullptr, nullptr)) == 0);
  }
}

// --- Transactions

void transactions() {
  Node* node = new_node();
  CHECK(btd_tx_depth() == 0);
  CHECK(btd_tx_begin(cluster()) == 0 && btd_tx_depth() == 1);
  CHECK(btd_tx_add(node, sizeof(*node)) == 0);
  node->value = 5;
  Node* made = btd_tx_malloc(sizeof(Node));
  auto* zero = static_cast<char*>(btd_tx_calloc(100, 100));
  for (int i = 0; i < 10000; i++) {
    if (zero[i] != 0) CHECK(!"zeros");
  }
  made->value = 6;
  CHECK(btd_tx_set(reinterpret_cast<void**>(&node->next), made) == 0 && node->next == made);
  CHECK(!is_live(made));
  CHECK(btd_root_set(cluster(), "node", node) == 0);
  CHECK(btd_root_get(cluster(), "node") == node);
  std::thread([] { IS_NULL(btd_root_get(cluster(), "node"), ENOENT); }).join();
  CHECK(btd_tx_commit() == 0 && btd_tx_depth() == 0);
  CHECK(is_live(made) && node->next == made && node->value == 5 && made->value == 6);
  CHECK(btd_root_get(cluster(), "node") == node);

  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_tx_add(&node->value, sizeof(node->value)) == 0);
  node->value = 7;
  CHECK(btd_tx_free(made) == 0 && is_live(made));
  FAILS(btd_tx_free(made), EINVAL);
  CHECK(btd_tx_set(reinterpret_cast<void**>(&node->next), nullptr) == 0);
  Node* lost = btd_tx_malloc(sizeof(Node));
  CHECK(btd_root_remove(cluster(), "node") == 0);
  IS_NULL(btd_root_get(cluster(), "node"), ENOENT);
  CHECK(btd_tx_abort() == 0);
  CHECK(node->value == 5 && node->next == made && is_live(made) && !is_live(lost));
  CHECK(btd_root_get(cluster(), "node") == node);

  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_tx_free(made) == 0 && btd_tx_free(nullptr) == 0);
  CHECK(btd_tx_commit() == 0 && !is_live(made));
  // A block of the transaction itself.
  CHECK(btd_tx_begin(cluster()) == 0);
  made = btd_tx_malloc(1000);
  CHECK(btd_tx_free(made) == 0);
  CHECK(btd_tx_commit() == 0 && !is_live(made));
}

void misuse() {
  Node* node = new_node();
  FAILS(btd_tx_commit(), EINVAL);
  FAILS(btd_tx_abort(), EINVAL);
  FAILS(btd_tx_add(node, 8), EINVAL);
  FAILS(btd_tx_free(node), EINVAL);
  FAILS(btd_tx_set(reinterpret_cast<void**>(&node->next), node), EINVAL);
  IS_NULL(btd_tx_malloc(8), EINVAL);
  IS_NULL(btd_tx_calloc(8, 8), EINVAL);
  FAILS(btd_tx_begin(nullptr), EINVAL);
  CHECK(btd_tx_begin(cluster()) == 0);
  int here = 0;
  FAILS(btd_tx_add(&here, sizeof(here)), EINVAL);
  FAILS(btd_tx_add(node, size_t{1} << 50), EINVAL);
  FAILS(btd_tx_add(static_cast<char*>(static_cast<void*>(btd_cluster_base(cluster()))) - 8, 16),
        EINVAL);
  FAILS(btd_tx_set(reinterpret_cast<void**>(&here), nullptr), EINVAL);
  FAILS(btd_tx_free(&here), EINVAL);
  FAILS(btd_tx_free(&node->value), EINVAL);
  IS_NULL(btd_tx_malloc(SIZE_MAX), ENOMEM);
  IS_NULL(btd_tx_calloc(SIZE_MAX, 2), ENOMEM);
  FAILS(btd_gc(cluster(), nullptr), EBUSY);
  CHECK(btd_tx_add(node, sizeof(*node)) == 0);
  node->value = 1;
  CHECK(btd_tx_commit() == 0 && node->value == 1);
}

// A block of another thread's open transaction: one that it allocated, and one that it frees.
void blocks_of_others() {
  Node* shared = new_node();
  Node* theirs = nullptr;
  int stage = 0;
  auto wait_for = [&stage](int wanted) {
    while (__atomic_load_n(&stage, __ATOMIC_ACQUIRE) != wanted) usleep(100);
  };
  std::thread other([&] {
    CHECK(btd_tx_begin(cluster()) == 0);
    theirs = btd_tx_malloc(sizeof(Node));
    CHECK(btd_tx_free(shared) == 0);
    __atomic_store_n(&stage, 1, __ATOMIC_RELEASE);
    wait_for(2);
    CHECK(btd_tx_abort() == 0);
  });
  wait_for(1);
  CHECK(btd_tx_begin(cluster()) == 0);
  FAILS(btd_tx_free(theirs), EINVAL);
  FAILS(btd_tx_free(shared), EBUSY);
  __atomic_store_n(&stage, 2, __ATOMIC_RELEASE);
  other.join();
  CHECK(btd_tx_free(shared) == 0);
  CHECK(btd_tx_commit() == 0 && !is_live(shared));
}

void nested() {
  Node* node = new_node();
  CHECK(btd_tx_begin(cluster()) == 0 && btd_tx_begin(cluster()) == 0 && btd_tx_depth() == 2);
  CHECK(btd_tx_add(node, sizeof(*node)) == 0);
  node->value = 1;
  CHECK(btd_tx_commit() == 0 && btd_tx_depth() == 1);
  CHECK(btd_tx_abort() == 0 && btd_tx_depth() == 0 && node->value == 0);

  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_tx_add(node, sizeof(*node)) == 0);
  node->value = 2;
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_tx_abort() == 0);  // the inner one undoes all
  CHECK(node->value == 0 && btd_tx_depth() == 1);
  FAILS(btd_tx_add(node, sizeof(*node)), ECANCELED);
  FAILS(btd_tx_begin(cluster()), ECANCELED);
  FAILS(btd_tx_free(node), ECANCELED);
  FAILS(btd_root_set(cluster(), "x", node), ECANCELED);
  IS_NULL(btd_tx_malloc(8), ECANCELED);
  IS_NULL(btd_malloc_to(cluster(), reinterpret_cast<void**>(&node->next), 8), ECANCELED);
  IS_NULL(btd_memcpy(node, "x", 1), ECANCELED);
  FAILS(btd_tx_commit(), ECANCELED);
  CHECK(btd_tx_depth() == 0);
  CHECK(btd_tx_begin(cluster()) == 0 && btd_tx_commit() == 0);
}

void thread_ends_inside() {
  Node* node = new_node();
  std::thread([&] {
    CHECK(btd_tx_begin(cluster()) == 0);
    CHECK(btd_tx_add(node, sizeof(*node)) == 0);
    node->value = 9;
    CHECK(btd_tx_free(node) == 0);
  }).join();
  CHECK(node->value == 0 && is_live(node));
  // More often than there are lanes: each was given back.
  for (int i = 0; i < 200; i++) {
    std::thread([&] {
      CHECK(btd_tx_begin(cluster()) == 0);
      CHECK(btd_tx_malloc(100) != nullptr);
    }).join();
  }
  CHECK(btd_tx_begin(cluster()) == 0 && btd_tx_free(node) == 0 && btd_tx_commit() == 0);
}

// The log runs into extents; all of it is undone.
void large_transaction() {
  constexpr size_t kCount = 1 << 20;
  auto* array = static_cast<uint64_t*>(btd_calloc(cluster(), kCount, 8));
  CHECK(btd_tx_begin(cluster()) == 0);
  for (size_t i = 0; i < kCount; i += 1024) {
    CHECK(btd_tx_add(array + i, 8192) == 0);
    for (size_t k = 0; k < 1024; k++) array[i + k] = i + k + 1;
  }
  CHECK(btd_tx_abort() == 0);
  size_t wrong = 0;
  for (size_t i = 0; i < kCount; i++) wrong += array[i] != 0;
  CHECK(wrong == 0);
  CHECK(btd_tx_begin(cluster()) == 0);
  std::vector<void*> made;
  for (int i = 0; i < 5000; i++) made.push_back(btd_tx_malloc(32));
  CHECK(btd_tx_commit() == 0);
  for (void* block : made) CHECK(is_live(block));
}

// In an arena of 16 MiB: no block, no log; the abort puts everything back.
void full_arena() {
  btd_cluster* small = btd_cluster_open(uri("full.arena", "?size=16M").c_str());
  CHECK(small != nullptr);
  auto* data = static_cast<char*>(btd_malloc(small, 4 << 20));
  std::memset(data, 1, 4 << 20);
  CHECK(btd_root_set(small, "data", data) == 0);
  CHECK(btd_tx_begin(small) == 0);
  CHECK(btd_tx_add(data, 1 << 20) == 0);
  std::memset(data, 2, 1 << 20);
  std::vector<void*> made;
  errno = 0;
  while (void* block = btd_tx_malloc(100000)) made.push_back(block);
  CHECK(errno == ENOMEM && made.size() > 50);
  while (void* block = btd_tx_malloc(8000)) made.push_back(block);
  FAILS(btd_tx_add(data + (2 << 20), 2 << 20), ENOSPC);
  CHECK(btd_tx_abort() == 0);
  for (int i = 0; i < 4 << 20; i++) {
    if (data[i] != 1) {
      CHECK(!"all is as it was");
      break;
    }
  }
  CHECK(btd_root_get(small, "data") == data);
  // Nothing was lost: as much fits as before.
  size_t again = 0;
  CHECK(btd_tx_begin(small) == 0);
  while (void* block = btd_tx_malloc(100000)) {
    (void)block;
    again++;
  }
  CHECK(btd_tx_abort() == 0);
  CHECK(again + 12 >= made.size() || again > 90);
  // Outside of transactions.
  std::vector<void*> filled;
  while (void* block = btd_malloc(small, 30000)) filled.push_back(block);
  CHECK(errno == ENOMEM);
  while (void* block = btd_malloc(small, 16)) filled.push_back(block);
  IS_NULL(btd_malloc_to(small, reinterpret_cast<void**>(data), 30000), ENOMEM);
  IS_NULL(btd_reserve(small, 30000), ENOMEM);
  IS_NULL(btd_memset(data, 3, 4 << 20), ENOSPC);
  CHECK(data[0] == 1 && data[(4 << 20) - 1] == 1);
  for (void* block : filled) btd_free(block);
  CHECK(btd_memset(data, 3, 4 << 20) == data);
  CHECK(btd_cluster_close(small) == 0);
}

// --- Process

void many_threads() {
  btd_cluster* other = btd_cluster_open(uri("threads.arena").c_str());
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; t++) {
    threads.emplace_back([other, t] {
      std::vector<void*> kept;
      for (int i = 0; i < 3000; i++) {
        btd_cluster* where = (i + t) % 2 == 0 ? cluster() : other;
        void* block = btd_malloc(where, static_cast<size_t>(16 + i % 500));
        if (block == nullptr || btd_cluster_of(block) != where) CHECK(!"a block");
        kept.push_back(block);
        if (i % 3 == 0) {
          btd_free(kept[static_cast<size_t>(i) / 2]);
          kept[static_cast<size_t>(i) / 2] = nullptr;
        }
        if (i % 10 == 0) {
          if (btd_tx_begin(where) != 0) CHECK(!"begin");
          if (btd_tx_malloc(64) == nullptr) CHECK(!"tx_malloc");
          if ((i % 20 == 0 ? btd_tx_commit() : btd_tx_abort()) != 0) CHECK(!"end");
        }
      }
      for (void* block : kept) btd_free(block);
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(btd_cluster_close(other) == 0);
}

void forked_child() {
  btd_cluster* other = btd_cluster_open(uri("fork.arena").c_str());
  auto* here = static_cast<char*>(btd_malloc(cluster(), 100));
  auto* there = static_cast<char*>(btd_malloc(other, 100));
  std::strcpy(here, "parent");
  std::strcpy(there, "parent");
  CHECK(btd_tx_begin(other) == 0);
  pid_t child = fork();
  if (child == 0) {
    failures = 0;
    CHECK(btd_active() == 0 && btd_tx_depth() == 0);
    CHECK(std::strcmp(here, "parent") == 0 && std::strcmp(there, "parent") == 0);
    std::strcpy(here, "child");
    std::strcpy(there, "child");
    for (btd_cluster* one : {cluster(), other}) {
      FAILS(btd_tx_begin(one), ENOTSUP);
      FAILS(btd_root_set(one, "a", nullptr), ENOTSUP);
      IS_NULL(btd_root_get(one, "a"), ENOTSUP);
      FAILS(btd_cluster_close(one), one == other ? ENOTSUP : ENOTSUP);
      void* plain = btd_malloc(one, 100);
      CHECK(plain != nullptr && btd_cluster_of(plain) == nullptr);
      btd_free(plain);
    }
    FAILS(btd_free_from(reinterpret_cast<void**>(there)), ENOTSUP);
    CHECK(btd_memcpy(there, "x", 2) == there);
    btd_free(here);
    btd_free(there);
    btd_cluster* own = btd_cluster_open(uri("own.arena").c_str());
    CHECK(own != nullptr && btd_malloc(own, 10) != nullptr && btd_cluster_close(own) == 0);
    std::fflush(stdout);
    _exit(failures == 0 ? 0 : 1);
  }
  int status = -1;
  waitpid(child, &status, 0);
  CHECK(status == 0);
  CHECK(std::strcmp(here, "parent") == 0 && std::strcmp(there, "parent") == 0);
  CHECK(is_live(here) && is_live(there) && btd_tx_depth() == 1);
  CHECK(btd_tx_commit() == 0);
  CHECK(btd_cluster_close(other) == 0);
}

void collector() {
  Node* kept = new_node();
  CHECK(btd_root_set(cluster(), "kept", kept) == 0);
  btd_gc_result result{};
  CHECK(btd_gc(cluster(), &result) == 0);
  CHECK(result.reachable_blocks >= 1 && is_live(kept));
  FAILS(btd_gc(nullptr, nullptr), EINVAL);
  // A tracer is shown what its root leads to, and what it names after that.
  kept->next = new_node();
  static int shown = 0;
  static btd_gc_tracer tracer = {
      [](void* context, const void* object, size_t, btd_gc_visitor* visitor) {
        __atomic_add_fetch(&shown, 1, __ATOMIC_RELAXED);
        btd_gc_visit(visitor, static_cast<const Node*>(object)->next,
                     static_cast<btd_gc_tracer*>(context));
      },
      &tracer};
  CHECK(btd_gc_trace(cluster(), "kept", &tracer) == 0);
  CHECK(btd_gc(cluster(), nullptr) == 0 && shown == 2 && is_live(kept->next));
  CHECK(btd_gc_trace(cluster(), "kept", nullptr) == 0);
  FAILS(btd_gc_trace(cluster(), "", &tracer), EINVAL);
  FAILS(btd_gc_trace(cluster(), std::string(64, 'x').c_str(), &tracer), ENAMETOOLONG);
}

// No root leads there yet, but it will be linked in.
void collector_keeps_what_reserved_blocks_point_to() {
  btd_cluster* other = btd_cluster_open(uri("reserved.arena").c_str());
  CHECK(btd_root_set(other, "old", btd_malloc(other, 100)) == 0 && btd_cluster_close(other) == 0);
  other = btd_cluster_open(uri("reserved.arena").c_str());
  void* old = btd_root_get(other, "old");
  void** reserved = btd_reserve(other, 64);
  CHECK(old != nullptr && reserved != nullptr);
  *reserved = old;
  CHECK(btd_root_remove(other, "old") == 0);
  btd_gc_result result{};
  CHECK(btd_gc(other, &result) == 0 && result.freed_blocks == 0 && btd_recovered(old) == 1);
  CHECK(btd_cancel(reserved) == 0);
  CHECK(btd_gc(other, &result) == 0 && result.freed_blocks == 1 && btd_recovered(old) == 0);
  CHECK(btd_cluster_close(other) == 0);
}

void numbers() {
  struct btd_statistics before {};
  struct btd_statistics after {};
  CHECK(btd_statistics(cluster(), &before) == 0);
  void* block = btd_malloc(cluster(), 100000);
  CHECK(btd_statistics(cluster(), &after) == 0);
  CHECK(after.live_large_blocks == before.live_large_blocks + 1);
  CHECK(after.live_bytes >= before.live_bytes + 100000 && after.epoch >= 1);
  CHECK(std::strlen(after.path) > 0 && access(after.path, F_OK) == 0);
  btd_free(block);
  FAILS(btd_statistics(nullptr, &after), EINVAL);
}

// A block of an inner transaction's cluster that is closed, a double free: reported, see the
// driver.
void double_free() {
  btd_cluster* other = btd_cluster_open(uri("double.arena").c_str());
  void* block = btd_malloc(other, 100);
  btd_free(block);
  btd_free(block);
}

// For the paranoid setting: three bugs, which the driver looks for on stderr.
int a_static = 0;
struct WithVtable {
  virtual ~WithVtable() = default;
};
void paranoid() {
  int here = 0;
  auto* words = static_cast<void**>(btd_calloc(cluster(), 8, 8));
  CHECK(btd_tx_begin(cluster()) == 0);
  CHECK(btd_tx_set(&words[0], &here) == 0);
  CHECK(btd_tx_set(&words[1], words) == 0);
  CHECK(btd_tx_set(&words[2], &a_static) == 0);
  CHECK(btd_tx_add(&words[3], 8) == 0);
  words[3] = std::malloc(10);
  CHECK(btd_tx_commit() == 0);
  auto* function = &paranoid;
  std::memcpy(&words[4], &function, sizeof(function));
  CHECK(btd_persist(&words[4], 8) == 0);
  auto* object = ::new (btd_malloc(cluster(), sizeof(WithVtable)).address) WithVtable;
  CHECK(btd_persist(object, sizeof(*object)) == 0);
  std::printf("words at %p\n", static_cast<void*>(words));
}
void paranoid_rooted() {
  auto* words = static_cast<void**>(btd_calloc(cluster(), 8, 8));
  auto* function = &paranoid;
  std::memcpy(&words[4], &function, sizeof(function));
  CHECK(btd_persist(words, 64) == 0);
  CHECK(btd_root_set(cluster(), "words", words) == 0);
}
void paranoid_clean() {
  auto* words = static_cast<uint64_t*>(btd_calloc(cluster(), 8, 8));
  words[0] = reinterpret_cast<uint64_t>(words);
  words[1] = 12345;
  words[2] = ~uint64_t{0};
  CHECK(btd_persist(words, 64) == 0);
  CHECK(btd_memcpy(words, word_of("some text, no pointers here"), 24) == words);
}

struct Case {
  const char* name;
  void (*run)();
};
constexpr Case kCases[] = {
    {"create", create},
    {"open_close", open_close},
    {"bad_uris", bad_uris},
    {"foreign_file", foreign_file},
    {"truncated_arena", truncated_arena},
    {"newer_format", newer_format},
    {"one_file_twice", one_file_twice},
    {"too_many_clusters", too_many_clusters},
    {"blocks", blocks},
    {"bytes", bytes},
    {"roots", roots},
    {"many_roots", many_roots},
    {"persistent", persistent},
    {"publish", publish},
    {"reserve", reserve},
    {"transactions", transactions},
    {"misuse", misuse},
    {"blocks_of_others", blocks_of_others},
    {"nested", nested},
    {"thread_ends_inside", thread_ends_inside},
    {"large_transaction", large_transaction},
    {"full_arena", full_arena},
    {"many_threads", many_threads},
    {"forked_child", forked_child},
    {"collector", collector},
    {"collector_reserved", collector_keeps_what_reserved_blocks_point_to},
    {"numbers", numbers},
    {"paranoid_clean", paranoid_clean},
    {"paranoid_rooted", paranoid_rooted},
};
constexpr Case kHelpers[] = {
    {"expect_busy", expect_busy}, {"double_free", double_free}, {"paranoid", paranoid}};

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) {
    for (const Case& one : kCases) std::printf("%s\n", one.name);
    return 0;
  }
  for (const Case& one : kCases) {
    if (std::strcmp(one.name, arguments[1]) == 0) return one.run(), failures == 0 ? 0 : 1;
  }
  for (const Case& one : kHelpers) {
    if (std::strcmp(one.name, arguments[1]) == 0) return one.run(), failures == 0 ? 0 : 1;
  }
  return 2;
}
