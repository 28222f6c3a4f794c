// DLPack's structures (versions 0.x and 1.x), written from its specification, and the two ways of
// an array on a GPU through them.
#pragma once

#include <cstdint>

#include "bindings/device.h"

namespace hotloop {

namespace dlpack {

inline constexpr int kCpuType = 1, kCudaType = 2;
inline constexpr std::uint64_t kReadOnly = 1;

struct Device {
  std::int32_t device_type, device_id;
};
struct DataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};
struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // in elements; null: C order
  std::uint64_t byte_offset;
};
struct Managed {  // of capsules named "dltensor"
  Tensor tensor;
  void* manager;
  void (*deleter)(Managed* self);
};
struct Version {
  std::uint32_t major, minor;
};
struct ManagedVersioned {  // "dltensor_versioned"
  Version version;
  void* manager;
  void (*deleter)(ManagedVersioned* self);
  std::uint64_t flags;
  Tensor tensor;
};

}  // namespace dlpack

// A capsule over the array's memory, which it keeps alive. `stream`: the consumer's, as DLPack
// numbers them (None and 1: the legacy default stream, 2: the thread's, -1: no waiting).
py::object export_dlpack(const DeviceArray& array, py::handle stream, bool versioned);
// The array of an object with __dlpack__ on a GPU: the same memory.
py::object import_dlpack(py::handle object);

}  // namespace hotloop
