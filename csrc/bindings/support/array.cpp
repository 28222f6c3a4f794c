#include "bindings/array.h"

#include <atomic>
#include <bit>
#include <cstring>

#include "bindings/device.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

// NPY_BOOL, NPY_BYTE, NPY_UBYTE, NPY_INT, ...: part of NumPy's ABI. From kNumpyUser on: dtypes of
// others.
constexpr int kNumpyBool = 0, kNumpyByte = 1, kNumpyUbyte = 2, kNumpyInt = 5, kNumpyLong = 7;
constexpr int kNumpyFloat = 11, kNumpyDouble = 12, kNumpyUser = 256;

// bfloat16 is a dtype of ml_dtypes, which we need not have: known by its name when it comes along.
std::atomic<PyObject*> bf16_dtype{nullptr};  // never freed

bool is_bf16(PyObject* descr) {
  PyObject* const known = bf16_dtype.load();
  if (known) {
    return py::detail::array_descriptor_proxy(descr)->type_num ==
           py::detail::array_descriptor_proxy(known)->type_num;
  }
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descr);
  if (dtype.itemsize() != 2 || py::str(dtype.attr("name")).cast<std::string>() != "bfloat16") {
    return false;
  }
  Py_INCREF(descr);
  PyObject* expected = nullptr;
  if (!bf16_dtype.compare_exchange_strong(expected, descr)) Py_DECREF(descr);
  return true;
}

constexpr std::size_t kMaxNumpyDims = 64;

const py::detail::PyArray_Proxy* proxy(py::handle object) {
  return py::detail::array_proxy(object.ptr());
}

PyObject* array_type() {
  return reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_);
}

bool is_array(py::handle object) {
  return object && py::isinstance<py::array>(object);
}

// Reads shape and strides; false where the strides are no multiple of the item.
bool read_layout(py::handle object, Array* array) {
  const auto* raw = proxy(object);
  const std::int64_t item = array->item();
  const int shift = std::countr_zero(static_cast<std::uint64_t>(item));  // divisions are slow
  array->ndim = raw->nd;
  array->data = raw->data;
  array->size = 1;
  bool addressable = true;
  for (int axis = 0; axis < raw->nd; ++axis) {
    const auto at = static_cast<std::size_t>(axis);
    array->shapes[at] = raw->dimensions[axis];
    array->size *= raw->dimensions[axis];
    const std::int64_t bytes = raw->strides[axis];
    // The stride of an axis of size 1 means nothing, and NumPy keeps odd values there.
    array->strides[at] = raw->dimensions[axis] == 1 ? 0 : bytes >> shift;
    if (raw->dimensions[axis] != 1 && (bytes & (item - 1)) != 0) addressable = false;
  }
  return addressable;
}

bool dtype_of_descr(PyObject* raw, DType* dtype) {
  const auto* descr = py::detail::array_descriptor_proxy(raw);
  if (descr->byteorder == '>') return false;
  if (descr->type_num == kNumpyFloat) {
    *dtype = DType::f32;
  } else if (descr->type_num == kNumpyDouble) {
    *dtype = DType::f64;
  } else if (descr->type_num == kNumpyByte) {
    *dtype = DType::s8;
  } else if (descr->type_num == kNumpyUbyte) {
    *dtype = DType::u8;
  } else if (descr->type_num == kNumpyInt || (descr->type_num == kNumpyLong && sizeof(long) == 4)) {
    *dtype = DType::s32;
  } else if (descr->type_num >= kNumpyUser && is_bf16(raw)) {
    *dtype = DType::bf16;
  } else {
    return false;
  }
  return true;
}
bool dtype_of(py::handle object, DType* dtype) {
  return dtype_of_descr(proxy(object)->descr, dtype);
}

// Like read_layout, for an array on a GPU: false where its memory is misaligned too.
bool read_device(const DeviceArray& from, Array* array) {
  const std::int64_t item = array->item();
  array->device = from.device;
  array->ndim = static_cast<int>(from.shape.size());
  array->data = from.data;
  array->size = from.size();
  bool addressable = reinterpret_cast<std::intptr_t>(from.data) % item == 0;
  for (std::size_t axis = 0; axis < from.shape.size(); ++axis) {
    array->shapes[axis] = from.shape[axis];
    array->strides[axis] = from.shape[axis] == 1 ? 0 : from.strides[axis] / item;
    if (from.shape[axis] != 1 && from.strides[axis] % item != 0) addressable = false;
  }
  return addressable;
}

// Where the call runs; a GPU only where the op says that it has kernels for it.
void meet(const char* op, const char* name, int device) {
  Call* const call = Call::current();
  if (call) return call->meet(name, device);
  if (device == kCpu) return;
  throw DeviceError(std::string(op) + ": " + name + " must lie on the CPU, for " + op +
                    " has no CUDA kernel, got an array on " + device_text(device) +
                    "; move it: .to(\"cpu\")");
}

std::string quoted(const char* op, const char* name) {
  return std::string(op) + ": " + name;
}

bool is_aligned(py::handle object) {
  return (proxy(object)->flags & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
}
// Whether a kernel can address the memory as it is.
bool is_addressable(py::handle object, Array* array) {
  if (const DeviceArray* device = as_device_array(object)) return read_device(*device, array);
  return is_aligned(object) && read_layout(object, array);
}
// Whether each element has a place of its own along each axis; a broadcast array has not.
template <class Sizes, class Strides>
bool has_own_places(std::size_t ndim, const Sizes& sizes, const Strides& strides) {
  bool own = true;
  for (std::size_t axis = 0; axis < ndim; ++axis) {
    if (sizes[axis] == 0) return true;  // of nothing
    if (sizes[axis] > 1 && strides[axis] == 0) own = false;
  }
  return own;
}

// Why a kernel must not write there; empty: it may.
std::string why_not_writable(py::handle object) {
  bool read_only, own;
  if (const DeviceArray* device = as_device_array(object)) {
    read_only = device->read_only;
    own = has_own_places(device->shape.size(), device->shape, device->strides);
  } else {
    const auto* raw = proxy(object);
    read_only = (raw->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_) == 0;
    own = has_own_places(static_cast<std::size_t>(raw->nd), raw->dimensions, raw->strides);
  }
  return read_only ? "a read-only array" : own ? "" : "an array that repeats elements";
}

void require_ndarray(const char* op, const char* name, py::handle object) {
  if (!is_array(object)) {
    throw DTypeError(quoted(op, name) + " must be a numpy.ndarray, got " + type_text(object) +
                     "; numpy.asarray makes one");
  }
  // A subclass; masks are the one thing of subclasses that results depend on.
  if (Py_TYPE(object.ptr()) != reinterpret_cast<PyTypeObject*>(array_type()) &&
      PyObject_HasAttrString(object.ptr(), "filled")) {
    throw DTypeError(quoted(op, name) + " must have no mask, got a " + type_text(object) +
                     "; x.filled(value) puts a number where it masks");
  }
  if (proxy(object)->nd > kMaxDims) {
    throw ShapeError(quoted(op, name) + " must have at most " + std::to_string(kMaxDims) +
                     " axes, got " + std::to_string(proxy(object)->nd));
  }
}

void require_array(const char* op, const char* name, py::handle object, DType* dtype,
                   DTypes allowed = kFloats) {
  const DeviceArray* const device = as_device_array(object);
  if (!device) require_ndarray(op, name, object);
  meet(op, name, device ? device->device : kCpu);
  PyObject* const descr = device ? device->dtype.ptr() : proxy(object)->descr;
  if (!dtype_of_descr(descr, dtype) || !(allowed >> static_cast<unsigned>(*dtype) & 1u)) {
    DType first = DType::f32;
    while (!(allowed >> static_cast<unsigned>(first) & 1u)) first = DType(int(first) + 1);
    throw DTypeError(
        quoted(op, name) + " must be " + dtype_names(allowed) + " in native byte order, got " +
        py::str(py::handle(descr)).cast<std::string>() + "; convert it with .astype(numpy." +
        dtype_name(first) + ") (a tensor: .to(hotloop." + dtype_name(first) + "))");
  }
}

void require_writable(const char* op, py::handle out, const Shape& shape) {
  const std::string why = why_not_writable(out);
  if (why.empty()) return;
  throw OutputError(std::string(op) + ": out must be writable, got " + why + " of shape " +
                    shape_text(shape) + "; pass a copy or leave out away");
}

}  // namespace

const char* dtype_name(DType dtype) {
  static constexpr const char* kNames[] = {"float32", "float64", "bfloat16",
                                           "int8",    "uint8",   "int32"};
  return kNames[static_cast<int>(dtype)];
}

std::string dtype_names(DTypes set) {
  std::string text;
  for (unsigned i = 0; set >> i; ++i) {
    if (!(set >> i & 1u)) continue;
    const bool last = set >> (i + 1) == 0;
    text += (text.empty() ? "" : last ? " or " : ", ") + std::string(dtype_name(DType(i)));
  }
  return text;
}

py::dtype numpy_dtype(DType dtype) {
  if (dtype == DType::bf16) return py::reinterpret_borrow<py::dtype>(bf16_dtype.load());
  static constexpr int kNumbers[] = {kNumpyFloat, kNumpyDouble, 0,
                                     kNumpyByte,  kNumpyUbyte,  kNumpyInt};
  return py::dtype(kNumbers[static_cast<int>(dtype)]);
}

bool find_dtype(py::handle object, DType* dtype) {
  return is_array(object) && dtype_of(object, dtype);
}

std::string shape_text(const Shape& shape) {
  return shape_text(shape.data(), static_cast<int>(shape.size()));
}

bool Array::contiguous() const {
  std::int64_t expected = 1;
  for (int axis = ndim - 1; axis >= 0; --axis) {
    if (shape(axis) == 0) return true;
    if (shape(axis) != 1 && stride(axis) != expected) return false;
    expected *= shape(axis);
  }
  return true;
}

Array describe(py::handle object) {
  Array array;
  if (const DeviceArray* device = as_device_array(object)) {
    dtype_of_descr(device->dtype.ptr(), &array.dtype);
    read_device(*device, &array);
  } else {
    dtype_of(object, &array.dtype);
    read_layout(object, &array);
  }
  array.owner = py::reinterpret_borrow<py::object>(object);
  return array;
}

Array input(const char* op, const char* name, py::handle object, DTypes allowed) {
  Array array;
  require_array(op, name, object, &array.dtype, allowed);
  const bool addressable = is_addressable(object, &array);
  array.owner = py::reinterpret_borrow<py::object>(object);
  if (!addressable) return packed(array);
  return array;
}

Array flags_input(const char* op, const char* name, py::handle object) {
  const DeviceArray* const device = as_device_array(object);
  if (!device) require_ndarray(op, name, object);
  meet(op, name, device ? device->device : kCpu);
  PyObject* const descr = device ? device->dtype.ptr() : proxy(object)->descr;
  if (py::detail::array_descriptor_proxy(descr)->type_num != kNumpyBool) {
    throw DTypeError(quoted(op, name) + " must be bool, got " +
                     py::str(py::handle(descr)).cast<std::string>() + "; compare it (x > 0)");
  }
  Array array;
  array.is_flags = true;
  if (device) {
    read_device(*device, &array);
  } else {
    read_layout(object, &array);
  }
  array.owner = py::reinterpret_borrow<py::object>(object);
  return array;
}

Array in_place(const char* op, const char* name, py::handle object) {
  Array array;
  require_array(op, name, object, &array.dtype);
  const bool addressable = is_addressable(object, &array);
  array.owner = py::reinterpret_borrow<py::object>(object);
  if (const std::string why = why_not_writable(object); !why.empty()) {
    throw OutputError(quoted(op, name) + " is changed in place and must be writable, got " + why +
                      " of shape " + shape_text(array.shape_vector()) + "; pass a copy");
  }
  if (!addressable) {
    throw OutputError(quoted(op, name) +
                      " is changed in place and must be aligned, got a misaligned array; "
                      "pass a copy");
  }
  return array;
}

Array packed(const Array& array) {
  Array check = array;
  if (array.contiguous() && is_addressable(array.owner, &check)) return array;
  if (const DeviceArray* from = as_device_array(array.owner)) {
    const py::object made = new_device_array("copy", from->device, from->dtype, from->shape);
    copy_on_device("copy", *as_device_array(made), *from);
    return describe(made);
  }
  py::object copy =
      py::reinterpret_steal<py::object>(PyObject_CallMethod(array.owner.ptr(), "copy", "s", "C"));
  if (!copy) throw py::error_already_set();
  return describe(copy);
}

void same_dtype(const char* op, const char* name_a, const Array& a, const char* name_b,
                const Array& b) {
  if (a.dtype == b.dtype) return;
  throw DTypeError(std::string(op) + ": " + name_a + " and " + name_b +
                   " must have the same dtype, got " + dtype_name(a.dtype) + " and " +
                   dtype_name(b.dtype) + "; convert one with .astype (a tensor: .to)");
}

void require_shape(const char* op, const char* name, const Array& array, const Shape& expected) {
  bool same = array.ndim == static_cast<int>(expected.size());
  for (int axis = 0; same && axis < array.ndim; ++axis) {
    same = array.shape(axis) == expected[static_cast<std::size_t>(axis)];
  }
  if (same) return;
  throw ShapeError(quoted(op, name) + " must have shape " + shape_text(expected) + ", got " +
                   shape_text(array.shape_vector()));
}

void require_ndim(const char* op, const char* name, const Array& array, int ndim) {
  if (array.ndim == ndim) return;
  throw ShapeError(quoted(op, name) + " must have " + std::to_string(ndim) + " axes, got " +
                   std::to_string(array.ndim) + " (shape " + shape_text(array.shape_vector()) +
                   ")");
}

py::array new_array(const char* op, const py::dtype& dtype, const Shape& shape,
                    const Shape& strides) {
  if (shape.size() > kMaxNumpyDims) {
    throw ShapeError(std::string(op) + ": the result must have at most 64 axes, got " +
                     std::to_string(shape.size()));
  }
  const std::int64_t item = dtype.itemsize();
  const std::int64_t bytes =
      checked_product(op, shape.data(), static_cast<int>(shape.size()), item) * item;
  void* memory = nullptr;
  try {
    memory = arena_allocate(static_cast<std::size_t>(bytes));
  } catch (const std::bad_alloc&) {
    PyErr_SetString(PyExc_MemoryError,
                    (std::string(op) + ": no memory for a result of shape " + shape_text(shape) +
                     " (" + std::to_string(bytes) + " bytes)")
                        .c_str());
    throw py::error_already_set();
  }
  // By hand, since py::capsule and py::array together cost another 150 ns.
  PyObject* const base = PyCapsule_New(memory, nullptr, [](PyObject* capsule) {
    arena_free(PyCapsule_GetPointer(capsule, nullptr));
  });
  if (!base) {
    arena_free(memory);
    throw py::error_already_set();
  }
  py::object owner = py::reinterpret_steal<py::object>(base);
  std::array<Py_intptr_t, kMaxNumpyDims> sizes, steps;
  const std::size_t ndim = shape.size();
  for (std::size_t axis = 0; axis < ndim; ++axis) {
    sizes[axis] = static_cast<Py_intptr_t>(shape[axis]);
    steps[axis] = strides.empty() ? 0 : static_cast<Py_intptr_t>(strides[axis] * item);
  }
  const auto& api = py::detail::npy_api::get();
  PyObject* const raw = api.PyArray_NewFromDescr_(
      api.PyArray_Type_, py::object(dtype).release().ptr(), static_cast<int>(ndim), sizes.data(),
      strides.empty() ? nullptr : steps.data(), memory, py::detail::npy_api::NPY_ARRAY_WRITEABLE_,
      nullptr);
  if (!raw) throw py::error_already_set();
  py::array result = py::reinterpret_steal<py::array>(raw);
  if (api.PyArray_SetBaseObject_(raw, owner.release().ptr()) != 0) throw py::error_already_set();
  return result;
}

py::object fresh_array(const char* op, const py::dtype& dtype, const Shape& shape,
                       const Shape& strides) {
  const Call* const call = Call::current();
  if (call && call->on_gpu()) return new_device_array(op, call->device(), dtype, shape, strides);
  return new_array(op, dtype, shape, strides);
}

DType output_dtype(const char* op, py::handle out, DTypes allowed) {
  DType dtype;
  require_array(op, "out", out, &dtype, allowed);
  return dtype;
}

void Output::take(const char* op, py::handle out, DType dtype, const Shape& shape) {
  DType out_dtype;
  require_array(op, "out", out, &out_dtype, kFloats | dtypes(dtype));
  if (out_dtype != dtype) {
    throw DTypeError(std::string(op) + ": out must be " + dtype_name(dtype) + ", got " +
                     dtype_name(out_dtype));
  }
  array = describe(out);
  require_shape(op, "out", array, shape);
  require_writable(op, out, shape);
  is_fresh = false;
  target = py::reinterpret_borrow<py::object>(out);
}

Output::Output(const char* op, py::handle out, DType dtype, const Shape& shape) {
  if (given(out)) {
    take(op, out, dtype, shape);
    Array check;
    check.dtype = dtype;
    // Memory a kernel cannot address is written through scratch.
    if (!is_addressable(out, &check)) {
      array = describe(fresh_array(op, numpy_dtype(dtype), shape));
    }
  } else {
    target = fresh_array(op, numpy_dtype(dtype), shape);
    array = describe(target);
  }
  data = array.data;
}

Output::Output(const char* op, py::handle out, DType dtype, const Shape& shape,
               const Shape& wanted) {
  if (given(out)) {
    take(op, out, dtype, shape);
    Array check;
    check.dtype = dtype;
    bool fits = is_addressable(out, &check);
    for (int axis = 0; fits && axis < array.ndim; ++axis) {
      fits = array.shape(axis) == 1 || array.stride(axis) == wanted[static_cast<std::size_t>(axis)];
    }
    if (!fits) array = describe(fresh_array(op, numpy_dtype(dtype), shape, wanted));
  } else {
    target = fresh_array(op, numpy_dtype(dtype), shape, wanted);
    array = describe(target);
  }
  data = array.data;
}

Output Output::flags(const char* op, py::handle out, const Shape& shape, const Shape& strides) {
  Output made;
  if (given(out)) {
    made.array = flags_input(op, "out", out);
    require_shape(op, "out", made.array, shape);
    require_writable(op, out, shape);
    made.is_fresh = false;
    made.target = made.array.owner;
  } else {
    made.target = fresh_array(op, py::dtype(kNumpyBool), shape, strides);
    made.array = flags_input(op, "out", made.target);
  }
  made.data = made.array.data;
  return made;
}

py::object Output::finish() {
  if (array.owner.is(target)) return target;
  if (array.device >= 0) {
    copy_on_device("copy", *as_device_array(target), *as_device_array(array.owner));
  } else if (PyObject_SetItem(target.ptr(), py::ellipsis().ptr(), array.owner.ptr()) != 0) {
    throw py::error_already_set();
  }
  return target;
}

}  // namespace hotloop
