// What the four programs have in common: an order in, an engine that runs one image at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

struct Order {
  std::string model;
  std::vector<std::string> inputs;
  std::vector<int64_t> shape;
  int threads = 1;
  int warmup_runs = 10;
  double warmup_seconds = 0.5;
  int min_runs = 50;
  double min_seconds = 1.0;
  double cap_seconds = 30.0;
  std::vector<int> cores;  // empty: wherever the system likes
  std::string outputs;     // empty: into the answer
  std::string profile;     // empty: none
};

using Image = std::vector<float>;

struct Answer {
  std::vector<float> values;
  std::vector<int64_t> shape;
};

// A loaded file. Throws std::runtime_error with the engine's own words when it cannot run.
class Engine {
 public:
  virtual ~Engine() = default;
  virtual Answer run(Image& image) = 0;
  // Ends the profile and writes it, where one was asked for.
  virtual void finish() {}
};

// Each program links one file that defines these three.
extern const char* const ENGINE;
std::string engine_version();
std::unique_ptr<Engine> load(const Order& order);
