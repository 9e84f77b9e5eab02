// LiteRT: runs a .tflite on the CPU, by XNNPACK.

#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "engine.h"
#include "litert_api.h"

namespace {

void check(LiteRtStatus status, const char* step) {
  if (status) throw std::runtime_error(std::string(step) + ": LiteRT says status " + std::to_string(status));
}

// One tensor in memory of our own.
class Tensor {
 public:
  explicit Tensor(const LiteRtLayout& layout) {
    size_t rank = layout.rank_and_strides & 0x7f;
    shape_.assign(layout.sides, layout.sides + std::min(rank, std::size(layout.sides)));
    count_ = std::accumulate(shape_.begin(), shape_.end(), size_t{1}, std::multiplies<>());
    size_t bytes = (bytes_() + litert::PADDING + litert::ALIGNMENT - 1) / litert::ALIGNMENT * litert::ALIGNMENT;
    memory_ = std::aligned_alloc(litert::ALIGNMENT, bytes);
    if (!memory_) throw std::runtime_error("there is no memory for a tensor of " + std::to_string(bytes) + " bytes");
    std::memset(memory_, 0, bytes);
    LiteRtType type{litert::FLOAT, layout};
    check(LiteRtCreateTensorBufferFromHostMemory(&type, memory_, bytes_(), nullptr, &handle), "a tensor");
  }

  void write(const Image& image) { std::memcpy(memory_, image.data(), bytes_()); }
  Answer read() const {
    const float* values = static_cast<const float*>(memory_);
    return {{values, values + count_}, shape_};
  }
  const std::vector<int64_t>& shape() const { return shape_; }

  LiteRtHandle handle = nullptr;

 private:
  size_t bytes_() const { return count_ * sizeof(float); }

  std::vector<int64_t> shape_;
  size_t count_ = 0;
  void* memory_ = nullptr;
};

class LiteRt : public Engine {
 public:
  explicit LiteRt(const Order& order) {
    if (!order.profile.empty()) throw std::runtime_error("its C interface tells no times by operator; leave --profile out");
    LiteRtHandle environment = nullptr, model = nullptr, options = nullptr, threads = nullptr;
    check(LiteRtCreateEnvironment(0, nullptr, &environment), "its environment");
    check(LiteRtCreateModelFromFile(environment, order.model.c_str(), &model), "reading it");
    check(LiteRtCreateOptions(&options), "its options");
    check(LiteRtSetOptionsHardwareAccelerators(options, litert::CPU), "its options");
    // The library's own functions for these options are not exported; they write this text.
    std::string text = "num_threads = " + std::to_string(order.threads) + "\n";
    check(LiteRtCreateOpaqueOptions("xnnpack", strdup(text.c_str()), std::free, &threads), "its threads");
    check(LiteRtAddOpaqueOptions(options, threads), "its threads");
    check(LiteRtCreateCompiledModel(environment, model, options, &compiled_), "preparing it");
    LiteRtLayout input{}, output{};
    check(LiteRtGetCompiledModelInputTensorLayout(compiled_, 0, 0, &input), "its input");
    check(LiteRtGetCompiledModelOutputTensorLayouts(compiled_, 0, 1, &output, true), "its output");
    input_ = std::make_unique<Tensor>(input);
    output_ = std::make_unique<Tensor>(output);
    std::string wanted;
    for (int64_t size : input_->shape()) wanted += (wanted.empty() ? "" : "x") + std::to_string(size);
    if (input_->shape() != order.shape)
      throw std::runtime_error("it takes images of " + wanted + ", and --shape says otherwise");
  }

  Answer run(Image& image) override {
    input_->write(image);
    check(LiteRtRunCompiledModel(compiled_, 0, 1, &input_->handle, 1, &output_->handle), "the run failed");
    return output_->read();
  }

 private:
  LiteRtHandle compiled_ = nullptr;
  std::unique_ptr<Tensor> input_, output_;
};

}  // namespace

const char* const ENGINE = "litert";
std::string engine_version() { return ENGINE_VERSION; }
std::unique_ptr<Engine> load(const Order& order) { return std::make_unique<LiteRt>(order); }
