#include "bindings/device.h"

#include <cstring>
#include <stdexcept>

#include "bindings/dims.h"
#include "bindings/gil.h"
#include "kernels/device_copy.h"

namespace hotloop {

namespace {

thread_local Call* call_of_thread = nullptr;

struct Capture {
  int device;
  RandomKey first;
};
thread_local Capture capture_of_thread{kCpu, {}};

std::string megabytes(std::int64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

[[noreturn]] void out_of_memory(const char* op, const CudaApi& api, int device,
                                std::int64_t bytes) {
  CudaMemory numbers{};
  api.memory(device, &numbers);
  CudaDevice about{};
  (void)api.describe(device, &about);
  PyErr_SetString(
      PyExc_MemoryError,
      (std::string(op) + ": no memory on " + device_text(device) + " for " + megabytes(bytes) +
       " (" + std::to_string(bytes) + " bytes): " + megabytes(about.free_bytes) + " of " +
       megabytes(about.total_bytes) + " are free, hotloop holds " +
       megabytes(numbers.in_use_bytes) + " in arrays and " + megabytes(numbers.cached_bytes) +
       " in its cache" +
       (numbers.graph_bytes ? ", graphs keep " + megabytes(numbers.graph_bytes) : std::string()) +
       "; take a smaller batch, or free arrays and call "
       "hl.cuda.empty_cache()")
          .c_str());
  throw py::error_already_set();
}

void* allocate(const char* op, const CudaApi& api, int device, std::int64_t bytes) {
  void* pointer = nullptr;
  constexpr int kMemoryAllocation = 2;
  const int code = api.allocate(device, bytes, &pointer);
  if (code == kMemoryAllocation) out_of_memory(op, api, device, bytes);
  check_cuda(op, "cudaMalloc", code);
  return pointer;
}

bool element_of(const py::dtype& dtype, Element* element) {
  const char kind = dtype.kind();
  const auto item = dtype.itemsize();
  if (dtype.byteorder() == '>') return false;
  if (kind == 'b') {
    *element = Element::flag;
  } else if (kind == 'i' && (item == 4 || item == 8)) {
    *element = item == 4 ? Element::s32 : Element::s64;
  } else if (kind == 'f' && (item == 4 || item == 8)) {
    *element = item == 4 ? Element::f32 : Element::f64;
  } else {
    return false;
  }
  return true;
}

Element bits_of(const char* op, const py::dtype& dtype) {
  switch (dtype.itemsize()) {
    case 1:
      return Element::bits8;
    case 2:
      return Element::bits16;
    case 4:
      return Element::bits32;
    case 8:
      return Element::bits64;
    default:
      throw DTypeError(std::string(op) +
                       ": elements of 1, 2, 4 or 8 bytes are expected on a GPU, " + "got " +
                       py::str(dtype).cast<std::string>());
  }
}

// Of a call that has long returned; the device has forgotten it and goes on.
void check_fault(int device, const IndexFault& fault) {
  if (!fault.rule) return;
  const std::string bound = std::to_string(fault.bound);
  const std::string text = std::string(fault.op) + ": " + fault.rule->name + " must lie in [0, " +
                           bound + "), got " + std::to_string(fault.value) + " at position " +
                           std::to_string(fault.position) + " of the flattened " +
                           fault.rule->name + " (found on " + device_text(device) +
                           " after the call had returned)" + fault.rule->remedy;
  if (fault.rule->is_index_error) throw std::out_of_range(text);
  throw std::invalid_argument(text);
}

}  // namespace

std::string device_text(int device) {
  return device < 0 ? "cpu" : "cuda:" + std::to_string(device);
}

std::int64_t DeviceArray::size() const {
  std::int64_t count = 1;
  for (std::int64_t each : shape) count *= each;
  return count;
}

bool DeviceArray::dense() const {
  std::int64_t expected = item();
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    if (shape[axis] == 0) return true;
    if (shape[axis] != 1 && strides[axis] != expected) return false;
    expected *= shape[axis];
  }
  return true;
}

py::object new_device_array(const char* op, int device, const py::dtype& dtype, const Shape& shape,
                            const Shape& strides) {
  if (shape.size() > kMaxDims) {
    throw ShapeError(std::string(op) + ": an array on a GPU must have at most " +
                     std::to_string(kMaxDims) + " axes, got " + std::to_string(shape.size()));
  }
  const CudaApi& api = cuda_api(op, device);
  const std::int64_t item = dtype.itemsize();
  const std::int64_t count =
      checked_product(op, shape.data(), static_cast<int>(shape.size()), item);
  void* const pointer = allocate(op, api, device, count * item);
  DeviceArray array;
  array.memory =
      std::shared_ptr<void>(pointer, [&api, device](void* memory) { api.release(device, memory); });
  array.data = static_cast<char*>(pointer);
  array.dtype = dtype;
  array.device = device;
  array.shape = shape;
  array.strides.resize(shape.size());
  std::int64_t step = item;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    array.strides[axis] = strides.empty() ? step : strides[axis] * item;
    step *= shape[axis];
  }
  return py::cast(std::move(array));
}

void copy_on_device(const char* op, const DeviceArray& to, const DeviceArray& from) {
  if (to.device != from.device) {
    throw DeviceError(std::string(op) + ": arrays on one device are expected, got " +
                      device_text(to.device) + " and " + device_text(from.device) +
                      "; move one of them (.to)");
  }
  const std::int64_t count = to.size();
  if (count == 0) return;
  const CudaApi& api = cuda_api(op, to.device);
  CopyArgs args{};
  if (to.dtype.equal(from.dtype)) {
    if (to.dense() && from.dense()) {
      check_cuda(op, "cudaMemcpyAsync",
                 api.between(to.device, to.data, from.device, from.data, count * to.item()));
      return;
    }
    args.to_element = args.from_element = bits_of(op, to.dtype);
  } else if (!element_of(to.dtype, &args.to_element) ||
             !element_of(from.dtype, &args.from_element)) {
    throw DTypeError(std::string(op) + ": a GPU converts between bool, int32, int64, float32 and " +
                     "float64, got " + py::str(from.dtype).cast<std::string>() + " to " +
                     py::str(to.dtype).cast<std::string>() + "; convert on the CPU");
  }
  Dims<2> dims;
  for (std::size_t axis = 0; axis < to.shape.size(); ++axis) {
    dims.add(to.shape[axis], {to.strides[axis] / to.item(), from.strides[axis] / from.item()});
  }
  dims.simplify();
  args.to = to.data + dims.offsets[0] * to.item();
  args.from = from.data + dims.offsets[1] * from.item();
  args.ndim = dims.count;
  for (int d = 0; d < dims.count; ++d) {
    args.shape[d] = dims.sizes[d];
    args.to_strides[d] = dims.strides[0][d];
    args.from_strides[d] = dims.strides[1][d];
  }
  launch_cuda(op, "device_copy", &args, count, to.device);
}

void fill_on_device(const char* op, const DeviceArray& to, double value) {
  const std::int64_t count = to.size();
  if (count == 0) return;
  FillArgs args{};
  Element element;
  args.element = bits_of(op, to.dtype);
  const auto keep = [&args](auto number) { std::memcpy(&args.value, &number, sizeof(number)); };
  if (!element_of(to.dtype, &element)) {
    if (value != 0) {
      throw DTypeError(std::string(op) + ": a GPU fills bool, int32, int64, float32 and float64, " +
                       "got " + py::str(to.dtype).cast<std::string>());
    }
  } else if (element == Element::flag) {
    args.value = value != 0;
  } else if (element == Element::s32) {
    keep(static_cast<std::int32_t>(value));
  } else if (element == Element::s64) {
    keep(static_cast<std::int64_t>(value));
  } else if (element == Element::f32) {
    keep(static_cast<float>(value));
  } else {
    keep(value);
  }
  Dims<1> dims;
  for (std::size_t axis = 0; axis < to.shape.size(); ++axis) {
    dims.add(to.shape[axis], {to.strides[axis] / to.item()});
  }
  dims.simplify();
  args.to = to.data + dims.offsets[0] * to.item();
  args.ndim = dims.count;
  for (int d = 0; d < dims.count; ++d) {
    args.shape[d] = dims.sizes[d];
    args.strides[d] = dims.strides[0][d];
  }
  launch_cuda(op, "device_fill", &args, count, to.device);
}

void copy_to_host(const char* op, int device, void* to, const void* from, std::int64_t bytes) {
  const CudaApi& api = cuda_api(op, device);
  IndexFault fault{};
  int code = 0;
  {
    const GilReleased released;
    code = api.to_host(device, to, from, bytes, &fault);
  }
  check_cuda(op, "cudaMemcpyAsync", code);
  check_fault(device, fault);
}

void synchronize_device(int device) {
  const CudaApi& api = cuda_api("synchronize", device);
  IndexFault fault{};
  int code = 0;
  {
    const GilReleased released;
    code = api.synchronize(device, &fault);
  }
  check_cuda("synchronize", "cudaStreamSynchronize", code);
  check_fault(device, fault);
}

DeviceScratch::DeviceScratch(const char* op, int device, std::int64_t bytes) : device_(device) {
  if (bytes <= 0) return;
  api_ = &cuda_api(op, device);
  pointer_ = allocate(op, *api_, device, bytes);
}
DeviceScratch::~DeviceScratch() {
  if (pointer_) api_->release(device_, pointer_);
}

Call::Call(const char* op) : op_(op), slot_(&call_of_thread), outer_(*slot_) {
  *slot_ = this;
}
Call::~Call() {
  *slot_ = outer_;
}
Call* Call::current() {
  return call_of_thread;
}

IndexCheck Call::checks(const IndexRule& rule) const {
  IndexCheck check{nullptr, &rule, op_};
  if (on_gpu()) {
    check_cuda(op_, "cudaMalloc", cuda_api(op_, device_).fault_record(device_, &check.fault));
  }
  return check;
}

void set_capture(int device, const RandomKey& first) {
  capture_of_thread = {device, first};
}

const RandomDraws* Call::draws(const RandomKey& key) const {
  const auto& [device, first] = capture_of_thread;
  if (!on_gpu() || device != device_ || key.seed != first.seed || key.stream < first.stream) {
    return nullptr;
  }
  return cuda_api(op_, device_).graph_draws(device_);
}

void Call::meet(const char* name, int device) {
  if (device_ == kNowhere) {
    device_ = device;
    first_ = name;
    return;
  }
  if (device_ == device) return;
  throw DeviceError(std::string(op_) + ": " + first_ + " and " + name +
                    " must lie on one device, got " + device_text(device_) + " and " +
                    device_text(device) + "; move one of them: .to(\"" + device_text(device_) +
                    "\")");
}

}  // namespace hotloop
