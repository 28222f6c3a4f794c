// Dropout and its backward pass: one kernel, one key.
#include "kernels/dropout.h"

#include <cmath>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/map.h"
#include "bindings/random_key.h"

namespace hotloop {
namespace {

constexpr std::int64_t kGrain = 256;                                  // units of 32 elements
constexpr std::int64_t kDropoutStreamBytes = std::int64_t{24} << 20;  // of both arrays

py::object apply(const char* op, const char* name, py::handle x_object, double p,
                 const RandomKey& key, py::handle out) {
  const Call call(op);
  const Array given_x = input(op, name, x_object);
  if (!(p >= 0.0 && p <= 1.0)) {
    throw std::invalid_argument(std::string(op) + ": p must be from 0 to 1, got " +
                                std::to_string(p));
  }
  Shape strides(static_cast<std::size_t>(given_x.ndim));
  std::int64_t step = 1;
  for (int axis = given_x.ndim; axis-- > 0;) {
    strides[static_cast<std::size_t>(axis)] = step;
    step *= given_x.shape(axis);
  }
  // A fresh result lies in memory as x does; the mask counts in C order, so that it is the same.
  py::object target = py::reinterpret_borrow<py::object>(out);
  if (!given(out) && !given_x.contiguous()) {
    target = map_output(op, out, given_x.dtype, given_x.shape_vector(), {&given_x}).finish();
  }
  Output output(op, target, given_x.dtype, given_x.shape_vector(), strides);
  no_overlap(op, output, name, given_x, Overlap::same_allowed);
  const Array x = packed(given_x);
  const double survives = 1.0 - p;
  const DropoutArgs args{x.data,
                         output.data,
                         x.size,
                         x.dtype,
                         key.seed,
                         key.stream,
                         static_cast<std::uint64_t>(std::ceil(p * 0x1p32)),
                         survives > 0 ? 1.0 / survives : 0.0,
                         call.draws(key),
                         x.data != output.data && 2 * x.size * x.item() >= kDropoutStreamBytes};
  call.run("dropout_apply", dropout_apply_kernel(), args,
           {.units = (x.size + kRandomUnit - 1) / kRandomUnit,
            .grain = kGrain,
            .interruptible = output.is_fresh});
  return output.finish();
}

}  // namespace

void bind_dropout(py::module_& module) {
  module.def("dropout", [](py::handle x, double p, py::handle key, py::handle out) {
    return apply("dropout", "x", x, p, parse_key("dropout", key), out);
  });
  module.def("dropout_backward", [](py::handle dy, double p, py::handle key, py::handle out) {
    const char* op = "dropout_backward";
    if (key.is_none()) {
      throw DTypeError(
          "dropout_backward: key must be the one that the forward call was given, got None; take "
          "random_key() and pass it to both");
    }
    return apply(op, "dy", dy, p, parse_key(op, key), out);
  });
}

}  // namespace hotloop
