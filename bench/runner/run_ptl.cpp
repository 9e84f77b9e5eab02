// TorchScript Lite: runs a .ptl on torch's mobile interpreter.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/record_function.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/jit/mobile/import.h>
#include <torch/csrc/jit/mobile/module.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <utility>

#include "engine.h"

namespace {

// The operators that the interpreter calls, with the shapes of the tensors they take. This torch is built without its own
// profiler (Kineto); its dispatcher tells of every call all the same.
struct Call {
  std::string name;
  std::vector<std::vector<int64_t>> shapes;
  int64_t begin = 0, end = 0;
};

std::vector<Call> calls;
int depth = 0;  // an operator that is made of others is one

int64_t nanoseconds() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

std::unique_ptr<at::ObserverContext> on_begin(const at::RecordFunction& function) {
  if (depth++) return nullptr;
  Call call;
  call.name = function.name();
  for (const auto& value : function.inputs())
    if (value.isTensor() && value.toTensor().defined()) call.shapes.push_back(value.toTensor().sizes().vec());
  calls.push_back(std::move(call));
  calls.back().begin = nanoseconds();
  return nullptr;
}

void on_end(const at::RecordFunction&, at::ObserverContext*) {
  int64_t now = nanoseconds();
  if (!--depth) calls.back().end = now;
}

void write_shape(std::ostream& out, const std::vector<int64_t>& shape) {
  const char* between = "[";
  for (int64_t side : shape) out << std::exchange(between, ", ") << side;
  out << (shape.empty() ? "[]" : "]");
}

void write_call(std::ostream& out, const Call& call) {
  out << "{\"name\": \"" << call.name << "\", \"ns\": " << call.end - call.begin << ", \"shapes\": [";
  const char* between = "";
  for (const auto& shape : call.shapes) write_shape(out << std::exchange(between, ", "), shape);
  out << "]}";
}

class TorchLite : public Engine {
 public:
  explicit TorchLite(const Order& order)
      : shape_(order.shape), profile_(order.profile), module_(load_module(order)) {
    if (!profile_.empty())
      at::addThreadLocalCallback(
          at::RecordFunctionCallback(on_begin, on_end).needsInputs(true).scopes({at::RecordScope::FUNCTION}));
  }

  Answer run(Image& image) override {
    c10::InferenceMode inference;
    at::Tensor input = at::from_blob(image.data(), shape_);
    calls.clear();
    at::Tensor tensor = module_.forward({input}).toTensor();
    if (!profile_.empty()) runs_.push_back(calls);
    tensor = tensor.contiguous();
    if (tensor.scalar_type() != at::kFloat) throw std::runtime_error("the file's first answer is not float32");
    const float* values = tensor.data_ptr<float>();
    return {{values, values + tensor.numel()}, tensor.sizes().vec()};
  }

  // {"runs": [[{"name": ..., "ns": ..., "shapes": [...]}, ...], ...]}
  void finish() override {
    if (profile_.empty()) return;
    std::ofstream out(profile_);
    const char* next_run = "";
    out << "{\"runs\": [";
    for (const auto& run : runs_) {
      const char* next_call = "";
      out << std::exchange(next_run, ", ") << "[";
      for (const auto& call : run) write_call(out << std::exchange(next_call, ", "), call);
      out << "]";
    }
    out << "]}\n";
    if (!out.flush()) throw std::runtime_error("cannot write the profile to " + profile_);
  }

 private:
  static torch::jit::mobile::Module load_module(const Order& order) {
    at::set_num_threads(order.threads);
    return torch::jit::_load_for_mobile(order.model, at::kCPU);
  }

  std::vector<int64_t> shape_;
  std::string profile_;
  std::vector<std::vector<Call>> runs_;
  torch::jit::mobile::Module module_;
};

}  // namespace

const char* const ENGINE = "torch";
std::string engine_version() { return ENGINE_VERSION; }
std::unique_ptr<Engine> load(const Order& order) { return std::make_unique<TorchLite>(order); }
