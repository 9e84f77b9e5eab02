// The part of LiteRT's C interface that the runner uses.
//
// The wheels carry the library and no header. Handles are pointers whose targets only the library knows; a status of 0
// is success.
#pragma once

#include <cstddef>
#include <cstdint>

extern "C" {

using LiteRtStatus = int;
using LiteRtHandle = void*;

// A tensor's sides: the rank in the lowest seven bits, whether strides are given in the eighth.
struct LiteRtLayout {
  uint32_t rank_and_strides;
  int32_t sides[8];
  uint32_t strides[8];
};

struct LiteRtType {
  int32_t element;
  LiteRtLayout layout;
};

LiteRtStatus LiteRtCreateEnvironment(int options, const void* first, LiteRtHandle* environment);
LiteRtStatus LiteRtCreateModelFromFile(LiteRtHandle environment, const char* path, LiteRtHandle* model);
LiteRtStatus LiteRtCreateOptions(LiteRtHandle* options);
LiteRtStatus LiteRtSetOptionsHardwareAccelerators(LiteRtHandle options, int accelerators);
LiteRtStatus LiteRtCreateOpaqueOptions(const char* identifier, void* payload, void (*release)(void*),
                                       LiteRtHandle* opaque);
LiteRtStatus LiteRtAddOpaqueOptions(LiteRtHandle options, LiteRtHandle opaque);
LiteRtStatus LiteRtCreateCompiledModel(LiteRtHandle environment, LiteRtHandle model, LiteRtHandle options,
                                       LiteRtHandle* compiled);
LiteRtStatus LiteRtGetCompiledModelInputTensorLayout(LiteRtHandle compiled, size_t signature, size_t input,
                                                     LiteRtLayout* layout);
LiteRtStatus LiteRtGetCompiledModelOutputTensorLayouts(LiteRtHandle compiled, size_t signature, size_t outputs,
                                                       LiteRtLayout* layouts, bool update_allocation);
LiteRtStatus LiteRtCreateTensorBufferFromHostMemory(const LiteRtType* type, void* address, size_t bytes,
                                                    void (*release)(void*), LiteRtHandle* buffer);
LiteRtStatus LiteRtRunCompiledModel(LiteRtHandle compiled, size_t signature, size_t inputs, LiteRtHandle* input,
                                    size_t outputs, LiteRtHandle* output);
}

namespace litert {

constexpr int CPU = 1;
constexpr int FLOAT = 1;
constexpr size_t ALIGNMENT = 64;  // of memory that it takes as a tensor's
constexpr size_t PADDING = 64;    // bytes behind a tensor that XNNPACK may read

}  // namespace litert
