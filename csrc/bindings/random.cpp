// Uniform and normal numbers.
#include "kernels/random.h"

#include <cmath>
#include <utility>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/params.h"
#include "bindings/random_key.h"
#include "math/philox.h"

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

py::object fill(const char* op, const char* name, Kernel<RandomArgs> kernel, std::int64_t grain,
                py::handle shape, double shift, double scale, py::handle dtype, py::handle key,
                py::handle out) {
  const Call call(op);
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
                        scale,       call.draws(random)};
  call.run(name, kernel, args,
           {.units = (args.size + kRandomUnit - 1) / kRandomUnit,
            .grain = grain,
            .interruptible = output.is_fresh});
  return output.finish();
}

// Fisher and Yates' shuffle: number i takes 64 bits of the stream, scaled to [0, i].
void shuffle(std::int64_t* order, std::int64_t count, const RandomKey& random) {
  for (std::int64_t i = 0; i < count; ++i) order[i] = i;
  math::PhiloxBlock block{};
  for (std::int64_t i = count - 1; i > 0; --i) {
    const auto index = static_cast<std::uint64_t>(count - 1 - i);
    if (index % 2 == 0) block = math::philox_at(random.seed, random.stream, index / 2);
    const auto bound = static_cast<std::uint64_t>(i) + 1;
    std::swap(order[i], order[math::philox_below(block.word + 2 * (index % 2), bound)]);
  }
}

// A given out of `count` int64, which says where the call runs.
void check_order(const char* op, Call& call, py::handle out, std::int64_t count) {
  const DeviceArray* const device = as_device_array(out);
  if (!device && !py::isinstance<py::array>(out)) {
    throw DTypeError(std::string(op) + ": out must be an array of int64, got " +
                     py::repr(py::type::of(out)).cast<std::string>());
  }
  call.meet("out", device ? device->device : kCpu);
  const py::object dtype = out.attr("dtype");
  if (!py::dtype("int64").equal(dtype)) {
    throw DTypeError(std::string(op) + ": out must be int64, got " +
                     py::str(dtype).cast<std::string>());
  }
  Shape shape;
  for (py::handle size : py::tuple(out.attr("shape"))) shape.push_back(size.cast<std::int64_t>());
  if (shape != Shape{count}) {
    throw ShapeError(std::string(op) + ": out must have shape " + shape_text({count}) + ", got " +
                     shape_text(shape));
  }
  if (device ? device->read_only : !py::reinterpret_borrow<py::array>(out).writeable()) {
    throw OutputError(std::string(op) + ": out must be writable, got a read-only array");
  }
  if (count > 1 && py::tuple(out.attr("strides"))[0].cast<std::int64_t>() == 0) {
    throw OutputError(std::string(op) + ": out must be writable, got an array that repeats " +
                      "elements; pass a copy");
  }
}

py::object permutation(std::int64_t count, py::handle key, py::handle out) {
  constexpr const char* op = "permutation";
  if (count < 0) {
    throw ShapeError("permutation: n must not be negative, got " + std::to_string(count));
  }
  Call call(op);
  if (given(out)) check_order(op, call, out, count);
  const RandomKey random = parse_key(op, key);
  if (call.on_gpu()) {
    const DeviceArray& target = *as_device_array(out);
    const py::object made = target.dense()
                                ? py::reinterpret_borrow<py::object>(out)
                                : new_device_array(op, target.device, target.dtype, target.shape);
    PermutationArgs args{reinterpret_cast<std::int64_t*>(as_device_array(made)->data),
                         count,
                         random.seed,
                         random.stream,
                         call.draws(random),
                         nullptr};
    call.run_gpu("permutation", args, count, &PermutationArgs::scratch);
    if (!made.is(out)) copy_on_device(op, target, *as_device_array(made));
    return py::reinterpret_borrow<py::object>(out);
  }
  py::array made = new_array(op, py::dtype("int64"), {count});
  shuffle(static_cast<std::int64_t*>(made.mutable_data()), count, random);
  if (!given(out)) return made;
  out.attr("__setitem__")(py::ellipsis(), made);
  return py::reinterpret_borrow<py::object>(out);
}

}  // namespace

void bind_random(py::module_& module) {
  module.def("uniform", [](py::handle shape, double low, double high, py::handle dtype,
                           py::handle key, py::handle out) {
    if (high < low) {
      throw std::invalid_argument("uniform: high must not be below low, got low " +
                                  std::to_string(low) + " and high " + std::to_string(high));
    }
    return fill("uniform", "random_uniform", random_uniform_kernel(), kUniformGrain, shape, low,
                high - low, dtype, key, out);
  });
  module.def("normal", [](py::handle shape, double mean, double std, py::handle dtype,
                          py::handle key, py::handle out) {
    if (!(std >= 0)) {
      throw std::invalid_argument("normal: std must be at least 0, got " + std::to_string(std));
    }
    return fill("normal", "random_normal", random_normal_kernel(), kNormalGrain, shape, mean, std,
                dtype, key, out);
  });
  module.def("bernoulli", [](py::handle shape, double probability, py::handle dtype, py::handle key,
                             py::handle out) {
    if (!(probability >= 0 && probability <= 1)) {
      throw std::invalid_argument("bernoulli: p must be in [0, 1], got " +
                                  std::to_string(probability));
    }
    return fill("bernoulli", "random_bernoulli", random_bernoulli_kernel(), kUniformGrain, shape, 0,
                probability, dtype, key, out);
  });
  module.def("permutation", &permutation);
  module.def("random_key", [] {
    const RandomKey key = next_key();
    return py::make_tuple(key.seed, key.stream);
  });
}

}  // namespace hotloop
