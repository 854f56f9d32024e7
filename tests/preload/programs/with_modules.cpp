// Runs under one or two more preloads (early_module, counting_module): both keep working, in either
// order.
#include <pthread.h>

#include "check.hpp"

using compat::check;

int main() {
  auto early_block_is_good =
      reinterpret_cast<bool (*)()>(dlsym(RTLD_DEFAULT, "early_block_is_good"));
  auto calls = reinterpret_cast<long (*)()>(dlsym(RTLD_DEFAULT, "counting_module_calls"));
  check(early_block_is_good != nullptr || calls != nullptr, "a module is preloaded");
  if (early_block_is_good != nullptr) check(early_block_is_good(), "the block of the early module");
  long calls_before = calls == nullptr ? 0 : calls();
  {
    compat::Churn churn(5);
    for (int i = 0; i < 20000; i++) churn.step();
    pthread_t thread;
    auto work = [](void*) -> void* {
      compat::Churn other(6);
      for (int i = 0; i < 20000; i++) other.step();
      return nullptr;
    };
    check(pthread_create(&thread, nullptr, work, nullptr) == 0, "pthread_create");
    pthread_join(thread, nullptr);
  }
  if (getenv("COMPAT_EXPECT_COUNTED") != nullptr) {
    check(calls != nullptr && calls() > calls_before, "the other preload gets its calls");
  }
  return compat::finish();
}
