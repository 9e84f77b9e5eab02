// ExecuTorch: runs a .pte.

#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>

#include "engine.h"

// The wheel carries the thread pool's library and not its header; these are the two calls that the runner makes.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  size_t get_thread_count() const;
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::etdump::ETDumpGen;
using executorch::extension::from_blob;
using executorch::extension::Module;

[[noreturn]] void refuse(const std::string& what, executorch::runtime::Error error) {
  throw std::runtime_error(what + ": ExecuTorch says " + executorch::runtime::to_string(error));
}

class Executorch : public Engine {
 public:
  explicit Executorch(const Order& order) : profile_(order.profile) {
    for (int64_t size : order.shape) sizes_.push_back(static_cast<int32_t>(size));
    auto* pool = executorch::extension::threadpool::get_threadpool();
    if (pool->get_thread_count() != static_cast<size_t>(order.threads) && !pool->_unsafe_reset_threadpool(order.threads))
      throw std::runtime_error("ExecuTorch did not take " + std::to_string(order.threads) + " threads");
    auto tracer = profile_.empty() ? nullptr : std::make_unique<ETDumpGen>();
    tracer_ = tracer.get();
    module_ = std::make_unique<Module>(order.model, Module::LoadMode::Mmap, std::move(tracer));
    auto loaded = module_->load_method("forward");
    if (loaded != executorch::runtime::Error::Ok) refuse("its method forward", loaded);
    check_shape(order);
  }

  Answer run(Image& image) override {
    auto result = module_->forward(from_blob(image.data(), sizes_));
    if (!result.ok()) refuse("the run failed", result.error());
    auto tensor = result->at(0).toTensor();
    if (tensor.scalar_type() != executorch::aten::ScalarType::Float)
      throw std::runtime_error("the file's first answer is not float32");
    const float* values = tensor.const_data_ptr<float>();
    return {{values, values + tensor.numel()}, {tensor.sizes().begin(), tensor.sizes().end()}};
  }

  void finish() override {
    if (!tracer_) return;
    auto dump = tracer_->get_etdump_data();
    std::ofstream out(profile_, std::ios::binary);
    out.write(static_cast<const char*>(dump.buf), dump.size);
    std::free(dump.buf);
    if (!out.flush()) throw std::runtime_error("cannot write the profile to " + profile_);
  }

 private:
  void check_shape(const Order& order) {
    auto meta = module_->method_meta("forward");
    if (!meta.ok()) refuse("its input", meta.error());
    auto input = meta->input_tensor_meta(0);
    if (!input.ok()) refuse("its input", input.error());
    std::string wanted;
    for (int32_t size : input->sizes()) wanted += (wanted.empty() ? "" : "x") + std::to_string(size);
    if (std::vector<int32_t>(input->sizes().begin(), input->sizes().end()) != sizes_)
      throw std::runtime_error("it takes images of " + wanted + ", and --shape says otherwise");
  }

  std::string profile_;
  ETDumpGen* tracer_ = nullptr;
  std::vector<int32_t> sizes_;
  std::unique_ptr<Module> module_;
};

}  // namespace

const char* const ENGINE = "executorch";
std::string engine_version() { return ENGINE_VERSION; }
std::unique_ptr<Engine> load(const Order& order) { return std::make_unique<Executorch>(order); }
