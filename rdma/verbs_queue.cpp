#include "rdma/verbs_queue.hpp"

#include <fcntl.h>

#include <cstring>

#include "core/base/check.hpp"

namespace btd {
namespace {

// What a completion was for: the kind above, slot or index of the message below.
constexpr uint64_t kSendTag = 1, kReceiveTag = 2, kReadTag = 3, kWriteTag = 4, kProbeTag = 5;
constexpr uint64_t tagged(uint64_t tag, uint64_t index) { return tag << 32 | index; }

bool make_non_blocking(int descriptor) {
  int flags = fcntl(descriptor, F_GETFL);
  return flags >= 0 && fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0;
}

}  // namespace

rdma_conn_param verbs_parameters(uint8_t reads_max, bool is_node) noexcept {
  rdma_conn_param parameters{};
  parameters.responder_resources = is_node ? reads_max : 0;
  parameters.initiator_depth = is_node ? 0 : reads_max;
  // 7 means "for ever" to soft RoCE: a killed peer was not noticed within 100 s.
  parameters.retry_count = 3;
  parameters.rnr_retry_count = 6;  // of receives that are not posted; 7 is for ever by the standard
  return parameters;
}

// 4.096 us * 2^16 = 268 ms; with retry_count 3 a dead peer is noticed in about a second.  By
// default it is 0.5 to 2 s a try.  Where the option does not exist the default stays, and the
// deadline of the operation rules.
void set_ack_timeout(const VerbsLibrary& library, rdma_cm_id* id) noexcept {
  uint8_t timeout = 16;
  library.set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, sizeof(timeout));
}

bool DeviceQueue::open(const VerbsLibrary& library, rdma_cm_id* id, char* buffers,
                       Peer peer) noexcept {
  BTD_CHECK(!is_open());
  bool is_node = peer == Peer::kReadsAndWrites;
  library_ = &library;
  id_ = id;
  buffers_ = buffers;
  is_broken_ = false;
  sends_in_use_ = 0;
  is_probing_ = false;
  ibv_device_attr device{};
  if (id->verbs == nullptr || library.query_device(id->verbs, &device) != 0) {
    close();
    return false;
  }
  int device_reads = is_node ? device.max_qp_rd_atom : device.max_qp_init_rd_atom;
  reads_max_ = static_cast<uint8_t>(max(1, min<int>(device_reads, kNodeDepth)));

  domain_ = library.alloc_pd(id->verbs);
  channel_ = domain_ == nullptr ? nullptr : library.create_comp_channel(id->verbs);
  if (channel_ == nullptr || !make_non_blocking(channel_->fd)) {
    close();
    return false;
  }
  completions_ = library.create_cq(id->verbs, kSendDepth + kReceiveCount, nullptr, channel_, 0);
  if (completions_ == nullptr) {
    close();
    return false;
  }
  ibv_qp_init_attr wanted{};
  wanted.send_cq = completions_;
  wanted.recv_cq = completions_;
  wanted.qp_type = IBV_QPT_RC;
  wanted.sq_sig_all = 1;
  wanted.cap.max_send_wr = kSendDepth;
  wanted.cap.max_recv_wr = kReceiveCount;
  wanted.cap.max_send_sge = 1;
  wanted.cap.max_recv_sge = 1;
  has_queue_pair_ = library.create_qp(id, domain_, &wanted) == 0;
  if (has_queue_pair_) {
    int access = IBV_ACCESS_LOCAL_WRITE;
    // The kernel (since 5.12) copies pinned pages for a forked child and leaves these to us.
    message_region_ = library.reg_mr(domain_, &messages_, sizeof(messages_), access);
    if (peer != Peer::kNothing) access |= IBV_ACCESS_REMOTE_WRITE;
    if (peer == Peer::kReadsAndWrites) access |= IBV_ACCESS_REMOTE_READ;
    buffer_region_ = library.reg_mr(domain_, buffers, kNodeDepth * kFarExtentBytes, access);
  }
  bool is_ready = message_region_ != nullptr && buffer_region_ != nullptr;
  for (uint32_t i = 0; i < kReceiveCount && is_ready; i++) is_ready = post_receive(i);
  if (!is_ready || ibv_req_notify_cq(completions_, 0) != 0) {
    close();
    return false;
  }
  return true;
}

bool DeviceQueue::open_source(const char* base, uint64_t size_bytes) noexcept {
  BTD_CHECK(is_open() && !has_source());
  source_region_ = library_->reg_mr(domain_, const_cast<char*>(base), size_bytes, 0);
  return has_source();
}

// The queue pair goes first: after that nothing can reach the regions.
void DeviceQueue::close() noexcept {
  if (!is_open()) return;
  if (has_queue_pair_) library_->destroy_qp(id_);
  if (source_region_ != nullptr) library_->dereg_mr(source_region_);
  if (buffer_region_ != nullptr) library_->dereg_mr(buffer_region_);
  if (message_region_ != nullptr) library_->dereg_mr(message_region_);
  if (completions_ != nullptr) library_->destroy_cq(completions_);
  if (channel_ != nullptr) library_->destroy_comp_channel(channel_);
  if (domain_ != nullptr) library_->dealloc_pd(domain_);
  has_queue_pair_ = false;
  source_region_ = buffer_region_ = message_region_ = nullptr;
  completions_ = nullptr;
  channel_ = nullptr;
  domain_ = nullptr;
  id_ = nullptr;
}

bool DeviceQueue::post_receive(uint32_t index) noexcept {
  ibv_sge place{.addr = reinterpret_cast<uint64_t>(&messages_.receives[index]),
                .length = sizeof(wire::Message),
                .lkey = message_region_->lkey};
  ibv_recv_wr request{};
  request.wr_id = tagged(kReceiveTag, index);
  request.sg_list = &place;
  request.num_sge = 1;
  ibv_recv_wr* bad = nullptr;
  return ibv_post_recv(id_->qp, &request, &bad) == 0;
}

bool DeviceQueue::send(const wire::Message& message) noexcept {
  if (is_broken_) return false;
  uint32_t index = 0;
  while (index < kSendCount && (sends_in_use_ >> index & 1) != 0) index++;
  if (index == kSendCount) return false;
  std::memcpy(&messages_.sends[index], &message, message.size_bytes());
  ibv_sge place{.addr = reinterpret_cast<uint64_t>(&messages_.sends[index]),
                .length = static_cast<uint32_t>(message.size_bytes()),
                .lkey = message_region_->lkey};
  ibv_send_wr request{};
  request.wr_id = tagged(kSendTag, index);
  request.sg_list = &place;
  request.num_sge = 1;
  request.opcode = IBV_WR_SEND;
  request.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  if (ibv_post_send(id_->qp, &request, &bad) != 0) return false;
  sends_in_use_ |= uint64_t{1} << index;
  return true;
}

bool DeviceQueue::post_data(Kind kind, uint32_t slot, ibv_sge place, uint64_t remote_address,
                            uint32_t remote_key) noexcept {
  if (is_broken_) return false;
  ibv_send_wr request{};
  request.wr_id = tagged(kind == Kind::kRead ? kReadTag : kWriteTag, slot);
  request.sg_list = &place;
  request.num_sge = 1;
  request.opcode = kind == Kind::kRead ? IBV_WR_RDMA_READ : IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED;
  request.wr.rdma.remote_addr = remote_address;
  request.wr.rdma.rkey = remote_key;
  ibv_send_wr* bad = nullptr;
  return ibv_post_send(id_->qp, &request, &bad) == 0;
}

bool DeviceQueue::write(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
                        uint32_t remote_key) noexcept {
  return post_data(Kind::kWritten, slot, place_of(slot, length_bytes), remote_address, remote_key);
}

bool DeviceQueue::read(uint32_t slot, uint32_t length_bytes, uint64_t remote_address,
                       uint32_t remote_key) noexcept {
  return post_data(Kind::kRead, slot, place_of(slot, length_bytes), remote_address, remote_key);
}

bool DeviceQueue::write_from(const char* bytes, uint32_t length_bytes, uint64_t remote_address,
                             uint32_t remote_key) noexcept {
  bool is_buffer = bytes >= buffers_ && bytes < buffers_ + kNodeDepth * kFarExtentBytes;
  ibv_sge place{.addr = reinterpret_cast<uint64_t>(bytes),
                .length = length_bytes,
                .lkey = is_buffer ? buffer_region_->lkey : source_region_->lkey};
  return post_data(Kind::kWritten, 0, place, remote_address, remote_key);
}

// Of a write of no bytes neither address nor key are looked at (InfiniBand's C9-88), but it is
// acknowledged and tried again like any other.
bool DeviceQueue::probe() noexcept {
  if (is_broken_) return false;
  if (is_probing_) return true;
  ibv_send_wr request{};
  request.wr_id = tagged(kProbeTag, 0);
  request.opcode = IBV_WR_RDMA_WRITE;
  request.send_flags = IBV_SEND_SIGNALED;
  ibv_send_wr* bad = nullptr;
  is_probing_ = ibv_post_send(id_->qp, &request, &bad) == 0;
  return is_probing_;
}

int DeviceQueue::poll(Event& event) noexcept {
  ibv_wc done{};
  int count = ibv_poll_cq(completions_, 1, &done);
  if (count == 0) return 0;
  auto index = static_cast<uint32_t>(done.wr_id);
  // After a failure only wr_id and status are set, and the queue pair is in the error state.
  if (count < 0 || done.status != IBV_WC_SUCCESS) {
    is_broken_ = true;
    event.kind = Kind::kBroken;
    return 1;
  }
  event.slot = index;
  switch (done.wr_id >> 32) {
    case kSendTag:
      sends_in_use_ &= ~(uint64_t{1} << index);
      event.kind = Kind::kSent;
      return 1;
    case kReadTag:
      event.kind = Kind::kRead;
      return 1;
    case kWriteTag:
      event.kind = Kind::kWritten;
      return 1;
    case kProbeTag:
      is_probing_ = false;
      event.kind = Kind::kSent;
      return 1;
    default:
      break;
  }
  // What is shorter than its header says is filled with zeros, and so fails its checksum.
  std::memset(&event.message, 0, sizeof(event.message));
  std::memcpy(&event.message, &messages_.receives[index],
              min<size_t>(done.byte_len, sizeof(event.message)));
  event.kind = Kind::kMessage;
  if (!post_receive(index)) {
    is_broken_ = true;
    event.kind = Kind::kBroken;
  }
  return 1;
}

void DeviceQueue::arm() noexcept {
  ibv_cq* which = nullptr;
  void* context = nullptr;
  unsigned count = 0;
  while (library_->get_cq_event(channel_, &which, &context) == 0) count++;
  if (count != 0) library_->ack_cq_events(completions_, count);
  if (ibv_req_notify_cq(completions_, 0) != 0) is_broken_ = true;
}

}  // namespace btd
