// Killed at any moment, again and again: `chaos DIRECTORY SEED [verify]`.
//
// Four threads change data of their own and some that they share, in transactions, by malloc_to and
// free_from, by reserve and activate, by btd_memcpy and by roots.  Each run first looks whether
// what it finds is a state that the model allows; the last operation that a thread was told of is
// noted in a file beside the arena, so none may be missing.
#include <bartender.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kThreads = 4;
constexpr int kAccounts = 64;
constexpr uint64_t kMoney = 1000;
constexpr int kExtras = 32;

struct Node {
  Node* next;
  uint64_t value;
  char rest[40];
};

struct Ledger {
  uint64_t done;   // operations
  uint64_t count;  // of the list
  uint64_t sum;    // of its values
  Node* head;
  Node* activated;         // another list, of activated nodes
  uint64_t activated_top;  // value of its first node, set in the same step
  void* extras[kExtras];
  char* pattern;  // kPatternBytes equal bytes
};
constexpr size_t kPatternBytes = 300;

struct Shared {
  uint64_t accounts[kAccounts];
};

btd_cluster* cluster = nullptr;
Shared* shared = nullptr;
Ledger* ledgers[kThreads] = {};
volatile uint64_t* acknowledged = nullptr;
std::mutex accounts_lock;

void require(bool is_good, const char* what) {
  if (is_good) return;
  std::printf("WRONG: %s\n", what);
  std::fflush(stdout);
  _exit(1);
}
#define REQUIRE(condition) require(condition, #condition)

std::string name_of(const char* what, int thread) { return what + std::to_string(thread); }

void make() {
  REQUIRE(btd_tx_begin(cluster) == 0);
  shared = btd_tx_calloc(1, sizeof(Shared));
  for (uint64_t& account : shared->accounts) account = kMoney;
  for (int thread = 0; thread < kThreads; thread++) {
    ledgers[thread] = btd_tx_calloc(1, sizeof(Ledger));
    ledgers[thread]->pattern = btd_tx_calloc(1, kPatternBytes);
    REQUIRE(btd_root_set(cluster, name_of("ledger ", thread).c_str(), ledgers[thread]) == 0);
  }
  REQUIRE(btd_root_set(cluster, "shared", shared) == 0);
  REQUIRE(btd_tx_commit() == 0);
}

bool is_live(void* block) { return btd_usable_size(block) != 0; }

void verify(std::set<void*>* expected) {
  uint64_t money = 0;
  for (uint64_t account : shared->accounts) money += account;
  REQUIRE(money == kMoney * kAccounts);
  std::set<void*>& seen = *expected;
  auto see = [&](void* block) {
    REQUIRE(is_live(block));
    REQUIRE(btd_recovered(block) == 1);
    REQUIRE(seen.insert(block).second);
  };
  see(shared);
  for (int thread = 0; thread < kThreads; thread++) {
    Ledger* ledger = btd_root_get(cluster, name_of("ledger ", thread).c_str());
    REQUIRE(ledger != nullptr);
    ledgers[thread] = ledger;
    see(ledger);
    see(ledger->pattern);
    for (size_t i = 1; i < kPatternBytes; i++) REQUIRE(ledger->pattern[i] == ledger->pattern[0]);
    REQUIRE(ledger->done == acknowledged[thread] || ledger->done == acknowledged[thread] + 1);
    uint64_t count = 0;
    uint64_t sum = 0;
    for (Node* node = ledger->head; node != nullptr; node = node->next) {
      see(node);
      count++;
      sum += node->value;
    }
    REQUIRE(count == ledger->count && sum == ledger->sum);
    for (Node* node = ledger->activated; node != nullptr; node = node->next) see(node);
    if (ledger->activated != nullptr) REQUIRE(ledger->activated->value == ledger->activated_top);
    for (void* extra : ledger->extras) {
      if (extra != nullptr) see(extra);
    }
    Node* node = btd_root_get(cluster, name_of("ping ", thread).c_str());
    if (node != nullptr)
      REQUIRE(node == reinterpret_cast<Node*>(ledger) || node == reinterpret_cast<Node*>(shared));
    acknowledged[thread] = ledger->done;
  }
}

// --- What the collector must keep

// The block that a word points into; nullptr: none.
void* block_around(uint64_t word) {
  constexpr uint64_t kLargest = 1 << 16;  // of this program's
  for (uint64_t at = word & ~uint64_t{15}; word - at < kLargest; at -= 16) {
    auto* block = reinterpret_cast<void*>(at);
    if (btd_cluster_of(block) != cluster) return nullptr;
    if (size_t size = btd_usable_size(block)) return word - at < size ? block : nullptr;
  }
  return nullptr;
}

// All that the words of `found` lead to, those words too that nobody has written since their place
// was part of another block: a malloc clears nothing, so a new block may hold an old pointer, and
// what lies there now may be a block whose owner was killed before anything led to it.
void add_what_words_lead_to(std::set<void*>& found) {
  std::vector<void*> left(found.begin(), found.end());
  while (!left.empty()) {
    auto* block = static_cast<char*>(left.back());
    left.pop_back();
    for (size_t at = 0; at + 8 <= btd_usable_size(block); at += 8) {
      uint64_t word;
      std::memcpy(&word, block + at, sizeof(word));
      void* next = block_around(word);
      if (next == nullptr || !found.insert(next).second) continue;
      left.push_back(next);
      std::printf("by chance: %zu bytes at %p, by the word at %zu of the %zu bytes at %p\n",
                  btd_usable_size(next), next, at, btd_usable_size(block),
                  static_cast<void*>(block));
    }
  }
}

void trace_node(void*, const void* object, size_t, struct btd_gc_visitor* visitor) {
  static const btd_gc_tracer of_next{trace_node, nullptr};
  btd_gc_visit(visitor, static_cast<const Node*>(object)->next, &of_next);
}

void trace_nothing(void*, const void*, size_t, struct btd_gc_visitor*) {}

void trace_ledger(void*, const void* object, size_t, struct btd_gc_visitor* visitor) {
  static const btd_gc_tracer of_node{trace_node, nullptr};
  static const btd_gc_tracer of_bytes{trace_nothing, nullptr};
  const auto* ledger = static_cast<const Ledger*>(object);
  btd_gc_visit(visitor, ledger->head, &of_node);
  btd_gc_visit(visitor, ledger->activated, &of_node);
  for (void* extra : ledger->extras) btd_gc_visit(visitor, extra, &of_bytes);
  btd_gc_visit(visitor, ledger->pattern, &of_bytes);
}

void collect(size_t expected) {
  REQUIRE(btd_gc(cluster, nullptr) == 0);
  struct btd_statistics now;
  REQUIRE(btd_statistics(cluster, &now) == 0);
  if (now.live_blocks == expected) return;
  std::printf("live %lu, expected %zu\n", now.live_blocks, expected);
  REQUIRE(!"a leak, or a block lost, after the collection");
}

// What was lost on the way to a kill is found, and nothing else: first by a mark that takes every
// word for a pointer, then by one that is told where they are.
void collect_all(const std::set<void*>& seen) {
  std::set<void*> reachable = seen;
  add_what_words_lead_to(reachable);
  collect(reachable.size());
  const btd_gc_tracer of_ledger{trace_ledger, nullptr};
  const btd_gc_tracer of_shared{trace_nothing, nullptr};
  for (int thread = 0; thread < kThreads; thread++)
    REQUIRE(btd_gc_trace(cluster, name_of("ledger ", thread).c_str(), &of_ledger) == 0);
  REQUIRE(btd_gc_trace(cluster, "shared", &of_shared) == 0);
  collect(seen.size());
}

// --- What the threads do

// One operation in a transaction that ends with ledger.done + 1.
template <typename Work>
void in_transaction(Ledger* ledger, Work work) {
  REQUIRE(btd_tx_begin(cluster) == 0);
  REQUIRE(btd_tx_add(ledger, sizeof(*ledger)) == 0);
  work();
  ledger->done++;
  REQUIRE(btd_tx_commit() == 0);
}

void push(Ledger* ledger, uint64_t value) {
  Node* node = btd_tx_malloc(sizeof(Node));
  REQUIRE(node != nullptr);
  node->value = value;
  node->next = ledger->head;
  ledger->head = node;
  ledger->count++;
  ledger->sum += value;
}

void pop(Ledger* ledger) {
  Node* node = ledger->head;
  if (node == nullptr) return;
  ledger->head = node->next;
  ledger->count--;
  ledger->sum -= node->value;
  REQUIRE(btd_tx_free(node) == 0);
}

void activate(Ledger* ledger, uint64_t value) {
  Node* node = btd_reserve(cluster, sizeof(Node));
  REQUIRE(node != nullptr);
  node->value = value;
  node->next = value % 64 == 0 ? nullptr : ledger->activated;
  if (value % 64 == 0) {  // the old list goes, so that the arena does not fill
    in_transaction(ledger, [&] {
      for (Node* old = ledger->activated; old != nullptr; old = old->next)
        REQUIRE(btd_tx_free(old) == 0);
      ledger->activated = nullptr;
    });
  }
  auto** head = reinterpret_cast<void**>(&ledger->activated);
  auto** top = reinterpret_cast<void**>(&ledger->activated_top);
  REQUIRE(btd_activate(node, head, node, top, reinterpret_cast<void*>(value)) == 0);
}

void transfer(Ledger* ledger, int from, int to, uint64_t amount) {
  std::lock_guard<std::mutex> guard(accounts_lock);
  in_transaction(ledger, [&] {
    REQUIRE(btd_tx_add(&shared->accounts[from], 8) == 0);
    REQUIRE(btd_tx_add(&shared->accounts[to], 8) == 0);
    amount = amount < shared->accounts[from] ? amount : 0;
    shared->accounts[from] -= amount;
    shared->accounts[to] += amount;
  });
}

void work(int thread, unsigned seed) {
  std::mt19937 random(seed * 31 + static_cast<unsigned>(thread));
  Ledger* ledger = ledgers[thread];
  std::vector<void*> noise;
  for (;;) {
    auto number = static_cast<uint64_t>(random() % 100000);
    switch (random() % 10) {
      case 0:
      case 1:
        in_transaction(ledger, [&] { push(ledger, number); });
        break;
      case 2:
        in_transaction(ledger, [&] { pop(ledger), pop(ledger); });
        break;
      case 3: {
        void** where = &ledger->extras[number % kExtras];
        if (*where != nullptr) {
          REQUIRE(btd_free_from(where) == 0);
        } else {
          size_t size = number % 17 == 0 ? 50000 : number % 900;
          REQUIRE(btd_malloc_to(cluster, where, size) != nullptr);
        }
        break;
      }
      case 4:
        activate(ledger, number);
        break;
      case 5:
        transfer(ledger, static_cast<int>(number % kAccounts),
                 static_cast<int>(number / 64 % kAccounts), number % 500);
        break;
      case 6:
        REQUIRE(btd_memset(ledger->pattern, static_cast<int>(number), kPatternBytes) != nullptr);
        break;
      case 7: {
        const void* target = number % 3 == 0   ? nullptr
                             : number % 3 == 1 ? static_cast<void*>(ledger)
                                               : static_cast<void*>(shared);
        REQUIRE(btd_root_set(cluster, name_of("ping ", thread).c_str(), target) == 0);
        break;
      }
      case 8:  // undone, the inner one with it
        REQUIRE(btd_tx_begin(cluster) == 0);
        REQUIRE(btd_tx_add(ledger, sizeof(*ledger)) == 0);
        for (uint64_t i = 0; i < number % 40; i++) push(ledger, i);
        REQUIRE(btd_tx_begin(cluster) == 0);
        pop(ledger);
        REQUIRE(btd_tx_abort() == 0);
        REQUIRE(btd_tx_commit() == -1);
        break;
      default:
        noise.push_back(btd_malloc(cluster, number % 2000));
        if (noise.size() > 100) {
          for (void* block : noise) btd_free(block);
          noise.clear();
        }
        break;
    }
    acknowledged[thread] = ledger->done;
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  std::string directory = arguments[1];
  int file = open((directory + "/acknowledged").c_str(), O_RDWR | O_CREAT, 0600);
  if (ftruncate(file, 4096) != 0) return 2;
  acknowledged =
      static_cast<uint64_t*>(mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0));
  cluster = btd_cluster_open((directory + "/chaos.arena?size=512M").c_str());
  REQUIRE(cluster != nullptr);
  shared = btd_root_get(cluster, "shared");
  std::set<void*> seen;
  if (shared == nullptr) {
    make();
  } else {
    verify(&seen);
    collect_all(seen);
    std::printf("good: %zu blocks, %lu operations\n", seen.size(), ledgers[0]->done);
    std::fflush(stdout);
  }
  if (count > 3) return 0;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; thread++)
    threads.emplace_back(work, thread, static_cast<unsigned>(std::atoi(arguments[2])));
  for (std::thread& thread : threads) thread.join();
}
