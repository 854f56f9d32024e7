// What a client does with a queue pair's events, with a queue that is made of vectors. (On a
// device: tests/vm/verbs_guest_test.cpp.) Invariants checked: the bytes of a write are posted
// before its message; bytes are fetched only after a good reply, from the slot's own staging
// buffer; every operation is reported exactly once, whatever breaks; lies are not delivered.
#define BOOST_TEST_MODULE verbs
#include "rdma/verbs.hpp"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "core/base/crc32c.hpp"

namespace btd {
namespace {

using wire::Message;
using wire::Transport;
using wire::Type;

constexpr uint64_t kStaging = 0x7000000;
constexpr uint32_t kRemoteKey = 77;

struct FakeQueue final : VerbsQueue {
  struct Posted {
    char what;  // 's', 'w', 'r'
    uint32_t slot;
    uint32_t length_bytes;
    uint64_t address;
    uint32_t key;
  };
  std::vector<Posted> posted;
  std::deque<Event> events;
  size_t room = SIZE_MAX;

  bool take(const Posted& what) {
    if (room == 0) return false;
    room--;
    posted.push_back(what);
    return true;
  }
  bool send(const Message& message) noexcept override {
    return take({'s', message.header.slot, 0, 0, 0});
  }
  bool write(uint32_t slot, uint32_t length_bytes, uint64_t address,
             uint32_t key) noexcept override {
    return take({'w', slot, length_bytes, address, key});
  }
  bool read(uint32_t slot, uint32_t length_bytes, uint64_t address,
            uint32_t key) noexcept override {
    return take({'r', slot, length_bytes, address, key});
  }
  int poll(Event& event) noexcept override {
    if (events.empty()) return 0;
    event = events.front();
    events.pop_front();
    return 1;
  }
  void happen(Kind kind, uint32_t slot = 0) { events.push_back({kind, slot, {}}); }
  void reply(uint8_t slot, Type request, NodeStatus status, uint32_t length_bytes = 0,
             uint64_t generation = 0, uint32_t crc = 0) {
    wire::Reply body{};
    body.status = status;
    body.request = request;
    body.length_bytes = length_bytes;
    body.generation = generation;
    body.crc = crc;
    Event event{Kind::kMessage, 0, {}};
    wire::build(event.message, Type::kReply, slot, body);
    events.push_back(event);
  }
};

struct Fixture {
  std::unique_ptr<ClientSlots> slots = std::make_unique<ClientSlots>();
  FakeQueue queue;
  VerbsProtocol protocol;
  NodeCompletion done[kNodeDepth]{};
  Fixture() { protocol.start(kStaging, kRemoteKey); }
  bool post(const Message* message) {
    BOOST_REQUIRE(message != nullptr);
    return protocol.post(queue, *slots, *message);
  }
  bool progress() { return protocol.progress(queue, *slots); }
  NodeStatus only() {
    BOOST_REQUIRE(slots->take(done, kNodeDepth) == 1u);
    return done[0].status;
  }
};

BOOST_FIXTURE_TEST_CASE(bytes_of_a_write_go_before_its_message, Fixture) {
  BOOST_TEST(post(slots->begin_write(3, 1, 9, 5000, Transport::kVerbs, 100)));
  BOOST_REQUIRE(queue.posted.size() == 2u);
  const FakeQueue::Posted& data = queue.posted[0];
  BOOST_TEST((data.what == 'w' && data.slot == 3 && data.length_bytes == 5000 &&
              data.address == kStaging + 3 * kFarExtentBytes && data.key == kRemoteKey));
  BOOST_TEST((queue.posted[1].what == 's' && queue.posted[1].slot == 3));
  queue.happen(VerbsQueue::Kind::kWritten, 3);
  queue.happen(VerbsQueue::Kind::kSent, 0);
  BOOST_TEST(progress());
  BOOST_TEST(!slots->has_done());  // only the reply says that it is durable
  queue.reply(3, Type::kWrite, NodeStatus::kGood);
  BOOST_TEST(progress());
  BOOST_TEST((only() == NodeStatus::kGood));
}

BOOST_FIXTURE_TEST_CASE(a_good_reply_to_a_read_is_fetched_and_checked, Fixture) {
  BOOST_TEST(post(slots->begin_read(5, 1, 2, 100)));
  queue.reply(5, Type::kRead, NodeStatus::kGood, 6, 3, crc32c("abcdef", 6));
  BOOST_TEST(progress());
  BOOST_TEST(!slots->has_done());
  BOOST_REQUIRE(queue.posted.size() == 2u);
  const FakeQueue::Posted& fetch = queue.posted[1];
  BOOST_TEST((fetch.what == 'r' && fetch.slot == 5 && fetch.length_bytes == 6 &&
              fetch.address == kStaging + 5 * kFarExtentBytes));
  std::memcpy(slots->buffer(5), "abcdef", 6);
  queue.happen(VerbsQueue::Kind::kRead, 5);
  BOOST_TEST(progress());
  BOOST_TEST((only() == NodeStatus::kGood));
  BOOST_TEST((done[0].generation == 3u && done[0].length_bytes == 6u));

  BOOST_TEST(post(slots->begin_read(5, 1, 2, 100)));
  queue.reply(5, Type::kRead, NodeStatus::kGood, 6, 3, crc32c("abcdef", 6));
  BOOST_TEST(progress());
  slots->buffer(5)[2] ^= 1;
  queue.happen(VerbsQueue::Kind::kRead, 5);
  BOOST_TEST(progress());
  BOOST_TEST((only() == NodeStatus::kCorrupt));
}

BOOST_FIXTURE_TEST_CASE(what_the_node_has_put_there_is_not_fetched_but_checked, Fixture) {
  slots->let_nodes_write(99);
  auto read = [&](NodeStatus status, const char* bytes, uint64_t generation) {
    queue.posted.clear();
    const Message* message = slots->begin_read(5, 1, 2, 100);
    BOOST_TEST(post(message));
    BOOST_REQUIRE((message->header.type == Type::kReadInto));
    auto asked = message->as<wire::ReadInto>();
    BOOST_TEST((asked.extent == 1 && asked.generation_min == 2 && asked.key == 99));
    BOOST_TEST(asked.address == reinterpret_cast<uint64_t>(slots->buffer(5)));
    bool is_good = status == NodeStatus::kGood;
    std::memcpy(slots->buffer(5), bytes, 6);  // before the reply, as the queue pair's order has it
    queue.reply(5, Type::kRead, status, is_good ? 6 : 0, generation,
                is_good ? crc32c("abcdef", 6) : 0);
    bool is_up = progress();
    BOOST_TEST(queue.posted.size() == 1u);
    return is_up;
  };
  BOOST_TEST(read(NodeStatus::kGood, "abcdef", 3));
  BOOST_TEST((only() == NodeStatus::kGood));
  BOOST_TEST((done[0].generation == 3u && done[0].length_bytes == 6u));
  BOOST_TEST(read(NodeStatus::kGood, "abcdeg", 3));
  BOOST_TEST((only() == NodeStatus::kCorrupt));
  BOOST_TEST(read(NodeStatus::kNotFound, "abcdef", 0));
  BOOST_TEST((only() == NodeStatus::kNotFound));
  BOOST_TEST(!read(NodeStatus::kGood, "abcdef", 1));  // stale as good
  BOOST_TEST((only() == NodeStatus::kCorrupt));
}

BOOST_FIXTURE_TEST_CASE(bad_replies_fetch_nothing, Fixture) {
  BOOST_TEST(post(slots->begin_read(0, 1, 2, 100)));
  queue.reply(0, Type::kRead, NodeStatus::kNotFound);
  BOOST_TEST(progress());
  BOOST_TEST((only() == NodeStatus::kNotFound));
  BOOST_TEST(queue.posted.size() == 1u);
}

BOOST_FIXTURE_TEST_CASE(violations_garbage_and_goodbyes_end_the_connection, Fixture) {
  BOOST_TEST(post(slots->begin_read(0, 1, 2, 100)));
  queue.reply(0, Type::kRead, NodeStatus::kGood, 6, 1);  // stale as good
  BOOST_TEST(!progress());
  BOOST_TEST((only() == NodeStatus::kCorrupt));

  BOOST_TEST(post(slots->begin_read(0, 1, 2, 100)));
  queue.events.push_back({VerbsQueue::Kind::kMessage, 0, {}});  // zeros
  BOOST_TEST(!progress());
  BOOST_TEST((protocol.status() == NodeStatus::kCorrupt));

  Message goodbye;
  wire::Goodbye fenced{};
  fenced.status = NodeStatus::kFenced;
  wire::build(goodbye, Type::kGoodbye, 0, fenced);
  queue.events.push_back({VerbsQueue::Kind::kMessage, 0, goodbye});
  BOOST_TEST(!progress());
  BOOST_TEST((protocol.status() == NodeStatus::kFenced));
  slots->fail_all(protocol.status());
  BOOST_TEST((only() == NodeStatus::kFenced));
}

BOOST_FIXTURE_TEST_CASE(a_message_with_a_payload_is_garbage_over_verbs, Fixture) {
  BOOST_TEST(post(slots->begin_read(0, 1, 2, 100)));
  Message message;
  wire::Reply body{};
  body.request = Type::kRead;
  body.length_bytes = 6;
  body.generation = 3;
  wire::build(message, Type::kReply, 0, body, 6);
  queue.events.push_back({VerbsQueue::Kind::kMessage, 0, message});
  BOOST_TEST(!progress());
}

// Wherever it breaks, each slot is reported once.
BOOST_AUTO_TEST_CASE(a_queue_that_breaks_at_any_post_reports_every_slot_once) {
  for (size_t room = 0; room <= 3 * kNodeDepth; room++) {
    Fixture fixture;
    fixture.queue.room = room;
    uint32_t begun = 0;
    bool is_up = true;
    for (uint32_t slot = 0; slot < kNodeDepth && is_up; slot++) {
      begun++;
      is_up =
          slot % 2 == 0
              ? fixture.post(fixture.slots->begin_write(slot, slot, 1, 100, Transport::kVerbs, 100))
              : fixture.post(fixture.slots->begin_read(slot, slot, 0, 100));
    }
    for (uint8_t slot = 0; slot < begun && is_up; slot++) {
      bool is_write = slot % 2 == 0;
      fixture.queue.reply(slot, is_write ? Type::kWrite : Type::kRead, NodeStatus::kGood,
                          is_write ? 0 : 4, is_write ? 0 : 1, crc32c("1234", 4));
    }
    if (is_up) is_up = fixture.progress();
    if (is_up) {
      for (uint32_t slot = 1; slot < begun; slot += 2) {
        std::memcpy(fixture.slots->buffer(slot), "1234", 4);
        fixture.queue.happen(VerbsQueue::Kind::kRead, slot);
      }
      fixture.queue.happen(VerbsQueue::Kind::kBroken);
      BOOST_TEST(!fixture.progress());
    }
    fixture.slots->fail_all(fixture.protocol.status());
    BOOST_TEST(fixture.slots->take(fixture.done, kNodeDepth) == begun);
    BOOST_TEST(fixture.slots->in_flight() == 0u);
  }
}

BOOST_AUTO_TEST_CASE(parameters_are_finite) {
  rdma_conn_param ours = verbs_parameters(8, false), theirs = verbs_parameters(8, true);
  BOOST_TEST(ours.retry_count < 7);
  BOOST_TEST(ours.rnr_retry_count < 7);
  BOOST_TEST(ours.initiator_depth == 8);
  BOOST_TEST(theirs.responder_resources == 8);
}

BOOST_AUTO_TEST_CASE(without_libraries_or_device_there_is_none_and_nothing_fails) {
  const VerbsLibrary* library = load_verbs();
  BOOST_TEST(load_verbs() == library);
  if (library == nullptr || !has_verbs_device(*library)) return;
  BOOST_TEST_MESSAGE("there is a device: the virtual machine's suite tests it");
}

// Its memory says that they are loaded, and their descriptors are not there.
BOOST_AUTO_TEST_CASE(a_forked_child_does_not_use_its_parents_libraries) {
  bool is_loaded = load_verbs() != nullptr;
  pid_t child = fork();
  if (child == 0) _exit(load_verbs() == nullptr ? 0 : 1);
  int status = -1;
  waitpid(child, &status, 0);
  BOOST_TEST(status == 0);
  BOOST_TEST((load_verbs() != nullptr) == is_loaded);
}

BOOST_AUTO_TEST_CASE(a_device_is_an_entry_in_sysfs) {
  char directory[] = "/dev/shm/bartender-verbs-XXXXXX";
  BOOST_REQUIRE(mkdtemp(directory) != nullptr);
  std::string device = std::string(directory) + "/rxe0";
  BOOST_TEST(!has_infiniband(directory));
  BOOST_REQUIRE(mkdir(device.c_str(), 0700) == 0);
  BOOST_TEST(has_infiniband(directory));
  rmdir(device.c_str());
  BOOST_TEST(!has_infiniband(directory));
  rmdir(directory);
  BOOST_TEST(!has_infiniband(directory));
}

}  // namespace
}  // namespace btd
