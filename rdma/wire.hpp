// What a client and a memory node say to each other, byte by byte.  docs/wire.md draws it; change
// both in one commit, with the version.
//
// A message is a header, a body whose size follows from the type, and over TCP perhaps a payload:
// the bytes of an extent. Over verbs the payload is never in the message: it is moved one-sidedly,
// between the slot's buffer on the client and the slot's staging buffer on the node, or (kReadInto)
// from wherever the node has it.  All integers
// are little-endian.
//
// Before a peer is authenticated it can make us look at no more than kHandshakeBytesMax bytes, of
// one message at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "core/base/units.hpp"
#include "core/spill/node.hpp"

namespace btd::wire {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire and store are little-endian");

inline constexpr uint32_t kMagic = 0x4E445442;  // "BTDN"
inline constexpr uint16_t kVersionMin = 1;      // the versions that this code speaks
inline constexpr uint16_t kVersionMax = 2;
inline constexpr uint16_t kVersionReadInto = 2;  // the first that has kReadInto
inline constexpr size_t kHandshakeBytesMax = 256;
inline constexpr size_t kUuidBytes = 16;
inline constexpr size_t kNonceBytes = 32;
inline constexpr size_t kMacBytes = 32;
inline constexpr size_t kKeyBytes = 32;

enum class Type : uint8_t {
  kHello = 1,      // client: who I am
  kChallenge = 2,  // node: what I give, and a nonce
  kProof = 3,      // client: I have the key
  kAccept = 4,     // node: so have I; where your staging buffers are
  kRead = 5,
  kWrite = 6,  // with payload: also the commit
  kRelease = 7,
  kList = 8,
  kStatus = 9,
  kForget = 10,    // the arena has ended: release all of it, see Forget
  kReply = 11,     // node: to the six above; with payload for kRead, kList, kStatus
  kGoodbye = 12,   // node: why it closes the connection
  kReadInto = 13,  // over verbs: kRead, and where the node is to put the bytes
};

enum class Transport : uint8_t { kTcp = 0, kVerbs = 1 };
// What an acknowledged write survives on the node.
enum class Durability : uint8_t {
  kProcess = 0,  // the death of the daemon: a tmpfs store
  kPower = 1,    // that of the machine
};
// An observer may only ask for the status, and have an arena forgotten that nobody owns.  A reader
// may only read and list one arena: it owns nothing, fences nobody and is fenced by nobody.
enum class Role : uint8_t { kOwner = 0, kObserver = 1, kReader = 2 };
// What becomes of an arena on the node.
enum class ArenaState : uint8_t {
  kKept = 0,
  kMarked = 1,  // its owner has ended well: goes when the owner's last connection has
  kGoing = 2,   // it goes, over a restart too
};

struct Header {
  uint32_t magic;          // kMagic
  Type type;               // 1 to 13
  uint8_t slot;            // below kNodeDepth; the reply has that of the request; else 0
  uint16_t body_bytes;     // size of the type's body
  uint32_t payload_bytes;  // after the body; 0 to kFarExtentBytes; 0 over verbs
  uint32_t crc;  // crc32c of the 12 bytes above, then of the body; the payload has its own
};
static_assert(sizeof(Header) == 16);

struct Hello {
  uint16_t version_min;
  uint16_t version_max;
  Transport transport;
  Durability durability;  // the least that the client accepts
  Role role;
  uint8_t reserved_a;          // zero
  uint32_t queue_pair;         // number of the client's queue pair; 0 over TCP
  uint32_t reserved_b;         // zero
  uint8_t arena[kUuidBytes];   // zero for an observer
  uint8_t client[kUuidBytes];  // random for each opening of the arena: tells apart two clients of
                               // one epoch
  uint64_t epoch;              // of the arena: > 0; 0 for an observer and a reader
  uint8_t nonce[kNonceBytes];
};
static_assert(sizeof(Hello) == 88);

struct Challenge {
  uint16_t version;  // within the client's range
  Transport transport;
  Durability durability;  // what the store gives
  uint32_t queue_pair;    // number of the node's queue pair; 0 over TCP
  uint8_t node[kUuidBytes];
  uint8_t nonce[kNonceBytes];
};
static_assert(sizeof(Challenge) == 56);

struct Proof {
  uint8_t mac[kMacBytes];  // HMAC-SHA256(key, kProofLabel, hello, challenge): headers and bodies
};
static_assert(sizeof(Proof) == 32);

struct Accept {
  uint64_t capacity_extents;  // of the store
  uint64_t quota_extents;     // of this arena
  uint64_t arena_extents;     // this arena has now
  uint64_t staging_address;   // of the first staging buffer; slot i has the i-th; 0 over TCP
  uint32_t staging_key;       // rkey of the staging buffers; 0 over TCP
  uint32_t depth;             // staging buffers, and requests in flight: kNodeDepth
  uint8_t mac[kMacBytes];  // HMAC-SHA256(key, kAcceptLabel, hello, challenge, the 40 bytes above)
};
static_assert(sizeof(Accept) == 72);

struct Read {
  uint64_t extent;
  uint64_t generation_min;
};
static_assert(sizeof(Read) == 16);

// The node writes the bytes there, then replies, as to kRead: nothing is left to be fetched.
struct ReadInto {
  uint64_t extent;
  uint64_t generation_min;
  uint64_t address;   // of the client's buffer for this slot: room for kFarExtentBytes
  uint32_t key;       // rkey of it; not 0
  uint32_t reserved;  // zero
};
static_assert(sizeof(ReadInto) == 32);

// What a client adds to an extent that it has sealed; all zero: it is not sealed.  A node keeps it
// with the extent and gives it back.
struct Seal {
  uint8_t nonce[12];
  uint8_t tag[16];
  uint8_t reserved[4];  // zero
};
static_assert(sizeof(Seal) == 32);

struct Write {
  uint64_t extent;
  uint64_t generation;    // > 0
  uint32_t length_bytes;  // 1 to kFarExtentBytes
  uint32_t crc;           // crc32c of the bytes, sealed or not
  Seal seal;
};
static_assert(sizeof(Write) == 56);

struct Release {
  uint64_t extent;
};
static_assert(sizeof(Release) == 8);

struct List {
  uint64_t first_extent;
};
static_assert(sizeof(List) == 8);

struct Status {
  uint64_t first_arena;  // index of the first ArenaStatus wanted
};
static_assert(sizeof(Status) == 8);

// From the owner, of its own arena: marks it.  From an observer: it goes now; kRefused while an
// owner is connected.
struct Forget {
  uint8_t arena[kUuidBytes];
};
static_assert(sizeof(Forget) == 16);

struct Reply {
  NodeStatus status;
  Type request;           // the type replied to; that of kReadInto is kRead
  uint16_t reserved_a;    // zero
  uint32_t length_bytes;  // of the payload, or of what lies in the staging buffer
  uint64_t generation;    // kRead: of the extent; kStale: the newest that the node has
  uint32_t crc;           // crc32c of those length_bytes bytes
  uint32_t reserved_b;    // zero
  Seal seal;              // kGood to kRead: of the extent; else zero
};
static_assert(sizeof(Reply) == 56);

struct Goodbye {
  NodeStatus status;
  uint8_t reserved[7];  // zero
};
static_assert(sizeof(Goodbye) == 8);

// What follows a kReply to kStatus: one NodeState, then up to kArenaStatusCountMax of ArenaStatus.
struct NodeState {
  uint8_t node[kUuidBytes];
  uint64_t capacity_extents;
  uint64_t free_extents;
  uint64_t reserve_extents;  // of those, kept for new generations of extents that are there
  uint64_t quota_extents;    // of each arena
  uint64_t reads;            // since the daemon started, as are the next five
  uint64_t writes;
  uint64_t releases;
  uint64_t refused;          // handshakes
  uint64_t fenced;           // connections and handshakes
  uint64_t corrupt;          // writes and reads that failed their checksum
  uint64_t damaged_headers;  // found by the last scan
  uint64_t uptime_s;
  uint32_t connections;
  uint32_t arena_count;  // of the node; the reply may hold fewer
  Durability durability;
  uint8_t backend;      // 0 file, 1 tmpfs, 2 fsdax, 3 devdax
  uint8_t transports;   // bit 0 TCP, bit 1 verbs
  uint8_t is_draining;  // 0 or 1
  uint32_t reserved;    // zero
};
static_assert(sizeof(NodeState) == 128);

struct ArenaStatus {
  uint8_t arena[kUuidBytes];
  uint64_t epoch;  // highest seen
  uint64_t extents;
  uint64_t length_bytes;  // of all its extents together
  uint32_t connections;   // of its owner
  ArenaState state;
  uint8_t reserved[3];  // zero
};
static_assert(sizeof(ArenaStatus) == 48);

inline constexpr size_t kArenaStatusCountMax = 1024;
static_assert(sizeof(NodeState) + kArenaStatusCountMax * sizeof(ArenaStatus) <= kFarExtentBytes);

static_assert(std::has_unique_object_representations_v<Header> &&
                  std::has_unique_object_representations_v<Hello> &&
                  std::has_unique_object_representations_v<Challenge> &&
                  std::has_unique_object_representations_v<Accept> &&
                  std::has_unique_object_representations_v<ReadInto> &&
                  std::has_unique_object_representations_v<Write> &&
                  std::has_unique_object_representations_v<Reply> &&
                  std::has_unique_object_representations_v<NodeState> &&
                  std::has_unique_object_representations_v<ArenaStatus>,
              "no hidden padding");

inline constexpr size_t kBodyBytesMax = sizeof(Hello);
inline constexpr size_t kMessageBytesMax = sizeof(Header) + kBodyBytesMax;  // without payload
static_assert(kMessageBytesMax <= kHandshakeBytesMax);

// A header with its body, as it goes out.  The payload, if any, follows from elsewhere.
struct Message {
  Header header;
  char body[kBodyBytesMax];

  size_t size_bytes() const { return sizeof(Header) + header.body_bytes; }

  template <typename Body>
  Body as() const {
    static_assert(std::is_trivially_copyable_v<Body> && sizeof(Body) <= kBodyBytesMax);
    Body result;
    __builtin_memcpy(&result, body, sizeof(Body));
    return result;
  }
};
static_assert(sizeof(Message) == kMessageBytesMax);

// Size of a type's body, or 0: no such type.
size_t body_bytes_of(Type type) noexcept;

// Who may say what: a receiver refuses what does not belong to its side and phase.
enum class Phase : uint8_t {
  kClientHandshake,  // received by a client that is not yet accepted: kChallenge, kAccept, kGoodbye
  kClientReady,      // by one that is: kReply, kGoodbye
  kNodeHandshake,    // by a node: kHello, kProof
  kNodeReady,        // kRead to kForget, kReadInto
};

// Whether a header can be the start of a message of this phase: looks at nothing but its 16 bytes,
// so call it before anything is received or reserved for what follows.
[[nodiscard]] bool is_header_sound(const Header& header, Phase phase, Transport transport) noexcept;

// Whether a whole message is what its sender built, and its fields are within their ranges:
// enumerators known, reserved bytes zero, lengths bounded, the payload as long as the body says.
// REQUIRES: is_header_sound(), and body_bytes of body are there.
[[nodiscard]] bool is_message_sound(const Message& message, Transport transport) noexcept;

// Whether every byte is zero.
[[nodiscard]] bool is_zero(const Seal& seal) noexcept;

// Fills in header and body.  REQUIRES: body has body_bytes_of(type) bytes.
void build_from(Message& message, Type type, uint8_t slot, const void* body,
                uint32_t payload_bytes) noexcept;

template <typename Body>
void build(Message& message, Type type, uint8_t slot, const Body& body,
           uint32_t payload_bytes = 0) noexcept {
  static_assert(std::is_class_v<Body>);
  build_from(message, type, slot, &body, payload_bytes);
}

}  // namespace btd::wire
