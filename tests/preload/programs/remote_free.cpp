// One thread allocates, another frees, for long: contents stay whole and memory is reused.
#include <pthread.h>

#include "check.hpp"

using compat::check;

namespace {

constexpr size_t kQueueLength = 1024;
constexpr size_t kPerProducer = 200000;

struct Item {
  void* block;
  size_t size_bytes;
  uint64_t seed;
};

struct Queue {
  pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
  Item items[kQueueLength];
  size_t head = 0, tail = 0;
};
Queue queues[2];

void* produce(void* argument) {
  auto* queue = static_cast<Queue*>(argument);
  uint64_t random = reinterpret_cast<uintptr_t>(queue);
  for (size_t i = 0; i < kPerProducer; i++) {
    uint64_t value = compat::next_random(random);
    Item item{nullptr, value % 64 == 0 ? 16384 + value % 30000 : 1 + (value >> 8) % 300, value};
    item.block = malloc(item.size_bytes);
    check(item.block != nullptr, "malloc");
    compat::fill(item.block, item.size_bytes, item.seed);
    pthread_mutex_lock(&queue->lock);
    while (queue->tail - queue->head == kQueueLength)
      pthread_cond_wait(&queue->changed, &queue->lock);
    queue->items[queue->tail++ % kQueueLength] = item;
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
  }
  return nullptr;
}

void* consume(void* argument) {
  auto* queue = static_cast<Queue*>(argument);
  for (size_t i = 0; i < kPerProducer; i++) {
    pthread_mutex_lock(&queue->lock);
    while (queue->tail == queue->head) pthread_cond_wait(&queue->changed, &queue->lock);
    Item item = queue->items[queue->head++ % kQueueLength];
    pthread_cond_signal(&queue->changed);
    pthread_mutex_unlock(&queue->lock);
    check(compat::holds(item.block, item.size_bytes, item.seed), "contents at the consumer");
    free(item.block);
  }
  return nullptr;
}

}  // namespace

int main() {
  pthread_t threads[4];
  for (int i = 0; i < 2; i++) {
    check(pthread_create(&threads[2 * i], nullptr, produce, &queues[i]) == 0, "pthread_create");
    check(pthread_create(&threads[2 * i + 1], nullptr, consume, &queues[i]) == 0, "pthread_create");
  }
  for (pthread_t thread : threads) pthread_join(thread, nullptr);
  long resident_kb = compat::process_status("VmRSS");
  if (resident_kb > 250000) fprintf(stderr, "resident: %ld KiB\n", resident_kb);
  check(resident_kb <= 250000, "blocks freed by another thread are reused");
  return compat::finish();
}
