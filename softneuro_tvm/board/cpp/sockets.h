// TCP sockets with deadlines, and lists of allowed addresses.
#ifndef SOFTNEURO_TVM_BOARD_SOCKETS_H_
#define SOFTNEURO_TVM_BOARD_SOCKETS_H_

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "log.h"

namespace board {

// A file descriptor that is closed with its owner.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    if (this != &other) {
      close();
      number_ = std::exchange(other.number_, -1);
    }
    return *this;
  }
  ~Descriptor() { close(); }
  int get() const { return number_; }
  explicit operator bool() const { return number_ >= 0; }
  void close() {
    if (number_ >= 0) ::close(number_);
    number_ = -1;
  }

 private:
  int number_;
};

// Waits until one of `events` can be had; false at the deadline and on signals.
inline bool wait_for(int socket, short events, double deadline_s) {
  const double left_s = deadline_s - now_s();
  if (left_s <= 0) return false;
  pollfd entry{socket, events, 0};
  return poll(&entry, 1, static_cast<int>(left_s * 1000) + 1) > 0;
}

// Receives exactly `size` bytes; false if the peer closes, fails, or is late.
inline bool receive_all(int socket, void* data, size_t size, double deadline_s) {
  char* position = static_cast<char*>(data);
  while (size > 0) {
    if (!wait_for(socket, POLLIN, deadline_s)) return false;
    const ssize_t count = recv(socket, position, size, MSG_DONTWAIT);
    if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) return false;
    if (count < 0) continue;
    position += count;
    size -= static_cast<size_t>(count);
  }
  return true;
}

// Sends all of `data`; false if the peer closes, fails, or is late.
inline bool send_all(int socket, const std::string& data, double deadline_s) {
  size_t sent = 0;
  while (sent < data.size()) {
    if (!wait_for(socket, POLLOUT, deadline_s)) return false;
    const ssize_t count = send(socket, data.data() + sent, data.size() - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (count > 0) sent += static_cast<size_t>(count);
  }
  return true;
}

// A 32-bit number as the protocols send it: in the byte order of the machine, which is little-endian everywhere here.
inline std::string number_bytes(int32_t number) {
  return std::string(reinterpret_cast<const char*>(&number), sizeof number);
}

// A peer that vanishes without a word (power cut, cable) is noticed after a minute.
inline void keep_alive(int socket) {
  const int on = 1, idle_s = 30, interval_s = 10, probes = 3;
  setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s);
  setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

using Addresses = std::unique_ptr<addrinfo, decltype(&freeaddrinfo)>;

// Addresses of a host name; throws std::runtime_error where there is none.
inline Addresses resolve(const std::string& host, int port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags;
  addrinfo* found = nullptr;
  const int code = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (code != 0) throw std::runtime_error("cannot resolve " + host + ": " + gai_strerror(code));
  return Addresses(found, freeaddrinfo);
}

// Connects within a time limit; an empty descriptor if that fails.
inline Descriptor connect_to(const std::string& host, int port, double deadline_s) {
  Addresses addresses = resolve(host, port, 0);
  for (const addrinfo* address = addresses.get(); address != nullptr; address = address->ai_next) {
    Descriptor socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket) continue;
    const int code = connect(socket.get(), address->ai_addr, address->ai_addrlen);
    if (code != 0 && errno != EINPROGRESS) continue;
    int error = 0;
    socklen_t size = sizeof error;
    if (!wait_for(socket.get(), POLLOUT, deadline_s)) continue;
    if (getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &error, &size) != 0 || error != 0) continue;
    keep_alive(socket.get());
    return socket;
  }
  return Descriptor();
}

// Listens on the first free port of [port, port_end), or on any free one if `port` is 0.
inline Descriptor listen_on(const std::string& host, int port, int port_end) {
  int last_error = EADDRINUSE;
  for (int candidate = port; candidate == port || candidate < port_end; ++candidate) {
    Addresses address = resolve(host, candidate, AI_PASSIVE);
    Descriptor socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(socket.get(), address->ai_addr, address->ai_addrlen) == 0 && listen(socket.get(), 8) == 0) return socket;
    last_error = errno;
    if (last_error != EADDRINUSE) break;
  }
  throw std::runtime_error(text_of("cannot listen on %s, ports %d to %d: %s", host.c_str(), port,
                                   port_end > port ? port_end - 1 : port, strerror(last_error)));
}

inline sockaddr_storage local_address(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  return address;
}

inline int local_port(int socket) {
  sockaddr_storage address = local_address(socket);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

// Address and port as text.
inline std::string name_of(const sockaddr_storage& address, socklen_t size) {
  char host[NI_MAXHOST] = "?", port[NI_MAXSERV] = "?";
  getnameinfo(reinterpret_cast<const sockaddr*>(&address), size, host, sizeof host, port, sizeof port,
              NI_NUMERICHOST | NI_NUMERICSERV);
  return std::string(host) + ":" + port;
}

// An address without its family: IPv4 addresses as those IPv6 ones that stand for them.
using AddressBytes = std::array<uint8_t, 16>;

inline AddressBytes mapped(const uint8_t* ipv4) {
  AddressBytes bytes{};
  bytes[10] = bytes[11] = 0xff;
  std::memcpy(bytes.data() + 12, ipv4, 4);
  return bytes;
}

// A range of addresses: 192.168.1.7, 192.168.1.0/24, fd00::/8.
class Network {
 public:
  explicit Network(const std::string& text) {
    const size_t slash = text.find('/');
    const std::string address = text.substr(0, slash);
    uint8_t parsed[16];
    int width = 128;
    if (inet_pton(AF_INET, address.c_str(), parsed) == 1) {
      bytes_ = mapped(parsed);
      width = 32;
    } else if (inet_pton(AF_INET6, address.c_str(), parsed) == 1) {
      std::memcpy(bytes_.data(), parsed, 16);
    } else {
      throw std::runtime_error("'" + text + "' is no address; write --allow 192.168.1.7 or --allow 192.168.1.0/24");
    }
    int prefix = width;
    if (slash != std::string::npos) {
      char* end = nullptr;
      const std::string digits = text.substr(slash + 1);
      prefix = static_cast<int>(std::strtol(digits.c_str(), &end, 10));
      if (digits.empty() || *end != '\0' || prefix < 0 || prefix > width)
        throw std::runtime_error(text_of("'%s': the number after / must be 0 to %d", text.c_str(), width));
    }
    bits_ = 128 - width + prefix;
  }

  bool contains(const sockaddr_storage& address) const {
    AddressBytes other{};
    if (address.ss_family == AF_INET)
      other = mapped(reinterpret_cast<const uint8_t*>(&reinterpret_cast<const sockaddr_in&>(address).sin_addr));
    else
      std::memcpy(other.data(), &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, 16);
    for (int bit = 0; bit < bits_; ++bit)
      if ((bytes_[bit / 8] ^ other[bit / 8]) >> (7 - bit % 8) & 1) return false;
    return true;
  }

 private:
  AddressBytes bytes_{};
  int bits_ = 128;
};

// Whether this machine alone can reach a listening socket.
inline bool is_loopback(int socket) {
  const sockaddr_storage address = local_address(socket);
  return Network("127.0.0.0/8").contains(address) || Network("::1").contains(address);
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_SOCKETS_H_
