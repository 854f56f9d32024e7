#include "core/spill/fork_child.hpp"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/sys.hpp"
#include "core/spill/descriptors.hpp"

namespace btd {
namespace {

constexpr uint32_t kConnectMs = 1000;
constexpr uint32_t kWaitUs = 10'000;

}  // namespace

Error ForkChild::open(const char* path, char* base, uint64_t window_bytes, Node* const* nodes,
                      uint32_t node_count, Line& why) noexcept {
  path_ = path;
  base_ = base;
  window_bytes_ = window_bytes;
  nodes_ = nodes;
  node_count_ = node_count;
  why_ = &why;
  // What lies there is forget_in_child()'s, until it is watched.
  intptr_t mapped = sys::map(base, window_bytes, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  if (mapped < 0) return Error::kNoMemory;
  uint32_t seen = started_.seen();
  {
    SignalsBlocked blocked;
    if (pthread_create(&thread_, nullptr, main, this) != 0) return Error::kNoMemory;
    pthread_detach(thread_);
  }
  while (started_.seen() == seen) started_.wait(seen, 1'000'000);
  return result_;
}

void* ForkChild::main(void* argument) noexcept {
  auto* child = static_cast<ForkChild*>(argument);
  ::prctl(PR_SET_NAME, "far-child");
  Error error = child->set_up();
  child->report(error);
  if (error == Error::kNone) child->run();
  return nullptr;
}

void ForkChild::report(Error error) noexcept {
  result_ = error;
  started_.raise();
}

Error ForkChild::set_up() noexcept {
  if (!own_descriptors()) {
    why_->text("a forked child needs a thread with descriptors of its own for far memory");
    return Error::kSandboxed;
  }
  file_ = sys::open(path_, O_RDONLY | O_NOFOLLOW);
  FarFileHeader header{};
  if (file_ < 0 || sys::pread(file_, &header, sizeof(header), 0) != sizeof(header) ||
      header.magic != kFarFileMagic || header.extent_count * kFarExtentBytes != window_bytes_) {
    why_->text("a forked child cannot read its parent's far memory");
    return Error::kIo;
  }
  const uint64_t words_bytes = round_up(header.extent_count * sizeof(uint64_t), kPageBytes);
  window_offset_ = round_up(kPageBytes + words_bytes, kFarExtentBytes);
  intptr_t words = sys::map(nullptr, words_bytes, PROT_READ, MAP_SHARED, file_, kPageBytes);
  if (words < 0) return Error::kNoMemory;
  words_ = reinterpret_cast<uint64_t*>(words);
  Error error = faults_.open(true, *why_);
  if (error != Error::kNone) return error;
  error = faults_.watch(base_, window_bytes_, false);
  if (error != Error::kNone) return error;
  // Watched before it can be touched: there is no moment in which it reads zeros.
  if (sys::protect(base_, window_bytes_, PROT_READ | PROT_WRITE) != 0) return Error::kNoMemory;
  sys::advise(base_, window_bytes_, MADV_NOHUGEPAGE);
  sys::advise(base_, window_bytes_, MADV_DONTFORK);  // a child of the child has its own way
  return Error::kNone;
}

void ForkChild::run() noexcept {
  PageFault found[Userfault::kBatch];
  while (true) {  // to the end of the process
    uint32_t count = faults_.read(found, true);
    for (uint32_t i = 0; i < count; i++)
      serve((found[i].address - reinterpret_cast<uint64_t>(base_)) / kFarExtentBytes);
  }
}

ExtentWord ForkChild::load(uint64_t extent) const noexcept {
  return {std::atomic_ref{words_[extent]}.load(std::memory_order_acquire)};
}

void ForkChild::serve(uint64_t extent) noexcept {
  const uint64_t address = reinterpret_cast<uint64_t>(base_) + extent * kFarExtentBytes;
  // Each round ends, or the parent has changed the word.
  while (true) {
    ExtentWord word = load(extent);
    switch (word.state()) {
      case ExtentState::kZero:
        faults_.zero(address, kFarExtentBytes);
        break;
      case ExtentState::kNear:
      case ExtentState::kIdle:
      case ExtentState::kMapping:
      case ExtentState::kUnmapping:
      case ExtentState::kEvicting:
        if (!copy_frames(extent, word)) continue;
        faults_.copy(address, buffer_, kFarExtentBytes, false);
        break;
      case ExtentState::kFar: {
        const char* data = fetch(extent, word);
        if (load(extent) != word) continue;
        if (data != nullptr) faults_.copy(address, data, kFarExtentBytes, false);
        if (data == nullptr) faults_.poison(address, kFarExtentBytes);
        break;
      }
      case ExtentState::kPoisoned:
        faults_.poison(address, kFarExtentBytes);
        break;
      case ExtentState::kFetching:
      case ExtentState::kPunching:
      case ExtentState::kDiscarding:
        // The parent is at it.  One that was killed here is at it for ever, and what the extent was
        // nobody knows: poisoned, if nothing changes for a second.
        for (uint32_t i = 0; i < 1000 && load(extent) == word; i++) ::usleep(1000);
        if (load(extent) == word) faults_.poison(address, kFarExtentBytes);
        if (load(extent) == word) break;
        continue;
    }
    faults_.wake(address, kFarExtentBytes);
    return;
  }
}

// False: the frames may have gone while they were read.
bool ForkChild::copy_frames(uint64_t extent, ExtentWord word) noexcept {
  if (sys::pread(file_, buffer_, kFarExtentBytes, window_offset_ + extent * kFarExtentBytes) !=
      static_cast<long>(kFarExtentBytes)) {
    return false;
  }
  // The same word, with its count of visits: the frames were there all the time.
  return load(extent) == word;
}

const char* ForkChild::fetch(uint64_t extent, ExtentWord word) noexcept {
  for (uint32_t i = 0; i < node_count_; i++) {
    if ((word.holders() & 1U << i) == 0) continue;
    if (!nodes_[i]->is_connected() && nodes_[i]->connect(kConnectMs) != NodeStatus::kGood) continue;
    if (!nodes_[i]->read(0, extent, word.generation())) continue;
    NodeCompletion done{};
    while (nodes_[i]->poll(&done, 1, kWaitUs) == 0) {  // ends by the operation's deadline
    }
    if (done.status == NodeStatus::kGood && done.generation == word.generation() &&
        done.length_bytes == kFarExtentBytes) {
      return nodes_[i]->buffer(0);
    }
  }
  return nullptr;
}

}  // namespace btd
