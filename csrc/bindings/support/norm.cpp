#include "bindings/norm.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "bindings/device.h"

namespace hotloop {

double parse_eps(const char* op, double eps) {
  if (eps >= 0.0 && std::isfinite(eps)) return eps;
  throw std::invalid_argument(std::string(op) + ": eps must be finite and not negative, got " +
                              std::to_string(eps));
}

Array dense(const char* op, DType dtype, const Shape& shape) {
  return describe(fresh_array(op, numpy_dtype(dtype), shape));
}

Array vector(const char* op, const char* name, py::handle object, const Array& x,
             const Shape& shape) {
  if (!given(object)) return Array{};
  const Array array = input(op, name, object);
  same_dtype(op, "x", x, name, array);
  require_shape(op, name, array, shape);
  return packed(array);
}

void apart(const char* op, const Output& out, const char* name, const Array& array) {
  if (array.data) no_overlap(op, out, name, array);
}

}  // namespace hotloop
