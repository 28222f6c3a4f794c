// gemm_int8, quantize, dequantize, requantize: scales and zero points become rows of numbers.
#include "kernels/quant.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "bindings/array.h"
#include "bindings/dot.h"
#include "bindings/gemm_pack.h"
#include "bindings/params.h"

namespace hotloop {

namespace {

constexpr DTypes kBytes = dtypes(DType::s8, DType::u8);
constexpr std::int64_t kBlock = 8192;  // elements of a unit where one scale serves all

struct Range {
  std::int64_t low, high;
};
Range range_of(DType dtype) {
  return dtype == DType::u8 ? Range{0, 255} : Range{-128, 127};
}

std::int32_t checked_zero(const char* op, const char* name, std::int64_t zero, DType dtype) {
  const Range range = range_of(dtype);
  if (zero >= range.low && zero <= range.high) return static_cast<std::int32_t>(zero);
  throw std::invalid_argument(std::string(op) + ": " + name + " must lie in " +
                              std::to_string(range.low) + ".." + std::to_string(range.high) +
                              ", the range of " + dtype_name(dtype) + ", got " +
                              std::to_string(zero));
}

std::int64_t whole_number(const char* op, const char* name, py::handle object) {
  if (!PyIndex_Check(object.ptr()) || PyBool_Check(object.ptr())) {
    throw DTypeError(std::string(op) + ": " + name + " must be an integer or an int32 array, got " +
                     type_text(object));
  }
  const py::object index = py::reinterpret_steal<py::object>(PyNumber_Index(object.ptr()));
  if (!index) throw py::error_already_set();
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  return overflow > 0 ? INT64_MAX : overflow < 0 ? INT64_MIN : value;
}

bool is_ndarray(py::handle object) {
  return py::isinstance<py::array>(object);
}

// One zero point for all, or an int32 array of `count`: as `count` numbers.
std::vector<std::int32_t> zeros_of(const char* op, const char* name, py::handle object,
                                   std::int64_t count, DType dtype) {
  std::vector<std::int32_t> zeros(static_cast<std::size_t>(count));
  if (is_ndarray(object)) {
    const Array array = input(op, name, object, dtypes(DType::s32));
    require_shape(op, name, array, {count});
    for (std::int64_t j = 0; j < count; ++j) {
      zeros[static_cast<std::size_t>(j)] =
          checked_zero(op, name, array.as<std::int32_t>()[j * array.stride(0)], dtype);
    }
  } else {
    std::fill(zeros.begin(), zeros.end(),
              checked_zero(op, name, whole_number(op, name, object), dtype));
  }
  return zeros;
}

// One scale for all, or a float32 array of `count`: as `count` numbers, positive and finite.
std::vector<float> scales_of(const char* op, py::handle object, std::int64_t count) {
  std::vector<float> scales(static_cast<std::size_t>(count));
  if (is_ndarray(object)) {
    const Array array = input(op, "scale", object, dtypes(DType::f32));
    require_shape(op, "scale", array, {count});
    for (std::int64_t j = 0; j < count; ++j) {
      scales[static_cast<std::size_t>(j)] = array.as<float>()[j * array.stride(0)];
    }
  } else {
    const double value = PyFloat_AsDouble(object.ptr());
    if (value == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      throw DTypeError(std::string(op) + ": scale must be a number or a float32 array, got " +
                       type_text(object));
    }
    std::fill(scales.begin(), scales.end(), static_cast<float>(value));
  }
  for (const float scale : scales) {
    if (scale > 0 && std::isfinite(scale)) continue;
    throw std::invalid_argument(std::string(op) +
                                ": scale must be positive and finite in float32, got " +
                                std::to_string(scale));
  }
  return scales;
}

// What the caller wants back: dtype, or that of out, or the default.
DType wanted_dtype(const char* op, py::handle dtype, py::handle out, DTypes allowed,
                   DType otherwise) {
  if (given(out)) {
    const DType found = output_dtype(op, out, allowed);
    if (!given(dtype)) return found;
    otherwise = found;
  }
  if (!given(dtype)) return otherwise;
  const py::dtype asked = py::dtype::from_args(py::reinterpret_borrow<py::object>(dtype));
  for (const DType each : {DType::f32, DType::s8, DType::u8, DType::s32}) {
    if (!(allowed >> static_cast<unsigned>(each) & 1u) || !asked.is(numpy_dtype(each))) continue;
    if (given(out) && otherwise != each) {
      throw DTypeError(std::string(op) + ": out must be " + dtype_name(each) + ", got " +
                       dtype_name(otherwise) + "; leave dtype away where out is given");
    }
    return each;
  }
  throw DTypeError(std::string(op) + ": dtype must be " + dtype_names(allowed) + ", got " +
                   py::str(asked).cast<std::string>());
}

py::object gemm_int8_call(py::handle a_object, py::handle b_object, py::handle bias_object,
                          bool trans_a, bool trans_b, py::handle a_zero, py::handle b_zero,
                          py::handle scale, py::handle c_zero, py::handle dtype,
                          py::handle out_object) {
  const char* op = "gemm_int8";
  const Array a = input(op, "a", a_object, kBytes);
  const GemmPack* pack = as_pack(op, b_object, trans_b);
  const Array b = pack ? pack->array() : input(op, "b", b_object, kBytes);
  if (!(kBytes >> static_cast<unsigned>(b.dtype) & 1u)) {
    throw DTypeError(std::string(op) + ": b must be " + dtype_names(kBytes) + ", got a pack of " +
                     dtype_name(b.dtype));
  }
  const Shape shape = product_shape(op, a, trans_a, b, trans_b);
  const std::int64_t n = shape.back();
  Array bias;
  if (given(bias_object)) {
    bias = input(op, "bias", bias_object, dtypes(DType::s32));
    require_shape(op, "bias", bias, {n});
    bias = n == 1 || bias.stride(0) == 1 ? bias : packed(bias);
  }
  DotProblem p;
  if (pack) pack->describe(p);
  p.a_type = a.dtype;
  p.b_type = b.dtype;
  p.c_type = given(scale)
                 ? wanted_dtype(op, dtype, out_object, kBytes | dtypes(DType::f32), DType::f32)
                 : wanted_dtype(op, dtype, out_object, dtypes(DType::s32), DType::s32);
  p.a_zero = checked_zero(op, "a_zero", whole_number(op, "a_zero", a_zero), a.dtype);
  std::vector<std::int32_t> zeros;
  if (is_ndarray(b_zero) || whole_number(op, "b_zero", b_zero) != 0) {
    zeros = zeros_of(op, "b_zero", b_zero, n, b.dtype);
    p.b_zero = zeros.data();
  }
  std::vector<float> scales;
  if (given(scale)) {
    scales = scales_of(op, scale, n);
    p.scale = scales.data();
  }
  const std::int64_t zero = whole_number(op, "out_zero", c_zero);
  if (p.c_type == DType::s8 || p.c_type == DType::u8) {
    p.c_zero = checked_zero(op, "out_zero", zero, p.c_type);
  } else if (zero != 0) {
    throw std::invalid_argument(std::string(op) + ": out_zero must be 0 where the result is " +
                                dtype_name(p.c_type) + ", got " + std::to_string(zero));
  }
  Output out(op, out_object, p.c_type, shape);
  no_overlap(op, out, "a", a);
  if (!pack) no_overlap(op, out, "b", b);
  if (given(bias_object)) {
    no_overlap(op, out, "bias", bias);
    p.int_bias = bias.as<std::int32_t>();
  }
  return run_product(op, p, Matrices(a, trans_a), Matrices(b, trans_b), out, false);
}

// Scales and zero points along an axis, or one for all.
struct Channels {
  std::vector<float> scale;
  std::vector<std::int32_t> zero;
};

py::object convert(const char* op, Kernel<QuantArgs> kernel, const Array& x, py::handle scale,
                   py::handle zero, DType zero_type, py::handle axis_object, DType y_type,
                   py::handle out_object) {
  const Shape shape = x.shape_vector();
  std::int64_t outer = 1, channels = 1, inner = 1;
  const bool by_channel = given(axis_object);
  if (by_channel) {
    const int axis = parse_axis(op, axis_object, x.ndim);
    for (int i = 0; i < x.ndim; ++i)
      (i < axis ? outer : i == axis ? channels : inner) *= x.shape(i);
  }
  const Channels values{scales_of(op, scale, channels),
                        zeros_of(op, "zero_point", zero, channels, zero_type)};
  Shape dense(shape.size());
  for (std::size_t i = shape.size(), step = 1; i-- > 0; step *= std::size_t(shape[i])) {
    dense[i] = static_cast<std::int64_t>(step);
  }
  Output out(op, out_object, y_type, shape, dense);
  no_overlap(op, out, "x", x);
  const Array source = packed(x);
  QuantArgs args;
  args.x = source.data;
  args.y = out.data;
  args.x_type = x.dtype;
  args.y_type = y_type;
  args.size = x.size;
  args.scale = values.scale.data();
  args.zero = values.zero.data();
  args.channels = channels;
  args.columns = !by_channel ? kBlock : inner == 1 ? channels : inner;
  args.step = by_channel ? 1 : 0;
  args.by_row = by_channel && inner != 1;
  args.rows = !by_channel ? (x.size + kBlock - 1) / kBlock : inner == 1 ? outer : outer * channels;
  if (x.size > 0) {
    run(kernel, args,
        {.units = args.rows,
         .grain = std::max<std::int64_t>(1, 2 * kBlock / args.columns),
         .interruptible = out.is_fresh});
  }
  return out.finish();
}

py::object quantize_call(py::handle x_object, py::handle scale, py::handle zero, py::handle axis,
                         py::handle dtype, py::handle out) {
  const Array x = input("quantize", "x", x_object, dtypes(DType::f32));
  const DType y_type = wanted_dtype("quantize", dtype, out, kBytes, DType::u8);
  return convert("quantize", quant_quantize_kernel(), x, scale, zero, y_type, axis, y_type, out);
}

py::object requantize_call(py::handle x_object, py::handle scale, py::handle zero, py::handle axis,
                           py::handle dtype, py::handle out) {
  const Array x = input("requantize", "x", x_object, dtypes(DType::s32));
  const DType y_type = wanted_dtype("requantize", dtype, out, kBytes, DType::u8);
  return convert("requantize", quant_quantize_kernel(), x, scale, zero, y_type, axis, y_type, out);
}

py::object dequantize_call(py::handle x_object, py::handle scale, py::handle zero, py::handle axis,
                           py::handle out) {
  const Array x = input("dequantize", "x", x_object, kBytes);
  return convert("dequantize", quant_dequantize_kernel(), x, scale, zero, x.dtype, axis, DType::f32,
                 out);
}

}  // namespace

void bind_quant(py::module_& module) {
  module.def("gemm_int8", &gemm_int8_call);
  module.def("quantize", &quantize_call);
  module.def("requantize", &requantize_call);
  module.def("dequantize", &dequantize_call);
}

}  // namespace hotloop
