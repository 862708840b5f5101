// Options of the command line.
#ifndef SOFTNEURO_TVM_BOARD_OPTIONS_H_
#define SOFTNEURO_TVM_BOARD_OPTIONS_H_

#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>
#include <vector>

#include "sockets.h"

namespace board {

constexpr char kHelp[] = R"(Lets a tuner on another machine run kernels on this board, over TVM's RPC.

usage: rpc_server [options]

  --host ADDRESS           address to listen on (default 127.0.0.1: this machine only)
  --port N, --port-end M   first free port of N to M-1 (default 9090, 9199); --port 0: any free port
  --tracker HOST:PORT      offer the board to this tracker, again after each session and whenever the tracker was away;
                           without it clients connect to the port directly
  --key NAME               what clients ask for, e.g. rpi5; needed with --tracker
  --custom-addr ADDRESS    where the tracker sends clients, if it is not the address this board connects from
  --session-timeout S      seconds that a session may last; a client may ask for less. Default 0: what the client asks
  --allow ADDRESS[/BITS]   refuse clients from elsewhere, e.g. 192.168.1.7 or 192.168.1.0/24; may repeat
  --work-dir FOLDER        where each session gets a folder for its files (default $TMPDIR or /tmp)
  --help

Kernels may use all cores; TVM_NUM_THREADS in the environment says how many otherwise.
One session runs at a time, in a process of its own: a kernel that crashes or hangs ends its session, not the server.
SIGTERM or Ctrl-C stops the server, a running session, and removes its files.

Whoever can connect can run any code as this user. Listen on 127.0.0.1 and use an SSH tunnel. On the host:
  ssh -N -L 9090:127.0.0.1:9090 -R 9190:127.0.0.1:9190 user@board
makes this server reachable there as 127.0.0.1:9090, and a tracker that runs there reachable here as 127.0.0.1:9190:
  ./rpc_server --port 9090 --port-end 9091 --tracker 127.0.0.1:9190 --key rpi5
)";

struct Options {
  std::string host = "127.0.0.1";
  int port = 9090;
  int port_end = 9199;
  std::string tracker_host;  // empty: none
  int tracker_port = 0;
  std::string key;
  std::string custom_addr;
  double session_timeout_s = 0;
  std::vector<Network> allow;  // empty: everybody
  std::string work_dir;
  bool help = false;
};

inline int parse_port(const std::string& option, const std::string& text) {
  char* end = nullptr;
  const long number = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || number < 0 || number > 65536)
    throw std::runtime_error(option + ": '" + text + "' is no port number");
  return static_cast<int>(number);
}

// Keys and addresses go into JSON and into a handshake whose fields are parted by spaces.
inline std::string plain_word(const std::string& option, const std::string& text) {
  for (const char letter : text)
    if (letter <= ' ' || letter > '~' || letter == '"' || letter == '\\')
      throw std::runtime_error(option + ": '" + text + "' may hold only ASCII letters, digits and signs, no quotes");
  return text;
}

// Throws std::runtime_error that says what is wrong.
inline Options parse_options(int count, char** arguments) {
  Options options;
  const char* folder = std::getenv("TMPDIR");
  options.work_dir = std::filesystem::absolute(folder != nullptr && *folder != '\0' ? folder : "/tmp").string();
  for (int i = 1; i < count; ++i) {
    std::string name = arguments[i], value;
    if (name == "--help" || name == "-h") {
      options.help = true;
      return options;
    }
    const size_t equals = name.find('=');
    if (equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < count) {
      value = arguments[++i];
    } else {
      throw std::runtime_error("'" + name + "' is no option or lacks its value; see --help");
    }
    if (name == "--host") {
      options.host = value;
    } else if (name == "--port") {
      options.port = parse_port(name, value);
    } else if (name == "--port-end") {
      options.port_end = parse_port(name, value);
    } else if (name == "--tracker") {
      const size_t colon = value.rfind(':');
      if (colon == std::string::npos || colon == 0)
        throw std::runtime_error("--tracker: write it as HOST:PORT, e.g. 127.0.0.1:9190");
      options.tracker_host = value.substr(0, colon);
      options.tracker_port = parse_port(name, value.substr(colon + 1));
    } else if (name == "--key") {
      options.key = plain_word(name, value);
    } else if (name == "--custom-addr") {
      options.custom_addr = plain_word(name, value);
    } else if (name == "--session-timeout") {
      char* end = nullptr;
      options.session_timeout_s = std::strtod(value.c_str(), &end);
      if (value.empty() || *end != '\0' || !(options.session_timeout_s >= 0))
        throw std::runtime_error("--session-timeout: '" + value + "' is no number of seconds");
    } else if (name == "--allow") {
      options.allow.emplace_back(value);
    } else if (name == "--work-dir") {
      options.work_dir = std::filesystem::absolute(value).string();
    } else {
      throw std::runtime_error("unknown option " + name + "; see --help");
    }
  }
  if (!options.tracker_host.empty() && options.key.empty())
    throw std::runtime_error("--tracker needs --key, the name that clients ask the tracker for, e.g. --key rpi5");
  return options;
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_OPTIONS_H_
