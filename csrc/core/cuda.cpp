#include "core/cuda.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <mutex>

#include "core/errors.h"

namespace hotloop {
namespace {

constexpr const char* kFile = "libhotloop_cuda.so";
constexpr const char* kEmulated = "libhotloop_cuda_emulated.so";
constexpr int kInsufficientDriver = 35, kNoDevice = 100;

struct Library {
  void* handle = nullptr;
  const CudaApi* api = nullptr;
  int devices = 0;
  std::string reason;  // why it cannot be used
};

std::atomic<const Library*> loaded{nullptr};  // never freed: arrays may outlive a change
std::mutex loading;
std::string chosen;  // by use_cuda_library

std::string folder() {
  Dl_info info;
  if (!dladdr(reinterpret_cast<const void*>(&use_cuda_library), &info)) return {};
  const std::string path = info.dli_fname;
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

bool emulation_asked() {
  const char* value = std::getenv("HOTLOOP_CUDA");
  return value && std::string(value) == "EMULATE";
}

std::string no_devices(const CudaApi& api, int code) {
  if (code == kInsufficientDriver) {
    return "CUDA finds no NVIDIA driver, or one too old for this build of hotloop";
  }
  if (code == 0 || code == kNoDevice) return "CUDA finds no GPU";
  return std::string("CUDA failed: ") + api.error_name(code) + " (" + api.error_text(code) + ")";
}

const Library* open_library() {
  auto* const found = new Library;
  const std::string path =
      !chosen.empty() ? chosen : folder() + "/" + (emulation_asked() ? kEmulated : kFile);
  found->handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!found->handle) {
    const char* error = dlerror();
    const std::string text = error ? error : "";
    const bool missing = text.find("No such file") != std::string::npos;
    found->reason = missing ? (emulation_asked()
                                   ? "HOTLOOP_CUDA=EMULATE, but this build has no emulated kernels"
                                   : "this build of hotloop has no CUDA kernels (nvcc makes them)")
                            : "the CUDA library cannot be loaded: " + text;
    return found;
  }
  using Entry = const CudaApi* (*)();
  const auto entry = reinterpret_cast<Entry>(dlsym(found->handle, "hotloop_cuda_api"));
  const CudaApi* const api = entry ? entry() : nullptr;
  if (!api || api->abi != kCudaAbi) {
    found->reason = "the CUDA library " + path + " belongs to another version (interface " +
                    (api ? std::to_string(api->abi) : "unknown") + ", needed is " +
                    std::to_string(kCudaAbi) + "); install hotloop again";
    return found;
  }
  found->api = api;
  const int code = api->device_count(&found->devices);
  if (code != 0) found->devices = 0;
  if (found->devices == 0) found->reason = no_devices(*api, code);
  return found;
}

const Library& library() {
  const Library* found = loaded.load(std::memory_order_acquire);
  if (!found) {
    const std::lock_guard lock(loading);
    found = loaded.load(std::memory_order_relaxed);
    if (!found) {
      found = open_library();
      loaded.store(found, std::memory_order_release);
    }
  }
  return *found;
}

void* symbol(const Library& from, const char* name, const char* suffix) {
  const std::string full = std::string("hotloop_cuda_") + name + suffix;
  return from.handle ? dlsym(from.handle, full.c_str()) : nullptr;
}

std::string place(int device) {
  return "cuda:" + std::to_string(device);
}

}  // namespace

std::string cuda_unavailable_reason() {
  return library().reason;
}
int cuda_device_count() {
  return library().devices;
}
bool cuda_is_emulated() {
  const Library& found = library();
  return found.api && found.api->emulated;
}

const CudaApi& cuda_api(const char* op, int device) {
  const Library& found = library();
  if (!found.reason.empty()) {
    throw DeviceError(std::string(op) + ": a device of this installation is expected, got " +
                      place(device) + "; " + found.reason + "; use \"cpu\"");
  }
  if (device < 0 || device >= found.devices) {
    throw DeviceError(std::string(op) + ": the index of a device must be below " +
                      std::to_string(found.devices) + ", the number of GPUs, got " + place(device));
  }
  return *found.api;
}

void check_cuda(const char* op, const char* call, int code) {
  if (code == 0) return;
  const Library& found = library();
  const std::string name = found.api ? found.api->error_name(code) : std::to_string(code);
  const std::string text = found.api ? found.api->error_text(code) : "";
  // From 700 on the context is lost (illegal address, assert, launch failure ...).
  const std::string remedy = code >= 700 && code < 800
                                 ? "the GPU is lost to this process: restart it, and please report "
                                   "the shapes and dtypes of the call"
                                 : "see `python -m hotloop info` for the device and its driver";
  throw DeviceError(std::string(op) + ": " + call + " must succeed, got " + name + " (" + text +
                    "); " + remedy);
}

bool has_cuda_kernel(const char* name) {
  return symbol(library(), name, "") != nullptr;
}

void launch_cuda(const char* op, const char* name, const void* args, std::int64_t units,
                 int device) {
  if (units <= 0) return;
  const CudaApi& api = cuda_api(op, device);
  using Entry = int (*)(const void* args, std::int64_t units, void* stream);
  const auto entry = reinterpret_cast<Entry>(symbol(library(), name, ""));
  if (!entry) {
    throw DeviceError(std::string(op) + ": a CUDA kernel is needed for arrays on " + place(device) +
                      ", got none (" + name + "); move the arrays to the CPU: .to(\"cpu\")");
  }
  void* stream = nullptr;
  int before = 0;
  check_cuda(op, "cudaSetDevice", api.enter(device, &stream, &before));
  const int code = entry(args, units, stream);
  api.leave(before);
  check_cuda(op, (std::string("the kernel ") + name).c_str(), code);
}

std::int64_t cuda_workspace(const char* name, const void* args) {
  using Entry = std::int64_t (*)(const void* args);
  const auto entry = reinterpret_cast<Entry>(symbol(library(), name, "_workspace"));
  return entry ? entry(args) : 0;
}

void use_cuda_library(const std::string& path) {
  const std::lock_guard lock(loading);
  chosen = path;
  loaded.store(nullptr, std::memory_order_release);
}

}  // namespace hotloop
