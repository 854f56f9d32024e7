// The far memory of a dead arena, taken over as its next owner would take it: for a command that
// changes the arena, and so has to be the one who may.  Nodes fence whoever had it before.
//
// The arena's recovery opens it (OpenRequest::far); nodes and keys are those of the options, all
// else is as the settings say.
#pragma once

#include <memory>

#include "core/spill/far_tier.hpp"
#include "rdma/client.hpp"
#include "tools/far_zone.hpp"

namespace btd::tools {

class FarOwner final : public NodeSource {
 public:
  // The options must outlive it.
  explicit FarOwner(const NodeOptions& options);
  FarOwner(const FarOwner&) = delete;
  FarOwner& operator=(const FarOwner&) = delete;
  ~FarOwner() { close(); }

  FarTier& tier() { return *tier_; }
  // File and nodes keep what they have.  The addresses may not be touched any more.
  void close();

  bool open(const uint8_t (&arena_uuid)[16], uint64_t epoch, Line& why) noexcept override;
  uint32_t count() const noexcept override { return clients_.count(); }
  Node* const* set(uint32_t index) const noexcept override { return clients_.set(index); }
  void forget() noexcept override {}  // it never discards an arena

 private:
  const NodeOptions& options_;
  NodeClients clients_;
  std::unique_ptr<FarTier> tier_;
};

}  // namespace btd::tools
