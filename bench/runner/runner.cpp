// Runs one file as docs/runner.md says: flags in, one line of JSON out.

#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>
#include <stdexcept>

#include "engine.h"
#include "facts.h"
#include "flags.h"

namespace {

using Clock = std::chrono::steady_clock;

double milliseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

std::string number(double value, const char* form) {
  if (!std::isfinite(value)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, form, value);
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (unsigned char letter : text) {
    if (letter == '"' || letter == '\\') out += '\\';
    if (letter >= 0x20) out += static_cast<char>(letter);
    else out += ' ';
  }
  return out + "\"";
}

template <class Values, class Write>
std::string listed(const Values& values, Write write) {
  std::string out = "[";
  for (const auto& value : values) out += (out.size() > 1 ? ", " : "") + write(value);
  return out + "]";
}

int64_t bytes_of(const std::string& path) {
  struct stat facts{};
  if (stat(path.c_str(), &facts) || !S_ISREG(facts.st_mode))
    throw std::runtime_error("there is no file " + path + "; look at what --model and --input name");
  return facts.st_size;
}

Image read_image(const std::string& path, const std::vector<int64_t>& shape) {
  int64_t count = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  int64_t bytes = bytes_of(path);
  if (bytes != count * 4)
    throw std::runtime_error(path + " holds " + std::to_string(bytes) + " bytes; an image of the given --shape has " +
                             std::to_string(count * 4) + " (float32)");
  Image image(count);
  std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(image.data()), bytes);
  return image;
}

// Images in turn, and how long each run took.
class Turns {
 public:
  Turns(Engine& engine, std::vector<Image>& images) : engine_(engine), images_(images) {}

  // At least `runs` runs and `seconds`; once `cap` is over, no further run.
  std::vector<double> repeat(int runs, double seconds, double cap) {
    std::vector<double> samples;
    auto begin = Clock::now();
    for (double elapsed = 0; (static_cast<int>(samples.size()) < runs || elapsed < seconds) &&
                             (samples.empty() || elapsed < cap);
         elapsed = milliseconds(begin) / 1000)
      samples.push_back(next());
    return samples;
  }

 private:
  double next() {
    Image& image = images_[place_++ % images_.size()];
    mark(Mark::run_begin);
    auto begin = Clock::now();
    engine_.run(image);
    double took = milliseconds(begin);
    mark(Mark::run_end);
    return took;
  }

  Engine& engine_;
  std::vector<Image>& images_;
  size_t place_ = 0;
};

std::string outputs_json(const std::vector<Answer>& answers, const std::string& path) {
  if (path.empty())
    return listed(answers, [](const Answer& answer) {
      return listed(answer.values, [](float value) { return number(value, "%.9g"); });
    });
  std::ofstream file(path, std::ios::binary);
  for (const auto& answer : answers)
    file.write(reinterpret_cast<const char*>(answer.values.data()), answer.values.size() * sizeof(float));
  if (!file.flush()) throw std::runtime_error("cannot write the answers to " + path);
  return quoted(path);
}

// An engine's own words, without the stack that some add below.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

std::unique_ptr<Engine> loaded(const Order& order) {
  try {
    return load(order);
  } catch (const std::exception& error) {
    throw std::runtime_error(order.model + " cannot be loaded by " + ENGINE + ": " + first_line(error.what()));
  }
}

std::string measure(const Order& order) {
  pin(order.cores);
  int64_t model_bytes = bytes_of(order.model);
  std::vector<Image> images;
  for (const auto& path : order.inputs) images.push_back(read_image(path, order.shape));
  reset_peak();
  std::string at_start = memory_json();
  mark(Mark::start);
  auto begin = Clock::now();
  auto engine = loaded(order);
  double load_ms = milliseconds(begin);
  mark(Mark::loaded);
  std::string at_load = memory_json();
  begin = Clock::now();
  std::vector<Answer> answers = {engine->run(images[0])};
  double first_ms = milliseconds(begin);
  mark(Mark::first);
  std::string at_first = memory_json();
  for (size_t place = 1; place < images.size(); ++place) {
    mark(Mark::run_begin);
    answers.push_back(engine->run(images[place]));
    mark(Mark::run_end);
  }
  Turns turns(*engine, images);
  if (order.warmup_runs || order.warmup_seconds > 0)
    turns.repeat(order.warmup_runs, order.warmup_seconds, order.cap_seconds);
  int core_before = current_core();
  std::string mhz_before = mhz_json(core_before);
  int64_t taken = preemptions();
  std::vector<double> samples;
  if (order.min_runs) samples = turns.repeat(order.min_runs, order.min_seconds, order.cap_seconds);
  taken = preemptions() - taken;
  int core_after = current_core();
  std::string mhz_after = mhz_json(core_after);
  mark(Mark::end);
  engine->finish();
  auto sizes = [](int64_t size) { return std::to_string(size); };
  return "{\"schema\": 1, \"engine\": " + quoted(ENGINE) + ", \"engine_version\": " + quoted(engine_version()) +
         ", \"model_bytes\": " + std::to_string(model_bytes) + ", \"threads\": " + std::to_string(order.threads) +
         ", \"cores\": " + quoted(allowed_mask()) + ", \"load_ms\": " + number(load_ms, "%.4f") +
         ", \"first_ms\": " + number(first_ms, "%.4f") +
         ", \"samples_ms\": " + listed(samples, [](double value) { return number(value, "%.4f"); }) +
         ", \"output_shape\": " + listed(answers[0].shape, sizes) + ", \"outputs\": " +
         outputs_json(answers, order.outputs) + ", \"memory\": {\"start\": " + at_start + ", \"loaded\": " + at_load +
         ", \"first\": " + at_first + ", \"end\": " + memory_json() + "}, \"core_before\": " +
         std::to_string(core_before) + ", \"core_after\": " + std::to_string(core_after) + ", \"mhz_before\": " +
         mhz_before + ", \"mhz_after\": " + mhz_after + ", \"preemptions\": " + std::to_string(taken) + "}";
}

int fail(FILE* answers, const std::string& words, int status) {
  std::fprintf(stderr, "%s\n", words.c_str());
  std::fprintf(answers, "{\"error\": %s}\n", quoted(words).c_str());
  std::fflush(answers);
  return status;
}

}  // namespace

int main(int count, char** words) {
  // The real stdout is for the answer alone: what an engine prints goes to stderr.
  FILE* answers = fdopen(dup(1), "w");
  dup2(2, 1);
  try {
    std::fprintf(answers, "%s\n", measure(parse_flags(count, words)).c_str());
  } catch (const FlagError& error) {
    return fail(answers, error.what(), 2);
  } catch (const std::exception& error) {
    return fail(answers, first_line(error.what()), 1);
  }
  return std::fflush(answers) ? 1 : 0;
}
