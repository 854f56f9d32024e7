// Where a node listens, and what both sides ask of a socket.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>

namespace btd {

struct NodeAddress {
  sockaddr_storage storage;
  socklen_t length;
};

// "192.0.2.7:7070" or "[2001:db8::7]:7070"; numbers only: looking names up allocates, and a name
// server that is down must not stop a program.
[[nodiscard]] bool parse_address(const char* text, NodeAddress& address) noexcept;

// No delay; and a peer that vanishes without a word is found out: by the kernel when it is idle, by
// the deadline of an operation when it is not.
void tune_socket(int socket) noexcept;

inline bool would_block(int error) {
  return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

}  // namespace btd
