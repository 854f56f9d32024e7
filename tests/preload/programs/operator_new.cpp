// Every operator new and delete: std::bad_alloc is thrown, the new_handler is asked in a loop,
// nothrow returns NULL.
#include <new>

#include "check.hpp"

using compat::check;
using compat::opaque;

namespace {

struct HandlerGaveUp {};
int handler_calls = 0;
void* reserve = nullptr;

void handler_that_throws() {
  if (++handler_calls == 3) throw HandlerGaveUp{};
}
void handler_that_steps_down() {
  if (++handler_calls == 5) std::set_new_handler(nullptr);
}

constexpr size_t kTooLarge = size_t{PTRDIFF_MAX} - 4096;
using Align = std::align_val_t;

// Calls `take` and says what happened: 0 NULL, 1 a pointer, 2 bad_alloc, 3 HandlerGaveUp.
template <typename F>
int outcome(F take) {
  handler_calls = 0;
  try {
    void* block = take();
    return block == nullptr ? 0 : 1;
  } catch (const std::bad_alloc& error) {
    check(error.what() != nullptr && strlen(error.what()) > 0, "bad_alloc has a text");
    return 2;
  } catch (const HandlerGaveUp&) {
    return 3;
  }
}

void check_too_large(size_t size_bytes) {
  auto plain = [=] { return ::operator new(opaque(size_bytes)); };
  auto array = [=] { return ::operator new[](opaque(size_bytes)); };
  auto aligned = [=] { return ::operator new (opaque(size_bytes), Align{64}); };
  auto aligned_array = [=] { return ::operator new[](opaque(size_bytes), Align{4096}); };
  auto plain_nothrow = [=] { return ::operator new(opaque(size_bytes), std::nothrow); };
  auto array_nothrow = [=] { return ::operator new[](opaque(size_bytes), std::nothrow); };
  auto aligned_nothrow = [=] {
    return ::operator new (opaque(size_bytes), Align{64}, std::nothrow);
  };
  auto aligned_array_nothrow = [=] {
    return ::operator new[](opaque(size_bytes), Align{64}, std::nothrow);
  };

  std::set_new_handler(nullptr);
  check(outcome(plain) == 2, "new throws bad_alloc");
  check(outcome(array) == 2, "new[] throws bad_alloc");
  check(outcome(aligned) == 2, "aligned new throws bad_alloc");
  check(outcome(aligned_array) == 2, "aligned new[] throws bad_alloc");
  check(outcome(plain_nothrow) == 0, "nothrow new returns NULL");
  check(outcome(array_nothrow) == 0, "nothrow new[] returns NULL");
  check(outcome(aligned_nothrow) == 0, "aligned nothrow new returns NULL");
  check(outcome(aligned_array_nothrow) == 0, "aligned nothrow new[] returns NULL");

  auto with_stepping_handler = [](auto take, int expected, const char* what) {
    std::set_new_handler(handler_that_steps_down);
    check(outcome(take) == expected, what);
    check(handler_calls == 5, what);
  };
  with_stepping_handler(plain, 2, "new loops on the handler");
  with_stepping_handler(array, 2, "new[] loops on the handler");
  with_stepping_handler(aligned, 2, "aligned new loops on the handler");
  with_stepping_handler(aligned_array, 2, "aligned new[] loops on the handler");
  with_stepping_handler(plain_nothrow, 0, "nothrow new loops on the handler");
  with_stepping_handler(array_nothrow, 0, "nothrow new[] loops on the handler");
  with_stepping_handler(aligned_nothrow, 0, "aligned nothrow new loops on the handler");
  with_stepping_handler(aligned_array_nothrow, 0, "aligned nothrow new[] loops on the handler");

  std::set_new_handler(handler_that_throws);
  check(outcome(plain) == 3 && handler_calls == 3, "an exception of the handler leaves new");
  check(outcome(aligned) == 3 && handler_calls == 3,
        "an exception of the handler leaves aligned new");
  std::set_new_handler(nullptr);
}

void check_every_pair(size_t size_bytes) {
  auto verify = [=](void* block) {
    compat::fill(block, size_bytes, 3);
    check(compat::holds(block, size_bytes, 3), "contents of a new block");
    return block;
  };
  ::operator delete(verify(::operator new(size_bytes)));
  ::operator delete(verify(::operator new(size_bytes)), size_bytes);
  ::operator delete(verify(::operator new(size_bytes, std::nothrow)), std::nothrow);
  ::operator delete[](verify(::operator new[](size_bytes)));
  ::operator delete[](verify(::operator new[](size_bytes)), size_bytes);
  ::operator delete[](verify(::operator new[](size_bytes, std::nothrow)), std::nothrow);
  for (size_t alignment = 8; alignment <= size_t{4} << 20; alignment *= 8) {
    Align align{alignment};
    auto aligned = [=](void* block) {
      check(reinterpret_cast<uintptr_t>(block) % alignment == 0, "alignment of new");
      return verify(block);
    };
    ::operator delete(aligned(::operator new(size_bytes, align)), align);
    ::operator delete(aligned(::operator new(size_bytes, align)), size_bytes, align);
    ::operator delete(aligned(::operator new(size_bytes, align, std::nothrow)), align,
                      std::nothrow);
    ::operator delete[](aligned(::operator new[](size_bytes, align)), align);
    ::operator delete[](aligned(::operator new[](size_bytes, align)), size_bytes, align);
    ::operator delete[](aligned(::operator new[](size_bytes, align, std::nothrow)), align,
                        std::nothrow);
  }
}

// A handler that frees memory lets new succeed.
void handler_that_frees() {
  handler_calls++;
  free(reserve);
  reserve = nullptr;
  std::set_new_handler(nullptr);
}

}  // namespace

int main() {
  for (size_t size_bytes : compat::kSizes) check_every_pair(size_bytes);
  check(::operator new(opaque(size_t{0})) != nullptr, "new of 0 bytes is not NULL");
  ::operator delete(static_cast<void*>(nullptr));
  ::operator delete[](static_cast<void*>(nullptr));
  check_too_large(kTooLarge);
  check_too_large(SIZE_MAX - 8192);
  // libstdc++'s own aligned operator new rounds this one up to 0.
  if (compat::library_state() >= 0) check_too_large(SIZE_MAX - 100);
  reserve = malloc(1000000);
  std::set_new_handler(handler_that_frees);
  check(outcome([] { return ::operator new(opaque(kTooLarge)); }) == 2,
        "new gives up when the handler is gone");
  check(handler_calls == 1 && reserve == nullptr, "the handler ran");
  try {
    delete[] opaque(new char[opaque(size_t{SIZE_MAX / 2})]);
    check(false, "new char[] too large must throw");
  } catch (const std::bad_alloc&) {
  }
  return compat::finish();
}
