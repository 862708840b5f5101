// RPC server for boards: needs TVM's runtime libraries and nothing else, in particular no Python.
//
//   c++ -std=c++17 -O2 -fvisibility=hidden rpc_server.cc -o rpc_server -I tvm_ffi/include -L tvm/lib -L tvm_ffi/lib
//       -Wl,--no-as-needed -ltvm_ffi -ltvm_runtime -ltvm_runtime_extra -Wl,-rpath,'$ORIGIN'
#include <cstdio>
#include <optional>
#include <string>

#include "options.h"
#include "session.h"
#include "sockets.h"
#include "tracker.h"

namespace board {

constexpr int32_t kMagic = 0xff271;
constexpr int32_t kMismatch = kMagic + 2;
constexpr int32_t kLongestKey = 1024;
constexpr double kHandshakeTimeoutS = 5.0;

// What a client that may come in has said.
struct Client {
  Descriptor connection;
  std::string name;
  double timeout_s = 0;  // 0: it asked for none
};

// The value of " -timeout=" in a client's key; 0 without one.
inline double asked_timeout_s(const std::string& key) {
  const std::string option = " -timeout=";
  const size_t found = key.find(option);
  return found == std::string::npos ? 0 : std::max(0.0, std::strtod(key.c_str() + found + option.size(), nullptr));
}

// Takes one connection; nothing if it is refused.
inline std::optional<Client> accept_client(int listener, const Options& options, const std::string& expected_key) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  Client client;
  client.connection = Descriptor(accept4(listener, reinterpret_cast<sockaddr*>(&address), &size, SOCK_CLOEXEC));
  if (!client.connection) return std::nullopt;
  client.name = name_of(address, size);
  bool allowed = options.allow.empty();
  for (const Network& network : options.allow) allowed = allowed || network.contains(address);
  if (!allowed) {
    log_line("refused %s: not in --allow", client.name.c_str());
    return std::nullopt;
  }
  const int connection = client.connection.get();
  const double deadline_s = now_s() + kHandshakeTimeoutS;
  int32_t magic = 0, length = 0;
  std::string key;
  bool understood = receive_all(connection, &magic, sizeof magic, deadline_s) && magic == kMagic &&
                    receive_all(connection, &length, sizeof length, deadline_s) && length >= 0 && length <= kLongestKey;
  if (understood) {
    key.resize(static_cast<size_t>(length));
    understood = receive_all(connection, &key[0], key.size(), deadline_s);
  }
  if (!understood) {
    log_line("refused %s: no TVM RPC client, or too slow", client.name.c_str());
    return std::nullopt;
  }
  if (key.substr(0, key.find(' ')) != "client:" + expected_key) {
    log_line("refused %s: wrong key", client.name.c_str());
    send_all(connection, number_bytes(kMismatch), deadline_s);
    return std::nullopt;
  }
  const std::string own_key = "server:" + options.key;
  const std::string reply = number_bytes(kMagic) + number_bytes(static_cast<int32_t>(own_key.size())) + own_key;
  if (!send_all(connection, reply, deadline_s)) return std::nullopt;
  keep_alive(connection);
  client.timeout_s = asked_timeout_s(key);
  return client;
}

// The shorter of two timeouts of which 0 stands for none.
inline double shorter(double one_s, double other_s) {
  if (one_s == 0 || other_s == 0) return one_s + other_s;
  return std::min(one_s, other_s);
}

inline void serve(const Options& options) {
  SignalPipe signals;
  WorkFolder(options.work_dir);  // one that cannot be written should be known now
  const Descriptor listener = listen_on(options.host, options.port, options.port_end);
  const int port = local_port(listener.get());
  log_line("listening on %s:%d", options.host.c_str(), port);
  if (options.allow.empty() && !is_loopback(listener.get()))
    log_line("whoever reaches this address can run any code here; use --allow, or an SSH tunnel");
  std::optional<Tracker> tracker;
  if (!options.tracker_host.empty())
    tracker.emplace(options.tracker_host, options.tracker_port, options.key, options.custom_addr, port);
  double next_refresh_s = 0;
  int number = 0;
  while (!SignalPipe::stopping()) {
    if (tracker && now_s() >= next_refresh_s) {
      tracker->refresh();
      next_refresh_s = now_s() + kTrackerPeriodS;
    }
    const double left_s = tracker ? std::max(0.0, next_refresh_s - now_s()) : 60;
    pollfd entries[3] = {{signals.descriptor(), POLLIN, 0},
                         {listener.get(), POLLIN, 0},
                         {tracker ? tracker->descriptor() : -1, POLLIN, 0}};
    if (poll(entries, 3, static_cast<int>(left_s * 1000) + 1) <= 0) continue;
    if (entries[0].revents != 0) signals.drain();
    if (entries[2].revents != 0) tracker->drop();  // it speaks only when spoken to: this is its end
    if (entries[1].revents == 0) continue;
    auto client = accept_client(listener.get(), options, tracker ? tracker->match_key() : options.key);
    if (!client) continue;
    ++number;
    const double start_s = now_s();
    const double timeout_s = shorter(options.session_timeout_s, client->timeout_s);
    log_line("session %d: %s, timeout %g s", number, client->name.c_str(), timeout_s);
    std::vector<int> own = {listener.get()};
    if (tracker) own.push_back(tracker->descriptor());
    std::string end;
    try {
      end = run_session(client->connection.get(), options.work_dir, timeout_s, signals, own);
    } catch (const std::runtime_error& error) {
      end = std::string("not served: ") + error.what();
    }
    client->connection.close();
    log_line("session %d: %s, %.2f s, %s", number, client->name.c_str(), now_s() - start_s, end.c_str());
    if (tracker) tracker->taken();
    next_refresh_s = 0;
  }
  log_line("stopped");
}

}  // namespace board

int main(int count, char** arguments) {
  try {
    const board::Options options = board::parse_options(count, arguments);
    if (options.help)
      fputs(board::kHelp, stdout);
    else
      board::serve(options);
    return 0;
  } catch (const std::exception& error) {
    fprintf(stderr, "rpc_server: %s\n", error.what());
    return 1;
  }
}
