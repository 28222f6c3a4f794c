// Uniform and normal numbers.
#include "kernels/random.h"

#include <cmath>

#include "bindings/array.h"
#include "bindings/params.h"
#include "bindings/random_key.h"

namespace hotloop {
namespace {

constexpr std::int64_t kUniformGrain = 512, kNormalGrain = 128;  // units of 32 numbers

DType parse_dtype(const char* op, py::handle object) {
  try {
    const int number = py::dtype::from_args(py::reinterpret_borrow<py::object>(object)).num();
    if (number == numpy_dtype(DType::f32).num()) return DType::f32;
    if (number == numpy_dtype(DType::f64).num()) return DType::f64;
  } catch (const py::error_already_set&) {
  }
  throw DTypeError(std::string(op) + ": dtype must be float32 or float64, got " +
                   py::repr(object).cast<std::string>());
}

Shape row_major_strides(const Shape& shape) {
  Shape strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t axis = shape.size(); axis-- > 0;) {
    strides[axis] = step;
    step *= shape[axis];
  }
  return strides;
}

py::object fill(const char* op, Kernel<RandomArgs> kernel, std::int64_t grain, py::handle shape,
                double shift, double scale, py::handle dtype, py::handle key, py::handle out) {
  const Shape sizes = PyIndex_Check(shape.ptr()) ? parse_shape(op, "shape", py::make_tuple(shape))
                                                 : parse_shape(op, "shape", shape);
  if (!std::isfinite(shift) || !std::isfinite(scale)) {
    throw std::invalid_argument(std::string(op) + ": the numbers' range must be finite, got " +
                                std::to_string(shift) + " and " + std::to_string(scale));
  }
  // Without `dtype` the numbers are of out's type, or float32.
  const DType wanted = !dtype.is_none() ? parse_dtype(op, dtype)
                       : given(out)     ? input(op, "out", out).dtype
                                        : DType::f32;
  checked_product(op, sizes.data(), static_cast<int>(sizes.size()), item_size(wanted));
  Output output(op, out, wanted, sizes, row_major_strides(sizes));
  const RandomKey random = parse_key(op, key);
  const RandomArgs args{output.data, output.array.size, wanted, random.seed, random.stream, shift,
                        scale};
  run(kernel, args,
      {.units = (args.size + kRandomUnit - 1) / kRandomUnit,
       .grain = grain,
       .interruptible = output.is_fresh});
  return output.finish();
}

}  // namespace

void bind_random(py::module_& module) {
  module.def("uniform", [](py::handle shape, double low, double high, py::handle dtype,
                           py::handle key, py::handle out) {
    if (high < low) {
      throw std::invalid_argument("uniform: high must not be below low, got low " +
                                  std::to_string(low) + " and high " + std::to_string(high));
    }
    return fill("uniform", random_uniform_kernel(), kUniformGrain, shape, low, high - low, dtype,
                key, out);
  });
  module.def("normal", [](py::handle shape, double mean, double std, py::handle dtype,
                          py::handle key, py::handle out) {
    if (!(std >= 0)) {
      throw std::invalid_argument("normal: std must be at least 0, got " + std::to_string(std));
    }
    return fill("normal", random_normal_kernel(), kNormalGrain, shape, mean, std, dtype, key, out);
  });
  module.def("random_key", [] {
    const RandomKey key = next_key();
    return py::make_tuple(key.seed, key.stream);
  });
}

}  // namespace hotloop
