#include "facts.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>

namespace {

constexpr int MARKS = 0x43450000;

std::string kilobytes(const char* file, const std::string& name) {
  std::ifstream lines(file);
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(name + ":", 0) == 0) return std::to_string(std::stoll(line.substr(name.size() + 1)));
  return "null";
}

}  // namespace

std::string memory_json() {
  const char* status = "/proc/self/status";
  return "{\"vm_hwm_kb\": " + kilobytes(status, "VmHWM") + ", \"vm_rss_kb\": " + kilobytes(status, "VmRSS") +
         ", \"rss_anon_kb\": " + kilobytes(status, "RssAnon") + ", \"rss_file_kb\": " + kilobytes(status, "RssFile") +
         ", \"pss_kb\": " + kilobytes("/proc/self/smaps_rollup", "Pss") + "}";
}

void reset_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

int current_core() { return sched_getcpu(); }

std::string mhz_json(int core) {
  std::ifstream file("/sys/devices/system/cpu/cpu" + std::to_string(core) + "/cpufreq/scaling_cur_freq");
  double khz = 0;
  if (!(file >> khz)) return "null";
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", khz / 1000);
  return text;
}

int64_t preemptions() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_nivcsw;
}

void pin(const std::vector<int>& cores) {
  if (cores.empty()) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int core : cores) CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set))
    throw std::runtime_error("this process may not run on the cores that --cores names: " +
                             std::string(std::strerror(errno)) + "; choose among " + allowed_mask());
}

std::string allowed_mask() {
  cpu_set_t set;
  CPU_ZERO(&set);
  sched_getaffinity(0, sizeof set, &set);
  unsigned long long mask = 0;
  for (int core = 0; core < 64; ++core)
    if (CPU_ISSET(core, &set)) mask |= 1ULL << core;
  char text[32];
  std::snprintf(text, sizeof text, "%llx", mask);
  return text;
}

void mark(Mark phase) { prctl(MARKS + static_cast<int>(phase), 0, 0, 0, 0); }
