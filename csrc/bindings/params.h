// Small arguments that several families share: pairs, axes, layouts.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

namespace hotloop {

namespace py = pybind11;

struct Pair {
  std::int64_t h, w;
};

// `value` or `(h, w)`; ValueError below `least`, TypeError for anything that is no integer.
Pair parse_pair(const char* op, const char* name, py::handle object, std::int64_t least);

enum class Layout { nchw, nhwc };
Layout parse_layout(const char* op, py::handle object);

// An integer in [-ndim, ndim) -> [0, ndim); raises ShapeError naming both.
int parse_axis(const char* op, py::handle object, int ndim);
// None: all axes; an int; a tuple of ints without repetition. In rising order.
std::vector<int> parse_axes(const char* op, py::handle object, int ndim);
// A tuple or list of sizes, none negative.
std::vector<std::int64_t> parse_shape(const char* op, const char* name, py::handle object);

// The type of an object as Python shows it, for messages.
std::string type_text(py::handle object);

}  // namespace hotloop
