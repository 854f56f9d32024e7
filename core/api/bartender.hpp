// Bartender for C++17 and later: everything here is a thin coat over bartender.h.
//
//   btd::persistent<long> counter{"counter"};              a static variable that keeps its value
//   btd::persistent<btd::map<btd::string, int>> index{"index"};     and a container that does
//   btd::tx_run([&] { ... });                              all of it, or nothing, also when it
//   throws
//
// ERRORS: what the C functions say by errno is thrown as std::system_error; an arena that is full
// as std::bad_alloc.  Where nothing is thrown it says noexcept.
//
// CONTAINERS.  btd::allocator puts a container's memory into an arena, and what points from there
// into the arena stays good after a restart.  That is all it does: an operation of a container
// stores to many places, and a crash in the middle of one leaves some of them made.  So a container
// survives any crash between its operations; data that must survive one inside them is changed in
// transactions, by code that adds what it changes.  Blocks of btd::allocator are no part of a
// transaction.
#ifndef BARTENDER_HPP
#define BARTENDER_HPP

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <functional>
#include <map>
#include <memory_resource>
#include <mutex>
#include <new>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

#include "bartender.h"

namespace btd {

// The process arena.  nullptr: there is none; blocks then come from malloc(), and persistent
// variables are lost with the process.
inline btd_cluster* process_cluster() noexcept {
  static btd_cluster* const cluster = btd_cluster_create(nullptr);
  return cluster;
}

[[noreturn]] inline void throw_errno(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

// --- Transactions

// Begins now; aborts at the end of its scope unless commit() was called.  Not copied, not moved: it
// belongs to its thread and scope.
class transaction {
 public:
  explicit transaction(btd_cluster* cluster = process_cluster()) {
    if (btd_tx_begin(cluster) != 0) throw_errno("btd_tx_begin");
  }
  ~transaction() {
    if (is_open_) btd_tx_abort();
  }
  transaction(const transaction&) = delete;
  transaction& operator=(const transaction&) = delete;

  // Keeps the bytes; from here on they may be changed in place.
  void add(const void* address, size_t size_bytes) {
    if (btd_tx_add(address, size_bytes) != 0) throw_errno("btd_tx_add");
  }
  template <typename T>
  T& add(T& object) {
    add(static_cast<const void*>(std::addressof(object)), sizeof(T));
    return object;
  }

  template <typename T, typename... Arguments>
  T* make(Arguments&&... arguments) {
    static_assert(alignof(T) <= alignof(std::max_align_t));
    void* block = btd_tx_malloc(sizeof(T));
    if (block == nullptr) throw std::bad_alloc();
    return ::new (block) T(std::forward<Arguments>(arguments)...);
  }
  // The block is free from the commit on.  The destructor is not called: an abort could not undo
  // it.
  template <typename T>
  void free(T* object) {
    if (btd_tx_free(object) != 0) throw_errno("btd_tx_free");
  }

  void commit() {
    is_open_ = false;
    if (btd_tx_commit() != 0) throw_errno("btd_tx_commit");
  }
  void abort() noexcept {
    is_open_ = false;
    btd_tx_abort();
  }

 private:
  bool is_open_ = true;
};

// Runs work() in a transaction: committed when it returns, aborted when it throws.
template <typename Work>
auto tx_run(btd_cluster* cluster, Work&& work) -> decltype(work()) {
  transaction all(cluster);
  if constexpr (std::is_void_v<decltype(work())>) {
    work();
    all.commit();
  } else {
    auto result = work();
    all.commit();
    return result;
  }
}
template <typename Work>
auto tx_run(Work&& work) -> decltype(work()) {
  return tx_run(process_cluster(), std::forward<Work>(work));
}

// --- Allocators

// Knows its arena by an address in it, which is the same in every run: so an allocator may lie in
// the arena itself, as those of containers do.
template <typename T>
class allocator {
 public:
  using value_type = T;
  using propagate_on_container_move_assignment = std::true_type;
  using propagate_on_container_swap = std::true_type;

  allocator() noexcept = default;  // of the process arena
  explicit allocator(btd_cluster* cluster) noexcept
      : home_(cluster == process_cluster() ? nullptr
                                           : static_cast<void*>(btd_cluster_base(cluster))) {}
  template <typename U>
  allocator(const allocator<U>& other) noexcept : home_(other.home()) {}

  T* allocate(size_t count) {
    btd_cluster* cluster = home_ == nullptr ? process_cluster() : btd_cluster_of(home_);
    bool is_closed = home_ != nullptr && cluster == nullptr;
    if (is_closed || count > static_cast<size_t>(PTRDIFF_MAX) / sizeof(T)) throw std::bad_alloc();
    void* block = alignof(T) <= alignof(std::max_align_t)
                      ? btd_malloc(cluster, count * sizeof(T))
                      : btd_aligned(cluster, alignof(T), count * sizeof(T));
    if (block == nullptr) throw std::bad_alloc();
    return static_cast<T*>(block);
  }
  void deallocate(T* block, size_t) noexcept { btd_free(block); }

  const void* home() const noexcept { return home_; }

  template <typename U>
  bool operator==(const allocator<U>& other) const noexcept {
    return home_ == other.home();
  }
  template <typename U>
  bool operator!=(const allocator<U>& other) const noexcept {
    return home_ != other.home();
  }

 private:
  const void* home_ = nullptr;  // nullptr: the process arena
};

using string = std::basic_string<char, std::char_traits<char>, allocator<char>>;

// std::hash knows no string but std::string.
template <typename Key>
struct hash {
  size_t operator()(const Key& key) const noexcept {
    if constexpr (std::is_convertible_v<const Key&, std::string_view>) {
      return std::hash<std::string_view>()(key);
    } else {
      return std::hash<Key>()(key);
    }
  }
};

template <typename T>
using vector = std::vector<T, allocator<T>>;
template <typename Key, typename Value, typename Less = std::less<>>
using map = std::map<Key, Value, Less, allocator<std::pair<const Key, Value>>>;
template <typename Key, typename Value, typename Hash = hash<Key>>
using unordered_map =
    std::unordered_map<Key, Value, Hash, std::equal_to<>, allocator<std::pair<const Key, Value>>>;

// For std::pmr containers.  A container keeps a pointer to its resource: so the resource that
// containers in an arena use lies in that arena too, see resource_of().
class memory_resource final : public std::pmr::memory_resource {
 public:
  explicit memory_resource(btd_cluster* cluster) noexcept : blocks_(cluster) {}

 private:
  void* do_allocate(size_t size_bytes, size_t alignment) override {
    btd_cluster* cluster =
        blocks_.home() == nullptr ? process_cluster() : btd_cluster_of(blocks_.home());
    if (blocks_.home() != nullptr && cluster == nullptr) throw std::bad_alloc();
    void* block = alignment <= alignof(std::max_align_t)
                      ? btd_malloc(cluster, size_bytes)
                      : btd_aligned(cluster, alignment, size_bytes);
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }
  void do_deallocate(void* block, size_t, size_t) override { btd_free(block); }
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  allocator<std::byte> blocks_;
};

// The resource of the cluster: at the same address in every run, under the root
// "btd.memory_resource".  Its vtable is where this run has it: so call this in each run before a
// container that uses it is touched.
inline memory_resource* resource_of(btd_cluster* cluster = process_cluster()) {
  void* place = cluster == nullptr ? nullptr
                                   : static_cast<void*>(btd_persistent(
                                         cluster, "btd.memory_resource", sizeof(memory_resource)));
  if (place == nullptr && cluster != nullptr) throw_errno("btd_persistent");
  if (place == nullptr) {
    static memory_resource plain(nullptr);
    return &plain;
  }
  return ::new (place) memory_resource(cluster);
}

// --- Roots and persistent variables

// A named root that leads to a T.
template <typename T>
class root {
 public:
  explicit root(const char* name, btd_cluster* cluster = process_cluster())
      : name_(name), cluster_(cluster) {}

  T* get() const noexcept { return btd_root_get(cluster_, name_); }  // nullptr: it is not set
  void set(T* value) {
    if (btd_root_set(cluster_, name_, value) != 0) throw_errno("btd_root_set");
  }
  void remove() { set(nullptr); }

  // What the root leads to; if it is not set, a T that is made, and the root set, in one step.
  template <typename... Arguments>
  T& get_or_make(Arguments&&... arguments) {
    if (T* found = get()) return *found;
    transaction all(cluster_);
    T* made = all.make<T>(std::forward<Arguments>(arguments)...);
    set(made);
    all.commit();
    return *made;
  }

  T& operator*() const noexcept { return *get(); }
  T* operator->() const noexcept { return get(); }
  explicit operator bool() const noexcept { return get() != nullptr; }

 private:
  const char* name_;
  btd_cluster* cluster_;
};

// A variable that keeps its value from run to run (Mnemosyne's pstatic, NVL-C's nvm), made by T()
// in the first.  For namespace scope and static members; found at its first use.  Its destructor
// never runs.  Two variables of one name are one variable; of different sizes: std::system_error
// (EINVAL).
//
// Thread safety: as T; finding it may run concurrently.
template <typename T>
class persistent {
 public:
  constexpr explicit persistent(const char* name, btd_cluster* cluster = nullptr) noexcept
      : name_(name), cluster_(cluster) {}
  persistent(const persistent&) = delete;

  T& get() {
    T* found = found_.load(std::memory_order_acquire);
    return found != nullptr ? *found : find();
  }
  T& operator*() { return get(); }
  T* operator->() { return &get(); }
  operator T&() { return get(); }

  // For a T of plain bytes: durable and failure-atomic.
  persistent& operator=(const T& value) {
    if constexpr (std::is_trivially_copyable_v<T>) {
      if (btd_memcpy(&get(), std::addressof(value), sizeof(T)) == nullptr)
        throw_errno("btd_memcpy");
    } else {
      get() = value;
    }
    return *this;
  }

 private:
  T& find() {
    static_assert(alignof(T) <= alignof(std::max_align_t));
    std::lock_guard<std::mutex> guard(lock_);
    if (T* found = found_.load(std::memory_order_relaxed)) return *found;
    btd_cluster* cluster = cluster_ != nullptr ? cluster_ : process_cluster();
    T* found;
    if (cluster == nullptr) {
      found = new T();
    } else {
      root<T> here(name_, cluster);
      found = &here.get_or_make();
      if (btd_usable_size(found) < sizeof(T)) {
        errno = EINVAL;
        throw_errno(name_);
      }
    }
    // A transaction of the caller's may still be undone, and the variable with it.
    if (btd_tx_depth() == 0) found_.store(found, std::memory_order_release);
    return *found;
  }

  const char* name_;
  btd_cluster* cluster_;
  std::atomic<T*> found_{nullptr};
  std::mutex lock_;
};

}  // namespace btd

#endif
