#include "tools/far_owner.hpp"

#include "tools/far_pages.hpp"

namespace btd::tools {

FarOwner::FarOwner(const NodeOptions& options)
    : options_(options), tier_(std::make_unique<FarTier>()) {
  FarSettings settings;
  settings.near_bytes = near_bytes_wanted();
  settings.replica_count = replicas_wanted();
  tier_->configure(*this, settings);
}

bool FarOwner::open(const uint8_t (&arena_uuid)[16], uint64_t epoch, Line& why) noexcept {
  NodeClientsRequest request;
  request.nodes = options_.nodes.c_str();
  request.key_file = options_.key_file.c_str();
  request.seal_key_file = options_.seal_key_file.c_str();
  request.arena = arena_uuid;
  request.epoch = epoch;
  request.set_count = kNodeSets;
  return clients_.open(request, why) == Error::kNone;
}

void FarOwner::close() {
  tier_->close();
  clients_.close();
}

}  // namespace btd::tools
