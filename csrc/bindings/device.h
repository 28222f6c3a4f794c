// Arrays on a GPU, and the calls that take them.
//
//   const Call call("relu");                       // from here on DeviceArrays may come in
//   const Array x = input("relu", "x", x_object);  // the first array says where the call runs
//   Output out = map_output(...);                  // fresh memory on that device
//   call.run("relu_forward", relu_forward_kernel(), args, split);  // the twin of that name
//   return out.finish();
//
// Outside of a Call, input() refuses DeviceArrays: a family takes them when its kernels are there.
#pragma once

#include <memory>

#include "bindings/array.h"
#include "core/cuda.h"
#include "core/philox.h"
#include "kernels/index_check.h"

namespace hotloop {

inline constexpr int kCpu = -1, kNowhere = -2;
std::string device_text(int device);  // "cpu", "cuda:0"

// What `_core.DeviceArray` holds: any dtype of NumPy's, strides in bytes as NumPy counts them.
struct DeviceArray {
  std::shared_ptr<void> memory;
  char* data = nullptr;
  py::dtype dtype;
  int device = 0;
  bool read_only = false;
  Shape shape, strides;

  std::int64_t item() const { return dtype.itemsize(); }
  std::int64_t size() const;
  bool dense() const;  // C order without gaps
};

extern PyTypeObject* device_array_type;
DeviceArray* device_array_of(py::handle object);
// The array behind the object, or null.
inline DeviceArray* as_device_array(py::handle object) {
  if (!object || Py_TYPE(object.ptr()) != device_array_type) return nullptr;
  return device_array_of(object);
}
// Fresh memory (uninitialized); strides in elements, empty for C order.
py::object new_device_array(const char* op, int device, const py::dtype& dtype, const Shape& shape,
                            const Shape& strides = {});
// On the device of the current call; an ndarray where that is the CPU.
py::object fresh_array(const char* op, const py::dtype& dtype, const Shape& shape,
                       const Shape& strides = {});
// Both of one shape; dtypes are converted as NumPy's astype does.
void copy_on_device(const char* op, const DeviceArray& to, const DeviceArray& from);
void fill_on_device(const char* op, const DeviceArray& to, double value);

// Waits for what was begun on the device, and copies. Throws what kernels have found in indices.
void copy_to_host(const char* op, int device, void* to, const void* from, std::int64_t bytes);
void synchronize_device(int device);

// This thread captures a graph on the device, whose random streams begin with that key; a seed that
// is given meanwhile ends them. Device kCpu: it is done.
void set_capture(int device, const RandomKey& first);

// Memory of a device for the time of a call.
class DeviceScratch {
 public:
  DeviceScratch(const char* op, int device, std::int64_t bytes);
  ~DeviceScratch();
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  void* get() const { return pointer_; }

 private:
  const CudaApi* api_ = nullptr;
  int device_;
  void* pointer_ = nullptr;
};

class Call {
 public:
  explicit Call(const char* op);
  ~Call();
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  static Call* current();  // of this thread, or null

  // An array of the call lies there; DeviceError when another one lies elsewhere.
  void meet(const char* name, int device);
  int device() const { return device_ == kNowhere ? kCpu : device_; }
  bool on_gpu() const { return device_ >= 0; }

  // For a kernel that reads indices; without effect on the CPU, where they have been checked.
  IndexCheck checks(const IndexRule& rule) const;

  // What the key is to be moved by when the graph that is being captured is replayed; null where
  // none is, or where the caller has brought the key along.
  const RandomDraws* draws(const RandomKey& key) const;

  // The kernel, or, on a GPU, its twin of that name.
  template <class Args>
  void run(const char* name, Kernel<Args> kernel, const Args& args, const Split& split) const {
    if (on_gpu()) {
      launch_cuda(op_, name, &args, split.units, device_);
    } else {
      hotloop::run(kernel, args, split);
    }
  }
  // A kernel of the GPU alone, with the scratch it asks for behind `scratch`, a member of args.
  template <class Args>
  void run_gpu(const char* name, Args& args, std::int64_t units, void* Args::* scratch) const {
    const DeviceScratch memory(op_, device_, cuda_workspace(name, &args));
    args.*scratch = memory.get();
    launch_cuda(op_, name, &args, units, device_);
  }

 private:
  const char* op_;
  const char* first_ = nullptr;
  int device_ = kNowhere;
  Call** slot_;  // the thread's current call
  Call* outer_;
};

}  // namespace hotloop
