// An arena's connections through everything that can happen to a network and to who is at its other
// end, with bartenderd behind it.  Invariants checked: what is delivered is what was written, and
// not older than what was acknowledged; every posted operation is reported once; a connection that
// broke can be made again; nobody without the key is believed, 1,000 of 1,000.
//
// The daemon's path is the environment's BTD_BARTENDERD; BTD_SEED repeats a run.
#define BOOST_TEST_MODULE failure
#include <boost/test/unit_test.hpp>
#include <cstdio>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>

#include "rdma/client.hpp"
#include "tests/rdma/node_daemon.hpp"
#include "tests/rdma/proxy.hpp"

namespace btd {
namespace {

using test::Daemon;
using test::Harm;
using test::Proxy;
using test::Scratch;

constexpr uint8_t kArena[wire::kUuidBytes] = {0xA0, 1, 2};
constexpr size_t kHandshakeBytes = 3 * 16 + 88 + 32;  // of the client; the node's are fewer

uint64_t seed() {
  static const uint64_t kSeed = std::getenv("BTD_SEED") != nullptr
                                    ? std::strtoull(std::getenv("BTD_SEED"), nullptr, 10)
                                    : std::random_device{}();
  std::printf("seed: %llu\n", static_cast<unsigned long long>(kSeed));
  return kSeed;
}

struct Fixture {
  Scratch scratch;
  Daemon daemon{scratch};
  NodeClients clients;

  ~Fixture() { clients.close(); }

  FarNode& open(const std::string& nodes, uint64_t epoch, uint32_t operation_ms,
                const char* key_name = "/key", bool is_sealed = false) {
    clients.close();
    std::string key = scratch.path + key_name, seal = scratch.write_key("/seal", 100);
    NodeClientsRequest request;
    request.nodes = nodes.c_str();
    request.key_file = key.c_str();
    if (is_sealed) request.seal_key_file = seal.c_str();
    request.arena = kArena;
    request.epoch = epoch;
    request.operation_ms = operation_ms;
    Line why;
    BOOST_REQUIRE_MESSAGE(clients.open(request, why) == Error::kNone, why.c_str());
    return clients.node(0, 0);
  }
};

uint32_t fill(char* buffer, uint64_t extent, uint64_t generation) {
  std::mt19937_64 random(extent * 1000003 + generation);
  auto length = static_cast<uint32_t>(random() % 3 == 0 ? kFarExtentBytes : random() % 500 + 1);
  for (uint32_t at = 0; at < length; at += 8) {
    uint64_t word = random();
    std::memcpy(buffer + at, &word, min<size_t>(8, length - at));
  }
  return length;
}

bool is_filled(const char* buffer, uint32_t length, uint64_t extent, uint64_t generation) {
  static char expected[kFarExtentBytes + 8];
  return fill(expected, extent, generation) == length && std::memcmp(expected, buffer, length) == 0;
}

// Writes and reads with all slots until the connection ends or `rounds` are over, and checks all.
struct Load {
  static constexpr uint64_t kExtents = 40;
  std::mt19937_64 random;
  uint64_t next_generation = 1;
  uint64_t acknowledged[kExtents]{};  // generations
  uint64_t sent[kExtents]{};          // the highest that may be there
  uint64_t writes = 0, reads = 0, failures = 0;

  struct Posted {
    bool is_active, is_write;
    uint64_t extent, generation;
  } posted[kNodeDepth]{};

  void post(FarNode& node, uint32_t slot) {
    // No extent is in two slots at a time.
    uint64_t extent = slot + kNodeDepth * (random() % 2);
    if (extent >= kExtents) return;
    Posted& was = posted[slot];
    bool is_write = random() % 2 == 0;
    if (is_write) {
      uint64_t generation = next_generation++;
      uint32_t length = fill(node.buffer(slot), extent, generation);
      if (!node.write(slot, extent, generation, length)) return;
      was = {true, true, extent, generation};
      sent[extent] = generation;
    } else if (node.read(slot, extent, acknowledged[extent])) {
      was = {true, false, extent, acknowledged[extent]};
    }
  }

  void on_done(FarNode& node, const NodeCompletion& done) {
    Posted& was = posted[done.slot];
    BOOST_REQUIRE(was.is_active);
    was.is_active = false;
    switch (done.status) {
      case NodeStatus::kGood:
        if (was.is_write) {
          acknowledged[was.extent] = was.generation;
          writes++;
        } else {
          BOOST_REQUIRE(done.generation >= was.generation);
          BOOST_REQUIRE(done.generation <= sent[was.extent]);
          BOOST_REQUIRE(
              is_filled(node.buffer(done.slot), done.length_bytes, was.extent, done.generation));
          reads++;
        }
        return;
      case NodeStatus::kNotFound:
        BOOST_REQUIRE((!was.is_write && was.generation == 0));
        return;
      case NodeStatus::kStale:
        BOOST_FAIL("a generation that was acknowledged is not there");
        return;
      default:
        failures++;
    }
  }

  void run(FarNode& node, int rounds) {
    bool is_any = true;
    for (int round = 0; is_any; round++) {
      for (uint32_t slot = 0; slot < kNodeDepth && round < rounds; slot++) {
        if (!posted[slot].is_active) post(node, slot);
      }
      NodeCompletion done[kNodeDepth];
      uint32_t count = node.poll(done, kNodeDepth, 100000);
      for (uint32_t i = 0; i < count; i++) on_done(node, done[i]);
      is_any = node.is_connected() && round < rounds;
      for (const Posted& was : posted) is_any = is_any || was.is_active;
    }
  }

  void verify(FarNode& node) {
    for (uint64_t extent = 0; extent < kExtents; extent++) {
      if (acknowledged[extent] == 0) continue;
      BOOST_REQUIRE(node.read(0, extent, acknowledged[extent]));
      posted[0] = {true, false, extent, acknowledged[extent]};
      NodeCompletion done;
      while (node.poll(&done, 1, 1000000) == 0) {
      }
      BOOST_REQUIRE((done.status == NodeStatus::kGood));
      on_done(node, done);
    }
  }
};

// Cut and flipped anywhere, in either direction, 300 connections of each kind; half of them sealed.
BOOST_FIXTURE_TEST_CASE(cut_and_garbled_connections_deliver_nothing_wrong, Fixture) {
  uint64_t start = seed();
  for (bool is_sealed : {false, true}) {
    for (bool is_flip : {false, true}) {
      Proxy proxy(daemon.address());
      Load load;
      load.random.seed(start);
      // Another kind of writer has another arena's worth of generations.
      uint64_t epoch = 1 + 2 * is_sealed + is_flip;
      load.next_generation = epoch * 1000000;
      FarNode& node = open(proxy.text(), epoch, 20000, "/key", is_sealed);
      if (epoch > 1) {  // of what was written with another key nothing can be read
        proxy.plan({}, {});
        BOOST_REQUIRE((node.connect(5000) == NodeStatus::kGood));
        for (uint64_t extent = 0; extent < Load::kExtents; extent++) {
          BOOST_REQUIRE(node.release(0, extent));
          NodeCompletion done;
          while (node.poll(&done, 1, 1000000) == 0) {
          }
        }
        node.close();
      }
      uint64_t refused = 0, connected = 0;
      for (int life = 0; life < 150; life++) {
        Harm harm[2];
        Harm& one = harm[load.random() % 2];
        uint64_t at = load.random() % 4 == 0 ? load.random() % kHandshakeBytes
                                             : kHandshakeBytes + load.random() % 400000;
        (is_flip ? one.flip_at : one.cut_at) = at;
        proxy.plan(harm[0], harm[1]);
        NodeStatus status = node.connect(5000);
        if (status != NodeStatus::kGood) {
          refused++;
          continue;
        }
        connected++;
        load.run(node, 12);
        node.close();
      }
      proxy.plan({}, {});
      BOOST_REQUIRE((node.connect(5000) == NodeStatus::kGood));
      load.verify(node);
      std::printf(
          "%s, %s: %llu handshakes broken, %llu not, %llu writes, %llu reads, %llu failed\n",
          is_sealed ? "sealed" : "open", is_flip ? "flipped" : "cut",
          static_cast<unsigned long long>(refused), static_cast<unsigned long long>(connected),
          static_cast<unsigned long long>(load.writes), static_cast<unsigned long long>(load.reads),
          static_cast<unsigned long long>(load.failures));
      BOOST_TEST(refused > 5u);
      BOOST_TEST(load.failures > 50u);
      BOOST_TEST(load.writes > 500u);
      BOOST_TEST(load.reads > 200u);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(delay_is_waited_for_until_the_deadline_and_no_longer, Fixture) {
  Proxy proxy(daemon.address());
  Load load;
  load.random.seed(1);
  proxy.plan({}, {.hold_at = kHandshakeBytes + 2000, .hold_ms = 300});
  FarNode& patient = open(proxy.text(), 1, 20000);
  BOOST_REQUIRE((patient.connect(5000) == NodeStatus::kGood));
  load.run(patient, 10);
  BOOST_TEST(load.failures == 0u);
  patient.close();

  proxy.plan({}, {.hold_at = kHandshakeBytes + 2000, .hold_ms = 60000});
  FarNode& hurried = open(proxy.text(), 2, 300);
  BOOST_REQUIRE((hurried.connect(5000) == NodeStatus::kGood));
  uint64_t began_ms = steady_clock_ms();
  load.run(hurried, 1000);
  uint64_t took_ms = steady_clock_ms() - began_ms;
  BOOST_TEST((took_ms >= 300 && took_ms < 10000));
  BOOST_TEST(load.failures > 0u);
  BOOST_TEST(!hurried.is_connected());
  // Past the proxy, which still holds what was said.
  FarNode& node = open(daemon.address_text(), 3, 20000);
  BOOST_REQUIRE((node.connect(5000) == NodeStatus::kGood));
  load.verify(node);
}

BOOST_FIXTURE_TEST_CASE(a_handshake_that_is_held_up_times_out, Fixture) {
  Proxy proxy(daemon.address());
  proxy.plan({}, {.hold_at = 0, .hold_ms = 60000});
  FarNode& node = open(proxy.text(), 1, 20000);
  uint64_t began_ms = steady_clock_ms();
  BOOST_TEST((node.connect(400) == NodeStatus::kTimeout));
  BOOST_TEST(steady_clock_ms() - began_ms < 5000u);
}

// Whoever answers on the address says what it likes: `script` gets what the client said first.
class Impostor {
 public:
  using Script = std::function<std::string(const std::string&, int)>;
  Impostor(int connections, Script script) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    BOOST_REQUIRE(bind(listener_, reinterpret_cast<sockaddr*>(&address), length) == 0);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    listen(listener_, 4);
    text_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this, connections, script = std::move(script)] {
      for (int i = 0; i < connections; i++) serve(script);
    });
  }
  ~Impostor() {
    thread_.join();
    ::close(listener_);
  }
  const std::string& text() const { return text_; }

 private:
  void serve(const Script& script) {
    int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    for (int turn = 0; turn < 2; turn++) {
      char said[512];
      ssize_t count = recv(peer, said, sizeof(said), 0);
      if (count <= 0) break;
      std::string answer = script(std::string(said, static_cast<size_t>(count)), turn);
      send(peer, answer.data(), answer.size(), MSG_NOSIGNAL);
    }
    shutdown(peer, SHUT_WR);
    ::close(peer);
  }

  int listener_;
  std::string text_;
  std::thread thread_;
};

BOOST_FIXTURE_TEST_CASE(nobody_without_the_key_is_believed_1000_of_1000, Fixture) {
  constexpr int kEach = 200;
  std::mt19937_64 random(seed());
  int refused = 0;
  // What a node once said to a client with the key.
  std::string heard;
  {
    Proxy proxy(daemon.address());
    FarNode& node = open(proxy.text(), 5, 20000);
    BOOST_REQUIRE((node.connect(5000) == NodeStatus::kGood));
    heard = proxy.heard();
    BOOST_REQUIRE(heard.size() == 2 * 16 + 56 + 72);
  }
  auto try_all = [&](FarNode& node, auto is_refusal) {
    for (int i = 0; i < kEach; i++) {
      NodeStatus status = node.connect(5000);
      refused += is_refusal(status);
      BOOST_REQUIRE(!node.is_connected());
      BOOST_REQUIRE(!node.read(0, 1, 0));
    }
  };
  auto is_refused = [](NodeStatus status) { return status == NodeStatus::kRefused; };

  scratch.write_key("/other", 9);
  try_all(open(daemon.address_text(), 9, 20000, "/other"), is_refused);
  try_all(open(daemon.address_text(), 4, 20000),
          [](NodeStatus status) { return status == NodeStatus::kFenced; });
  {
    Impostor replay(kEach, [&](const std::string&, int turn) {
      return turn == 0 ? heard.substr(0, 72) : heard.substr(72);
    });
    try_all(open(replay.text(), 9, 20000), is_refused);
  }
  {
    Impostor echo(kEach, [&](const std::string& said, int) { return said; });
    try_all(open(echo.text(), 9, 20000), is_refused);
  }
  {
    Impostor garbage(kEach, [&](const std::string&, int turn) {
      // Half of them know the protocol up to the accept.
      std::string bytes = turn == 0 && random() % 2 == 0 ? heard.substr(0, 72) : std::string(88, 0);
      if (bytes.size() == 88) {
        for (char& byte : bytes) byte = static_cast<char>(random());
      }
      return bytes;
    });
    try_all(open(garbage.text(), 9, 20000), is_refused);
  }
  std::printf("refused: %d of %d\n", refused, 5 * kEach);
  BOOST_TEST(refused == 5 * kEach);
}

}  // namespace
}  // namespace btd
