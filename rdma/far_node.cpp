#include "rdma/far_node.hpp"

#include "core/base/check.hpp"
#include "rdma/errno_kept.hpp"

namespace btd {

using wire::Message;

namespace {

// After verbs have failed and TCP has not, each further connect() would wait for them in vain.
constexpr uint64_t kVerbsAgainMs = 60000;

// A pager's thread that looks whether a node is back has a few milliseconds at a time; verbs may
// need more on a loaded machine, and then go on in the next calls.  Less than a node's patience.
constexpr uint32_t kHurryMs = 1000;
constexpr uint64_t kPatienceMs = 1500;

}  // namespace

void FarNode::configure(const NodeAddress& address, const NodeClient& client, uint32_t operation_ms,
                        const Sealer* sealer) noexcept {
  BTD_CHECK(!is_connected());
  address_ = address;
  client_ = &client;
  operation_ms_ = operation_ms;
  slots_.set_sealer(sealer);
}

NodeStatus FarNode::connect(uint32_t deadline_ms) noexcept {
  BTD_CHECK(!is_connected() && client_ != nullptr);
  ErrnoKept kept;
  const uint64_t now = steady_clock_ms();
  bool has_failed = false;
  if (is_pending_ || (now >= verbs_again_ms_ && VerbsCarrier::is_possible())) {
    if (!is_pending_) {
      is_greeting_ = false;
      verbs_until_ms_ = now + (deadline_ms < kHurryMs ? kPatienceMs : deadline_ms / 2);
    }
    NodeStatus status = connect_by(verbs_, min(verbs_until_ms_, now + deadline_ms));
    is_pending_ = status == NodeStatus::kTimeout && steady_clock_ms() < verbs_until_ms_;
    if (is_pending_) return status;
    if (status != NodeStatus::kGood) verbs_.close();
    // Anything else is the node's own word.
    if (status != NodeStatus::kLost && status != NodeStatus::kTimeout) return status;
    has_failed = true;
  }
  is_greeting_ = false;
  NodeStatus status = connect_by(tcp_, max(now + deadline_ms, steady_clock_ms() + deadline_ms / 2));
  if (status != NodeStatus::kGood) tcp_.close();
  // A node that is dead to both may well come back with verbs.
  if (has_failed && status == NodeStatus::kGood)
    verbs_again_ms_ = steady_clock_ms() + kVerbsAgainMs;
  return status;
}

// A carrier that did not get through is the caller's to close.
NodeStatus FarNode::connect_by(Carrier& carrier, uint64_t deadline_ms) noexcept {
  NodeStatus status = carrier.open(address_, slots_, deadline_ms);
  if (status == NodeStatus::kGood) status = greet(carrier, deadline_ms);
  if (status == NodeStatus::kGood) {
    carrier.start(handshake_.accept(), handshake_.challenge().version);
    carrier_ = &carrier;
  }
  return status;
}

NodeStatus FarNode::greet(Carrier& carrier, uint64_t deadline_ms) noexcept {
  Message outgoing, incoming;
  if (!is_greeting_) {
    if (!handshake_.start(*client_, carrier.transport(), carrier.queue_pair(), outgoing)) {
      return NodeStatus::kRefused;
    }
    NodeStatus status = carrier.send(outgoing, deadline_ms);
    if (status != NodeStatus::kGood) return status;
    is_greeting_ = true;
  }
  while (true) {
    NodeStatus status = carrier.receive(incoming, deadline_ms);
    if (status != NodeStatus::kGood) return status;
    switch (handshake_.on_message(incoming, outgoing)) {
      case wire::ClientHandshake::Step::kSend:
        status = carrier.send(outgoing, deadline_ms);
        if (status != NodeStatus::kGood) return status;
        break;
      case wire::ClientHandshake::Step::kAccepted:
        return NodeStatus::kGood;
      case wire::ClientHandshake::Step::kFailed:
        return handshake_.status();
    }
  }
}

bool FarNode::post(const Message* message) noexcept {
  if (message == nullptr) return false;
  ErrnoKept kept;
  if (!carrier_->post(*message) || (!is_gathering_ && !carrier_->flush()))
    drop(carrier_->failure());
  return true;  // and poll() reports it
}

void FarNode::gather(bool is_on) noexcept {
  is_gathering_ = is_on;
  if (is_on || !is_connected()) return;
  ErrnoKept kept;
  if (!carrier_->flush()) drop(carrier_->failure());
}

bool FarNode::read(uint32_t slot, uint64_t extent, uint64_t generation_min) noexcept {
  return is_connected() && post(slots_.begin_read(slot, extent, generation_min, deadline()));
}

bool FarNode::write(uint32_t slot, uint64_t extent, uint64_t generation,
                    uint32_t length_bytes) noexcept {
  return is_connected() && post(slots_.begin_write(slot, extent, generation, length_bytes,
                                                   carrier_->transport(), deadline()));
}

bool FarNode::release(uint32_t slot, uint64_t extent) noexcept {
  return is_connected() && post(slots_.begin_release(slot, extent, deadline()));
}

bool FarNode::list(uint32_t slot, uint64_t first_extent) noexcept {
  return is_connected() && post(slots_.begin_list(slot, first_extent, deadline()));
}

bool FarNode::status(uint32_t slot, uint64_t first_arena) noexcept {
  return is_connected() && post(slots_.begin_status(slot, first_arena, deadline()));
}

bool FarNode::forget(uint32_t slot, const wire::Forget& arena) noexcept {
  return is_connected() && post(slots_.begin_forget(slot, arena, deadline()));
}

void FarNode::progress() noexcept {
  if (!carrier_->progress()) {
    drop(carrier_->failure());
  } else if (slots_.expire(steady_clock_ms())) {
    drop(NodeStatus::kLost);
  }
}

uint32_t FarNode::poll(NodeCompletion* out, uint32_t count_max, uint32_t wait_us) noexcept {
  ErrnoKept kept;
  uint64_t end_us = steady_clock_us() + wait_us;
  if (is_connected()) progress();
  while (!slots_.has_done() && is_connected()) {
    uint64_t now_us = steady_clock_us();
    if (now_us >= end_us) break;
    uint64_t due_ms = slots_.deadline_ms_min();
    uint64_t until_us = due_ms == UINT64_MAX ? end_us : min(end_us, due_ms * 1000);
    carrier_->wait(until_us > now_us ? until_us - now_us : 0);
    progress();
  }
  return slots_.take(out, count_max);
}

void FarNode::drop(NodeStatus status) noexcept {
  if (carrier_ != nullptr) carrier_->close();
  if (is_pending_) verbs_.close();
  is_pending_ = false;
  carrier_ = nullptr;
  slots_.fail_all(status);
}

}  // namespace btd
