#include "preload/runtime.hpp"

#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "core/base/lock.hpp"
#include "core/base/log.hpp"
#include "core/base/sys.hpp"
#include "core/recovery/place.hpp"
#include "preload/clusters.hpp"
#include "preload/far.hpp"
#include "preload/next.hpp"

namespace btd::preload {

constinit size_t threshold = kNothingRouted;
constinit Arena arena;
constinit Cluster process_cluster;
Config config;

namespace {

enum class Stage : uint8_t { kOff, kReady, kOpening, kOpen, kInherited };

// exit() has given up this life's blocks: the threads that still run may free them without blame.
constinit std::atomic<bool> is_ending{false};

constinit ThreadCache empty_cache{};
constinit std::atomic<Stage> stage{Stage::kOff};
constinit Lock open_lock;   // taken before any lock of the arena
constinit Lock late_lock;   // guards late_heap; taken before any lock of the arena
constinit FarTier* far;     // nullptr: no memory nodes
constinit Heap* late_heap;  // for threads that have no heap of their own any more
char program[NAME_MAX + 1];
constinit std::atomic<bool> is_full_told{false};
constinit std::atomic<bool> is_too_large_told{false};
pthread_key_t exit_key;
bool has_exit_key;

// What a thread is to us.
enum class ThreadStage : uint8_t { kNew, kActive, kEnded };
thread_local constinit ThreadStage thread_stage [[gnu::tls_model("initial-exec")]] =
    ThreadStage::kNew;
thread_local constinit bool is_volatile_here [[gnu::tls_model("initial-exec")]] = false;
thread_local constinit uint8_t exit_rounds [[gnu::tls_model("initial-exec")]] = 0;

// This thread's cache, once it has one.  `cache` is the same, but in strict durability, where it
// stays empty: the fast paths store a state and do no more, so they must find nothing to do.
thread_local constinit ThreadCache* own_cache [[gnu::tls_model("initial-exec")]] = nullptr;

void turn_off() {
  threshold = kNothingRouted;
  stage.store(Stage::kOff, std::memory_order_relaxed);
}

void refuse(Line& why, LogLevel level = LogLevel::kError) {
  if (config.on_error == OnError::kAbort) {
    why.write(LogLevel::kOff);
    abort();
  }
  why.text("; the program goes on in volatile memory").write(level);
}

void tell_what_does_not_fit(size_t size_bytes) {
  bool is_too_large = arena.is_too_large(size_bytes);
  if ((is_too_large ? is_too_large_told : is_full_told).exchange(true, std::memory_order_relaxed))
    return;
  Line line;
  line.text("the arena ").text(arena.path());
  if (is_too_large) {
    line.text(" does not take a block of ")
        .size(size_bytes)
        .text(", more than half of the memory that was available; it is volatile (said once)");
  } else {
    line.text(" is full; what does not fit goes to volatile memory (said once)");
  }
  line.write(LogLevel::kError);
}

// --- Opening
// --------------------------------------------------------------------------------------------------------------------

// True: the arena is open.  The first caller opens it.
bool open_if_ready(bool is_alone = false) {
  Stage now = stage.load(std::memory_order_acquire);
  if (now == Stage::kOpen) return true;
  if (now != Stage::kReady) return false;
  LockGuard guard(open_lock);
  if (stage.load(std::memory_order_relaxed) != Stage::kReady)
    return stage.load(std::memory_order_relaxed) == Stage::kOpen;
  int kept = errno;
  stage.store(Stage::kOpening, std::memory_order_relaxed);
  // A program that routes everything would start the next allocator only when the arena is full,
  // perhaps behind a system call filter by then.
  next.free(next.malloc(1));
  Line why;
  if (far != nullptr && is_alone) far->keep_from_new_arenas();
  Error error = open_by_config(config, program, far, arena, why);
  errno = kept;
  if (error != Error::kNone) {
    turn_off();
    // man runs its helpers in sandboxes, time and again: that is no error of anybody's.
    refuse(why, error == Error::kSandboxed ? LogLevel::kInfo : LogLevel::kError);
    return false;
  }
  process_cluster.open(arena);
  stage.store(Stage::kOpen, std::memory_order_release);
  Line()
      .text("arena ")
      .text(arena.path())
      .text(", epoch ")
      .number(arena.header().epoch)
      .write(LogLevel::kInfo);
  return true;
}

// --- Threads
// --------------------------------------------------------------------------------------------------------------------

// At thread exit, called in each round of destructors: in the last one the heap goes.  Destructors
// that run after that use the late heap.
void end_thread(void* heap) {
  if (++exit_rounds < PTHREAD_DESTRUCTOR_ITERATIONS && pthread_setspecific(exit_key, heap) == 0)
    return;
  if (stage.load(std::memory_order_relaxed) != Stage::kOpen) return;
  thread_stage = ThreadStage::kEnded;
  cache = &empty_cache;
  own_cache = nullptr;
  arena.release_heap(*static_cast<Heap*>(heap));
}

// REQUIRES: the arena is open.  False: this thread gets no cache of its own.
bool give_thread_a_cache() {
  if (thread_stage == ThreadStage::kActive) return own_cache != nullptr;
  if (thread_stage == ThreadStage::kEnded || !has_exit_key) return false;
  Heap* heap = arena.acquire_heap();
  if (heap == nullptr) return false;
  thread_stage = ThreadStage::kActive;
  own_cache = &heap->cache();
  if (!arena.is_strict()) cache = own_cache;
  int kept = errno;
  // May allocate; by now that works.  If it fails, the heap stays with a thread that is gone: no
  // block is lost, some memory rests.
  pthread_setspecific(exit_key, heap);
  errno = kept;
  return true;
}

// Calls work(ThreadCache&): with this thread's cache, or with the late heap's under its lock.
template <typename Work>
void with_cache(Work work) {
  if (give_thread_a_cache()) {
    work(*own_cache);
    return;
  }
  LockGuard guard(late_lock);
  if (late_heap == nullptr) late_heap = arena.acquire_heap();
  if (late_heap != nullptr) work(late_heap->cache());
}

// --- fork
// ---------------------------------------------------------------------------------------------------------------------------

void before_fork() {
  open_lock.lock();
  late_lock.lock();
  clusters_before_fork();
  if (stage.load(std::memory_order_relaxed) == Stage::kOpen && config.fork == ForkMode::kSnapshot)
    arena.fork_prepare();
}

void after_fork_in_parent() {
  if (stage.load(std::memory_order_relaxed) == Stage::kOpen && config.fork == ForkMode::kSnapshot)
    arena.fork_parent();
  clusters_after_fork_in_parent();
  late_lock.unlock();
  open_lock.unlock();
}

void after_fork_in_child() {
  Stage now = stage.load(std::memory_order_relaxed);
  open_lock.reset();
  late_lock.reset();
  clusters_after_fork_in_child();
  if (now == Stage::kOpening) turn_off();
  if (now != Stage::kOpen) return;
  threshold = kNothingRouted;
  cache = &empty_cache;
  own_cache = nullptr;
  thread_stage = ThreadStage::kEnded;
  stage.store(Stage::kInherited, std::memory_order_relaxed);
  inherit(arena, far);
  process_cluster.reset_after_fork();
}

// --- Start and end
// --------------------------------------------------------------------------------------------------------------

void end_process(int status, void*) {
  clusters_at_exit(status);
  if (stage.load(std::memory_order_acquire) != Stage::kOpen) return;
  is_ending.store(true, std::memory_order_relaxed);
  // The memory stays mapped: stdio is flushed after this, and detached threads run on until the
  // process is gone.
  // A root says that the program wants to find its data again.
  if ((status & 0xFF) == 0 && config.on_exit == OnExit::kDiscard &&
      !process_cluster.roots().any()) {
    if (arena.discard() && far != nullptr) far->leave_nothing();
  } else {
    arena.close_in_good_order();
  }
}

bool is_listed(const char* list, const char* name) {
  size_t length = std::strlen(name);
  for (const char* at = list; *at != '\0';) {
    size_t item = std::strcspn(at, ",:");
    if (item == length && std::strncmp(at, name, length) == 0) return true;
    at += item + (at[item] != '\0');
  }
  return false;
}

void read_program_name(const char* argument) {
  char path[PATH_MAX];
  ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  path[length < 0 ? 0 : length] = '\0';
  const char* from = length > 0 ? path : argument != nullptr ? argument : "unknown";
  if (const char* slash = std::strrchr(from, '/')) from = slash + 1;
  // The array is zero, so the name is terminated.
  // NOLINTNEXTLINE(bugprone-not-null-terminated-result)
  std::memcpy(program, from, min(std::strlen(from), sizeof(program) - 1));
}

// Whether the executable itself defines malloc, and so takes every call before it gets here.
// (Another library in front of us may well forward to us.)
//
// A program linked at a fixed address that takes malloc's address, as Debian's python3 does, has a
// symbol for it too, whose value is a stub that leads here; that one's section is SHN_UNDEF.
bool has_own_malloc() {
  Dl_info found{};
  Dl_info executable{};
  ElfW(Sym)* symbol = nullptr;
  void* address = dlsym(RTLD_DEFAULT, "malloc");
  if (dladdr1(address, &found, reinterpret_cast<void**>(&symbol), RTLD_DL_SYMENT) == 0)
    return false;
  if (dladdr(reinterpret_cast<void*>(getauxval(AT_ENTRY)), &executable) == 0) return false;
  return found.dli_fbase == executable.dli_fbase &&
         (symbol == nullptr || symbol->st_shndx != SHN_UNDEF);
}

// With -z initfirst this runs before any other constructor, so that our fork handlers enclose all
// others' (whose handlers may allocate); libc's environ is not set yet, the arguments are.
[[gnu::constructor]] void start_process(int, char** arguments, char** environment) {
  int kept = errno;
  char message[800];
  bool is_good = parse_config(environment, config, message, sizeof(message));
  log_level = config.log;
  read_program_name(arguments[0]);
  if (getauxval(AT_SECURE) != 0) return;  // setuid and the like: the environment is not trusted
  if (!is_good) {
    Line why;
    why.text(message);
    refuse(why);
    return;
  }
  const char* short_name = arguments[0] == nullptr ? program : arguments[0];
  if (const char* slash = std::strrchr(short_name, '/')) short_name = slash + 1;
  if (config.only[0] != '\0' && !is_listed(config.only, program) &&
      !is_listed(config.only, short_name))
    return;
  if (has_own_malloc()) {
    Line()
        .text(program)
        .text(" brings its own malloc; bartender steps aside")
        .write(LogLevel::kError);
    return;
  }
  if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) != 0) return;
  on_exit(end_process, nullptr);
  has_exit_key = pthread_key_create(&exit_key, end_thread) == 0;
  clusters_at_start();
  far = make_far(config);
  stage.store(Stage::kReady, std::memory_order_release);
  threshold = static_cast<size_t>(config.threshold_bytes);
  errno = kept;
}

}  // namespace

thread_local constinit ThreadCache* cache [[gnu::tls_model("initial-exec")]] = &empty_cache;

bool is_arena_open() { return stage.load(std::memory_order_acquire) == Stage::kOpen; }
bool is_inherited() { return stage.load(std::memory_order_relaxed) == Stage::kInherited; }
bool is_arena_ready() {
  Stage now = stage.load(std::memory_order_acquire);
  return now == Stage::kReady || now == Stage::kOpen;
}
bool open_process_arena(bool is_alone) { return open_if_ready(is_alone); }
Lock& opening_lock() { return open_lock; }
const char* program_name() { return program; }

void inherit(Arena& one, FarTier* its_far) {
  bool has_far = one.fork_child();
  if (its_far == nullptr) return;
  its_far->forget_in_child();
  if (config.fork == ForkMode::kSnapshot && !has_far) its_far->open_in_child();
}

void with_process_cache(void (*work)(void* context, ThreadCache& cache), void* context) {
  with_cache([&](ThreadCache& mine) { work(context, mine); });
}

void stay_volatile(bool is_beginning) { is_volatile_here = is_beginning; }

BTD_COLD void* allocate(size_t size_bytes, size_t alignment, bool* is_zero) {
  if (is_volatile_here) return nullptr;
  if (!open_if_ready()) return nullptr;
  void* block = nullptr;
  with_cache(
      [&](ThreadCache& mine) { block = arena.allocate(mine, size_bytes, alignment, is_zero); });
  if (block == nullptr && size_bytes < config.size_bytes) tell_what_does_not_fit(size_bytes);
  return block;
}

BTD_COLD void free_ours(void* pointer, const void* caller) {
  int kept = errno;
  Verdict verdict = Verdict::kGood;
  if (is_inherited()) {
    if (config.fork == ForkMode::kSnapshot) verdict = arena.free_inherited(pointer);
  } else {
    with_cache([&](ThreadCache& mine) { verdict = arena.free(mine, pointer); });
  }
  if (verdict != Verdict::kGood) report_misuse("free", pointer, verdict, caller);
  errno = kept;
}

Line& add_caller(Line& line, const void* caller) {
  if (caller == nullptr) return line;
  line.text(", called from ").hex(reinterpret_cast<uintptr_t>(caller));
  Dl_info module{};
  if (dladdr(caller, &module) != 0 && module.dli_fname != nullptr) {
    line.text(" (")
        .text(module.dli_fname)
        .text("+")
        .hex(reinterpret_cast<uintptr_t>(caller) - reinterpret_cast<uintptr_t>(module.dli_fbase))
        .text(")");
  }
  return line;
}

BTD_COLD void report_misuse(const char* function, const void* pointer, Verdict verdict,
                            const void* caller, const Arena& home) {
  if (is_ending.load(std::memory_order_relaxed)) return;
  Line line;
  line.text(function).text("(").hex(reinterpret_cast<uintptr_t>(pointer)).text("): ");
  switch (verdict) {
    case Verdict::kNotLive:
      line.text("double free or never allocated: no live block starts here");
      break;
    case Verdict::kMiddle:
      line.text("invalid pointer: it points into a block, not at its start");
      break;
    default:
      line.text("invalid pointer: it lies in the arena, where no block is");
      break;
  }
  const Superblock* superblock =
      verdict == Verdict::kNoBlock ? nullptr : home.superblock_of(pointer);
  if (superblock != nullptr)
    line.text(" (size class ").number(superblock->info().slot_bytes).text(" B)");
  add_caller(line, caller);
  if (config.on_misuse == OnMisuse::kIgnore) {
    line.text("; ignored").write(LogLevel::kError);
    return;
  }
  line.text("; the arena is unharmed and the process stops (BARTENDER_ON_MISUSE=ignore goes on)")
      .write(LogLevel::kOff);
  abort();
}

}  // namespace btd::preload
