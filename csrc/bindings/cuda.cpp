// Arrays on a GPU as Python sees them, and the state of the CUDA library.
#include "bindings/device.h"
#include "bindings/dlpack.h"
#include "bindings/params.h"
#include "cuda_build.inc"

namespace hotloop {

namespace {

py::tuple as_tuple(const Shape& values) {
  py::tuple items(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) items[i] = py::int_(values[i]);
  return items;
}

Shape as_shape(const py::sequence& values) {
  Shape shape;
  for (py::handle value : values) shape.push_back(value.cast<std::int64_t>());
  return shape;
}

// An ndarray whose elements lie without gaps: its strides in elements; empty where it is C order.
bool dense_strides(const py::array& array, Shape* strides) {
  const py::ssize_t item = array.itemsize();
  std::vector<py::ssize_t> order;
  strides->clear();
  for (py::ssize_t axis = 0; axis < array.ndim(); ++axis) {
    strides->push_back(array.strides(axis) / (item > 0 ? item : 1));
    if (array.shape(axis) != 1) order.push_back(axis);
  }
  for (std::size_t i = 1; i < order.size(); ++i) {
    for (std::size_t j = i; j > 0 && array.strides(order[j - 1]) < array.strides(order[j]); --j) {
      std::swap(order[j - 1], order[j]);
    }
  }
  py::ssize_t expected = item;
  for (std::size_t i = order.size(); i-- > 0;) {
    if (array.strides(order[i]) != expected) return false;
    expected *= array.shape(order[i]);
  }
  return true;
}

py::object to_device(const char* op, py::array array, int device) {
  if (array.dtype().kind() == 'O' || array.dtype().byteorder() == '>') {
    throw DTypeError(std::string(op) +
                     ": bool, an integer or a float type in native byte order is "
                     "expected, got " +
                     py::str(array.dtype()).cast<std::string>());
  }
  Shape shape(array.shape(), array.shape() + array.ndim()), strides;
  if (array.size() > 0 && !dense_strides(array, &strides)) {
    array = array.attr("copy")("K");
    if (!dense_strides(array, &strides)) {
      array = array.attr("copy")("C");
      strides.clear();
    }
  }
  if (array.size() == 0) strides.clear();
  py::object made = new_device_array(op, device, array.dtype(), shape, strides);
  const DeviceArray& to = *as_device_array(made);
  const CudaApi& api = cuda_api(op, device);
  const void* from = array.data();
  const std::int64_t bytes = array.nbytes();
  int code = 0;
  {
    const GilReleased released;
    code = api.to_device(device, to.data, from, bytes);
  }
  check_cuda(op, "cudaMemcpyAsync", code);
  return made;
}

py::object dense_copy(const char* op, const DeviceArray& array, const py::dtype& dtype) {
  py::object made = new_device_array(op, array.device, dtype, array.shape);
  copy_on_device(op, *as_device_array(made), array);
  return made;
}

py::object to_host(const DeviceArray& array) {
  py::object kept;  // a dense copy
  const DeviceArray* from = &array;
  if (!array.dense()) {
    kept = dense_copy("to", array, array.dtype);
    from = as_device_array(kept);
  }
  py::array made = new_array("to", array.dtype, array.shape);
  void* const to = made.mutable_data();
  copy_to_host("to", from->device, to, from->data, from->size() * from->item());
  return made;
}

py::object to_other(const DeviceArray& array, int device) {
  if (array.device == device) return py::cast(array);
  py::object kept;
  const DeviceArray* from = &array;
  if (!array.dense()) {
    kept = dense_copy("to", array, array.dtype);
    from = as_device_array(kept);
  }
  py::object made = new_device_array("to", device, array.dtype, array.shape);
  const CudaApi& api = cuda_api("to", device);
  check_cuda("to", "cudaMemcpyPeerAsync",
             api.between(device, as_device_array(made)->data, from->device, from->data,
                         from->size() * from->item()));
  return made;
}

// The same memory, seen otherwise; the caller has computed a layout that stays inside.
py::object view(const DeviceArray& array, const py::sequence& shape, const py::sequence& strides,
                std::int64_t offset) {
  DeviceArray made = array;
  made.shape = as_shape(shape);
  made.strides = as_shape(strides);
  made.data += offset;
  return py::cast(std::move(made));
}

void fill(const DeviceArray& array, double value) {
  if (array.read_only) throw OutputError("fill: the array must be writable, got a read-only one");
  fill_on_device("fill", array, value);
}

void assign(const DeviceArray& to, const DeviceArray& from) {
  if (to.read_only) throw OutputError("copy: the target must be writable, got a read-only array");
  if (to.shape != from.shape) {
    throw ShapeError("copy: both arrays must have one shape, got " + shape_text(to.shape) +
                     " and " + shape_text(from.shape));
  }
  copy_on_device("copy", to, from);
}

py::object interface(const DeviceArray& array) {
  const CudaApi& api = cuda_api("__cuda_array_interface__", array.device);
  void* stream = nullptr;
  int before = 0;
  check_cuda("__cuda_array_interface__", "cudaSetDevice",
             api.enter(array.device, &stream, &before));
  api.leave(before);
  py::dict entries;
  entries["version"] = 3;
  entries["shape"] = as_tuple(array.shape);
  entries["typestr"] = array.dtype.attr("str");
  entries["data"] = py::make_tuple(reinterpret_cast<std::uintptr_t>(array.data), array.read_only);
  entries["strides"] = array.dense() ? py::object(py::none()) : py::object(as_tuple(array.strides));
  entries["stream"] = stream ? py::object(py::int_(reinterpret_cast<std::uintptr_t>(stream)))
                             : py::object(py::none());
  return entries;
}

py::dict device_info(int device) {
  const CudaApi& api = cuda_api("device", device);
  CudaDevice found{};
  check_cuda("device", "cudaGetDeviceProperties", api.describe(device, &found));
  CudaMemory numbers{};
  api.memory(device, &numbers);
  py::dict info;
  info["name"] = found.name;
  info["capability"] = py::make_tuple(found.major, found.minor);
  info["multiprocessors"] = found.processors;
  info["runs"] = found.runs;
  info["architectures"] = api.architectures;
  info["free_bytes"] = found.free_bytes;
  info["total_bytes"] = found.total_bytes;
  info["in_use_bytes"] = numbers.in_use_bytes;
  info["cached_bytes"] = numbers.cached_bytes;
  info["allocations"] = numbers.allocations;
  info["cache_hits"] = numbers.cache_hits;
  info["graph_bytes"] = numbers.graph_bytes;
  CudaTraffic traffic{};
  api.traffic(device, &traffic);
  info["copies_to_device"] = traffic.copies_to_device;
  info["copies_to_host"] = traffic.copies_to_host;
  info["copies_between"] = traffic.copies_between;
  info["synchronizations"] = traffic.synchronizations;
  return info;
}

void bind_array(py::module_& m) {
  py::class_<DeviceArray> type(m, "DeviceArray");
  device_array_type = reinterpret_cast<PyTypeObject*>(type.ptr());
  type.def_property_readonly("shape", [](const DeviceArray& a) { return as_tuple(a.shape); })
      .def_property_readonly("strides", [](const DeviceArray& a) { return as_tuple(a.strides); })
      .def_property_readonly("dtype", [](const DeviceArray& a) { return a.dtype; })
      .def_property_readonly("ndim", [](const DeviceArray& a) { return a.shape.size(); })
      .def_property_readonly("size", &DeviceArray::size)
      .def_property_readonly("itemsize", &DeviceArray::item)
      .def_property_readonly("nbytes", [](const DeviceArray& a) { return a.size() * a.item(); })
      .def_property_readonly("device_index", [](const DeviceArray& a) { return a.device; })
      .def_property_readonly("read_only", [](const DeviceArray& a) { return a.read_only; })
      .def_property_readonly("is_dense", &DeviceArray::dense)
      .def_property_readonly(
          "data_pointer",
          [](const DeviceArray& a) { return reinterpret_cast<std::uintptr_t>(a.data); })
      .def_property_readonly("_is_shared",
                             [](const DeviceArray& a) { return a.memory.use_count() > 1; })
      .def("_shares",
           [](const DeviceArray& a, const DeviceArray& b) { return a.memory == b.memory; })
      .def("_view", &view)
      .def("_assign", &assign)
      .def("_converted", [](const DeviceArray& a,
                            const py::dtype& dtype) { return dense_copy("astype", a, dtype); })
      .def("_to_host", &to_host)
      .def("_to_device", &to_other)
      .def("fill", &fill)
      .def(
          "__dlpack__",
          [](const DeviceArray& a, py::handle stream, py::handle max_version, py::handle,
             py::handle copy) {
            const bool versioned =
                !max_version.is_none() &&
                py::reinterpret_borrow<py::sequence>(max_version)[0].cast<int>() >= 1;
            if (!copy.is_none() && copy.cast<bool>()) {
              const py::object made = dense_copy("__dlpack__", a, a.dtype);
              return export_dlpack(*as_device_array(made), stream, versioned);
            }
            return export_dlpack(a, stream, versioned);
          },
          py::kw_only(), py::arg("stream") = py::none(), py::arg("max_version") = py::none(),
          py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__",
           [](const DeviceArray& a) { return py::make_tuple(dlpack::kCudaType, a.device); })
      .def_property_readonly("__cuda_array_interface__", &interface);
}

}  // namespace

PyTypeObject* device_array_type = nullptr;

DeviceArray* device_array_of(py::handle object) {
  return object.cast<DeviceArray*>();
}

void bind_cuda(py::module_& m) {
  bind_array(m);
  m.attr("cuda_build") = HOTLOOP_CUDA_BUILD;
  m.def("cuda_reason", &cuda_unavailable_reason);
  m.def("cuda_count", &cuda_device_count);
  m.def("cuda_is_emulated", &cuda_is_emulated);
  m.def("cuda_has_kernel", [](const std::string& name) { return has_cuda_kernel(name.c_str()); });
  m.def("cuda_info", &device_info);
  m.def("cuda_synchronize", &synchronize_device);
  m.def("cuda_empty_cache", [](int device) {
    check_cuda("empty_cache", "cudaFree", cuda_api("empty_cache", device).empty_cache(device));
  });
  m.def("cuda_use_library", &use_cuda_library);
  m.def("cuda_array",
        [](const py::array& array, int device) { return to_device("to", array, device); });
  m.def("cuda_empty", [](const py::sequence& shape, const py::dtype& dtype, int device) {
    return new_device_array("empty", device, dtype, as_shape(shape));
  });
  m.def("cuda_from_dlpack", &import_dlpack);
}

}  // namespace hotloop
