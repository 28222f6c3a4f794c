#include "bindings/map.h"

#include <algorithm>
#include <cmath>

#include "bindings/flat.h"

namespace hotloop {

namespace {

constexpr std::int64_t kPiece =
    2048;  // elements: 8 KB of float32, a third of L1 for three operands
// From here on (bytes of all operands) the output is written around the caches.
constexpr std::int64_t kStreamBytes = std::int64_t{24} << 20;

std::int64_t magnitude(std::int64_t value) {
  return value < 0 ? -value : value;
}

// The stride of operand `a` along axis `axis` of an array of `ndim` axes that it broadcasts to.
std::int64_t broadcast_stride(const Array& a, int axis, int ndim) {
  const int own = axis - (ndim - a.ndim);
  return own < 0 || a.shape(own) == 1 ? 0 : a.stride(own);
}

}  // namespace

Shape broadcast_shape(const char* op, const char* name_a, const Array& a, const char* name_b,
                      const Array& b) {
  const int ndim = std::max(a.ndim, b.ndim);
  Shape shape(static_cast<std::size_t>(ndim));
  for (int axis = 0; axis < ndim; ++axis) {
    const int at_a = axis - (ndim - a.ndim), at_b = axis - (ndim - b.ndim);
    const std::int64_t size_a = at_a < 0 ? 1 : a.shape(at_a);
    const std::int64_t size_b = at_b < 0 ? 1 : b.shape(at_b);
    if (size_a != size_b && size_a != 1 && size_b != 1) {
      throw ShapeError(std::string(op) + ": " + name_a + " and " + name_b +
                       " must have shapes that broadcast, got " + shape_text(a.shape_vector()) +
                       " and " + shape_text(b.shape_vector()) + "; axis " + std::to_string(axis) +
                       " of the result would be both " + std::to_string(size_a) + " and " +
                       std::to_string(size_b));
    }
    shape[static_cast<std::size_t>(axis)] = size_a == 1 ? size_b : size_a;
  }
  return shape;
}

Shape map_strides(const char* op, const Shape& shape, std::int64_t item, Operands operands) {
  const int ndim = static_cast<int>(shape.size());
  if (ndim < 2) return {};
  bool row_major = true;
  for (const Array* a : operands) row_major = row_major && a->contiguous();
  if (row_major) return {};
  // Insertion sort by stride, largest first; an operand that broadcasts along an axis has no say in
  // it.
  std::array<int, kMaxDims> order;
  for (int axis = 0; axis < ndim; ++axis) {
    int place = axis;
    for (; place > 0; --place) {
      const int other = order[static_cast<std::size_t>(place - 1)];
      std::int64_t mine = 0, theirs = 0;
      for (const Array* a : operands) {
        mine = magnitude(broadcast_stride(*a, axis, ndim));
        theirs = magnitude(broadcast_stride(*a, other, ndim));
        if (mine != 0 && theirs != 0) break;
        mine = theirs = 0;
      }
      if (mine <= theirs) break;
      order[static_cast<std::size_t>(place)] = other;
    }
    order[static_cast<std::size_t>(place)] = axis;
  }
  checked_product(op, shape.data(), ndim, item);
  Shape strides(shape.size());
  std::int64_t step = 1;
  for (int place = ndim - 1; place >= 0; --place) {
    const auto axis = static_cast<std::size_t>(order[static_cast<std::size_t>(place)]);
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

Output map_output(const char* op, py::handle out, DType dtype, const Shape& shape,
                  Operands operands) {
  if (given(out)) return Output(op, out, dtype, shape);
  const Shape strides = map_strides(op, shape, item_size(dtype), operands);
  return strides.empty() ? Output(op, out, dtype, shape) : Output(op, out, dtype, shape, strides);
}

Output map_flags(const char* op, py::handle out, const Shape& shape, Operands operands) {
  return Output::flags(op, out, shape, given(out) ? Shape{} : map_strides(op, shape, 1, operands));
}

MapArgs plan_map(const Array& out, Operands operands) {
  MapArgs args;
  args.dtype = out.is_flags ? operands.begin()[0]->dtype : out.dtype;
  args.scalar = 0;
  const int count = static_cast<int>(operands.size()) + 1;
  args.data[0] = out.data;
  for (int k = 1; k < count; ++k) args.data[k] = operands.begin()[k - 1]->data;
  bool flat = out.contiguous();
  for (const Array* a : operands) flat = flat && a->size == out.size && a->contiguous();
  int ndim = 0;
  if (flat || out.size <= 1) {
    args.shape[0] = out.size;
    for (int k = 0; k < count; ++k) args.strides[k][0] = 1;
    ndim = 1;
  } else {
    for (int axis = 0; axis < out.ndim; ++axis) {
      const std::int64_t size = out.shape(axis);
      if (size == 1) continue;
      std::int64_t strides[kMapOperands];
      strides[0] = out.stride(axis);
      for (int k = 1; k < count; ++k) {
        strides[k] = broadcast_stride(*operands.begin()[k - 1], axis, out.ndim);
      }
      if (strides[0] < 0) {  // walk the output upwards
        for (int k = 0; k < count; ++k) {
          const std::int64_t item = k == 0 ? out.item() : operands.begin()[k - 1]->item();
          args.data[k] = static_cast<char*>(args.data[k]) + (size - 1) * strides[k] * item;
          strides[k] = -strides[k];
        }
      }
      int place = ndim++;
      for (; place > 0 && args.strides[0][place - 1] < strides[0]; --place) {
        args.shape[place] = args.shape[place - 1];
        for (int k = 0; k < count; ++k) args.strides[k][place] = args.strides[k][place - 1];
      }
      args.shape[place] = size;
      for (int k = 0; k < count; ++k) args.strides[k][place] = strides[k];
    }
    int merged = 0;
    for (int axis = 1; axis < ndim; ++axis) {
      bool joins = true;
      for (int k = 0; k < count; ++k) {
        joins = joins && args.strides[k][merged] == args.strides[k][axis] * args.shape[axis];
      }
      if (joins) {
        args.shape[merged] *= args.shape[axis];
      } else {
        args.shape[++merged] = args.shape[axis];
      }
      for (int k = 0; k < count; ++k) args.strides[k][merged] = args.strides[k][axis];
    }
    ndim = merged + 1;
  }
  args.ndim = ndim;
  args.stream = out.size * count * out.item() >= kStreamBytes;
  for (int k = 1; k < count; ++k) args.stream = args.stream && args.data[k] != args.data[0];
  const std::int64_t row = args.shape[ndim - 1];
  args.piece = std::min(row, kPiece);
  args.pieces = args.piece == 0 ? 0 : (row + kPiece - 1) / kPiece;
  return args;
}

Split map_split(const MapArgs& args, double nanoseconds, bool is_fresh) {
  Split split{.units = args.pieces, .interruptible = is_fresh};
  for (int axis = 0; axis < args.ndim - 1; ++axis) split.units *= args.shape[axis];
  const double width = args.dtype == DType::f32 ? 1.0 : 2.0;
  const double unit = 5.0 + static_cast<double>(args.piece) * nanoseconds * width;
  split.grain = static_cast<std::int64_t>(5000.0 / unit) + 1;
  return split;
}

py::object run_flat(Kernel<MapArgs> kernel, std::initializer_list<py::handle> inputs,
                    py::handle out, double scalar) {
  const bool is_fresh = !given(out);
  MapArgs args;
  const auto* target = flat_array(is_fresh ? *inputs.begin() : out, !is_fresh, &args.dtype);
  if (!target) return {};
  std::int64_t size = 1;
  for (int axis = 0; axis < target->nd; ++axis) size *= target->dimensions[axis];
  if (size == 0 || size > kPiece) return {};
  const std::int64_t bytes = size * item_size(args.dtype);
  int count = 1;
  for (py::handle input : inputs) {
    DType dtype;
    const auto* source = flat_array(input, false, &dtype);
    if (!source || source->nd != target->nd) return {};
    // The same descriptor object: the common case, and cheaper to see than an equal one.
    if (source->descr != target->descr) return {};
    for (int axis = 0; axis < target->nd; ++axis) {
      if (source->dimensions[axis] != target->dimensions[axis]) return {};
    }
    if (!is_fresh) {
      const std::intptr_t apart = reinterpret_cast<std::intptr_t>(source->data) -
                                  reinterpret_cast<std::intptr_t>(target->data);
      if (apart != 0 && apart < bytes && -apart < bytes) return {};
    }
    args.data[count] = source->data;
    args.strides[count++][0] = 1;
  }
  py::object result;
  if (is_fresh) {  // NumPy's own memory: for so few bytes a capsule costs more than the kernel
    const auto& api = py::detail::npy_api::get();
    Py_INCREF(target->descr);
    result = py::reinterpret_steal<py::object>(api.PyArray_NewFromDescr_(
        api.PyArray_Type_, target->descr, target->nd,
        reinterpret_cast<const Py_intptr_t*>(target->dimensions), nullptr, nullptr, 0, nullptr));
    if (!result) throw py::error_already_set();
    args.data[0] = py::detail::array_proxy(result.ptr())->data;
  } else {
    result = py::reinterpret_borrow<py::object>(out);
    args.data[0] = target->data;
  }
  args.strides[0][0] = 1;
  args.shape[0] = args.piece = size;
  args.pieces = 1;
  args.scalar = scalar;
  args.ndim = 1;
  args.stream = false;
  kernel(args, 0, 1);
  return result;
}

bool scalar_value(py::handle object, double* value) {
  PyObject* raw = object.ptr();
  if (PyFloat_Check(raw)) {
    *value = PyFloat_AS_DOUBLE(raw);
    return true;
  }
  const bool is_integer = PyLong_Check(raw) && !PyBool_Check(raw);
  if (!is_integer && !py::isinstance(object, py::module_::import("numpy").attr("number"))) {
    return false;
  }
  *value = PyFloat_AsDouble(raw);  // raises for complex numbers
  if (*value == -1.0 && PyErr_Occurred()) throw py::error_already_set();
  return true;
}

}  // namespace hotloop
