#include "preload/far.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <new>

#include "core/base/sys.hpp"
#include "core/base/units.hpp"
#include "preload/runtime.hpp"
#include "rdma/client.hpp"
#include "rdma/verbs_library.hpp"

namespace btd::preload {
namespace {

constexpr uint64_t kNearBytesMin = 4 * kMiB;
constexpr uint32_t kForgetMs = 500;

static_assert(kNodesMax == kFarNodesMax);

class ClientSource final : public NodeSource {
 public:
  explicit ClientSource(const Config& config) : config_(config) {}

  bool open(const uint8_t (&arena_uuid)[16], uint64_t epoch, Line& why) noexcept override {
    NodeClientsRequest request;
    request.nodes = config_.nodes;
    request.key_file = config_.key_file;
    request.seal_key_file = config_.seal_key_file;
    request.arena = arena_uuid;
    request.epoch = epoch;
    request.set_count = kNodeSets;
    clients_.close();
    return clients_.open(request, why) == Error::kNone;
  }
  uint32_t count() const noexcept override { return clients_.count(); }
  Node* const* set(uint32_t index) const noexcept override { return clients_.set(index); }
  void close() noexcept { clients_.close(); }
  void forget() noexcept override {
    for (uint32_t i = 0; i < clients_.count(); i++) clients_.set(kChildSet)[i]->connect(kForgetMs);
    clients_.forget(kChildSet, kForgetMs);
  }

 private:
  const Config& config_;
  NodeClients clients_;
};

// Lives until end_far(), or as long as the process: its threads may outlive exit().
struct Far {
  explicit Far(const Config& settings) : config(settings), source(config) {}

  FarTier tier;  // first: its address is the handle
  const Config config;
  ClientSource source;
};

uint64_t memory_bytes() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

FarTier* make_far(const Config& config) {
  if (config.nodes[0] == '\0') return nullptr;
  intptr_t got =
      sys::map(nullptr, sizeof(Far), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (got < 0) {
    Line().text("far memory: the kernel refuses memory; all stays near").write(LogLevel::kError);
    return nullptr;
  }
  verbs_allocation_hook = stay_volatile;
  Far* far = ::new (reinterpret_cast<void*>(got)) Far(config);
  FarSettings settings;
  settings.near_bytes =
      max(config.near_bytes == 0 ? memory_bytes() / 4 : config.near_bytes, kNearBytesMin);
  settings.replica_count = static_cast<uint32_t>(config.replicas);
  settings.small_too = config.spill_policy == SpillPolicy::kAll;
  far->tier.configure(far->source, settings);
  return &far->tier;
}

void end_far(FarTier& tier) {
  auto& far = reinterpret_cast<Far&>(tier);
  far.tier.close();
  far.source.close();
  sys::unmap(&far, sizeof(Far));
}

}  // namespace btd::preload
