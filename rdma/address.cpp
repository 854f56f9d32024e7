#include "rdma/address.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>

#include <cstring>

namespace btd {
namespace {

bool parse_port(const char* text, uint16_t& port) {
  uint32_t value = 0;
  size_t digits = 0;
  for (; text[digits] >= '0' && text[digits] <= '9' && digits < 6; digits++) {
    value = value * 10 + static_cast<uint32_t>(text[digits] - '0');
  }
  if (digits == 0 || text[digits] != '\0' || value > 65535) return false;
  port = htons(static_cast<uint16_t>(value));
  return true;
}

}  // namespace

bool parse_address(const char* text, NodeAddress& address) noexcept {
  std::memset(&address, 0, sizeof(address));
  const char* colon = std::strrchr(text, ':');
  char host[INET6_ADDRSTRLEN];
  if (colon == nullptr) return false;
  bool is_v6 = text[0] == '[';
  const char* begin = is_v6 ? text + 1 : text;
  const char* end = is_v6 ? colon - 1 : colon;
  if (end <= begin || (is_v6 && *end != ']')) return false;
  auto length = static_cast<size_t>(end - begin);
  if (length >= sizeof(host)) return false;
  std::memcpy(host, begin, length);
  host[length] = '\0';
  if (is_v6) {
    auto* v6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    v6->sin6_family = AF_INET6;
    address.length = sizeof(*v6);
    return parse_port(colon + 1, v6->sin6_port) && inet_pton(AF_INET6, host, &v6->sin6_addr) == 1;
  }
  auto* v4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  v4->sin_family = AF_INET;
  address.length = sizeof(*v4);
  return parse_port(colon + 1, v4->sin_port) && inet_pton(AF_INET, host, &v4->sin_addr) == 1;
}

void tune_socket(int socket) noexcept {
  int on = 1, idle_s = 10, interval_s = 5, count = 3;
  setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

}  // namespace btd
