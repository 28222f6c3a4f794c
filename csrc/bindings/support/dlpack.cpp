#include "bindings/dlpack.h"

namespace hotloop {

namespace {

using namespace dlpack;

constexpr const char* kName = "dltensor";
constexpr const char* kVersionedName = "dltensor_versioned";

DataType type_of(const py::dtype& dtype) {
  const char kind = dtype.kind();
  const int code = kind == 'i'                        ? 0
                   : kind == 'u'                      ? 1
                   : kind == 'f' && dtype.num() < 256 ? 2
                   : kind == 'b'                      ? 6
                                                      : -1;
  if (code < 0 || dtype.byteorder() == '>') {
    throw DTypeError("__dlpack__: bool, an integer or a float type is expected, got " +
                     py::str(dtype).cast<std::string>());
  }
  return {static_cast<std::uint8_t>(code), static_cast<std::uint8_t>(dtype.itemsize() * 8), 1};
}

py::dtype dtype_from(const DataType& type) {
  static constexpr const char* kCodes[] = {"i", "u", "f"};
  const int bytes = type.bits / 8;
  const bool known = type.lanes == 1 && type.bits % 8 == 0 && bytes >= 1 && bytes <= 8 &&
                     (bytes & (bytes - 1)) == 0;
  if (known && type.code == 6 && bytes == 1) return py::dtype("?");
  if (known && (type.code <= 1 || (type.code == 2 && bytes >= 2))) {
    return py::dtype(kCodes[type.code] + std::to_string(bytes));
  }
  throw DTypeError(
      "from_dlpack: bool, an integer or a float of NumPy's is expected, got DLPack's "
      "type code " +
      std::to_string(type.code) + " of " + std::to_string(type.bits) + " bits and " +
      std::to_string(type.lanes) + " lanes; convert it first");
}

// What lives as long as an exported capsule's tensor.
struct Exported {
  std::shared_ptr<void> memory;
  Shape shape, strides;
  const CudaApi* api;
  int device;
  void* stream;
  bool waits;
};

// The memory goes back to our cache, and from there to work on our stream: after what the consumer
// still does with it on its own.
void forget(Exported* exported) {
  if (exported->waits) (void)exported->api->wait_for(exported->device, exported->stream);
  delete exported;
}

void* stream_handle(py::handle stream, bool* waits) {
  *waits = true;
  if (!stream || stream.is_none()) return reinterpret_cast<void*>(std::intptr_t{1});
  const auto number = stream.cast<std::int64_t>();
  if (number == -1) *waits = false;
  if (number == 0 || number < -1) {
    throw std::invalid_argument(
        "__dlpack__: stream must be None, -1, 1, 2 or a stream's handle, "
        "got " +
        std::to_string(number));
  }
  return reinterpret_cast<void*>(static_cast<std::intptr_t>(number));
}

void release_capsule(PyObject* capsule) {  // unless a consumer has taken and renamed it
  if (PyCapsule_IsValid(capsule, kName)) {
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule, kName));
    if (managed->deleter) managed->deleter(managed);
  } else if (PyCapsule_IsValid(capsule, kVersionedName)) {
    auto* managed = static_cast<ManagedVersioned*>(PyCapsule_GetPointer(capsule, kVersionedName));
    if (managed->deleter) managed->deleter(managed);
  }
}

}  // namespace

py::object export_dlpack(const DeviceArray& array, py::handle stream, bool versioned) {
  const DataType type = type_of(array.dtype);
  const CudaApi& api = cuda_api("__dlpack__", array.device);
  auto exported = std::make_unique<Exported>();
  exported->stream = stream_handle(stream, &exported->waits);
  if (exported->waits) {
    check_cuda("__dlpack__", "cudaStreamWaitEvent", api.let_wait(array.device, exported->stream));
  }
  exported->memory = array.memory;
  exported->shape = array.shape;
  exported->strides = array.strides;
  for (std::int64_t& step : exported->strides) step /= array.item();
  exported->api = &api;
  exported->device = array.device;
  const Tensor tensor{
      array.data, {kCudaType, array.device}, static_cast<std::int32_t>(array.shape.size()),
      type,       exported->shape.data(),    exported->strides.data(),
      0};
  PyObject* capsule = nullptr;
  if (versioned) {
    auto* managed = new ManagedVersioned{{1, 0},
                                         exported.release(),
                                         [](ManagedVersioned* self) {
                                           forget(static_cast<Exported*>(self->manager));
                                           delete self;
                                         },
                                         array.read_only ? kReadOnly : 0,
                                         tensor};
    capsule = PyCapsule_New(managed, kVersionedName, release_capsule);
    if (!capsule) managed->deleter(managed);
  } else {
    if (array.read_only) {
      throw py::buffer_error(
          "__dlpack__: an unversioned capsule cannot say that the memory is read-only; ask for "
          "max_version=(1, 0), or export a copy");
    }
    auto* managed = new Managed{tensor, exported.release(), [](Managed* self) {
                                  forget(static_cast<Exported*>(self->manager));
                                  delete self;
                                }};
    capsule = PyCapsule_New(managed, kName, release_capsule);
    if (!capsule) managed->deleter(managed);
  }
  if (!capsule) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(capsule);
}

py::object import_dlpack(py::handle object) {
  if (!py::hasattr(object, "__dlpack__") || !py::hasattr(object, "__dlpack_device__")) {
    throw DTypeError("from_dlpack: an object with __dlpack__ is expected, got " +
                     std::string(Py_TYPE(object.ptr())->tp_name));
  }
  const auto place = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  if (place.first != kCudaType) {
    throw DeviceError(
        "from_dlpack: memory of a GPU (DLPack's device type 2) is expected, got type " +
        std::to_string(place.first) + "; memory of the CPU comes by numpy.from_dlpack");
  }
  const CudaApi& api = cuda_api("from_dlpack", place.second);
  void* stream = nullptr;
  int before = 0;
  check_cuda("from_dlpack", "cudaSetDevice", api.enter(place.second, &stream, &before));
  api.leave(before);
  // The emulated devices have no streams: nothing to wait for.
  const py::int_ number(stream ? reinterpret_cast<std::intptr_t>(stream) : -1);
  py::object capsule;
  try {
    capsule = object.attr("__dlpack__")(py::arg("stream") = number,
                                        py::arg("max_version") = py::make_tuple(1, 0));
  } catch (py::error_already_set& error) {  // a producer of before 1.0
    if (!error.matches(PyExc_TypeError)) throw;
    capsule = object.attr("__dlpack__")(py::arg("stream") = number);
  }
  const Tensor* tensor = nullptr;
  DeviceArray array;
  // What we still do with the memory comes before what its owner does next, on the legacy default
  // stream at least.
  const auto give_back = [&api, device = place.second](auto* managed) {
    (void)api.let_wait(device, reinterpret_cast<void*>(std::intptr_t{1}));
    if (managed->deleter) managed->deleter(managed);
  };
  if (PyCapsule_IsValid(capsule.ptr(), kVersionedName)) {
    auto* managed =
        static_cast<ManagedVersioned*>(PyCapsule_GetPointer(capsule.ptr(), kVersionedName));
    if (managed->version.major > 1) {
      throw DeviceError("from_dlpack: DLPack 1 is expected, got version " +
                        std::to_string(managed->version.major));
    }
    array.dtype = dtype_from(managed->tensor.dtype);
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    array.memory = std::shared_ptr<void>(managed->tensor.data,
                                         [managed, give_back](void*) { give_back(managed); });
    array.read_only = (managed->flags & kReadOnly) != 0;
    tensor = &managed->tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), kName)) {
    auto* managed = static_cast<Managed*>(PyCapsule_GetPointer(capsule.ptr(), kName));
    array.dtype = dtype_from(managed->tensor.dtype);
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    array.memory = std::shared_ptr<void>(managed->tensor.data,
                                         [managed, give_back](void*) { give_back(managed); });
    tensor = &managed->tensor;
  } else {
    throw DTypeError("from_dlpack: __dlpack__ must give a capsule of DLPack, got " +
                     py::repr(capsule).cast<std::string>());
  }
  if (tensor->ndim > kMaxDims) {
    throw ShapeError("from_dlpack: at most " + std::to_string(kMaxDims) +
                     " axes are expected, got " + std::to_string(tensor->ndim));
  }
  array.data = static_cast<char*>(tensor->data) + tensor->byte_offset;
  array.device = tensor->device.device_id;
  array.shape.assign(tensor->shape, tensor->shape + tensor->ndim);
  array.strides.resize(array.shape.size());
  std::int64_t step = array.item();
  for (std::size_t axis = array.shape.size(); axis-- > 0;) {
    array.strides[axis] = tensor->strides ? tensor->strides[axis] * array.item() : step;
    step *= array.shape[axis];
  }
  return py::cast(std::move(array));
}

}  // namespace hotloop
