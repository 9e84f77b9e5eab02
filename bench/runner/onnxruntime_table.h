// The part of ONNX Runtime's C interface that the runner uses.
//
// The wheels carry the library and no header. The interface is one table of functions whose order never changes within
// an interface version (entries are only added at its end), so the few that are used are declared here by their place.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

struct OrtStatus;
struct OrtEnv;
struct OrtSession;
struct OrtSessionOptions;
struct OrtRunOptions;
struct OrtValue;
struct OrtMemoryInfo;
struct OrtAllocator;
struct OrtShape;

using OrtTable = void* const*;

struct OrtApiBase {
  OrtTable (*get_api)(uint32_t version);
  const char* (*version)();
};

const OrtApiBase* OrtGetApiBase(void);
}

namespace ort {

constexpr uint32_t API_VERSION = 16;
constexpr int LOG_ERROR = 3;
constexpr int FLOAT = 1;
constexpr int ARENA_ALLOCATOR = 1;
constexpr int DEFAULT_MEMORY = 0;

// A function of the table: its place, and what it is.
template <size_t place, class Signature>
struct Entry {
  template <class... Arguments>
  auto operator()(OrtTable table, Arguments... arguments) const {
    return reinterpret_cast<Signature*>(table[place])(arguments...);
  }
};

using Status = OrtStatus*;
constexpr Entry<2, const char*(const OrtStatus*)> error_message;
constexpr Entry<3, Status(int, const char*, OrtEnv**)> create_env;
constexpr Entry<7, Status(const OrtEnv*, const char*, const OrtSessionOptions*, OrtSession**)> create_session;
constexpr Entry<9, Status(OrtSession*, const OrtRunOptions*, const char* const*, const OrtValue* const*, size_t,
                          const char* const*, size_t, OrtValue**)> run;
constexpr Entry<10, Status(OrtSessionOptions**)> create_session_options;
constexpr Entry<14, Status(OrtSessionOptions*, const char*)> enable_profiling;
constexpr Entry<24, Status(OrtSessionOptions*, int)> set_intra_op_threads;
constexpr Entry<25, Status(OrtSessionOptions*, int)> set_inter_op_threads;
constexpr Entry<36, Status(const OrtSession*, size_t, OrtAllocator*, char**)> input_name;
constexpr Entry<37, Status(const OrtSession*, size_t, OrtAllocator*, char**)> output_name;
constexpr Entry<49, Status(const OrtMemoryInfo*, void*, size_t, const int64_t*, size_t, int, OrtValue**)> create_tensor;
constexpr Entry<51, Status(OrtValue*, void**)> tensor_data;
constexpr Entry<60, Status(const OrtShape*, int*)> element_type;
constexpr Entry<61, Status(const OrtShape*, size_t*)> dimensions_count;
constexpr Entry<62, Status(const OrtShape*, int64_t*, size_t)> dimensions;
constexpr Entry<65, Status(const OrtValue*, OrtShape**)> tensor_shape;
constexpr Entry<69, Status(int, int, OrtMemoryInfo**)> create_cpu_memory_info;
constexpr Entry<78, Status(OrtAllocator**)> default_allocator;
constexpr Entry<96, void(OrtValue*)> release_value;
constexpr Entry<99, void(OrtShape*)> release_shape;
constexpr Entry<110, Status(OrtSession*, OrtAllocator*, char**)> end_profiling;
constexpr Entry<130, Status(OrtSessionOptions*, const char*, const char*)> add_session_config_entry;

}  // namespace ort
