// Log lines on standard error, and the clock that deadlines are measured with.
#ifndef SOFTNEURO_TVM_BOARD_LOG_H_
#define SOFTNEURO_TVM_BOARD_LOG_H_

#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <string>

namespace board {

// Seconds on a clock that nobody sets.
inline double now_s() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

inline std::string format(const char* pattern, va_list arguments) {
  char text[2048];
  vsnprintf(text, sizeof text, pattern, arguments);
  return text;
}

__attribute__((format(printf, 1, 2))) inline std::string text_of(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  std::string text = format(pattern, arguments);
  va_end(arguments);
  return text;
}

__attribute__((format(printf, 1, 2))) inline void log_line(const char* pattern, ...) {
  va_list arguments;
  va_start(arguments, pattern);
  const std::string text = format(pattern, arguments);
  va_end(arguments);
  const time_t now = time(nullptr);
  tm parts;
  localtime_r(&now, &parts);
  char stamp[32];
  strftime(stamp, sizeof stamp, "%Y-%m-%d %H:%M:%S", &parts);
  // one write, so that lines of a session's process and of the server do not mix
  const std::string line = std::string(stamp) + " rpc_server: " + text + "\n";
  if (write(STDERR_FILENO, line.data(), line.size()) < 0) return;
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_LOG_H_
