#include "bindings/conv.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace hotloop::conv {
namespace {

constexpr Naming kNaming[] = {
    {"NCL",
     "NLC",
     "(n, c, l)",
     "(n, l, c)",
     "(o, c / groups, kl)",
     "(kl, c / groups, o)",
     {1, -1, -1, 2, 0, 1, -1, -1, 2},
     {2, -1, -1, 1, 2, 1, -1, -1, 0}},
    {"NCHW",
     "NHWC",
     "(n, c, h, w)",
     "(n, h, w, c)",
     "(o, c / groups, kh, kw)",
     "(kh, kw, c / groups, o)",
     {1, -1, 2, 3, 0, 1, -1, 2, 3},
     {3, -1, 1, 2, 3, 2, -1, 0, 1}},
    {"NCDHW",
     "NDHWC",
     "(n, c, d, h, w)",
     "(n, d, h, w, c)",
     "(o, c / groups, kd, kh, kw)",
     "(kd, kh, kw, c / groups, o)",
     {1, 2, 3, 4, 0, 1, 2, 3, 4},
     {4, 1, 2, 3, 4, 3, 0, 1, 2}},
};

}  // namespace

const Naming& Settings::naming() const {
  return kNaming[dims - 1];
}

void fail(const char* op, const std::string& text) {
  throw ShapeError(std::string(op) + ": " + text);
}

Triple parse_triple(const char* op, const char* name, py::handle object, int dims,
                    std::int64_t least) {
  const std::int64_t idle = least == 1 ? 1 : 0;  // of an axis that is not there
  const bool many = PyTuple_Check(object.ptr()) || PyList_Check(object.ptr());
  if (dims == 2) {
    const Pair pair = parse_pair(op, name, object, least);
    return {idle, pair.h, pair.w};
  }
  if (!many) {
    const std::int64_t value = parse_pair(op, name, object, least).h;
    return dims == 1 ? Triple{idle, idle, value} : Triple{value, value, value};
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  if (static_cast<int>(items.size()) != dims) {
    throw ShapeError(std::string(op) + ": " + name + " must be an integer or " +
                     std::to_string(dims) + " of them, got " + std::to_string(items.size()) +
                     " values");
  }
  std::int64_t values[3] = {idle, idle, idle};
  for (int i = 0; i < dims; ++i) {
    const py::object item = items[static_cast<std::size_t>(i)];
    if (PyTuple_Check(item.ptr()) || PyList_Check(item.ptr())) {
      throw DTypeError(std::string(op) + ": " + name + " must hold integers, got " +
                       type_text(item));
    }
    values[3 - dims + i] = parse_pair(op, name, item, least).h;
  }
  return {values[0], values[1], values[2]};
}

namespace {
bool parse_channels_first(const char* op, int dims, py::handle layout) {
  if (dims == 2) return parse_layout(op, layout) == Layout::nchw;
  const Naming& naming = kNaming[dims - 1];
  const std::string text = py::isinstance<py::str>(layout) ? layout.cast<std::string>() : "";
  if (text != naming.first && text != naming.last) {
    throw std::invalid_argument(std::string(op) + ": layout must be \"" + naming.first +
                                "\" or \"" + naming.last + "\", got " +
                                py::repr(layout).cast<std::string>());
  }
  return text == naming.first;
}

}  // namespace

Settings parse_settings(const char* op, int dims, py::handle stride, py::handle padding,
                        py::handle dilation, py::handle groups, py::handle layout) {
  Settings settings;
  settings.dims = dims;
  settings.first = parse_channels_first(op, dims, layout);
  settings.axes = settings.first ? kNaming[dims - 1].first_axes : kNaming[dims - 1].last_axes;
  settings.stride = parse_triple(op, "stride", stride, dims, 1);
  settings.padding = parse_triple(op, "padding", padding, dims, 0);
  settings.dilation = parse_triple(op, "dilation", dilation, dims, 1);
  if (PyTuple_Check(groups.ptr()) || PyList_Check(groups.ptr())) {
    throw DTypeError(std::string(op) + ": groups must be an integer, got " + type_text(groups));
  }
  settings.groups = parse_pair(op, "groups", groups, 1).h;
  return settings;
}

void require_sizes(const char* op, const char* name, const Shape& shape, int dims,
                   const char* axes) {
  if (static_cast<int>(shape.size()) != dims + 2) {
    fail(op, std::string(name) + " must have " + std::to_string(dims + 2) + " axes " + axes +
                 ", got " + std::to_string(shape.size()) + " (shape " + shape_text(shape) + ")");
  }
  for (const std::int64_t size : shape) {
    if (size == 0) {
      fail(op, std::string(name) + " " + axes + " must not be empty, got shape " +
                   shape_text(shape) + "; leave empty batches out");
    }
  }
}

namespace {
// The numbers of groups next to this one that both divide.
std::string groups_that_fit(std::int64_t groups, std::int64_t c, std::int64_t o) {
  const std::int64_t both = std::gcd(c, o);
  std::int64_t below = std::min(groups, both), above = groups;
  while (both % below != 0) --below;
  while (above < both && both % above != 0) ++above;
  const std::string first = std::to_string(below);
  return above > below && both % above == 0 ? first + " or " + std::to_string(above) : first;
}

std::string multiple_near(std::int64_t value, std::int64_t step) {
  return std::to_string(std::max<std::int64_t>((value + step / 2) / step, 1) * step);
}

// Whether w is one for x, the channels of x being on axis c.
bool channels_fit(const Settings& s, const Axes& axes, const Shape& x, int c, const Shape& w) {
  const std::int64_t channels = at(x, c);
  return channels % s.groups == 0 && at(w, axes.weight_o) % s.groups == 0 &&
         at(w, axes.weight_i) == channels / s.groups;
}

// The layout under whose names w is one for x, or how to turn x; empty: nothing helps.
std::string layout_hint(const Settings& s, const Shape& x, const Shape& w) {
  const Naming& naming = s.naming();
  const Axes& other = s.first ? naming.last_axes : naming.first_axes;
  std::string hint;
  if (channels_fit(s, other, x, other.c, w)) {
    hint = std::string("; under layout=\"") + (s.first ? naming.last : naming.first) +
           "\" they would fit";
  }
  if (channels_fit(s, s.axes, x, other.c, w)) {
    Shape turned(x.size());
    const auto last = static_cast<std::int64_t>(x.size()) - 1;
    for (std::int64_t axis = 1; axis <= last; ++axis) {
      turned[static_cast<std::size_t>(axis)] =
          s.first ? (axis == 1 ? last : axis - 1) : (axis == last ? 1 : axis + 1);
    }
    const std::string order = shape_text(turned);
    hint += std::string(hint.empty() ? "; " : ", and so would ") + "x.transpose" + order +
            " (a tensor: x.permute" + order + ")" + (hint.empty() ? " would fit" : "");
  }
  return hint;
}

// Output positions along one axis.
std::int64_t output_size(const char* op, const char* axis, std::int64_t size, std::int64_t taps,
                         std::int64_t stride, std::int64_t padding, std::int64_t dilation) {
  const std::int64_t limit = std::int64_t{1} << 40;
  if (taps > limit / dilation || size > limit) {
    fail(op, std::string("sizes along ") + axis + " must stay below 2**40, got size " +
                 std::to_string(size) + ", " + std::to_string(taps) + " taps with dilation " +
                 std::to_string(dilation));
  }
  const std::int64_t reach = dilation * (taps - 1) + 1, padded = size + 2 * padding;
  if (reach > padded) {
    fail(op, std::string("the kernel must fit the padded input along ") + axis + ", got " +
                 std::to_string(reach) + " (" + std::to_string(taps) + " taps, dilation " +
                 std::to_string(dilation) + ") over " + std::to_string(padded) + " (size " +
                 std::to_string(size) + ", padding " + std::to_string(padding) +
                 "); what would fit: padding " + std::to_string((reach - size + 1) / 2) +
                 ", a kernel of " + std::to_string((padded - 1) / dilation + 1) +
                 " taps or an input of size " + std::to_string(reach - 2 * padding));
  }
  return (padded - reach) / stride + 1;
}

}  // namespace

ConvProblem infer(const char* op, DType dtype, const Settings& s, const char* x_name,
                  const Shape& x, const char* w_name, const Shape& w) {
  require_sizes(op, x_name, x, s.dims, s.image_text());
  require_sizes(op, w_name, w, s.dims, s.weight_text());
  const Axes& axes = s.axes;
  ConvProblem p{};
  p.dtype = dtype;
  p.n = x[0], p.c = at(x, axes.c);
  p.d = at(x, axes.d), p.h = at(x, axes.h), p.w = at(x, axes.w);
  p.o = at(w, axes.weight_o);
  p.kd = at(w, axes.weight_d), p.kh = at(w, axes.weight_h), p.kw = at(w, axes.weight_w);
  p.stride_d = s.stride.d, p.stride_h = s.stride.h, p.stride_w = s.stride.w;
  p.padding_d = s.padding.d, p.padding_h = s.padding.h, p.padding_w = s.padding.w;
  p.dilation_d = s.dilation.d, p.dilation_h = s.dilation.h, p.dilation_w = s.dilation.w;
  p.groups = s.groups;
  if (p.c % p.groups != 0 || p.o % p.groups != 0) {
    fail(op, "groups must divide the channels of " + std::string(x_name) + " and " + w_name +
                 ", got " + std::to_string(p.groups) + " groups for " + std::to_string(p.c) +
                 " input and " + std::to_string(p.o) +
                 " output channels; what would fit: " + groups_that_fit(p.groups, p.c, p.o) +
                 " groups, or " + multiple_near(p.c, p.groups) + " input and " +
                 multiple_near(p.o, p.groups) + " output channels" + layout_hint(s, x, w));
  }
  if (at(w, axes.weight_i) != p.c / p.groups) {
    Shape fits = w;
    fits[static_cast<std::size_t>(axes.weight_i)] = p.c / p.groups;
    const std::string hint = layout_hint(s, x, w);
    fail(op, std::string(w_name) + " " + s.weight_text() + " must have " +
                 std::to_string(p.c / p.groups) + " input channels (" + std::to_string(p.c) +
                 " of " + x_name + " in " + std::to_string(p.groups) + " groups), got shapes " +
                 shape_text(x) + " and " + shape_text(w) + " under layout=\"" + s.layout() + "\"" +
                 (hint.empty() ? "; what would fit: " + shape_text(fits) : hint));
  }
  p.out_d = output_size(op, "d", p.d, p.kd, p.stride_d, p.padding_d, p.dilation_d);
  p.out_h = output_size(op, "h", p.h, p.kh, p.stride_h, p.padding_h, p.dilation_h);
  p.out_w =
      output_size(op, s.dims == 1 ? "l" : "w", p.w, p.kw, p.stride_w, p.padding_w, p.dilation_w);
  return p;
}

Shape image_shape(const Settings& s, std::int64_t n, std::int64_t c, std::int64_t d, std::int64_t h,
                  std::int64_t w) {
  Shape shape;
  shape.push_back(n);
  if (s.first) shape.push_back(c);
  if (s.dims > 2) shape.push_back(d);
  if (s.dims > 1) shape.push_back(h);
  shape.push_back(w);
  if (!s.first) shape.push_back(c);
  return shape;
}
Shape image_strides(const Settings& s, std::int64_t c, std::int64_t d, std::int64_t h,
                    std::int64_t w) {
  return image_shape(s, d * h * w * c, 1, h * w * c, w * c, c);
}
Shape result_shape(const Settings& s, const ConvProblem& p) {
  return image_shape(s, p.n, p.o, p.out_d, p.out_h, p.out_w);
}

ConvImage image_of(const Array& array, const Axes& axes) {
  const auto stride = [&](int axis) { return axis < 0 ? 0 : array.stride(axis); };
  return {array.data,     array.stride(0), stride(axes.c),
          stride(axes.d), stride(axes.h),  stride(axes.w)};
}
ConvKernel kernel_of(const Array& array, const Axes& axes) {
  const auto stride = [&](int axis) { return axis < 0 ? 0 : array.stride(axis); };
  return {array.data,
          stride(axes.weight_o),
          stride(axes.weight_i),
          stride(axes.weight_d),
          stride(axes.weight_h),
          stride(axes.weight_w)};
}

void checked_image(const char* op, const Shape& shape, DType dtype) {
  checked_product(op, shape.data(), static_cast<int>(shape.size()), item_size(dtype));
}

Epilogue parse_epilogue(const char* op, const Array& x, py::handle b_object, std::int64_t channels,
                        py::handle activation) {
  Epilogue epilogue;
  if (given(b_object)) {
    epilogue.bias = input(op, "b", b_object);
    same_dtype(op, "x", x, "b", epilogue.bias);
    require_shape(op, "b", epilogue.bias, {channels});
    epilogue.values.bias = epilogue.bias.data;
    epilogue.values.bias_stride = epilogue.bias.stride(0);
  }
  const FusedActivation fused = parse_activation(op, activation);
  epilogue.values.activation = fused.kind;
  epilogue.values.activation_alpha = fused.alpha;
  return epilogue;
}

void add_residual(const char* op, const Settings& s, const Array& x, const Shape& shape,
                  py::handle residual, Epilogue& epilogue) {
  if (!given(residual)) return;
  epilogue.residual = input(op, "residual", residual);
  same_dtype(op, "x", x, "residual", epilogue.residual);
  require_shape(op, "residual", epilogue.residual, shape);
  // On a GPU it is read with any strides.
  if (epilogue.residual.device < 0) epilogue.residual = in_our_order(s, epilogue.residual);
  epilogue.values.residual = image_of(epilogue.residual, s.axes);
}

namespace {

// A copy in our order under the same names.
Array channels_last_copy(const Settings& s, const Array& image) {
  const py::module_ numpy = py::module_::import("numpy");
  const py::object last = numpy.attr("moveaxis")(image.owner, s.axes.c, image.ndim - 1);
  const py::object copied = numpy.attr("ascontiguousarray")(last);
  const py::object named = numpy.attr("moveaxis")(copied, image.ndim - 1, s.axes.c);
  return describe(named);
}

}  // namespace

Array with_dense_channels(const Settings& s, const Array& image) {
  const bool dense = image.stride(s.axes.c) == 1 || image.shape(s.axes.c) == 1;
  return dense ? image : channels_last_copy(s, image);
}

Array in_our_order(const Settings& s, const Array& image) {
  const Shape shape = image.shape_vector();
  const Shape wanted = image_strides(s, at(shape, s.axes.c), at(shape, s.axes.d),
                                     at(shape, s.axes.h), at(shape, s.axes.w));
  for (int axis = 0; axis < image.ndim; ++axis) {
    if (image.shape(axis) != 1 && image.stride(axis) != wanted[static_cast<std::size_t>(axis)]) {
      return channels_last_copy(s, image);
    }
  }
  return image;
}

}  // namespace hotloop::conv
