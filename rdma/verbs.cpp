#include "rdma/verbs.hpp"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>

#include "core/base/check.hpp"

namespace btd {

void (*verbs_allocation_hook)(bool is_beginning) = nullptr;

using wire::Message;
using wire::Phase;
using wire::Transport;
using wire::Type;

namespace {

// What the kernel may take for a step; the caller's deadline is looked at beside it.
constexpr int kResolveMs = 2000;
// Without a sign of life while something is in flight: far less than an operation's deadline, far
// more than a fetch.
constexpr uint64_t kProbeMs = 500;

}  // namespace

// The bytes of a write go before its message: a reliable queue pair keeps the order, so they are in
// the staging buffer when the node reads the message.
bool VerbsProtocol::post(VerbsQueue& queue, ClientSlots& slots, const Message& message) noexcept {
  uint32_t slot = message.header.slot;
  bool is_posted = true;
  if (message.header.type == Type::kWrite) {
    is_posted = queue.write(slot, message.as<wire::Write>().length_bytes,
                            staging_address_ + slot * kFarExtentBytes, staging_key_);
  }
  if (is_posted && queue.send(message)) return true;
  slots.fail(slot, NodeStatus::kLost);
  return fail(NodeStatus::kLost);
}

bool VerbsProtocol::on_message(VerbsQueue& queue, ClientSlots& slots,
                               const Message& message) noexcept {
  if (!is_header_sound(message.header, Phase::kClientReady, Transport::kVerbs) ||
      !is_message_sound(message, Transport::kVerbs)) {
    return fail(NodeStatus::kCorrupt);
  }
  if (message.header.type == Type::kGoodbye) return fail(message.as<wire::Goodbye>().status);
  uint32_t slot = message.header.slot;
  switch (slots.on_reply(message)) {
    case ClientSlots::Next::kViolation:
      slots.fail(slot, NodeStatus::kCorrupt);
      return fail(NodeStatus::kLost);
    case ClientSlots::Next::kPayload:
      if (queue.read(slot, slots.payload_bytes(slot), staging_address_ + slot * kFarExtentBytes,
                     staging_key_)) {
        return true;
      }
      return fail(NodeStatus::kLost);
    case ClientSlots::Next::kDone:
      return true;
  }
  return true;
}

bool VerbsProtocol::progress(VerbsQueue& queue, ClientSlots& slots, bool* is_any) noexcept {
  VerbsQueue::Event event;
  // Bounded: each round of the caller takes at most as many events as can have been posted.
  for (uint32_t i = 0; i < 8 * kNodeDepth && queue.poll(event) != 0; i++) {
    if (is_any != nullptr) *is_any = true;
    switch (event.kind) {
      case VerbsQueue::Kind::kSent:
      case VerbsQueue::Kind::kWritten:
        break;
      case VerbsQueue::Kind::kRead:
        slots.finish(event.slot);
        break;
      case VerbsQueue::Kind::kBroken:
        return fail(NodeStatus::kLost);
      case VerbsQueue::Kind::kMessage:
        if (!on_message(queue, slots, event.message)) return false;
        break;
    }
  }
  return true;
}

bool VerbsCarrier::is_possible() noexcept {
  VerbsAllocations scope;
  return has_infiniband("/sys/class/infiniband") && load_verbs() != nullptr;
}

NodeStatus VerbsCarrier::begin(const NodeAddress& address, ClientSlots& slots) noexcept {
  library_ = load_verbs();
  if (library_ == nullptr) return NodeStatus::kLost;
  slots_ = &slots;
  spins_ = 0;
  has_bad_news_ = false;
  silent_since_ms_ = 0;
  events_ = library_->create_event_channel();
  if (events_ == nullptr) return NodeStatus::kLost;
  int flags = fcntl(events_->fd, F_GETFL);
  if (flags < 0 || fcntl(events_->fd, F_SETFL, flags | O_NONBLOCK) != 0) return NodeStatus::kLost;
  if (library_->create_id(events_, &id_, nullptr, RDMA_PS_TCP) != 0) {
    id_ = nullptr;
    return NodeStatus::kLost;
  }
  set_ack_timeout(*library_, id_);
  NodeAddress there = address;
  auto* where = reinterpret_cast<sockaddr*>(&there.storage);
  return library_->resolve_addr(id_, nullptr, where, kResolveMs) == 0 ? NodeStatus::kGood
                                                                      : NodeStatus::kLost;
}

bool VerbsCarrier::connect() noexcept {
  auto peer = slots_->is_sealed() ? DeviceQueue::Peer::kNothing : DeviceQueue::Peer::kWrites;
  if (!queue_.open(*library_, id_, slots_->wire_buffer(0), peer)) return false;
  rdma_conn_param parameters = verbs_parameters(queue_.reads_max(), false);
  return library_->connect(id_, &parameters) == 0;
}

// Its steps are the kernel's and the node's answers; between them it may wait for the next call.
NodeStatus VerbsCarrier::open(const NodeAddress& address, ClientSlots& slots,
                              uint64_t deadline_ms) noexcept {
  VerbsAllocations scope;
  if (stage_ == Stage::kClosed) {
    NodeStatus status = begin(address, slots);
    if (status != NodeStatus::kGood) return status;
    stage_ = Stage::kAddress;
  }
  while (stage_ != Stage::kOpen) {
    rdma_cm_event_type wanted = stage_ == Stage::kAddress ? RDMA_CM_EVENT_ADDR_RESOLVED
                                : stage_ == Stage::kRoute ? RDMA_CM_EVENT_ROUTE_RESOLVED
                                                          : RDMA_CM_EVENT_ESTABLISHED;
    NodeStatus status = await_event(wanted, deadline_ms);
    if (status != NodeStatus::kGood) return status;
    bool is_good = true;
    if (stage_ == Stage::kAddress) {
      is_good = library_->resolve_route(id_, kResolveMs) == 0;
      stage_ = Stage::kRoute;
    } else if (stage_ == Stage::kRoute) {
      is_good = connect();
      stage_ = Stage::kAnswer;
    } else {
      stage_ = Stage::kOpen;
    }
    if (!is_good) return NodeStatus::kLost;
  }
  return NodeStatus::kGood;
}

// Queue pair and regions go first: after that no device touches the buffers.
void VerbsCarrier::close() noexcept {
  VerbsAllocations scope;
  stage_ = Stage::kClosed;
  if (queue_.is_open()) {
    library_->disconnect(id_);
    queue_.close();
  }
  if (id_ != nullptr) library_->destroy_id(id_);
  if (events_ != nullptr) library_->destroy_event_channel(events_);
  id_ = nullptr;
  events_ = nullptr;
}

NodeStatus VerbsCarrier::await_event(rdma_cm_event_type wanted, uint64_t deadline_ms) noexcept {
  while (true) {
    rdma_cm_event* event = nullptr;
    if (library_->get_cm_event(events_, &event) == 0) {
      bool is_wanted = event->event == wanted;
      library_->ack_cm_event(event);
      return is_wanted ? NodeStatus::kGood : NodeStatus::kLost;
    }
    if (errno != EAGAIN && errno != EINTR) return NodeStatus::kLost;
    uint64_t now = steady_clock_ms();
    if (now >= deadline_ms) return NodeStatus::kTimeout;
    pollfd ready{.fd = events_->fd, .events = POLLIN, .revents = 0};
    ::poll(&ready, 1, static_cast<int>(min<uint64_t>(deadline_ms - now, 1000)));
  }
}

NodeStatus VerbsCarrier::send(const Message& message, uint64_t) noexcept {
  return queue_.send(message) ? NodeStatus::kGood : NodeStatus::kLost;
}

NodeStatus VerbsCarrier::receive(Message& message, uint64_t deadline_ms) noexcept {
  while (true) {
    VerbsQueue::Event event;
    while (queue_.poll(event) != 0) {
      if (event.kind == VerbsQueue::Kind::kBroken) return NodeStatus::kLost;
      if (event.kind != VerbsQueue::Kind::kMessage) continue;
      message = event.message;
      bool is_sound = is_header_sound(message.header, Phase::kClientHandshake, Transport::kVerbs) &&
                      is_message_sound(message, Transport::kVerbs);
      return is_sound ? NodeStatus::kGood : NodeStatus::kRefused;
    }
    // Disconnected, and what the node said before was looked for once more.
    if (has_bad_news_) return NodeStatus::kLost;
    uint64_t now = steady_clock_ms();
    if (now >= deadline_ms) return NodeStatus::kTimeout;
    await_either(deadline_ms - now);
  }
}

bool VerbsCarrier::post(const Message& message) noexcept {
  spins_ = 0;
  return protocol_.post(queue_, *slots_, message) || fail(protocol_.status());
}

bool VerbsCarrier::progress() noexcept {
  bool is_any = false;
  if (!protocol_.progress(queue_, *slots_, &is_any)) return fail(protocol_.status());
  if (is_any) spins_ = 0;
  if (has_bad_news_ || !probe_if_silent(is_any)) return fail(NodeStatus::kLost);
  return true;
}

// A machine that died after its device took the request answers nothing, and nothing of ours is on
// the way to it whose acknowledgement could fail to come.
bool VerbsCarrier::probe_if_silent(bool has_heard) noexcept {
  if (has_heard || slots_->deadline_ms_min() == UINT64_MAX) {
    silent_since_ms_ = 0;
    return true;
  }
  uint64_t now = steady_clock_ms();
  if (silent_since_ms_ == 0) silent_since_ms_ = now;
  if (now < silent_since_ms_ + kProbeMs) return true;
  silent_since_ms_ = now;
  return queue_.probe();
}

// After it is established nothing but bad news comes to the channel of events.
void VerbsCarrier::await_either(uint64_t wait_ms) noexcept {
  pollfd ready[2] = {{.fd = queue_.descriptor(), .events = POLLIN, .revents = 0},
                     {.fd = events_->fd, .events = POLLIN, .revents = 0}};
  ::poll(ready, 2, static_cast<int>(min<uint64_t>(wait_ms, 60000)));
  queue_.arm();
  has_bad_news_ = has_bad_news_ || ready[1].revents != 0;
}

// The completion queue is polled for as long as a transfer of 64 KiB may take on a fast network,
// then its channel is waited for.
void VerbsCarrier::wait(uint64_t wait_us) noexcept {
  constexpr uint32_t kSpins = 64;
  if (spins_++ >= kSpins) await_either(min(divide_up(wait_us, 1000), kProbeMs));
}

}  // namespace btd
