#include "preload/far.hpp"

#include <unistd.h>

#include <new>

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
  void forget() noexcept override {
    for (uint32_t i = 0; i < clients_.count(); i++) clients_.set(kChildSet)[i]->connect(kForgetMs);
    clients_.forget(kChildSet, kForgetMs);
  }

 private:
  const Config& config_;
  NodeClients clients_;
};

// Neither is ever destroyed: threads of ours may outlive exit().
alignas(ClientSource) char source_storage[sizeof(ClientSource)];
alignas(FarTier) char tier_storage[sizeof(FarTier)];

uint64_t memory_bytes() {
  return static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
         static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

}  // namespace

FarTier* configure_far(const Config& config) {
  if (config.nodes[0] == '\0') return nullptr;
  verbs_allocation_hook = stay_volatile;
  auto* source = ::new (static_cast<void*>(source_storage)) ClientSource(config);
  auto* tier = ::new (static_cast<void*>(tier_storage)) FarTier;
  FarSettings settings;
  settings.near_bytes =
      max(config.near_bytes == 0 ? memory_bytes() / 4 : config.near_bytes, kNearBytesMin);
  settings.replica_count = static_cast<uint32_t>(config.replicas);
  settings.small_too = config.spill_policy == SpillPolicy::kAll;
  tier->configure(*source, settings);
  return tier;
}

}  // namespace btd::preload
