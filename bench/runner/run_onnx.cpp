// ONNX Runtime: runs an .onnx on its CPU provider.

#include <cstdio>
#include <numeric>
#include <stdexcept>

#include "engine.h"
#include "onnxruntime_table.h"

namespace {

class OnnxRuntime : public Engine {
 public:
  explicit OnnxRuntime(const Order& order) : shape_(order.shape), profile_(order.profile) {
    api_ = OrtGetApiBase()->get_api(ort::API_VERSION);
    if (!api_) throw std::runtime_error("this ONNX Runtime is older than 1.16; take the bundle's own library");
    OrtEnv* environment = nullptr;
    check(ort::create_env(api_, ort::LOG_ERROR, "runner", &environment));
    OrtSessionOptions* options = nullptr;
    check(ort::create_session_options(api_, &options));
    check(ort::set_intra_op_threads(api_, options, order.threads));
    check(ort::set_inter_op_threads(api_, options, 1));
    // An x86 core without VNNI adds int8 products in 16 bits, which overflow; ARM cores have no such kernel.
    check(ort::add_session_config_entry(api_, options, "session.x64quantprecision", "1"));
    if (!profile_.empty()) check(ort::enable_profiling(api_, options, profile_.c_str()));
    check(ort::create_session(api_, environment, order.model.c_str(), options, &session_));
    check(ort::default_allocator(api_, &allocator_));
    check(ort::input_name(api_, session_, 0, allocator_, &input_));
    check(ort::output_name(api_, session_, 0, allocator_, &output_));
    check(ort::create_cpu_memory_info(api_, ort::ARENA_ALLOCATOR, ort::DEFAULT_MEMORY, &memory_));
  }

  Answer run(Image& image) override {
    OrtValue* input = nullptr;
    OrtValue* output = nullptr;
    check(ort::create_tensor(api_, memory_, image.data(), image.size() * sizeof(float), shape_.data(), shape_.size(),
                             ort::FLOAT, &input));
    check(ort::run(api_, session_, nullptr, &input_, &input, size_t{1}, &output_, size_t{1}, &output));
    Answer answer = read(output);
    ort::release_value(api_, output);
    ort::release_value(api_, input);
    return answer;
  }

  // The engine adds a date to the name that it was given; the file is to have the name that was asked for.
  void finish() override {
    if (profile_.empty()) return;
    char* written = nullptr;
    check(ort::end_profiling(api_, session_, allocator_, &written));
    if (std::rename(written, profile_.c_str())) throw std::runtime_error("cannot rename the profile to " + profile_);
  }

 private:
  Answer read(OrtValue* value) {
    OrtShape* info = nullptr;
    int type = 0;
    size_t rank = 0;
    void* values = nullptr;
    check(ort::tensor_shape(api_, value, &info));
    check(ort::element_type(api_, info, &type));
    if (type != ort::FLOAT) throw std::runtime_error("the file's first answer is not float32");
    check(ort::dimensions_count(api_, info, &rank));
    Answer answer;
    answer.shape.resize(rank);
    check(ort::dimensions(api_, info, answer.shape.data(), rank));
    ort::release_shape(api_, info);
    check(ort::tensor_data(api_, value, &values));
    int64_t count = std::accumulate(answer.shape.begin(), answer.shape.end(), int64_t{1}, std::multiplies<>());
    answer.values.assign(static_cast<float*>(values), static_cast<float*>(values) + count);
    return answer;
  }

  void check(OrtStatus* status) {
    if (status) throw std::runtime_error(std::string("ONNX Runtime says ") + ort::error_message(api_, status));
  }

  OrtTable api_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtAllocator* allocator_ = nullptr;
  OrtMemoryInfo* memory_ = nullptr;
  char* input_ = nullptr;
  char* output_ = nullptr;
  std::vector<int64_t> shape_;
  std::string profile_;
};

}  // namespace

const char* const ENGINE = "onnxruntime";
std::string engine_version() { return OrtGetApiBase()->version(); }
std::unique_ptr<Engine> load(const Order& order) { return std::make_unique<OnnxRuntime>(order); }
