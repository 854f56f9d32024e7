#include "rdma/client.hpp"

#include <sys/mman.h>

#include <cstring>
#include <new>

#include "core/base/check.hpp"
#include "core/base/sys.hpp"
#include "rdma/errno_kept.hpp"

namespace btd {
namespace {

constexpr size_t kAddressTextBytes = 64;  // "[", 45 of the longest IPv6 address, "]:65535"
constexpr char kHint[] =
    "; give 192.0.2.7:7070 or [2001:db8::7]:7070, up to 8, with commas between";

struct Target {
  NodeAddress address;
  char text[kAddressTextBytes];
};

bool has_port(const NodeAddress& address) {
  return address.storage.ss_family == AF_INET6
             ? reinterpret_cast<const sockaddr_in6&>(address.storage).sin6_port != 0
             : reinterpret_cast<const sockaddr_in&>(address.storage).sin_port != 0;
}

bool is_same(const NodeAddress& a, const NodeAddress& b) {
  return a.length == b.length && std::memcmp(&a.storage, &b.storage, a.length) == 0;
}

// The index of the target that has the last one's address already, or that of the last one.
uint32_t find_same(const Target* targets, uint32_t last) {
  uint32_t i = 0;
  while (!is_same(targets[i].address, targets[last].address)) i++;
  return i;
}

bool parse_targets(const char* text, Target* targets, uint32_t& count, Line& why) {
  count = 0;
  if (text == nullptr) text = "";
  while (true) {
    size_t length = std::strcspn(text, ",");
    auto refuse = [&](const char* what) {
      why.text("BARTENDER_NODES: \"").text(text, length).text("\" ").text(what).text(kHint);
      return false;
    };
    if (count == kNodesMax) return refuse("is one node too many");
    Target& target = targets[count];
    if (length >= sizeof(target.text)) return refuse("is no address");
    std::memcpy(target.text, text, length);
    target.text[length] = '\0';
    if (!parse_address(target.text, target.address)) return refuse("is no address");
    if (!has_port(target.address)) return refuse("has no port");
    // Two replicas on one node are one.
    if (find_same(targets, count) != count) return refuse("is there twice");
    count++;
    if (text[length] == '\0') return true;
    text += length + 1;
  }
}

bool is_set(const char* text) { return text != nullptr && text[0] != '\0'; }

// `wanted`: what the file must hold.
Error read_key(const char* setting, const char* path, const char* wanted,
               uint8_t (&key)[wire::kKeyBytes], Line& why) {
  why.text(setting);
  if (!is_set(path)) {
    why.text(" is not set; name the file that holds ").text(wanted);
    return Error::kInvalid;
  }
  why.text(": ").text(path);
  switch (read_key_file(path, key)) {
    case KeyError::kNone:
      return Error::kNone;
    case KeyError::kUnreadable:
      why.text(" cannot be read, or is no file; see its path and owner");
      return Error::kNotFound;
    case KeyError::kExposed:
      why.text(" is open to others than its owner; type: chmod 600 ").text(path);
      return Error::kPermission;
    case KeyError::kMalformed:
      why.text(" holds no key; it must be ").text(wanted).text(", made with: openssl rand -hex 32");
      return Error::kInvalid;
  }
  return Error::kInvalid;
}

Error open_sealer(const NodeClientsRequest& request, const NodeClient& client, Sealer& sealer,
                  Line& why) {
  constexpr char kSetting[] = "BARTENDER_SEAL_KEY_FILE";
  uint8_t key[wire::kKeyBytes];
  Line said = why;
  Error error = read_key(kSetting, request.seal_key_file, "a key that no node has", key, said);
  if (error != Error::kNone) {
    why = said;
  } else if (is_equal_secret(key, client.key, sizeof(key))) {
    why.text(kSetting).text(": that is the nodes' own key, so they could unseal everything; make ");
    why.text("another one with: openssl rand -hex 32");
    error = Error::kInvalid;
  } else if (!Sealer::is_possible()) {
    why.text(kSetting).text(": this processor has no instructions for AES-GCM, and nothing else ");
    why.text("(such as XChaCha20) is offered; unset it, or use another machine");
    error = Error::kUnsupported;
  } else {
    sealer.open(key, client.arena);
  }
  explicit_bzero(key, sizeof(key));
  return error;
}

}  // namespace

struct NodeClients::Shared {
  NodeClient client;
  Sealer sealer;
  Target targets[kNodesMax];
  Node* nodes[kNodeSetsMax * kNodesMax];
};

Error NodeClients::open(const NodeClientsRequest& request, Line& why) noexcept {
  ErrnoKept kept;
  BTD_CHECK(shared_ == nullptr && request.arena != nullptr);
  BTD_CHECK(request.set_count > 0 && request.set_count <= kNodeSetsMax);
  Target targets[kNodesMax];
  uint32_t count = 0;
  if (!parse_targets(request.nodes, targets, count, why)) return Error::kInvalid;
  NodeClient client{};
  // A Line only grows: what is said about a good key is not kept.
  Line said = why;
  Error error =
      read_key("BARTENDER_KEY_FILE", request.key_file, "the nodes' own key", client.key, said);
  if (error != Error::kNone) {
    why = said;
    return error;
  }
  std::memcpy(client.arena, request.arena, sizeof(client.arena));
  client.epoch = request.epoch;
  client.durability = wire::Durability::kProcess;
  client.role = request.epoch > 0 ? wire::Role::kOwner : wire::Role::kReader;
  if (!random_bytes(client.client, sizeof(client.client))) {
    why.text(
        "the kernel gives no random bytes, which memory nodes need; is getrandom(2) forbidden?");
    return Error::kIo;
  }
  Sealer sealer;
  const bool is_sealed = is_set(request.seal_key_file);
  if (is_sealed) error = open_sealer(request, client, sealer, why);
  if (error != Error::kNone) return error;

  static_assert(alignof(FarNode) == 4096);
  size_t head_bytes = round_up(sizeof(Shared), alignof(FarNode));
  size_t total_bytes = head_bytes + request.set_count * count * sizeof(FarNode);
  intptr_t mapped = sys::map(nullptr, total_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapped < 0) {
    why.text("no address space for connections to memory nodes: ").size(total_bytes);
    return Error::kNoMemory;
  }
  auto* base = reinterpret_cast<char*>(mapped);
  // Without a word if the kernel does not know it: the keys shall not be in a core file, and a huge
  // page would take what nobody has touched.
  sys::advise(base, total_bytes, MADV_DONTDUMP);
  sys::advise(base, total_bytes, MADV_NOHUGEPAGE);
  mapped_bytes_ = total_bytes;
  shared_ = ::new (base) Shared;
  shared_->client = client;
  if (is_sealed) shared_->sealer = sealer;
  explicit_bzero(&client, sizeof(client));
  explicit_bzero(&sealer, sizeof(sealer));
  std::memcpy(shared_->targets, targets, sizeof(targets));
  count_ = count;
  set_count_ = request.set_count;
  for (uint32_t i = 0; i < set_count_ * count_; i++) {
    auto* node = ::new (base + head_bytes + i * sizeof(FarNode)) FarNode;
    node->configure(targets[i % count_].address, shared_->client, request.operation_ms,
                    is_sealed ? &shared_->sealer : nullptr);
    shared_->nodes[i] = node;
  }
  return Error::kNone;
}

void NodeClients::close() noexcept {
  if (shared_ == nullptr) return;
  for (uint32_t i = 0; i < set_count_ * count_; i++) node(i / count_, i % count_).~FarNode();
  explicit_bzero(shared_, sizeof(*shared_));
  sys::unmap(shared_, mapped_bytes_);
  shared_ = nullptr;
  mapped_bytes_ = 0;
  count_ = set_count_ = 0;
}

uint32_t NodeClients::forget(uint32_t set_index, uint32_t deadline_ms) noexcept {
  uint64_t end_us = steady_clock_us() + uint64_t{deadline_ms} * 1000;
  wire::Forget arena;
  std::memcpy(arena.arena, shared_->client.arena, sizeof(arena.arena));
  uint32_t asked = 0, acknowledged = 0;
  for (uint32_t i = 0; i < count_; i++) {
    if (node(set_index, i).forget(0, arena)) asked |= 1U << i;
  }
  // All are asked at once, so each may take the time that is left.
  for (uint32_t i = 0; i < count_; i++) {
    if ((asked & 1U << i) == 0) continue;
    uint64_t now_us = steady_clock_us();
    auto left_us =
        static_cast<uint32_t>(min<uint64_t>(end_us > now_us ? end_us - now_us : 0, UINT32_MAX));
    NodeCompletion done;
    if (node(set_index, i).poll(&done, 1, left_us) == 1 && done.status == NodeStatus::kGood) {
      acknowledged |= 1U << i;
    }
  }
  return acknowledged;
}

Node* const* NodeClients::set(uint32_t index) const {
  BTD_CHECK(index < set_count_);
  return shared_->nodes + index * count_;
}

FarNode& NodeClients::node(uint32_t set_index, uint32_t index) const {
  BTD_CHECK(index < count_);
  return *static_cast<FarNode*>(set(set_index)[index]);
}

void NodeClients::name(uint32_t index, Line& line) const {
  BTD_CHECK(index < count_);
  line.text(shared_->targets[index].text);
}

}  // namespace btd
