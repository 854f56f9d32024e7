#include "rdma/verbs_library.hpp"

#include <dlfcn.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

#include "core/base/sys.hpp"

namespace btd {
namespace {

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  void* symbol = dlsym(library, name);
  static_assert(sizeof(symbol) == sizeof(function));
  std::memcpy(&function, &symbol, sizeof(symbol));
  return symbol != nullptr;
}

bool load(VerbsLibrary& out) {
  void* cm = dlopen("librdmacm.so.1", RTLD_NOW | RTLD_LOCAL);
  void* ib = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL);
  if (cm == nullptr || ib == nullptr) return false;
  return find(ib, "ibv_alloc_pd", out.alloc_pd) && find(ib, "ibv_dealloc_pd", out.dealloc_pd) &&
         find(ib, "ibv_reg_mr", out.reg_mr) && find(ib, "ibv_dereg_mr", out.dereg_mr) &&
         find(ib, "ibv_create_comp_channel", out.create_comp_channel) &&
         find(ib, "ibv_destroy_comp_channel", out.destroy_comp_channel) &&
         find(ib, "ibv_create_cq", out.create_cq) && find(ib, "ibv_destroy_cq", out.destroy_cq) &&
         find(ib, "ibv_get_cq_event", out.get_cq_event) &&
         find(ib, "ibv_ack_cq_events", out.ack_cq_events) &&
         find(ib, "ibv_query_device", out.query_device) &&
         find(cm, "rdma_create_event_channel", out.create_event_channel) &&
         find(cm, "rdma_destroy_event_channel", out.destroy_event_channel) &&
         find(cm, "rdma_create_id", out.create_id) && find(cm, "rdma_destroy_id", out.destroy_id) &&
         find(cm, "rdma_bind_addr", out.bind_addr) && find(cm, "rdma_listen", out.listen) &&
         find(cm, "rdma_resolve_addr", out.resolve_addr) &&
         find(cm, "rdma_resolve_route", out.resolve_route) &&
         find(cm, "rdma_create_qp", out.create_qp) && find(cm, "rdma_destroy_qp", out.destroy_qp) &&
         find(cm, "rdma_connect", out.connect) && find(cm, "rdma_accept", out.accept) &&
         find(cm, "rdma_reject", out.reject) && find(cm, "rdma_disconnect", out.disconnect) &&
         find(cm, "rdma_get_cm_event", out.get_cm_event) &&
         find(cm, "rdma_ack_cm_event", out.ack_cm_event) &&
         find(cm, "rdma_set_option", out.set_option) &&
         find(cm, "rdma_get_src_port", out.get_src_port) &&
         find(cm, "rdma_get_devices", out.get_devices) &&
         find(cm, "rdma_free_devices", out.free_devices);
}

}  // namespace

const VerbsLibrary* load_verbs() noexcept {
  static VerbsLibrary library;
  static std::atomic<int> state{0};  // 0: not tried, 1: loaded, 2: there is none
  int known = state.load(std::memory_order_acquire);
  // A forked child has the libraries' memory, but not the descriptors of the parent's pager: their
  // numbers may be the program's own.
  static std::atomic<int> owner{0};
  if (known == 1 && owner.load(std::memory_order_relaxed) != getpid()) return nullptr;
  if (known != 0) return known == 1 ? &library : nullptr;
  // Two threads may both load: dlopen() counts, and they store the same addresses.
  VerbsLibrary loaded{};
  bool is_loaded = load(loaded);
  if (is_loaded) library = loaded;
  owner.store(getpid(), std::memory_order_relaxed);
  state.store(is_loaded ? 1 : 2, std::memory_order_release);
  return is_loaded ? &library : nullptr;
}

bool has_infiniband(const char* directory) noexcept {
  // The kernel's linux_dirent64: two 8-byte fields, u16 length, u8 type, name.
  constexpr long kLengthOffset = 16, kNameOffset = 19;
  alignas(8) char entries[1024];
  int descriptor = sys::open(directory, O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) return false;
  bool is_found = false;
  long count;
  while (!is_found &&
         (count = ::syscall(SYS_getdents64, descriptor, entries, sizeof(entries))) > 0) {
    for (long at = 0; at < count;) {
      is_found = is_found || entries[at + kNameOffset] != '.';
      uint16_t length;
      std::memcpy(&length, entries + at + kLengthOffset, sizeof(length));
      at += length;
    }
  }
  sys::close(descriptor);
  return is_found;
}

bool has_verbs_device(const VerbsLibrary& library) noexcept {
  int count = 0;
  ibv_context** devices = library.get_devices(&count);
  if (devices == nullptr) return false;
  library.free_devices(devices);
  return count > 0;
}

}  // namespace btd
