#include "bindings/params.h"

#include <algorithm>

#include "core/errors.h"

namespace hotloop {

namespace {

// Whatever has __index__ (Python ints, NumPy integers), but no bool.
std::int64_t integer(const char* op, const char* name, py::handle object) {
  if (PyBool_Check(object.ptr()) || !PyIndex_Check(object.ptr())) {
    throw DTypeError(std::string(op) + ": " + name + " must be an integer, got " +
                     type_text(object));
  }
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) {
    throw ShapeError(std::string(op) + ": " + name + " must fit 64 bits, got " +
                     py::str(index).cast<std::string>());
  }
  if (value == -1 && PyErr_Occurred()) throw py::error_already_set();
  return value;
}

bool is_sequence(py::handle object) {
  return PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
}

}  // namespace

std::string type_text(py::handle object) {
  if (!object) return "nothing";
  return std::string(Py_TYPE(object.ptr())->tp_name);
}

Pair parse_pair(const char* op, const char* name, py::handle object, std::int64_t least) {
  Pair pair;
  if (is_sequence(object)) {
    const auto items = py::reinterpret_borrow<py::sequence>(object);
    if (items.size() != 2) {
      throw ShapeError(std::string(op) + ": " + name + " must be an integer or a pair, got " +
                       std::to_string(items.size()) + " values");
    }
    pair = {integer(op, name, items[0]), integer(op, name, items[1])};
  } else {
    const std::int64_t value = integer(op, name, object);
    pair = {value, value};
  }
  constexpr std::int64_t kLargest = std::int64_t{1} << 31;
  if (pair.h < least || pair.w < least || pair.h > kLargest || pair.w > kLargest) {
    throw ShapeError(std::string(op) + ": " + name + " must be at least " + std::to_string(least) +
                     " and at most 2**31, got (" + std::to_string(pair.h) + ", " +
                     std::to_string(pair.w) + ")");
  }
  return pair;
}

Layout parse_layout(const char* op, py::handle object) {
  if (PyUnicode_Check(object.ptr())) {
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "NCHW") == 0) return Layout::nchw;
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "NHWC") == 0) return Layout::nhwc;
  }
  throw std::invalid_argument(std::string(op) + ": layout must be \"NCHW\" or \"NHWC\", got " +
                              py::repr(object).cast<std::string>());
}

int parse_axis(const char* op, py::handle object, int ndim) {
  const std::int64_t axis = integer(op, "axis", object);
  if (axis < -ndim || axis >= ndim) {
    throw ShapeError(std::string(op) + ": axis must lie in [" + std::to_string(-ndim) + ", " +
                     std::to_string(ndim) + "), got " + std::to_string(axis));
  }
  return static_cast<int>(axis < 0 ? axis + ndim : axis);
}

std::vector<int> parse_axes(const char* op, py::handle object, int ndim) {
  std::vector<int> axes;
  if (!object || object.is_none()) {
    for (int axis = 0; axis < ndim; ++axis) axes.push_back(axis);
    return axes;
  }
  if (!is_sequence(object)) return {parse_axis(op, object, ndim)};
  for (py::handle item : py::reinterpret_borrow<py::sequence>(object)) {
    axes.push_back(parse_axis(op, item, ndim));
  }
  std::sort(axes.begin(), axes.end());
  if (std::adjacent_find(axes.begin(), axes.end()) != axes.end()) {
    throw ShapeError(std::string(op) + ": axis must not name an axis twice, got " +
                     py::repr(object).cast<std::string>());
  }
  return axes;
}

std::vector<std::int64_t> parse_shape(const char* op, const char* name, py::handle object) {
  if (!is_sequence(object)) {
    throw DTypeError(std::string(op) + ": " + name + " must be a tuple of sizes, got " +
                     type_text(object));
  }
  std::vector<std::int64_t> shape;
  for (py::handle item : py::reinterpret_borrow<py::sequence>(object)) {
    shape.push_back(integer(op, name, item));
    if (shape.back() < 0) {
      throw ShapeError(std::string(op) + ": " + name + " must not hold negative sizes, got " +
                       py::repr(object).cast<std::string>());
    }
  }
  return shape;
}

}  // namespace hotloop
