// cross_entropy and mse_loss, alone and with their gradients.
#include "kernels/loss.h"

#include "bindings/array.h"
#include "bindings/dims.h"
#include "bindings/params.h"
#include "kernels/reduce.h"

namespace hotloop {

namespace {

static_assert(kLossDims == kMaxDims);

constexpr std::int64_t kGrainElements = 8192;  // exponentials computed in about 10 microseconds
constexpr std::int64_t kMseGrain = 16;         // chunks of kMseChunk elements

enum class Reduction { mean, sum, none };

Reduction parse_reduction(const char* op, py::handle object) {
  if (PyUnicode_Check(object.ptr())) {
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "mean") == 0) return Reduction::mean;
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "sum") == 0) return Reduction::sum;
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "none") == 0) return Reduction::none;
  }
  throw std::invalid_argument(std::string(op) +
                              ": reduction must be \"mean\", \"sum\" or \"none\", got " +
                              py::repr(object).cast<std::string>());
}

// Labels as they come: int32 or int64, any strides (in elements).
struct Labels {
  py::array owner;
  const void* data;
  bool wide;
  Shape shape, strides;

  std::int64_t at(std::int64_t offset) const {
    return wide ? static_cast<const std::int64_t*>(data)[offset]
                : static_cast<const std::int32_t*>(data)[offset];
  }
};

Labels read_labels(const char* op, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw DTypeError(std::string(op) + ": labels must be a numpy.ndarray of int64 or int32, got " +
                     type_text(object) + "; numpy.asarray makes one");
  }
  Labels labels{py::reinterpret_borrow<py::array>(object), nullptr, false, {}, {}};
  const py::dtype dtype = labels.owner.dtype();
  const std::int64_t item = dtype.itemsize();
  if (dtype.kind() != 'i' || (item != 4 && item != 8) || dtype.byteorder() == '>') {
    throw DTypeError(
        std::string(op) + ": labels must be int64 or int32 in native byte order, got " +
        py::str(dtype).cast<std::string>() + "; convert them with .astype(numpy.int64)");
  }
  bool addressable = (labels.owner.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0;
  for (py::ssize_t d = 0; d < labels.owner.ndim(); ++d) {
    addressable = addressable && labels.owner.strides(d) % item == 0;
  }
  if (!addressable) labels.owner = labels.owner.attr("copy")("C").cast<py::array>();
  labels.data = labels.owner.data();
  labels.wide = item == 8;
  for (py::ssize_t d = 0; d < labels.owner.ndim(); ++d) {
    labels.shape.push_back(labels.owner.shape(d));
    labels.strides.push_back(labels.owner.strides(d) / item);
  }
  return labels;
}

// Every label in [0, classes) or ignore_index; returns how many are not ignored.
std::int64_t check_labels(const char* op, const Labels& labels, std::int64_t classes,
                          std::int64_t ignore_index) {
  std::int64_t total = 1, counted = 0;
  for (const std::int64_t size : labels.shape) total *= size;
  Shape index(labels.shape.size(), 0);
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < total; ++i) {
    const std::int64_t label = labels.at(offset);
    if (label != ignore_index) {
      ++counted;
      if (label < 0 || label >= classes) {
        throw std::invalid_argument(
            std::string(op) + ": labels must lie in [0, " + std::to_string(classes) + ") for " +
            std::to_string(classes) + " classes, got " + std::to_string(label) + " at position " +
            shape_text(index) + "; pass it as ignore_index to leave such rows out");
      }
    }
    for (std::size_t d = index.size(); d-- > 0;) {
      offset += labels.strides[d];
      if (++index[d] < labels.shape[d]) break;
      offset -= labels.strides[d] * labels.shape[d];
      index[d] = 0;
    }
  }
  return counted;
}

void require_rows(const char* op, const char* name, const Array& x, std::int64_t rows,
                  Reduction reduction) {
  if (rows > 0 || reduction != Reduction::mean) return;
  throw ShapeError(std::string(op) + ": " + name + " must hold something to average, got shape " +
                   shape_text(x.shape_vector()) + "; skip empty batches or use reduction=\"sum\"");
}

Shape dense_strides(const Shape& shape) {
  Shape strides(shape.size());
  std::int64_t step = 1;
  for (std::size_t d = shape.size(); d-- > 0;) {
    strides[d] = step;
    step *= shape[d];
  }
  return strides;
}

// `out` is the destination of the gradient, if one is wanted.
py::object cross_entropy_any(const char* op, py::handle logits_object, py::handle labels_object,
                             py::handle reduction_object, std::int64_t ignore_index, bool with_grad,
                             py::handle out_object) {
  const Array logits = input(op, "logits", logits_object);
  const Labels labels = read_labels(op, labels_object);
  const Reduction reduction = parse_reduction(op, reduction_object);
  if (logits.ndim == 0) {
    throw ShapeError(std::string(op) + ": logits must have shape (rows, classes), got ()");
  }
  const int axis = logits.ndim == 1 ? 0 : 1;
  Shape row_shape = logits.shape_vector();
  row_shape.erase(row_shape.begin() + axis);
  if (labels.shape != row_shape) {
    throw ShapeError(std::string(op) + ": labels must have shape " + shape_text(row_shape) +
                     " for logits of shape " + shape_text(logits.shape_vector()) + ", got " +
                     shape_text(labels.shape) + "; classes are axis " + std::to_string(axis) +
                     " of the logits");
  }
  std::int64_t rows = 1;
  for (const std::int64_t size : row_shape) rows *= size;
  require_rows(op, "logits", logits, rows, reduction);
  const std::int64_t counted = check_labels(op, labels, logits.shape(axis), ignore_index);

  Output loss(op, py::none(), logits.dtype, reduction == Reduction::none ? row_shape : Shape{});
  std::unique_ptr<Output> gradient;
  if (with_grad) {
    gradient = std::make_unique<Output>(op, out_object, logits.dtype, logits.shape_vector());
    no_overlap(op, *gradient, "logits", logits, Overlap::same_allowed);
    if (!gradient->is_fresh) {
      Array label_array;
      label_array.owner = labels.owner;
      label_array.ndim = static_cast<int>(labels.shape.size());
      for (std::size_t d = 0; d < labels.shape.size(); ++d) label_array.shapes[d] = labels.shape[d];
      no_overlap(op, *gradient, "labels", label_array);
    }
  }
  const std::int64_t item = item_size(logits.dtype);
  const bool reduced = reduction != Reduction::none;
  const Scratch scratch(reduced ? static_cast<std::size_t>(rows * item) : 0);
  const Shape loss_strides = dense_strides(row_shape);

  Dims<4> dims;
  for (int d = 0, row = 0; d < logits.ndim; ++d) {
    if (d == axis) continue;
    const auto at = static_cast<std::size_t>(row);
    dims.add(logits.shape(d), {logits.stride(d), gradient ? gradient->array.stride(d) : 0,
                               loss_strides[at], labels.strides[at]});
    ++row;
  }
  dims.simplify();
  CrossEntropyArgs args{};
  args.dtype = logits.dtype;
  args.logits = logits.as<char>() + dims.offsets[0] * item;
  args.dlogits = gradient ? gradient->array.as<char>() + dims.offsets[1] * item : nullptr;
  args.losses = (reduced ? scratch.as<char>() : loss.array.as<char>()) + dims.offsets[2] * item;
  args.labels = static_cast<const char*>(labels.data) + dims.offsets[3] * (labels.wide ? 8 : 4);
  args.wide_labels = labels.wide;
  args.ignore_index = ignore_index;
  const double divisor = reduction == Reduction::mean ? static_cast<double>(counted) : 1.0;
  args.scale = 1.0 / divisor;
  args.classes = logits.shape(axis);
  args.class_strides[0] = logits.stride(axis);
  args.class_strides[1] = gradient ? gradient->array.stride(axis) : 1;
  args.unit_stride =
      args.classes == 1 || (args.class_strides[0] == 1 && args.class_strides[1] == 1);
  args.row_dims = dims.count;
  for (int d = 0; d < dims.count; ++d) {
    args.row_sizes[d] = dims.sizes[d];
    for (int k = 0; k < 4; ++k) args.row_strides[k][d] = dims.strides[k][d];
  }
  const int last = dims.count - 1;
  args.columns = !args.unit_stride && dims.sizes[last] > 1 && dims.strides[0][last] == 1 &&
                 (!gradient || dims.strides[1][last] == 1);
  std::int64_t units = rows, per_unit = args.classes > 0 ? args.classes : 1;
  if (args.columns && rows > 0) {
    const std::int64_t columns = dims.sizes[last];
    units = units / columns * ((columns + kLossColumns - 1) / kLossColumns);
    per_unit *= columns < kLossColumns ? columns : kLossColumns;
  }
  run(cross_entropy_kernel(), args,
      Split{.units = units,
            .grain = per_unit >= kGrainElements ? 1 : kGrainElements / per_unit,
            .interruptible = !gradient || gradient->is_fresh});
  if (reduced) run_sum(logits.dtype, scratch.get(), rows, divisor, loss.data);
  if (!gradient) return loss.finish();
  return py::make_tuple(loss.finish(), gradient->finish());
}

py::object mse_any(const char* op, py::handle x_object, py::handle target_object,
                   py::handle reduction_object, bool with_grad, py::handle out_object) {
  const Array given_x = input(op, "x", x_object);
  const Array given_target = input(op, "target", target_object);
  same_dtype(op, "x", given_x, "target", given_target);
  const Reduction reduction = parse_reduction(op, reduction_object);
  const Shape shape = given_x.shape_vector();
  if (shape != given_target.shape_vector()) {
    throw ShapeError(std::string(op) + ": x and target must have the same shape, got " +
                     shape_text(shape) + " and " + shape_text(given_target.shape_vector()) +
                     "; reshape one of them (broadcasting would compare every pair)");
  }
  require_rows(op, "x", given_x, given_x.size, reduction);
  Output loss(op, py::none(), given_x.dtype, reduction == Reduction::none ? shape : Shape{});
  std::unique_ptr<Output> gradient;
  if (with_grad) {
    gradient = std::make_unique<Output>(op, out_object, given_x.dtype, shape, dense_strides(shape));
    no_overlap(op, *gradient, "x", given_x, Overlap::same_allowed);
    no_overlap(op, *gradient, "target", given_target, Overlap::same_allowed);
  }
  const Array x = packed(given_x), target = packed(given_target);
  const std::int64_t units = (x.size + kMseChunk - 1) / kMseChunk;
  const bool reduced = reduction != Reduction::none;
  const Scratch partials(reduced ? static_cast<std::size_t>(units * item_size(x.dtype)) : 0);
  const double divisor = reduction == Reduction::mean ? static_cast<double>(x.size) : 1.0;
  MseArgs args{};
  args.dtype = x.dtype;
  args.x = x.data;
  args.target = target.data;
  args.losses = reduced ? nullptr : loss.data;
  args.partials = reduced ? partials.get() : nullptr;
  args.dx = gradient ? gradient->data : nullptr;
  args.scale = 1.0 / divisor;
  args.n = x.size;
  run(mse_kernel(), args,
      Split{.units = units, .grain = kMseGrain, .interruptible = !gradient || gradient->is_fresh});
  if (reduced) run_sum(x.dtype, partials.get(), units, divisor, loss.data);
  if (!gradient) return loss.finish();
  return py::make_tuple(loss.finish(), gradient->finish());
}

}  // namespace

void bind_loss(py::module_& module) {
  module.def("cross_entropy", [](py::handle logits, py::handle labels, py::handle reduction,
                                 std::int64_t ignore_index) {
    return cross_entropy_any("cross_entropy", logits, labels, reduction, ignore_index, false,
                             py::none());
  });
  module.def("cross_entropy_with_grad",
             [](py::handle logits, py::handle labels, py::handle reduction,
                std::int64_t ignore_index, py::handle out) {
               return cross_entropy_any("cross_entropy_with_grad", logits, labels, reduction,
                                        ignore_index, true, out);
             });
  module.def("mse_loss", [](py::handle x, py::handle target, py::handle reduction) {
    return mse_any("mse_loss", x, target, reduction, false, py::none());
  });
  module.def("mse_loss_with_grad",
             [](py::handle x, py::handle target, py::handle reduction, py::handle out) {
               return mse_any("mse_loss_with_grad", x, target, reduction, true, out);
             });
}

}  // namespace hotloop
