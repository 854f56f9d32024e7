// bartender.hpp: `cplusplus fill`, which ends by SIGKILL, then `cplusplus check`, any number of
// times; `cplusplus plain` without the library.
#include <bartender.hpp>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <memory_resource>
#include <stdexcept>

namespace {

constexpr int kEntries = 20000;

btd::persistent<long> runs{"runs"};
btd::persistent<btd::map<btd::string, int>> by_name{"by_name"};
btd::persistent<btd::unordered_map<btd::string, btd::string>> texts{"texts"};
btd::persistent<btd::vector<btd::string>> lines{"lines"};

struct Account {
  long money = 100;
  Account* next = nullptr;
};

void require(bool is_good, const char* what, int line) {
  if (is_good) return;
  std::printf("line %d: %s\n", line, what);
  std::exit(1);
}
#define REQUIRE(condition) require(condition, #condition, __LINE__)

btd::string name_of(int i) {
  return ("a name that is longer than a short string holds: " + std::to_string(i)).c_str();
}

using PmrText = std::pmr::vector<std::pmr::string>;

void fill(int from, int to) {
  for (int i = from; i < to; i++) {
    (*by_name)[name_of(i)] = i;
    (*texts)[name_of(i)] = name_of(i + 1);
    lines->push_back(name_of(i));
  }
}

void check(int entries) {
  REQUIRE(static_cast<int>(by_name->size()) == entries);
  REQUIRE(static_cast<int>(texts->size()) == entries);
  REQUIRE(static_cast<int>(lines->size()) == entries);
  for (int i = 0; i < entries; i++) {
    REQUIRE(by_name->at(name_of(i)) == i);
    REQUIRE(texts->at(name_of(i)) == name_of(i + 1));
    REQUIRE((*lines)[static_cast<size_t>(i)] == name_of(i));
  }
}

void pmr() {
  auto* resource = btd::resource_of();
  btd::root<PmrText> root("pmr");
  bool is_new = !root;
  PmrText& text = root.get_or_make(resource);
  if (!is_new) REQUIRE(!text.empty());
  for (const std::pmr::string& one : text)
    REQUIRE(one == "long enough to lie outside of the string itself");
  text.emplace_back("long enough to lie outside of the string itself");
  REQUIRE(!btd_active() || btd_cluster_of(text.back().data()) == btd::process_cluster());
}

void transactions() {
  btd::root<Account> root("account");
  Account& account = root.get_or_make();
  REQUIRE(account.money == 100);
  // An exception undoes all and goes on.
  bool is_caught = false;
  Account* made = nullptr;
  try {
    btd::tx_run([&] {
      REQUIRE(btd_tx_add(&account, sizeof(account)) == 0);
      account.money = 1;
      made = btd_tx_malloc(sizeof(Account));
      throw std::runtime_error("undo this");
    });
  } catch (const std::runtime_error& error) {
    is_caught = std::strcmp(error.what(), "undo this") == 0;
  }
  REQUIRE(is_caught);
  if (btd_active()) REQUIRE(account.money == 100 && btd_usable_size(made) == 0);
  account.money = 100;
  int result = btd::tx_run([&] {
    REQUIRE(btd_tx_add(&account, sizeof(account)) == 0);
    account.money = 50;
    return 7;
  });
  REQUIRE(result == 7 && account.money == 50);
  {
    btd::transaction undone;
    undone.add(account).money = 3;
    account.next = undone.make<Account>();
  }
  if (btd_active()) REQUIRE(account.money == 50 && account.next == nullptr);
  {
    btd::transaction done;
    done.add(account).money = 100;
    account.next = done.make<Account>();
    done.commit();
  }
  REQUIRE(account.money == 100 && account.next->money == 100);
  btd::tx_run([&] {
    btd::transaction inner;
    Account* old = inner.add(account).next;
    account.next = nullptr;
    inner.free(old);
    inner.commit();
  });
  REQUIRE(account.next == nullptr);
  if (!btd_active()) return;
  bool is_canceled = false;
  try {
    btd::tx_run([&] {
      btd::transaction inner;
      inner.add(account).money = 9;
      inner.abort();
    });
  } catch (const std::system_error& error) {
    is_canceled = error.code().value() == ECANCELED;
  }
  REQUIRE(is_canceled && account.money == 100);
}

void another_cluster(const char* directory) {
  std::string uri = std::string(directory) + "/containers.arena?size=256M";
  btd_cluster* cluster = btd_cluster_open(uri.c_str());
  REQUIRE(cluster != nullptr);
  using Numbers = btd::map<int, int>;
  btd::root<Numbers> root("numbers", cluster);
  Numbers& numbers = root.get_or_make(btd::allocator<std::pair<const int, int>>(cluster));
  int size = static_cast<int>(numbers.size());
  for (int i = 0; i < size; i++) REQUIRE(numbers.at(i) == i * i);
  for (int i = size; i < size + 1000; i++) numbers[i] = i * i;
  REQUIRE(!btd_active() || btd_cluster_of(&*numbers.rbegin()) == cluster);
  REQUIRE(btd_cluster_close(cluster) == 0);
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  std::string what = arguments[1];
  long run = runs + 1;
  runs = run;
  if (what == "fill" || what == "plain") {
    REQUIRE(run == 1);
    fill(0, kEntries);
    check(kEntries);
  } else {
    REQUIRE(run > 1);
    int entries = kEntries + 100 * static_cast<int>(run - 2);
    check(entries);
    by_name->erase(name_of(0));
    (*by_name)[name_of(0)] = 0;
    fill(entries, entries + 100);
    check(entries + 100);
  }
  pmr();
  transactions();
  another_cluster(arguments[2]);
  std::printf("good, run %ld\n", run);
  std::fflush(stdout);
  if (what == "fill") raise(SIGKILL);
}
