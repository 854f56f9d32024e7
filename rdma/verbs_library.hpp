// libibverbs and librdmacm, loaded when a memory node is first asked for and never linked: inside
// libbartender.so nothing but libc may be a dependency, and most machines have no such device.
//
// ibv_post_send(), ibv_post_recv(), ibv_poll_cq() and ibv_req_notify_cq() are inline in the header:
// they call the device's own functions through its context and need no symbol.
#pragma once

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>

namespace btd {

struct VerbsLibrary {
  decltype(&::ibv_alloc_pd) alloc_pd;
  decltype(&::ibv_dealloc_pd) dealloc_pd;
  ibv_mr* (*reg_mr)(ibv_pd*, void*, size_t, int);  // a macro hides the function's name
  decltype(&::ibv_dereg_mr) dereg_mr;
  decltype(&::ibv_create_comp_channel) create_comp_channel;
  decltype(&::ibv_destroy_comp_channel) destroy_comp_channel;
  decltype(&::ibv_create_cq) create_cq;
  decltype(&::ibv_destroy_cq) destroy_cq;
  decltype(&::ibv_get_cq_event) get_cq_event;
  decltype(&::ibv_ack_cq_events) ack_cq_events;
  decltype(&::ibv_query_device) query_device;

  decltype(&::rdma_create_event_channel) create_event_channel;
  decltype(&::rdma_destroy_event_channel) destroy_event_channel;
  decltype(&::rdma_create_id) create_id;
  decltype(&::rdma_destroy_id) destroy_id;
  decltype(&::rdma_bind_addr) bind_addr;
  decltype(&::rdma_listen) listen;
  decltype(&::rdma_resolve_addr) resolve_addr;
  decltype(&::rdma_resolve_route) resolve_route;
  decltype(&::rdma_create_qp) create_qp;
  decltype(&::rdma_destroy_qp) destroy_qp;
  decltype(&::rdma_connect) connect;
  decltype(&::rdma_accept) accept;
  decltype(&::rdma_reject) reject;
  decltype(&::rdma_disconnect) disconnect;
  decltype(&::rdma_get_cm_event) get_cm_event;
  decltype(&::rdma_ack_cm_event) ack_cm_event;
  decltype(&::rdma_set_option) set_option;
  decltype(&::rdma_get_src_port) get_src_port;
  decltype(&::rdma_get_devices) get_devices;
  decltype(&::rdma_free_devices) free_devices;
};

// Whether the kernel has a verbs device: whether something is in /sys/class/infiniband.  Neither
// loads nor allocates.
[[nodiscard]] bool has_infiniband(const char* directory) noexcept;

// nullptr: the libraries are not installed, or this is a forked child whose parent uses them: then
// it is TCP's turn.  Allocates: never with a heap lock held.
const VerbsLibrary* load_verbs() noexcept;

// The libraries take what they need from malloc(), and touch it whenever they are used.  A pager's
// own data must never be in memory that it pages: whoever lives above this library sets a hook, to
// be called with true before the libraries may allocate on a thread and with false after it.
// Constant after start-up.
extern void (*verbs_allocation_hook)(bool is_beginning);

class VerbsAllocations {
 public:
  VerbsAllocations() { tell(true); }
  ~VerbsAllocations() { tell(false); }
  VerbsAllocations(const VerbsAllocations&) = delete;
  VerbsAllocations& operator=(const VerbsAllocations&) = delete;

 private:
  static void tell(bool is_beginning) {
    if (verbs_allocation_hook != nullptr) verbs_allocation_hook(is_beginning);
  }
};

// Whether there is a device to use.  Allocates.
[[nodiscard]] bool has_verbs_device(const VerbsLibrary& library) noexcept;

}  // namespace btd
