// One client, served by a process of its own: whatever its kernels do, the server goes on.
#ifndef SOFTNEURO_TVM_BOARD_SESSION_H_
#define SOFTNEURO_TVM_BOARD_SESSION_H_

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "module_file.h"
#include "sockets.h"
#include "system_info.h"
#include "tvm_functions.h"

namespace board {

constexpr double kGoneGraceS = 2.0;       // for a session to end by itself once its client is gone
constexpr double kFarewellTimeoutS = 2.0;  // to tell a client why its session ended

// Signals arrive as bytes of a pipe, so that poll wakes up without a race.
class SignalPipe {
 public:
  SignalPipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) throw std::runtime_error("cannot make a pipe");
    read_end_ = Descriptor(ends[0]);
    write_end() = ends[1];
    struct sigaction action {};
    action.sa_handler = [](int number) {
      const int saved = errno;
      if (number == SIGTERM || number == SIGINT) stop_signal() = number;
      const char byte = 0;
      if (write(write_end(), &byte, 1) < 0) errno = saved;
      errno = saved;
    };
    for (const int number : {SIGCHLD, SIGTERM, SIGINT}) sigaction(number, &action, nullptr);
    signal(SIGPIPE, SIG_IGN);
  }

  int descriptor() const { return read_end_.get(); }

  void drain() const {
    char bytes[64];
    while (read(read_end_.get(), bytes, sizeof bytes) > 0) continue;
  }

  // Whether the server was asked to stop.
  static bool stopping() { return stop_signal() != 0; }

  // In a session's process: signals do what they do by default.
  void release() {
    for (const int number : {SIGCHLD, SIGTERM, SIGINT}) signal(number, SIG_DFL);
    read_end_.close();
    ::close(write_end());
  }

 private:
  static volatile sig_atomic_t& stop_signal() {
    static volatile sig_atomic_t number = 0;
    return number;
  }
  static int& write_end() {
    static int descriptor = -1;
    return descriptor;
  }
  Descriptor read_end_;
};

// A fresh folder that is removed with its owner.
class WorkFolder {
 public:
  explicit WorkFolder(const std::string& parent) : path_(parent + "/softneuro-rpc-XXXXXX") {
    if (mkdtemp(&path_[0]) == nullptr)
      throw std::runtime_error("cannot make a folder in " + parent + ": " + strerror(errno));
  }
  ~WorkFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
    if (error) log_line("cannot remove %s: %s", path_.c_str(), error.message().c_str());
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The folder of this process's session.
inline std::string& session_folder() {
  static std::string folder;
  return folder;
}

// The path of a file that a client names; throws std::runtime_error if it is none of the session's.
inline std::string path_of(const std::string& name) {
  const std::string problem = name_problem(name);
  if (!problem.empty()) throw std::runtime_error(problem);
  return session_folder() + "/" + name;
}

inline tvm::ffi::Any work_path(const std::string& name) { return tvm::ffi::String(path_of(name)); }

inline tvm::ffi::Any describe(const std::string&) { return tvm::ffi::String(system_info()); }

inline tvm::ffi::Any load_module(const std::string& name) {
  const std::string path = path_of(name);
  const std::string problem = library_problem(path, name);
  if (!problem.empty()) throw std::runtime_error(problem);
  const tvm::ffi::String given(path);
  return call_tvm("ffi.ModuleLoadFromFile", {given});
}

// Runs in the session's process: gives TVM its file functions and serves until the client goes. Does not return.
[[noreturn]] inline void serve_client(int connection, const std::string& folder) {
  int code = 0;
  try {
    if (chdir(folder.c_str()) != 0) throw std::runtime_error("cannot enter " + folder);
    session_folder() = folder;
    offer_to_tvm<work_path>("tvm.rpc.server.workpath");
    offer_to_tvm<load_module>("tvm.rpc.server.load_module");
    offer_to_tvm<describe>("softneuro.system_info");
    call_tvm("rpc.ServerLoop", {static_cast<int64_t>(connection)});
  } catch (const std::exception& error) {
    log_line("session process: %s", error.what());
    code = 1;
  }
  fflush(nullptr);
  _exit(code);
}

// Lets a process live as long as the server at most, dump no core into the work folder, and be the first to go when
// memory is short. It may use all cores unless TVM_NUM_THREADS says otherwise: TVM alone would leave some idle.
inline void confine() {
  setenv("TVM_NUM_THREADS", std::to_string(available_cores()).c_str(), 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const rlimit none{0, 0};
  setrlimit(RLIMIT_CORE, &none);
  const Descriptor score(open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC));
  if (score && write(score.get(), "1000", 4) < 0) log_line("cannot volunteer for the kernel's out-of-memory killer");
  const Descriptor nothing(open("/dev/null", O_RDONLY | O_CLOEXEC));
  dup2(nothing.get(), STDIN_FILENO);
}

// How a session ended.
struct Ending {
  std::string log;       // for the log
  std::string farewell;  // for the client; empty if it ended as it should
};

// Waits for a session's process; kills it at its deadline, when its client is gone, and when the server stops.
inline Ending watch(pid_t child, int connection, double timeout_s, const SignalPipe& signals) {
  const double start_s = now_s();
  const double never_s = start_s + 1e9;
  const double deadline_s = timeout_s > 0 ? start_s + timeout_s : never_s;
  double gone_deadline_s = never_s;
  Ending ending;
  for (;;) {
    siginfo_t info{};
    // the process stays a zombie for now, so that its group cannot become that of another one
    if (waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == child) break;
    const double now = now_s();
    if (SignalPipe::stopping()) {
      ending = {"killed: the server stops", "the server is being stopped"};
      break;
    }
    if (now >= deadline_s) {
      ending = {text_of("killed: timeout of %g s", timeout_s),
                text_of("RPCSessionTimeoutError: the session's %g s have expired; ask for a longer session_timeout, "
                        "or let the board allow more (--session-timeout)", timeout_s)};
      break;
    }
    if (now >= gone_deadline_s) {
      ending = {"killed: the client is gone", ""};
      break;
    }
    const double left_s = std::min({deadline_s, gone_deadline_s, now + 60}) - now;
    const bool gone = gone_deadline_s < never_s;
    pollfd entries[2] = {{signals.descriptor(), POLLIN, 0}, {gone ? -1 : connection, POLLRDHUP, 0}};
    poll(entries, 2, static_cast<int>(left_s * 1000) + 1);
    if (entries[0].revents != 0) signals.drain();
    if (entries[1].revents != 0) gone_deadline_s = now_s() + kGoneGraceS;
  }
  kill(-child, SIGKILL);  // with whatever it has started
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  if (!ending.log.empty()) return ending;
  if (WIFSIGNALED(status)) {
    const int number = WTERMSIG(status);
    const std::string cause = text_of("signal %d (%s)", number, strsignal(number));
    return {"killed by " + cause, "the process that served this session was killed by " + cause};
  }
  const int code = WEXITSTATUS(status);
  if (code == 0) return {"ended normally", ""};
  return {text_of("exit code %d", code), text_of("the process that served this session ended with exit code %d", code)};
}

// Serves a client that has shaken hands, from start to end; returns how it ended. Throws std::runtime_error if it
// cannot be served.
inline std::string run_session(int connection, const std::string& work_dir, double timeout_s, SignalPipe& signals,
                               const std::vector<int>& not_for_the_child) {
  const WorkFolder folder(work_dir);
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error(std::string("cannot fork: ") + strerror(errno));
  if (child == 0) {
    setpgid(0, 0);
    signals.release();
    for (const int descriptor : not_for_the_child) close(descriptor);
    confine();
    serve_client(connection, folder.path());
  }
  setpgid(child, child);  // here as well: it must hold before either side goes on
  const Ending ending = watch(child, connection, timeout_s, signals);
  if (!ending.farewell.empty()) {
    const timeval limit{static_cast<time_t>(kFarewellTimeoutS), 0};
    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    try {
      const tvm::ffi::String farewell(ending.farewell);
      call_tvm("rpc.ReturnException", {static_cast<int64_t>(connection), farewell});
    } catch (const std::exception& error) {
      log_line("the client could not be told: %s", error.what());
    }
  }
  return ending.log;
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_SESSION_H_
