#include "rdma/verbs.hpp"

#include <fcntl.h>
#include <poll.h>

#include <cerrno>

#include "core/base/check.hpp"

namespace btd {

using wire::Message;
using wire::Phase;
using wire::Transport;
using wire::Type;

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

bool VerbsProtocol::progress(VerbsQueue& queue, ClientSlots& slots) noexcept {
  VerbsQueue::Event event;
  // Bounded: each round of the caller takes at most as many events as can have been posted.
  for (uint32_t i = 0; i < 8 * kNodeDepth && queue.poll(event) != 0; i++) {
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

void VerbsNode::configure(const NodeAddress& address, const NodeClient& client,
                          const Crypto& crypto, const VerbsLibrary& library,
                          uint32_t operation_ms) noexcept {
  BTD_CHECK(!is_connected());
  address_ = address;
  client_ = client;
  crypto_ = &crypto;
  library_ = &library;
  operation_ms_ = operation_ms;
}

NodeStatus VerbsNode::connect(uint32_t deadline_ms) noexcept {
  BTD_CHECK(!is_connected() && library_ != nullptr);
  int kept = errno;
  uint64_t deadline = steady_clock_ms() + deadline_ms;
  NodeStatus status = establish(deadline);
  if (status == NodeStatus::kGood) status = greet(deadline);
  if (status == NodeStatus::kGood) {
    const wire::Accept& accept = handshake_.accept();
    protocol_.start(accept.staging_address, accept.staging_key);
    is_connected_ = true;
  } else {
    drop(NodeStatus::kLost);
  }
  errno = kept;
  return status;
}

NodeStatus VerbsNode::establish(uint64_t deadline_ms) noexcept {
  events_ = library_->create_event_channel();
  if (events_ == nullptr) return NodeStatus::kLost;
  int flags = fcntl(events_->fd, F_GETFL);
  if (flags < 0 || fcntl(events_->fd, F_SETFL, flags | O_NONBLOCK) != 0) return NodeStatus::kLost;
  if (library_->create_id(events_, &id_, nullptr, RDMA_PS_TCP) != 0) {
    id_ = nullptr;
    return NodeStatus::kLost;
  }
  set_ack_timeout(*library_, id_);
  auto left_ms = [&] {
    uint64_t now = steady_clock_ms();
    return static_cast<int>(now < deadline_ms ? min<uint64_t>(deadline_ms - now, 60000) : 1);
  };
  auto* where = reinterpret_cast<sockaddr*>(&address_.storage);
  if (library_->resolve_addr(id_, nullptr, where, left_ms()) != 0) return NodeStatus::kLost;
  NodeStatus status = await_event(RDMA_CM_EVENT_ADDR_RESOLVED, deadline_ms);
  if (status != NodeStatus::kGood) return status;
  if (library_->resolve_route(id_, left_ms()) != 0) return NodeStatus::kLost;
  status = await_event(RDMA_CM_EVENT_ROUTE_RESOLVED, deadline_ms);
  if (status != NodeStatus::kGood) return status;
  if (!queue_.open(*library_, id_, slots_.buffer(0), false)) return NodeStatus::kLost;
  rdma_conn_param parameters = verbs_parameters(queue_.reads_max(), false);
  if (library_->connect(id_, &parameters) != 0) return NodeStatus::kLost;
  return await_event(RDMA_CM_EVENT_ESTABLISHED, deadline_ms);
}

NodeStatus VerbsNode::await_event(rdma_cm_event_type wanted, uint64_t deadline_ms) noexcept {
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

NodeStatus VerbsNode::receive_message(Message& message, uint64_t deadline_ms) noexcept {
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
    uint64_t now = steady_clock_ms();
    if (now >= deadline_ms) return NodeStatus::kTimeout;
    pollfd ready[2] = {{.fd = queue_.descriptor(), .events = POLLIN, .revents = 0},
                       {.fd = events_->fd, .events = POLLIN, .revents = 0}};
    ::poll(ready, 2, static_cast<int>(min<uint64_t>(deadline_ms - now, 1000)));
    queue_.arm();
    if (ready[1].revents != 0) {
      // Disconnected.  What the node said before may be in the queue: look once more.
      deadline_ms = 0;
    }
  }
}

NodeStatus VerbsNode::greet(uint64_t deadline_ms) noexcept {
  Message outgoing, incoming;
  if (!handshake_.start(*crypto_, client_, Transport::kVerbs, queue_.queue_pair(), outgoing)) {
    return NodeStatus::kRefused;
  }
  while (true) {
    if (!queue_.send(outgoing)) return NodeStatus::kLost;
    NodeStatus status = receive_message(incoming, deadline_ms);
    if (status != NodeStatus::kGood) {
      bool is_early = status == NodeStatus::kTimeout && steady_clock_ms() < deadline_ms;
      return is_early ? NodeStatus::kLost : status;
    }
    switch (handshake_.on_message(incoming, outgoing)) {
      case wire::ClientHandshake::Step::kSend:
        break;
      case wire::ClientHandshake::Step::kAccepted:
        return NodeStatus::kGood;
      case wire::ClientHandshake::Step::kFailed:
        return handshake_.status();
    }
  }
}

bool VerbsNode::post(const Message* message) noexcept {
  if (message == nullptr) return false;
  if (!protocol_.post(queue_, slots_, *message)) drop(protocol_.status());
  return true;  // and poll() reports it
}

bool VerbsNode::read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept {
  return is_connected() && post(slots_.begin_read(slot, extent, generation_min, deadline()));
}

bool VerbsNode::write(uint32_t slot, uint64_t extent, uint64_t generation,
                      uint32_t length_bytes) noexcept {
  return is_connected() && post(slots_.begin_write(slot, extent, generation, length_bytes,
                                                   Transport::kVerbs, deadline()));
}

bool VerbsNode::release(uint32_t slot, uint64_t extent) noexcept {
  return is_connected() && post(slots_.begin_release(slot, extent, deadline()));
}

bool VerbsNode::list(uint32_t slot, uint64_t first_extent) noexcept {
  return is_connected() && post(slots_.begin_list(slot, first_extent, deadline()));
}

void VerbsNode::progress() noexcept {
  if (!protocol_.progress(queue_, slots_)) {
    drop(protocol_.status());
  } else if (slots_.expire(steady_clock_ms())) {
    drop(NodeStatus::kLost);
  }
}

// The completion queue is polled for as long as a transfer of 64 KiB may take on a fast network,
// then its channel is waited for.
uint32_t VerbsNode::poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept {
  constexpr uint32_t kSpins = 64;
  int kept = errno;
  uint64_t wait_end_ms = steady_clock_ms() + divide_up(wait_us, 1000);
  for (uint32_t spin = 0; is_connected() && !slots_.has_done(); spin++) {
    progress();
    if (slots_.has_done() || !is_connected()) break;
    uint64_t now = steady_clock_ms();
    if (wait_us == 0 || now > wait_end_ms) break;
    if (spin < kSpins) continue;
    uint64_t until = min(slots_.deadline_ms_min(), wait_end_ms);
    uint64_t left_ms = until > now ? until - now : 0;
    pollfd ready[2] = {{.fd = queue_.descriptor(), .events = POLLIN, .revents = 0},
                       {.fd = events_->fd, .events = POLLIN, .revents = 0}};
    int count = ::poll(ready, 2, static_cast<int>(min<uint64_t>(left_ms, 60000)));
    queue_.arm();
    progress();
    // After it is established nothing but bad news comes there.
    if (count > 0 && ready[1].revents != 0 && is_connected()) drop(NodeStatus::kLost);
    if (count <= 0 && steady_clock_ms() >= wait_end_ms) break;
  }
  errno = kept;
  return slots_.take(out, count_max);
}

// Queue pair and regions go before anything is reported: then the buffers are the caller's.
void VerbsNode::drop(NodeStatus status) noexcept {
  is_connected_ = false;
  if (queue_.is_open()) {
    library_->disconnect(id_);
    queue_.close();
  }
  if (id_ != nullptr) library_->destroy_id(id_);
  if (events_ != nullptr) library_->destroy_event_channel(events_);
  id_ = nullptr;
  events_ = nullptr;
  slots_.fail_all(status);
}

}  // namespace btd
