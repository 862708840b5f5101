// What the board says about itself, as JSON text: what a tuner must know before it trusts measured times.
#ifndef SOFTNEURO_TVM_BOARD_SYSTEM_INFO_H_
#define SOFTNEURO_TVM_BOARD_SYSTEM_INFO_H_

#include <sched.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <time.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "log.h"

namespace board {

inline std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Cores that this process may run on.
inline int available_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

// The lines "key : value" about the first processor.
inline std::map<std::string, std::string> processor_entries() {
  std::map<std::string, std::string> entries;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t value = line.find_first_not_of(" \t", colon + 1);
    entries[line.substr(0, line.find_last_not_of(" \t", colon - 1) + 1)] =
        value == std::string::npos ? "" : line.substr(value);
  }
  return entries;
}

// Instruction-set extensions, named as the kernel names them.
inline std::vector<std::string> processor_features(const std::map<std::string, std::string>& entries) {
  std::vector<std::string> features;
#if defined(__aarch64__)
  // not from /proc/cpuinfo, which emulators do not replace; bits as in the kernel's hwcap.h
  static const char* const kFirst[] = {
      "fp",     "asimd",    "evtstrm", "aes",     "pmull",  "sha1",     "sha2",    "crc32",
      "atomics", "fphp",    "asimdhp", "cpuid",   "asimdrdm", "jscvt",  "fcma",    "lrcpc",
      "dcpop",  "sha3",     "sm3",     "sm4",     "asimddp", "sha512",  "sve",     "asimdfhm",
      "dit",    "uscat",    "ilrcpc",  "flagm",   "ssbs",   "sb",       "paca",    "pacg"};
  static const char* const kSecond[] = {
      "dcpodp", "sve2",     "sveaes",  "svepmull", "svebitperm", "svesha3", "svesm4", "flagm2",
      "frint",  "svei8mm",  "svef32mm", "svef64mm", "svebf16", "i8mm",   "bf16"};
  const unsigned long first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
  for (size_t bit = 0; bit < std::size(kFirst); ++bit)
    if (first >> bit & 1) features.push_back(kFirst[bit]);
  for (size_t bit = 0; bit < std::size(kSecond); ++bit)
    if (second >> bit & 1) features.push_back(kSecond[bit]);
#endif
  if (features.empty()) {
    for (const char* key : {"flags", "Features"}) {
      const auto found = entries.find(key);
      if (found == entries.end()) continue;
      std::istringstream words(found->second);
      for (std::string word; words >> word;) features.push_back(word);
    }
  }
  return features;
}

// A JSON object that grows.
class JsonObject {
 public:
  void add_text(const std::string& name, const std::string& value) {
    if (!value.empty()) add(name, quoted(value));
  }
  void add_number(const std::string& name, double value) {
    if (value > 0) add(name, text_of("%.17g", value));
  }
  void add_list(const std::string& name, const std::vector<std::string>& values) {
    std::string list;
    for (const std::string& value : values) list += (list.empty() ? "" : ", ") + quoted(value);
    add(name, "[" + list + "]");
  }
  std::string text() const { return "{" + members_ + "}"; }

 private:
  static std::string quoted(const std::string& value) {
    std::string text = "\"";
    for (const char letter : value) {
      if (letter == '"' || letter == '\\') text += '\\';
      if (static_cast<unsigned char>(letter) >= ' ') text += letter;
    }
    return text + "\"";
  }
  void add(const std::string& name, const std::string& value) {
    members_ += (members_.empty() ? "" : ", ") + quoted(name) + ": " + value;
  }
  std::string members_;
};

// Bytes of the first core's cache of a level, for data; 0 if the system does not tell.
inline double cache_bytes(int level) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    if (first_line(folder + "type") == "Instruction" || first_line(folder + "level") != std::to_string(level)) continue;
    char* unit = nullptr;
    const std::string size = first_line(folder + "size");
    const double number = std::strtod(size.c_str(), &unit);
    if (*unit == 'K') return number * 1024;
    if (*unit == 'M') return number * 1024 * 1024;
  }
  return 0;
}

inline double free_memory_bytes() {
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);)
    if (line.compare(0, 13, "MemAvailable:") == 0) return std::strtod(line.c_str() + 13, nullptr) * 1024;
  return 0;
}

// Everything that the system tells; what it does not tell is left out.
inline std::string system_info() {
  JsonObject info;
  utsname system{};
  uname(&system);
  const auto entries = processor_entries();
  const auto entry = [&entries](const char* key) {
    const auto found = entries.find(key);
    return found == entries.end() ? std::string() : found->second;
  };
  info.add_text("machine", system.machine);
  info.add_text("kernel", std::string(system.sysname) + " " + system.release);
  info.add_list("features", processor_features(entries));
  info.add_number("cores", available_cores());
  info.add_number("memory_free_bytes", free_memory_bytes());
  timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  info.add_number("time_s", static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9);
#if defined(SOFTNEURO_TVM_RUNTIME_VERSION)
  info.add_text("tvm", SOFTNEURO_TVM_RUNTIME_VERSION);
#endif
#if defined(__aarch64__)
  // an emulator shows the files of the machine that it runs on, about another processor
  if (entry("CPU part").empty()) return info.text();
#endif
  std::string part = entry("model name");
  if (part.empty()) part = entry("CPU part");
  std::string numbers;
  for (const char* key : {"cpu family", "model", "stepping"})
    if (!entry(key).empty()) numbers += (numbers.empty() ? "" : "/") + entry(key);
  info.add_text("part", numbers.empty() ? part : part + " " + numbers);
  for (const int level : {1, 2, 3}) info.add_number("l" + std::to_string(level) + "_bytes", cache_bytes(level));
  const std::string cpu = "/sys/devices/system/cpu/";
  const std::string smt = first_line(cpu + "smt/active");
  info.add_text("smt", smt == "1" ? "on" : smt == "0" ? "off" : "");
  info.add_text("governor", first_line(cpu + "cpu0/cpufreq/scaling_governor"));
  info.add_text("frequency_driver", first_line(cpu + "cpu0/cpufreq/scaling_driver"));
  info.add_text("boost", first_line(cpu + "cpufreq/boost"));
  info.add_number("frequency_hz", 1e3 * std::atof(first_line(cpu + "cpu0/cpufreq/scaling_cur_freq").c_str()));
  info.add_number("temperature_c", 1e-3 * std::atof(first_line("/sys/class/thermal/thermal_zone0/temp").c_str()));
  return info.text();
}

}  // namespace board

#endif  // SOFTNEURO_TVM_BOARD_SYSTEM_INFO_H_
