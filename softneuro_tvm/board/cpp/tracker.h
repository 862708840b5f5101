// The server's side of TVM's tracker protocol: [size, JSON] messages, one reply each.
#ifndef SOFTNEURO_TVM_BOARD_TRACKER_H_
#define SOFTNEURO_TVM_BOARD_TRACKER_H_

#include <random>
#include <string>

#include "sockets.h"

namespace board {

constexpr int32_t kTrackerMagic = 0x2f271;
constexpr double kTrackerPeriodS = 2.0;   // between attempts to reach the tracker, and between looks at it
constexpr double kTrackerTimeoutS = 5.0;  // until a reply
constexpr int kUnusedPeriods = 3;         // a client that got the board and does not come for so long has lost it

enum TrackerCode { kPut = 3, kUpdateInfo = 5, kPendingKeys = 7 };

// Offers the board to a tracker again and again: after each session, and whenever the tracker has been away.
class Tracker {
 public:
  Tracker(std::string host, int port, std::string key, std::string custom_addr, int own_port)
      : host_(std::move(host)), port_(port), key_(std::move(key)), custom_addr_(std::move(custom_addr)),
        own_port_(own_port), match_key_(new_match_key()) {}

  // The connection, for poll; -1 while there is none.
  int descriptor() const { return socket_.get(); }

  // What a client must present: only the tracker tells it.
  const std::string& match_key() const { return match_key_; }

  // Makes sure that the tracker offers the board; call it every kTrackerPeriodS while no session runs.
  void refresh() {
    if (socket_ && (offered_ ? check() : offer())) return;
    socket_.close();
    if (!connect()) drop();
  }

  // The board is in use, or was: its next offer needs a new match key.
  void taken() { offered_ = false; }

  // The connection is gone.
  void drop() {
    socket_.close();
    offered_ = false;
    if (!reported_gone_)
      log_line("no tracker at %s:%d; trying every %g s", host_.c_str(), port_, kTrackerPeriodS);
    reported_gone_ = true;
  }

 private:
  bool connect() {
    const double deadline_s = now_s() + kTrackerTimeoutS;
    try {
      socket_ = connect_to(host_, port_, deadline_s);
    } catch (const std::runtime_error&) {
      return false;  // no such name yet: a board may come up before its network
    }
    int32_t magic = 0;
    if (!socket_ || !send_all(socket_.get(), number_bytes(kTrackerMagic), deadline_s)) return false;
    if (!receive_all(socket_.get(), &magic, sizeof magic, deadline_s) || magic != kTrackerMagic) return false;
    const std::string address = custom_addr_.empty() ? "null" : "\"" + custom_addr_ + "\"";
    const std::string info =
        "{\"key\": \"server:" + key_ + "\", \"addr\": [" + address + ", " + std::to_string(own_port_) + "]}";
    if (ask("[" + std::to_string(kUpdateInfo) + ", " + info + "]") != "0" || !offer()) return false;
    log_line("registered with tracker %s:%d as %s", host_.c_str(), port_, key_.c_str());
    reported_gone_ = false;
    return true;
  }

  bool offer() {
    match_key_ = new_match_key();
    unused_periods_ = 0;
    const std::string address = custom_addr_.empty() ? "null" : "\"" + custom_addr_ + "\"";
    offered_ = ask("[" + std::to_string(kPut) + ", \"" + key_ + "\", [" + std::to_string(own_port_) + ", \"" +
                   match_key_ + "\"], " + address + "]") == "0";
    return offered_;
  }

  bool check() {
    const std::string pending = ask("[" + std::to_string(kPendingKeys) + "]");
    if (pending.empty()) return false;
    const bool still_offered = pending.find("\"" + match_key_ + "\"") != std::string::npos;
    unused_periods_ = still_offered ? 0 : unused_periods_ + 1;
    return unused_periods_ <= kUnusedPeriods || offer();
  }

  // The reply to a message; empty if there is none.
  std::string ask(const std::string& message) {
    const double deadline_s = now_s() + kTrackerTimeoutS;
    int32_t size = 0;
    if (!send_all(socket_.get(), number_bytes(static_cast<int32_t>(message.size())) + message, deadline_s)) return "";
    if (!receive_all(socket_.get(), &size, sizeof size, deadline_s) || size <= 0 || size > 1 << 20) return "";
    std::string reply(static_cast<size_t>(size), '\0');
    return receive_all(socket_.get(), &reply[0], reply.size(), deadline_s) ? reply : "";
  }

  std::string new_match_key() const {
    std::random_device device;
    return key_ + text_of(":%08x%08x", device(), device());
  }

  const std::string host_;
  const int port_;
  const std::string key_;
  const std::string custom_addr_;
  const int own_port_;
  Descriptor socket_;
  std::string match_key_;
  bool offered_ = false;
  bool reported_gone_ = false;
  int unused_periods_ = 0;
};

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_TRACKER_H_
