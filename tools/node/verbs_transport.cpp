#include "tools/node/verbs_transport.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tools/failure.hpp"
#include "tools/node/tcp_transport.hpp"

namespace btd::tools {

using wire::Message;
using wire::Type;

namespace {

constexpr uint64_t kLingerMs = 500;
constexpr uint64_t kProbeMs = 10000;  // as TCP's keepalive
// Registering takes time for each page, and for each connection, and the others wait meanwhile:
// a store of a greater size is copied from.
constexpr uint64_t kRegisteredBytesMax = 16ULL << 30;
constexpr size_t kStagingBytes = kNodeDepth * kFarExtentBytes;

std::string peer_text(const rdma_cm_id& id) {
  return address_text(id.route.addr.dst_storage) + " (verbs)";
}

}  // namespace

void VerbsConnection::FreeBuffers::operator()(char* buffers) const { std::free(buffers); }

VerbsConnection::VerbsConnection(const VerbsLibrary& library, rdma_cm_id* id, std::string peer_name,
                                 EventLoop& loop, Service& service)
    : Connection(wire::Transport::kVerbs),
      library_(library),
      id_(id),
      loop_(loop),
      service_(service),
      accepted_ms_(steady_clock_ms()),
      heard_ms_(accepted_ms_),
      staging_(static_cast<char*>(std::aligned_alloc(4096, kStagingBytes))) {
  peer = std::move(peer_name);
  if (staging_ != nullptr) {
    std::memset(staging_.get(), 0, kStagingBytes);  // nothing of whoever had the memory before
    if (queue_.open(library_, id_, staging_.get(), DeviceQueue::Peer::kReadsAndWrites)) {
      loop_.add(queue_.descriptor(), EPOLLIN, *this);
      service_.add(*this);
      return;
    }
  }
  throw Failure{kExitFailed, "the device has no room for another client"};
}

VerbsConnection::~VerbsConnection() {
  if (!is_closed()) close(NodeStatus::kLost);
  destroy();
  library_.destroy_id(id_);
}

void VerbsConnection::destroy() {
  if (!queue_.is_open()) return;
  loop_.remove(queue_.descriptor());
  library_.disconnect(id_);
  queue_.close();
  while (!sources_.empty()) written();
}

bool VerbsConnection::accept(uint8_t reads_asked) {
  rdma_conn_param parameters =
      verbs_parameters(std::min(queue_.reads_max(), std::max<uint8_t>(reads_asked, 1)), true);
  return library_.accept(id_, &parameters) == 0;
}

bool VerbsConnection::is_overdue(uint64_t now_ms) const {
  return is_broken_ || (!is_proven() && now_ms > accepted_ms_ + kHandshakeMs);
}

void VerbsConnection::probe_if_silent(uint64_t now_ms) {
  if (is_closed() || !is_proven() || now_ms < heard_ms_ + kProbeMs) return;
  heard_ms_ = now_ms;
  if (!queue_.probe()) is_broken_ = true;
}

void VerbsConnection::fill(wire::Accept& accept) {
  accept.staging_address = queue_.address();
  accept.staging_key = queue_.remote_key();
  Media& media = service_.store().media();
  if (role == wire::Role::kObserver || !media.is_registrable()) return;
  service_.on_registered(media.size_bytes() <= kRegisteredBytesMax &&
                         queue_.open_source(media.base(), media.size_bytes()));
}

void VerbsConnection::place(const Message& message) {
  auto read = message.as<wire::ReadInto>();
  places_[message.header.slot] = {.address = read.address, .key = read.key};
}

// Of a client that was in, everything is gone when this returns.  One that was never in has no
// region's key, and is told why before its queue pair goes.
void VerbsConnection::close(NodeStatus why) {
  if (is_closed()) return;
  bool was_proven = is_proven();
  service_.remove(*this);
  if (was_proven || is_broken_) return destroy();
  Message message;
  wire::Goodbye goodbye{};
  goodbye.status = why == NodeStatus::kGood ? NodeStatus::kLost : why;
  wire::build(message, Type::kGoodbye, 0, goodbye);
  if (!queue_.send(message)) return destroy();
  linger_until_ms_ = steady_clock_ms() + kLingerMs;
}

void VerbsConnection::lose() {
  is_broken_ = true;
  close(NodeStatus::kLost);
}

// Whoever sends is in the middle of something: a broken connection is closed by sweep().
void VerbsConnection::send(const Message& message) {
  if (!queue_.is_open() || !queue_.send(message)) is_broken_ = true;
}

void VerbsConnection::reply(uint8_t slot, wire::Reply reply, Payload payload) {
  if (payload.size_bytes != 0) send_bytes(slot, payload);
  places_[slot] = {};
  Message message;
  wire::build(message, Type::kReply, slot, reply);
  // The client may ask again on this slot before our device hears that the reply arrived.
  Service::answered(*this, slot);
  send(message);
}

// The reply comes after them, on the same queue pair: then they are there.
void VerbsConnection::send_bytes(uint8_t slot, const Payload& payload) {
  const Place& place = places_[slot];
  bool is_direct = place.key != 0 && payload.pinned != kNoSlot && queue_.has_source();
  const char* bytes = payload.data;
  if (!is_direct) {
    char* staging = staging_.get() + slot * kFarExtentBytes;
    std::memcpy(staging, bytes, payload.size_bytes);
    bytes = staging;
    if (payload.pinned != kNoSlot) service_.store().unpin(payload.pinned);
  }
  if (place.key == 0) return;
  sources_.push_back(is_direct ? payload.pinned : kNoSlot);
  if (queue_.is_open() && queue_.write_from(bytes, payload.size_bytes, place.address, place.key)) {
    return;
  }
  is_broken_ = true;
}

void VerbsConnection::written() {
  SlotIndex pinned = sources_.front();
  sources_.pop_front();
  if (pinned != kNoSlot) service_.store().unpin(pinned);
}

void VerbsConnection::ready(uint32_t) {
  if (!queue_.is_open()) return;
  queue_.arm();
  heard_ms_ = steady_clock_ms();
  VerbsQueue::Event event;
  while (queue_.is_open() && queue_.poll(event) != 0) {
    if (event.kind == VerbsQueue::Kind::kBroken) {
      is_broken_ = true;
      close(NodeStatus::kLost);
      return destroy();
    }
    if (event.kind == VerbsQueue::Kind::kWritten && !sources_.empty()) written();
    if (event.kind == VerbsQueue::Kind::kMessage && !is_closed() && !take_message(event.message)) {
      return;
    }
  }
}

bool VerbsConnection::take_message(const Message& message) {
  wire::Phase phase = is_proven() ? wire::Phase::kNodeReady : wire::Phase::kNodeHandshake;
  NodeStatus why = is_proven() ? NodeStatus::kCorrupt : NodeStatus::kRefused;
  bool is_good = is_header_sound(message.header, phase, wire::Transport::kVerbs) &&
                 is_message_sound(message, wire::Transport::kVerbs);
  if (is_good && message.header.type == Type::kWrite) {
    is_good = take_write(message);
  } else if (is_good) {
    is_good = service_.on_message(*this, message, why);
  }
  if (!is_good) close(why);
  return is_good;
}

// The client could change the staging buffer at any moment: the checksum is taken of the copy.
bool VerbsConnection::take_write(const Message& message) {
  SlotIndex slot = kNoSlot;
  wire::Reply refusal{};
  if (!service_.begin_write(*this, message, slot, refusal)) return false;
  if (slot == kNoSlot) {
    reply(message.header.slot, refusal, {});
    return true;
  }
  std::memcpy(service_.store().bytes(slot), staging_.get() + message.header.slot * kFarExtentBytes,
              message.as<wire::Write>().length_bytes);
  service_.end_write(*this, message, slot);
  return true;
}

VerbsTransport::VerbsTransport(const VerbsLibrary& library, const NodeAddress& address,
                               EventLoop& loop, Service& service)
    : library_(library), loop_(loop), service_(service) {
  NodeAddress where = address;
  events_ = library_.create_event_channel();
  int flags = events_ == nullptr ? -1 : fcntl(events_->fd, F_GETFL);
  bool is_listening =
      flags >= 0 && fcntl(events_->fd, F_SETFL, flags | O_NONBLOCK) == 0 &&
      library_.create_id(events_, &listener_, nullptr, RDMA_PS_TCP) == 0 &&
      library_.bind_addr(listener_, reinterpret_cast<sockaddr*>(&where.storage)) == 0 &&
      library_.listen(listener_, 64) == 0;
  if (!is_listening) {
    int error = errno;
    if (listener_ != nullptr) library_.destroy_id(listener_);
    if (events_ != nullptr) library_.destroy_event_channel(events_);
    throw Failure{kExitFailed,
                  fmt::format("cannot listen at {} over verbs: {}; no extent was changed; is there "
                              "an RDMA device at that address? else give --transport tcp",
                              address_text(address.storage), std::strerror(error))};
  }
  port_ = ntohs(library_.get_src_port(listener_));
  loop_.add(events_->fd, EPOLLIN, *this);
}

VerbsTransport::~VerbsTransport() {
  connections_.clear();
  if (listener_ != nullptr) library_.destroy_id(listener_);
  library_.destroy_event_channel(events_);
}

void VerbsTransport::ready(uint32_t) {
  rdma_cm_event* event = nullptr;
  while (library_.get_cm_event(events_, &event) == 0) {
    rdma_cm_event_type type = event->event;
    rdma_cm_id* id = event->id;
    uint8_t reads_asked = event->param.conn.responder_resources;  // of a request only
    // Before anything that destroys the id: that waits until its events are acknowledged.
    library_.ack_cm_event(event);
    if (type == RDMA_CM_EVENT_CONNECT_REQUEST) {
      on_request(id, reads_asked);
      continue;
    }
    if (type == RDMA_CM_EVENT_ESTABLISHED || id == listener_) continue;
    for (const auto& connection : connections_) {
      if (connection->id() == id) connection->lose();
    }
  }
}

void VerbsTransport::on_request(rdma_cm_id* id, uint8_t reads_asked) {
  size_t unproven = static_cast<size_t>(std::count_if(
      connections_.begin(), connections_.end(),
      [](const auto& connection) { return !connection->is_closed() && !connection->is_proven(); }));
  // Each costs a mebibyte of locked memory, so nobody's is taken away for the next stranger: those
  // that are silent make room within kHandshakeMs.
  if (is_stopped_ || connections_.size() >= kConnectionCountMax || unproven >= kUnprovenCountMax) {
    library_.reject(id, nullptr, 0);
    library_.destroy_id(id);
    return;
  }
  set_ack_timeout(library_, id);
  std::unique_ptr<VerbsConnection> connection;
  try {
    connection = std::make_unique<VerbsConnection>(library_, id, peer_text(*id), loop_, service_);
  } catch (const Failure&) {
    library_.reject(id, nullptr, 0);
    library_.destroy_id(id);
    return;
  }
  if (connection->accept(reads_asked)) connections_.push_back(std::move(connection));
}

void VerbsTransport::sweep(uint64_t now_ms) {
  for (const auto& connection : connections_) {
    if (!connection->is_closed() && connection->is_overdue(now_ms)) {
      connection->close(NodeStatus::kTimeout);
    }
    connection->probe_if_silent(now_ms);
  }
  std::erase_if(connections_, [&](const auto& connection) {
    return connection->is_closed() && !connection->is_lingering(now_ms);
  });
}

void VerbsTransport::stop() { is_stopped_ = true; }

void VerbsTransport::close_all() {
  for (const auto& connection : connections_) connection->close(NodeStatus::kLost);
}

}  // namespace btd::tools
