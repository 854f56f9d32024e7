// Destructors of thread-specific data allocate and free in every round, also after ours has run.
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr int kKeyCount = 6;
pthread_key_t keys[kKeyCount];
std::atomic<int> destructor_calls{0};

struct Value {
  int round;
  int key;
  void* extra;
  size_t extra_bytes;
};

Value* make_value(int key, int round) {
  auto* value = static_cast<Value*>(malloc(sizeof(Value)));
  value->round = round;
  value->key = key;
  value->extra_bytes = round % 2 == 0 ? 40000 : 300;
  value->extra = malloc(value->extra_bytes);
  compat::fill(value->extra, value->extra_bytes, static_cast<uint64_t>(key));
  return value;
}

void destroy(void* data) {
  auto* value = static_cast<Value*>(data);
  destructor_calls++;
  check(compat::holds(value->extra, value->extra_bytes, static_cast<uint64_t>(value->key)),
        "contents in a destructor");
  void* scratch = calloc(1, 20000);
  check(compat::all_zero(scratch, 20000), "calloc in a destructor");
  free(scratch);
  // POSIX promises four rounds: three more after this one.
  if (value->round < 3)
    pthread_setspecific(keys[value->key], make_value(value->key, value->round + 1));
  free(value->extra);
  free(value);
}

void* run(void*) {
  for (int i = 0; i < kKeyCount; i++) pthread_setspecific(keys[i], make_value(i, 0));
  for (size_t size_bytes : compat::kSizes) free(malloc(size_bytes));
  return nullptr;
}

}  // namespace

int main() {
  // The first key may be made before the library makes one, the others after its first use.
  check(pthread_key_create(&keys[0], destroy) == 0, "pthread_key_create");
  free(malloc(100000));
  for (int i = 1; i < kKeyCount; i++)
    check(pthread_key_create(&keys[i], destroy) == 0, "pthread_key_create");
  constexpr int kThreadCount = 300;
  for (int i = 0; i < kThreadCount; i++) {
    pthread_t thread;
    check(pthread_create(&thread, nullptr, run, nullptr) == 0, "pthread_create");
    pthread_join(thread, nullptr);
  }
  check(destructor_calls == kThreadCount * kKeyCount * 4,
        "four rounds of every key in every thread");
  return compat::finish();
}
