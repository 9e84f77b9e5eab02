#include "flags.h"

#include <cerrno>
#include <cstdlib>
#include <functional>
#include <map>

namespace {

using Take = std::function<void(Order&, const std::string&)>;

[[noreturn]] void refuse(const std::string& law, const std::string& text) {
  throw FlagError(law + ", not '" + text + "'");
}

Take whole(int Order::*field, const char* flag, long least) {
  return [=](Order& order, const std::string& text) {
    char* end = nullptr;
    long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end || value < least || value > 1000000000)
      refuse(std::string(flag) + " takes a whole number from " + std::to_string(least), text);
    order.*field = static_cast<int>(value);
  };
}

Take seconds(double Order::*field, const char* flag) {
  return [=](Order& order, const std::string& text) {
    char* end = nullptr;
    double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end || !(value >= 0 && value < 1e9)) refuse(std::string(flag) + " takes seconds from 0", text);
    order.*field = value;
  };
}

Take words(std::string Order::*field) {
  return [=](Order& order, const std::string& text) { order.*field = text; };
}

void take_shape(Order& order, const std::string& text) {
  order.shape.clear();
  for (size_t at = 0; at <= text.size();) {
    size_t cross = std::min(text.find('x', at), text.size());
    std::string part = text.substr(at, cross - at);
    if (part.empty() || part.size() > 6 || part.find_first_not_of("0123456789") != std::string::npos || part[0] == '0')
      refuse("--shape takes sizes from 1 with x between them, such as 1x3x224x224", text);
    order.shape.push_back(std::stol(part));
    at = cross + 1;
  }
}

void take_cores(Order& order, const std::string& text) {
  order.cores.clear();
  if (text == "none") return;
  char* end = nullptr;
  errno = 0;
  unsigned long long mask = std::strtoull(text.c_str(), &end, 16);
  if (text.empty() || *end || errno || !mask) refuse("--cores takes a hexadecimal mask, or none", text);
  for (int core = 0; core < 64; ++core)
    if (mask >> core & 1) order.cores.push_back(core);
}

const std::map<std::string, Take>& flags() {
  static const std::map<std::string, Take> table = {
      {"--model", words(&Order::model)},
      {"--input", [](Order& order, const std::string& text) { order.inputs.push_back(text); }},
      {"--shape", take_shape},
      {"--threads", whole(&Order::threads, "--threads", 1)},
      {"--warmup-runs", whole(&Order::warmup_runs, "--warmup-runs", 0)},
      {"--warmup-seconds", seconds(&Order::warmup_seconds, "--warmup-seconds")},
      {"--min-runs", whole(&Order::min_runs, "--min-runs", 0)},
      {"--min-seconds", seconds(&Order::min_seconds, "--min-seconds")},
      {"--cap-seconds", seconds(&Order::cap_seconds, "--cap-seconds")},
      {"--cores", take_cores},
      {"--outputs", words(&Order::outputs)},
      {"--profile", words(&Order::profile)},
  };
  return table;
}

std::string known() {
  std::string names;
  for (const auto& [name, take] : flags()) names += (names.empty() ? "" : ", ") + name;
  return names;
}

}  // namespace

Order parse_flags(int count, char** words) {
  Order order;
  for (int at = 1; at < count; at += 2) {
    auto found = flags().find(words[at]);
    if (found == flags().end())
      throw FlagError("there is no flag '" + std::string(words[at]) + "'; there are " + known());
    if (at + 1 == count) throw FlagError(found->first + " takes a value, and nothing follows it");
    found->second(order, words[at + 1]);
  }
  if (order.model.empty()) throw FlagError("--model is missing: name the file to run");
  if (order.inputs.empty()) throw FlagError("--input is missing: name one raw image or more");
  if (order.shape.empty()) throw FlagError("--shape is missing: give the images' shape, such as 1x3x224x224");
  return order;
}
