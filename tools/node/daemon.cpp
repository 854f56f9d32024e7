// bartenderd: a memory node.  It lends its memory or its disk to the arenas of other machines.
#include <fmt/core.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "tools/node/tcp_transport.hpp"
#include "tools/node/verbs_transport.hpp"
#include "tools/text.hpp"
#include "tools/tool.hpp"

namespace btd::tools {
namespace {

constexpr uint64_t kDrainMs = 3000;  // for replies to leave, after SIGTERM
constexpr int kSweepMs = 200;

struct Options {
  std::string listen;
  std::string store;
  std::string capacity;
  std::string key_file;
  std::string transport = "auto";
  std::string quota;
  bool is_any_address = false;
  bool is_json = false;
};

// Lines for people on stderr, or for programs on stdout.  Strangers can cause lines: at most
// kLinesPerSecond are written, then one that counts the others.
class Log {
 public:
  explicit Log(bool is_json) : is_json_(is_json) {}

  void event(const std::string& text) {
    uint64_t second = steady_clock_ms() / 1000;
    if (second != second_) {
      uint64_t unsaid = count_ > kLinesPerSecond ? count_ - kLinesPerSecond : 0;
      second_ = second;
      count_ = 0;
      if (unsaid != 0) line(fmt::format("{} more such events", unsaid));
    }
    if (++count_ <= kLinesPerSecond) line(text);
  }

  void json(const Json& json) const {
    fmt::print("{}\n", json_text(json, false));
    std::fflush(stdout);
  }
  bool is_json() const { return is_json_; }

 private:
  static constexpr uint64_t kLinesPerSecond = 20;

  void line(const std::string& text) const {
    if (!is_json_) return fmt::print(stderr, "bartenderd: {}\n", printable(text));
    Json document = json_document("bartenderd");
    document["event"] = text;
    json(document);
  }

  const bool is_json_;
  uint64_t second_ = 0;
  uint64_t count_ = 0;
};

// Tells systemd, if it asked.
void notify(const char* state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  if (path == nullptr || std::strlen(path) >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, std::strlen(path));
  auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + std::strlen(path));
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (socket < 0) return;
  sendto(socket, state, std::strlen(state), MSG_NOSIGNAL,
         reinterpret_cast<const sockaddr*>(&address), length);
  ::close(socket);
}

bool is_wildcard(const sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET6) {
    const in6_addr& address = reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr;
    const in6_addr mapped_any = {{{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0}}};
    return IN6_IS_ADDR_UNSPECIFIED(&address) ||
           std::memcmp(&address, &mapped_any, sizeof(address)) == 0;
  }
  return reinterpret_cast<const sockaddr_in&>(storage).sin_addr.s_addr == htonl(INADDR_ANY);
}

void set_port(sockaddr_storage& storage, uint16_t port) {
  if (storage.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(storage).sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in&>(storage).sin_port = htons(port);
  }
}

NodeAddress listen_address(const Options& options) {
  NodeAddress address;
  if (!parse_address(options.listen.c_str(), address)) {
    throw Failure{kExitUsage, fmt::format("--listen: \"{}\" is no address; nothing was done; give "
                                          "192.0.2.7:7070 or [2001:db8::7]:7070",
                                          printable(options.listen))};
  }
  if (is_wildcard(address.storage) && !options.is_any_address) {
    throw Failure{kExitRefused,
                  "--listen: that is every address of this machine; nothing was done; name one, or "
                  "add --allow-any-address"};
  }
  return address;
}

void read_key(const std::string& path, uint8_t (&key)[wire::kKeyBytes]) {
  const char* what = nullptr;
  switch (read_key_file(path.c_str(), key)) {
    case KeyError::kNone:
      return;
    case KeyError::kUnreadable:
      what = "cannot be read; nothing was done; see --key-file";
      break;
    case KeyError::kExposed:
      what = "is open to others than its owner; nothing was done; chmod 600 it";
      break;
    case KeyError::kMalformed:
      what = "holds no key; nothing was done; make one with: openssl rand -hex 32";
      break;
  }
  throw Failure{kExitRefused, fmt::format("{} {}", printable(path), what)};
}

class Daemon {
 public:
  explicit Daemon(const Options& options) : options_(options), log_(options.is_json) {}

  int run();

 private:
  void listen();
  void announce() const;
  void serve();

  const Options& options_;
  Log log_;
  uint8_t key_[wire::kKeyBytes]{};
  NodeAddress address_{};
  std::unique_ptr<MappedMedia> media_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Service> service_;
  EventLoop loop_;
  // At least one of them, once it listens.
  std::unique_ptr<TcpTransport> tcp_;
  std::unique_ptr<VerbsTransport> verbs_;
};

int Daemon::run() {
  prctl(PR_SET_DUMPABLE, 0);  // no core file has the key
  address_ = listen_address(options_);
  read_key(options_.key_file, key_);
  uint64_t slot_count = options_.capacity.empty()
                            ? 0
                            : parse_human_size("--capacity", options_.capacity) / kFarExtentBytes;
  if (!options_.capacity.empty() && (slot_count < 2 || slot_count >= kNoSlot)) {
    throw Failure{kExitUsage, "--capacity: from 128K to 255T; nothing was done; give another"};
  }
  uint64_t quota = options_.quota.empty()
                       ? UINT64_MAX
                       : parse_human_size("--quota", options_.quota) / kFarExtentBytes;
  media_ = std::make_unique<MappedMedia>(options_.store,
                                         slot_count == 0 ? 0 : store_bytes_of(slot_count));
  store_ = std::make_unique<Store>(*media_, slot_count, quota);
  service_ = std::make_unique<Service>(
      *store_, key_,
      media_->survives_power() ? wire::Durability::kPower : wire::Durability::kProcess,
      media_->backend(), [this](const std::string& text) { log_.event(text); });
  listen();
  announce();
  serve();
  return kExitOk;
}

// "auto" is both where there is a device, at one port number: rdma_cm's ports are not TCP's.  So a
// client that prefers verbs and falls back to TCP finds the node either way.
void Daemon::listen() {
  if (options_.transport != "verbs") {
    tcp_ = std::make_unique<TcpTransport>(address_, loop_, *service_);
    if (options_.transport == "tcp" || !has_infiniband("/sys/class/infiniband")) return;
  }
  const VerbsLibrary* library = load_verbs();
  if (library == nullptr || !has_verbs_device(*library)) {
    if (tcp_) return;
    throw Failure{kExitFailed,
                  library == nullptr
                      ? "librdmacm is not installed; no extent was changed; install librdmacm1, or "
                        "give --transport tcp"
                      : "this machine has no RDMA device; no extent was changed; give --transport "
                        "tcp"};
  }
  NodeAddress where = address_;
  if (tcp_) set_port(where.storage, tcp_->port());
  try {
    verbs_ = std::make_unique<VerbsTransport>(*library, where, loop_, *service_);
  } catch (const Failure& failure) {
    if (!tcp_) throw;
    log_.event("over TCP only: " + failure.message);
    return;
  }
  service_->set_transports(tcp_ ? 3 : 2);
}

void Daemon::announce() const {
  sockaddr_storage bound = address_.storage;
  set_port(bound, tcp_ ? tcp_->port() : verbs_->port());
  uint64_t extents = 0;
  for (const auto& arena : store_->arenas()) extents += arena->extents.size();
  if (log_.is_json()) {
    Json json = json_document("bartenderd");
    json["event"] = "listening";
    json["address"] = address_text(bound);
    json["transports"] = Json::array();
    if (tcp_) json["transports"].push_back("tcp");
    if (verbs_) json["transports"].push_back("verbs");
    json["node"] = uuid_text(store_->node());
    json["backend"] = backend_text(media_->backend());
    json["durability"] = media_->survives_power() ? "power" : "process";
    json["capacity_bytes"] = store_->slot_count() * kFarExtentBytes;
    json["extents"] = extents;
    json["damaged_headers"] = store_->damaged_headers();
    log_.json(json);
  } else {
    fmt::print("bartenderd: listening at {} ({}), {} on {}, {} extents, durable against {}\n",
               address_text(bound),
               !verbs_ ? "tcp"
               : tcp_  ? "tcp, verbs"
                       : "verbs",
               human_size(store_->slot_count() * kFarExtentBytes), backend_text(media_->backend()),
               extents, media_->survives_power() ? "power cuts" : "the death of this process only");
    std::fflush(stdout);
  }
  notify("READY=1");
}

// A source of its own, so that a signal ends a round like any other event.
class Signals final : public Source {
 public:
  explicit Signals(EventLoop& loop) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    descriptor_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    loop.add(descriptor_, EPOLLIN, *this);
  }
  ~Signals() override { ::close(descriptor_); }
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  void ready(uint32_t) override {
    signalfd_siginfo info;
    if (::read(descriptor_, &info, sizeof(info)) == sizeof(info)) is_asked_ = true;
  }
  bool is_asked() const { return is_asked_; }

 private:
  int descriptor_;
  bool is_asked_ = false;
};

void Daemon::serve() {
  Signals signals(loop_);
  uint64_t drain_until_ms = 0;
  bool is_forgetting = false;
  while (true) {
    loop_.round(is_forgetting ? 0 : kSweepMs);
    service_->commit();
    uint64_t now_ms = steady_clock_ms();
    is_forgetting = service_->forget_some(now_ms);
    if (tcp_) tcp_->sweep(now_ms);
    if (verbs_) verbs_->sweep(now_ms);
    if (!signals.is_asked()) continue;
    if (drain_until_ms == 0) {
      drain_until_ms = now_ms + kDrainMs;
      notify("STOPPING=1");
      service_->set_draining();
      if (tcp_) tcp_->stop();
      if (verbs_) verbs_->stop();
    }
    if (!tcp_ || !tcp_->has_unsent() || now_ms >= drain_until_ms) break;
  }
  if (tcp_) tcp_->close_all();
  if (verbs_) verbs_->close_all();
  log_.event("drained");
}

int run(int argc, char** argv) {
  CLI::App app(
      "Lends this machine's memory or disk to the arenas of other machines: a memory node.",
      "bartenderd");
  app.footer(
      "Exit status: 0 drained and ended, 2 the store is damaged, 3 refused (no key, a wildcard\n"
      "address, not a store, in use), 4 could not be done, 64 wrong usage.");
  app.set_version_flag("--version", "bartenderd " BTD_VERSION);
  Options options;
  app.add_option("--listen", options.listen, "address and port; port 0: the kernel chooses")
      ->required();
  app.add_option("--store", options.store, "a file (made if need be) or a devdax device")
      ->required();
  app.add_option("--capacity", options.capacity, "bytes of extents; needed to make the store");
  app.add_option("--key-file", options.key_file, "64 hexadecimal digits, for its owner's eyes only")
      ->required();
  app.add_option("--transport", options.transport,
                 "tcp, verbs, or auto: both where there is an RDMA device")
      ->check(CLI::IsMember({"auto", "tcp", "verbs"}));
  app.add_option("--quota", options.quota, "bytes of extents that one arena may have");
  app.add_flag("--allow-any-address", options.is_any_address, "let --listen name every address");
  app.add_flag("--json", options.is_json, "events as JSON on stdout, one a line");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    std::string text = error.what();
    std::replace(text.begin(), text.end(), '\n', ' ');
    fmt::print(stderr, "bartenderd: {}; nothing was done; see `bartenderd --help`\n", text);
    return kExitUsage;
  }
  return Daemon(options).run();
}

}  // namespace
}  // namespace btd::tools

int main(int argc, char** argv) {
  using namespace btd::tools;
  try {
    return run(argc, argv);
  } catch (const Failure& failure) {
    fmt::print(stderr, "bartenderd: {}\n", printable(failure.message));
    return failure.status;
  } catch (const std::exception& error) {
    fmt::print(stderr, "bartenderd: {}; what was acknowledged is safe; start it again\n",
               error.what());
    return kExitFailed;
  }
}
