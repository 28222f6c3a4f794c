// The CUDA library, opened at first use: what it offers, why it cannot be used, how a kernel of it
// starts. Everything here works, and says why not, on machines without a driver.
#pragma once

#include <cstdint>
#include <string>

#include "core/cuda_api.h"

namespace hotloop {

// Empty where device "cuda" can be used; else one sentence.
std::string cuda_unavailable_reason();
int cuda_device_count();  // 0 where it cannot be used
bool cuda_is_emulated();

// The table for calls on that device. Throws DeviceError: no CUDA here (with the reason), no such
// device, one that the library has no code for.
const CudaApi& cuda_api(const char* op, int device);

// Throws DeviceError naming the call, the error and what to do; 0 is fine.
void check_cuda(const char* op, const char* call, int code);

// Whether the library has this kernel.
bool has_cuda_kernel(const char* name);
// Starts a kernel on the device's stream. Throws DeviceError where there is none of that name.
void launch_cuda(const char* op, const char* name, const void* args, std::int64_t units,
                 int device);
// The scratch that it asks for; 0 where it asks for none.
std::int64_t cuda_workspace(const char* name, const void* args);

// For tests: another library from now on; an empty path returns to the installed one. Arrays that
// exist keep theirs.
void use_cuda_library(const std::string& path);

}  // namespace hotloop
