#include "core/spill/far_window.hpp"

#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/sys.hpp"
#include "core/spill/descriptors.hpp"

namespace btd {
namespace {

constexpr size_t kDoorbellBytes = kFarExtentBytes;
constexpr uint32_t kConnectMs = 1000;
constexpr uint64_t kNearMin = 16;  // extents: a fetch ahead and a queue need some

}  // namespace

Error FarWindow::open(const FarRequest& request, Line& why) noexcept {
  BTD_CHECK(!is_open_);
  BTD_CHECK(request.window_bytes > 0 && request.window_bytes % kFarExtentBytes == 0);
  BTD_CHECK(request.node_count <= kFarNodesMax);
  BTD_CHECK(request.handler_count >= 1 && request.handler_count <= kFarHandlersMax);
  request_ = request;
  why_ = &why;
  pager_.is_stopping.store(false);
  pager_.wants_help.store(true);
  has_rung_.store(false);
  is_serving_ = false;
  result_ = Error::kBusy;
  uint32_t seen = started_.seen();
  {
    SignalsBlocked blocked;
    if (pthread_create(&pager_thread_, nullptr, pager_main, this) != 0) return Error::kNoMemory;
  }
  while (started_.seen() == seen) started_.wait(seen, 1'000'000);
  if (result_ != Error::kNone) {
    pthread_join(pager_thread_, nullptr);
    return result_;
  }
  is_open_ = true;
  return Error::kNone;
}

void FarWindow::report(Error error) noexcept {
  result_ = error;
  started_.raise();
}

void* FarWindow::pager_main(void* argument) noexcept {
  auto* window = static_cast<FarWindow*>(argument);
  ::prctl(PR_SET_NAME, "far-handler");
  Error error = window->set_up();
  if (error == Error::kNone) {
    window->is_serving_ = true;
    window->report(error);
    window->handlers_[0].handler.run();
    window->tear_down();
  } else {
    window->pager_.is_stopping.store(true);
    window->tear_down();
    window->report(error);
  }
  return nullptr;
}

void* FarWindow::handler_main(void* argument) noexcept {
  ::prctl(PR_SET_NAME, "far-handler");
  static_cast<FaultHandler*>(argument)->run();
  return nullptr;
}

void* FarWindow::evictor_main(void* argument) noexcept {
  ::prctl(PR_SET_NAME, "far-evictor");
  static_cast<Evictor*>(argument)->run();
  return nullptr;
}

// On the pager's first thread.  The order: what can fail without a trace first; threads last.
Error FarWindow::set_up() noexcept {
  if (!own_descriptors()) {
    why_->text("far memory needs threads with descriptors of their own, which is refused here");
    return Error::kSandboxed;
  }
  const uint64_t extents = request_.window_bytes / kFarExtentBytes;
  bool is_found = false;
  Error error = pager_.file.open(request_.path, extents, request_.arena_uuid,
                                 !request_.must_be_found, &is_found, *why_);
  if (error != Error::kNone) return error;
  error = pager_.faults.open(request_.tracks_async, *why_);
  if (error != Error::kNone) return error;

  const uint64_t near_max = max(request_.near_bytes / kFarExtentBytes, kNearMin);
  pager_.near_max = near_max;
  pager_.near_high = near_max * 9 / 10;
  pager_.near_low = near_max * 3 / 4;
  pager_.node_count = request_.node_count;
  pager_.replica_count = request_.replica_count;
  pager_.may_prefetch = request_.may_prefetch;
  pager_.lost_wait_ms = request_.lost_wait_ms;
  queue_count_ = max(near_max / 8, uint64_t{8});
  intptr_t queue = sys::map(nullptr, queue_count_ * sizeof(uint64_t), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (queue < 0) return Error::kNoMemory;
  queue_ = reinterpret_cast<uint64_t*>(queue);

  for (uint32_t i = 0; i < request_.node_count; i++)
    request_.handler_nodes[0][i]->connect(kConnectMs);
  // Without the file only the nodes know what there is; all but replica_count - 1 must tell.
  uint32_t silent_max =
      is_found || !request_.has_data ? kFarNodesMax : max(request_.replica_count, 1U) - 1;
  error = reattach(pager_.file, is_found, request_.handler_nodes[0], request_.node_count,
                   silent_max, &reattached_);
  if (error == Error::kBusy) {
    why_->text("far memory cannot be taken over: a memory node that may have part of it is away");
    return error;
  }
  if (error == Error::kNone && !is_found) error = pager_.file.confirm();
  if (error != Error::kNone) return error;
  pager_.near_count.store(count_near());
  error = map_window();
  if (error != Error::kNone) return error;

  evictor_.open(pager_, request_.evictor_nodes, queue_, queue_count_);
  has_evictor_ = pthread_create(&evictor_thread_, nullptr, evictor_main, &evictor_) == 0;
  if (!has_evictor_) return Error::kNoMemory;
  for (uint32_t i = 0; i < request_.handler_count; i++) {
    HandlerThread& one = handlers_[i];
    // One beside the thread that faults, the others where there is room.
    one.handler.open(pager_, request_.handler_nodes[i], i == 0);
    // Without the further ones the first serves all.
    one.is_running = i > 0 && pthread_create(&one.thread, nullptr, handler_main, &one.handler) == 0;
  }
  return Error::kNone;
}

Error FarWindow::map_window() noexcept {
  const uint64_t bytes = request_.window_bytes + kDoorbellBytes;
  int flags = MAP_SHARED | MAP_NORESERVE | (request_.address != nullptr ? MAP_FIXED : 0);
  intptr_t mapped = sys::map(request_.address, bytes, PROT_READ | PROT_WRITE, flags,
                             pager_.file.descriptor(), pager_.file.window_offset());
  if (mapped < 0) return Error::kNoMemory;
  pager_.base = reinterpret_cast<char*>(mapped);
  pager_.window_bytes = request_.window_bytes;
  // Before anybody can fork: a child that reads a missing page of a shared mapping would fill the
  // hole with zeros, for the parent too.
  sys::advise(pager_.base, bytes, MADV_DONTFORK);
  sys::advise(pager_.base, bytes, MADV_NOHUGEPAGE);  // its unit is ours
  // What the last owner rang must be missing again, or the ring would never be answered.
  pager_.file.punch(pager_.file.table().count());
  Error error = pager_.faults.watch(pager_.base, bytes, true);
  if (error != Error::kNone) {
    why_->text("the kernel does not let us watch the far window");
    return error;
  }
  pager_.tracks_async = pager_.faults.features().can_track_async &&
                        pager_.faults.proves_tracking(pager_.base + pager_.window_bytes);
  if (!pager_.tracks_async && pager_.faults.features().can_track_async) {
    // The descriptor was opened for the other way, in which no write faults.
    pager_.faults.unwatch(pager_.base, bytes);
    pager_.faults.close();
    error = pager_.faults.open(false, *why_);
    if (error == Error::kNone) error = pager_.faults.watch(pager_.base, bytes, true);
  }
  if (error == Error::kNone)
    pager_.maps_protected = pager_.faults.can_map_protected(pager_.base + pager_.window_bytes);
  return error;
}

void FarWindow::tear_down() noexcept {
  if (has_evictor_) pthread_join(evictor_thread_, nullptr);
  has_evictor_ = false;
  for (HandlerThread& one : handlers_) {
    if (one.is_running) pthread_join(one.thread, nullptr);
    one.is_running = false;
  }
  while (is_serving_ && !has_rung_.load(std::memory_order_acquire)) {
    uint32_t seen = rung_.seen();
    if (!has_rung_.load(std::memory_order_acquire)) rung_.wait(seen, 1'000'000);
  }
  // The mapping first: without the descriptor its missing pages would read as zeros.
  if (pager_.base != nullptr && request_.address == nullptr) {
    sys::unmap(pager_.base, pager_.window_bytes + kDoorbellBytes);
  } else if (pager_.base != nullptr) {
    reserve_addresses(MAP_FIXED);
  }
  pager_.base = nullptr;
  pager_.faults.close();
  pager_.file.close();
  if (queue_ != nullptr) sys::unmap(queue_, queue_count_ * sizeof(uint64_t));
  queue_ = nullptr;
}

void FarWindow::close() noexcept {
  if (!is_open_) return;
  is_open_ = false;
  pager_.is_stopping.store(true, std::memory_order_release);
  pager_.evictor_call.raise();
  pager_.help_call.raise();
  // One ring ends one handler, and a page can be rung once.
  uint32_t running = 1;
  for (const HandlerThread& one : handlers_) running += one.is_running;
  const volatile char* doorbell = pager_.base + pager_.window_bytes;
  for (uint32_t i = 0; i < running; i++) (void)doorbell[i * kPageBytes];
  // Only now may the mapping go, doorbell and all.
  has_rung_.store(true, std::memory_order_release);
  rung_.raise();
  pthread_join(pager_thread_, nullptr);
}

void FarWindow::discard(uint64_t extent) noexcept {
  ExtentTable& table = pager_.file.table();
  while (true) {
    ExtentWord word = table.load(extent);
    switch (word.state()) {
      case ExtentState::kZero:
        return;
      case ExtentState::kNear:
      case ExtentState::kIdle:
      case ExtentState::kEvicting:
      case ExtentState::kFar:
      case ExtentState::kPoisoned: {
        if (!table.change(extent, word, word.with(ExtentState::kDiscarding))) break;
        // A kill leaves kDiscarding: zero.
        bool has_frames =
            word.state() != ExtentState::kFar && word.state() != ExtentState::kPoisoned;
        if (word.state() != ExtentState::kFar)
          sys::remove(pager_.extent_at(extent), kFarExtentBytes);
        if (word.state() == ExtentState::kPoisoned) {
          // The poison is in the page table, where MADV_REMOVE leaves it.
          if (!pager_.faults.features().can_poison)
            sys::protect(pager_.extent_at(extent), kFarExtentBytes, PROT_READ | PROT_WRITE);
          sys::advise(pager_.extent_at(extent), kFarExtentBytes, MADV_DONTNEED);
        }
        if (has_frames) pager_.near_count.fetch_sub(1, std::memory_order_relaxed);
        // The holders stay in the word until the evictor has told them.
        table.store(extent, word.at_rest(ExtentState::kZero).with_dirty(false));
        return;
      }
      case ExtentState::kFetching:
      case ExtentState::kMapping:
      case ExtentState::kUnmapping:
      case ExtentState::kPunching:
      case ExtentState::kDiscarding:
        ::sched_yield();
        break;
    }
  }
}

bool FarWindow::is_zero(uint64_t extent) const noexcept {
  return pager_.file.table().load(extent).state() == ExtentState::kZero;
}

// Nothing else may come to lie where the program believes its data.
void FarWindow::reserve_addresses(int how) noexcept {
  sys::map(pager_.base, pager_.window_bytes + kDoorbellBytes, PROT_NONE,
           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | how, -1, 0);
}

void FarWindow::forget_in_child() noexcept {
  if (!is_open_) return;
  // What is mapped there is the child's snapshot.
  reserve_addresses(MAP_FIXED_NOREPLACE);
  is_open_ = false;
}

uint64_t FarWindow::count_near() noexcept {
  uint64_t found = 0;
  for (uint64_t i = 0; i < pager_.file.table().count(); i++)
    found += pager_.file.table().load(i).state() == ExtentState::kIdle;
  return found;
}

}  // namespace btd
