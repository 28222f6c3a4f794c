// cross_entropy, nll_loss and the losses of pairs of elements, alone and with their gradients.
#include "kernels/loss.h"

#include <cstring>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/dims.h"
#include "bindings/params.h"
#include "bindings/row_memory.h"
#include "kernels/reduce.h"

namespace hotloop {

namespace {

static_assert(kLossDims == kMaxDims);

constexpr std::int64_t kLossGrain = 8192;  // exponentials computed in about 10 microseconds
// From here on (bytes of both arrays) the gradient is written around the caches.
constexpr std::int64_t kLossStream = std::int64_t{24} << 20;
constexpr std::int64_t kPairGrain = 16;  // chunks of kPairChunk elements

enum class Reduction { mean, sum, none, batch_mean };

Reduction parse_reduction(const char* op, py::handle object, bool batches = false) {
  if (PyUnicode_Check(object.ptr())) {
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "mean") == 0) return Reduction::mean;
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "sum") == 0) return Reduction::sum;
    if (PyUnicode_CompareWithASCIIString(object.ptr(), "none") == 0) return Reduction::none;
    if (batches && PyUnicode_CompareWithASCIIString(object.ptr(), "batchmean") == 0) {
      return Reduction::batch_mean;
    }
  }
  throw std::invalid_argument(std::string(op) + ": reduction must be \"mean\", " +
                              (batches ? "\"batchmean\", " : "") + "\"sum\" or \"none\", got " +
                              py::repr(object).cast<std::string>());
}

// Labels as they come: int32 or int64, any strides (in elements).
struct Labels {
  py::array owner;  // empty where they lie on a GPU
  const void* data;
  bool wide;
  Shape shape, strides;

  std::int64_t at(std::int64_t offset) const {
    return wide ? static_cast<const std::int64_t*>(data)[offset]
                : static_cast<const std::int32_t*>(data)[offset];
  }
};

bool is_label(const py::dtype& dtype) {
  const std::int64_t item = dtype.itemsize();
  return dtype.kind() == 'i' && (item == 4 || item == 8) && dtype.byteorder() != '>';
}

[[noreturn]] void wrong_labels(const char* op, const py::dtype& dtype) {
  throw DTypeError(std::string(op) + ": labels must be int64 or int32 in native byte order, got " +
                   py::str(dtype).cast<std::string>() + "; convert them with .astype(numpy.int64)");
}

Labels labels_on_device(const char* op, const DeviceArray& array) {
  if (!is_label(array.dtype)) wrong_labels(op, array.dtype);
  Labels labels{{}, array.data, array.item() == 8, array.shape, array.strides};
  for (std::int64_t& stride : labels.strides) stride /= array.item();
  return labels;
}

Labels read_labels(const char* op, py::handle object) {
  if (!py::isinstance<py::array>(object)) {
    throw DTypeError(std::string(op) + ": labels must be a numpy.ndarray of int64 or int32, got " +
                     type_text(object) + "; numpy.asarray makes one");
  }
  Labels labels{py::reinterpret_borrow<py::array>(object), nullptr, false, {}, {}};
  const py::dtype dtype = labels.owner.dtype();
  const std::int64_t item = dtype.itemsize();
  if (!is_label(dtype)) wrong_labels(op, dtype);
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

struct Counted {
  std::int64_t rows = 0;  // not ignored
  double weight = 0.0;    // of their labels
};

double element(const Array& array, std::int64_t i) {
  return array.dtype == DType::f32 ? static_cast<double>(array.as<float>()[i])
                                   : array.as<double>()[i];
}

constexpr const char* kLabelRemedy = "; pass it as ignore_index to leave such rows out";
constexpr IndexRule kLabelRule{"labels", kLabelRemedy, false};

// Every label in [0, classes) or ignore_index.
Counted check_labels(const char* op, const Labels& labels, std::int64_t classes,
                     std::int64_t ignore_index, const Array* weight) {
  std::int64_t total = 1;
  Counted counted;
  for (const std::int64_t size : labels.shape) total *= size;
  Shape index(labels.shape.size(), 0);
  std::int64_t offset = 0;
  for (std::int64_t i = 0; i < total; ++i) {
    const std::int64_t label = labels.at(offset);
    if (label != ignore_index) {
      ++counted.rows;
      if (label < 0 || label >= classes) {
        throw std::invalid_argument(std::string(op) + ": labels must lie in [0, " +
                                    std::to_string(classes) + ") for " + std::to_string(classes) +
                                    " classes, got " + std::to_string(label) + " at position " +
                                    shape_text(index) + kLabelRemedy);
      }
      if (weight) counted.weight += element(*weight, label);
    }
    for (std::size_t d = index.size(); d-- > 0;) {
      offset += labels.strides[d];
      if (++index[d] < labels.shape[d]) break;
      offset -= labels.strides[d] * labels.shape[d];
      index[d] = 0;
    }
  }
  if (!weight) counted.weight = static_cast<double>(counted.rows);
  return counted;
}

// out = sum(x) / divisor of n numbers, where the call runs; the divisor may be on the device.
void sum_where(const Call& call, DType dtype, const void* x, std::int64_t n, double divisor,
               void* out, const double* divisor_at = nullptr) {
  ReduceArgs args = sum_args(dtype, x, n, divisor, out);
  if (!call.on_gpu()) return run_reduce(args);
  args.divisor_at = divisor_at;
  call.run_gpu("reduce", args, 1, &ReduceArgs::scratch);
}

void require_rows(const char* op, const char* name, const Array& x, std::int64_t rows,
                  Reduction reduction) {
  if (rows > 0 || reduction != Reduction::mean) return;
  throw ShapeError(std::string(op) + ": " + name + " must hold something to average, got shape " +
                   shape_text(x.shape_vector()) + "; skip empty batches or use reduction=\"sum\"");
}

// Probabilities instead of labels: floats with as many axes as the logits.
bool holds_probabilities(py::handle object, int ndim) {
  if (const DeviceArray* device = as_device_array(object)) {
    return device->dtype.kind() == 'f' && static_cast<int>(device->shape.size()) == ndim;
  }
  if (!py::isinstance<py::array>(object)) return false;
  const auto array = py::reinterpret_borrow<py::array>(object);
  return array.dtype().kind() == 'f' && array.ndim() == ndim;
}

// `out` is the destination of the gradient, if one is wanted.
py::object cross_entropy_any(const char* op, bool is_nll, py::handle logits_object,
                             py::handle labels_object, py::handle weight_object,
                             py::handle reduction_object, std::int64_t ignore_index,
                             double smoothing, bool with_grad, py::handle out_object) {
  const char* name = is_nll ? "log_probs" : "logits";
  Call call(op);
  const Array logits = input(op, name, logits_object);
  const Reduction reduction = parse_reduction(op, reduction_object);
  if (logits.ndim == 0) {
    throw ShapeError(std::string(op) + ": " + name + " must have shape (rows, classes), got ()");
  }
  if (!(smoothing >= 0.0 && smoothing <= 1.0)) {
    throw std::invalid_argument(std::string(op) + ": label_smoothing must be in [0, 1], got " +
                                std::to_string(smoothing));
  }
  const int axis = logits.ndim == 1 ? 0 : 1;
  Shape row_shape = logits.shape_vector();
  row_shape.erase(row_shape.begin() + axis);
  std::int64_t rows = 1;
  for (const std::int64_t size : row_shape) rows *= size;

  Array weight;
  if (given(weight_object)) {
    weight = packed(input(op, "weight", weight_object));
    same_dtype(op, name, logits, "weight", weight);
    require_shape(op, "weight", weight, {logits.shape(axis)});
  }
  const bool soft = !is_nll && holds_probabilities(labels_object, logits.ndim);
  Labels labels{};
  Array probabilities;
  Counted counted{rows, static_cast<double>(rows)};
  if (soft) {
    probabilities = input(op, "labels", labels_object);
    same_dtype(op, name, logits, "labels", probabilities);
    require_shape(op, "labels", probabilities, logits.shape_vector());
    require_rows(op, name, logits, rows, reduction);
  } else {
    const DeviceArray* const device = as_device_array(labels_object);
    call.meet("labels", device ? device->device : kCpu);
    labels = device ? labels_on_device(op, *device) : read_labels(op, labels_object);
    if (labels.shape != row_shape) {
      throw ShapeError(std::string(op) + ": labels must have shape " + shape_text(row_shape) +
                       " for " + name + " of shape " + shape_text(logits.shape_vector()) +
                       ", got " + shape_text(labels.shape) + "; classes are axis " +
                       std::to_string(axis));
    }
    require_rows(op, name, logits, rows, reduction);
    if (!device) {
      counted = check_labels(op, labels, logits.shape(axis), ignore_index,
                             weight.owner ? &weight : nullptr);
    }
  }
  // On a GPU the kernel checks the labels, and adds up what counts.
  const bool counts_there = call.on_gpu() && !soft && reduction == Reduction::mean;

  Output loss(op, py::none(), logits.dtype, reduction == Reduction::none ? row_shape : Shape{});
  std::unique_ptr<Output> gradient;
  if (with_grad) {
    gradient = std::make_unique<Output>(op, out_object, logits.dtype, logits.shape_vector());
    no_overlap(op, *gradient, name, logits, Overlap::same_allowed);
    if (!gradient->is_fresh) {
      if (weight.owner) no_overlap(op, *gradient, "weight", weight);
      Array label_array;
      label_array.owner = labels.owner;
      label_array.ndim = static_cast<int>(labels.shape.size());
      for (std::size_t d = 0; d < labels.shape.size(); ++d) label_array.shapes[d] = labels.shape[d];
      if (soft || !call.on_gpu()) {
        no_overlap(op, *gradient, "labels", soft ? probabilities : label_array);
      }
    }
  }
  const std::int64_t item = item_size(logits.dtype);
  const bool reduced = reduction != Reduction::none;
  const std::int64_t row_bytes = reduced ? rows * item : 0;
  const Scratch scratch(call.on_gpu() ? 0 : static_cast<std::size_t>(row_bytes));
  const DeviceScratch device_scratch(op, call.device(), call.on_gpu() ? row_bytes : 0);
  const DeviceScratch counts(op, call.device(), counts_there ? 8 * (2 + kLabelBlocks) : 0);
  char* const each = static_cast<char*>(call.on_gpu() ? device_scratch.get() : scratch.get());
  const Shape loss_strides = row_major(row_shape);

  Dims<4> dims;
  for (int d = 0, row = 0; d < logits.ndim; ++d) {
    if (d == axis) continue;
    const auto at = static_cast<std::size_t>(row);
    dims.add(logits.shape(d),
             {logits.stride(d), gradient ? gradient->array.stride(d) : 0, loss_strides[at],
              soft ? probabilities.stride(d) : labels.strides[at]});
    ++row;
  }
  dims.simplify();
  CrossEntropyArgs args{};
  args.dtype = logits.dtype;
  args.logits = logits.as<char>() + dims.offsets[0] * item;
  args.dlogits = gradient ? gradient->array.as<char>() + dims.offsets[1] * item : nullptr;
  args.losses = (reduced ? each : loss.array.as<char>()) + dims.offsets[2] * item;
  args.kind = is_nll          ? RowLoss::nll
              : soft          ? RowLoss::probabilities
              : smoothing > 0 ? RowLoss::smooth
                              : RowLoss::labels;
  if (soft) {
    args.probabilities = probabilities.as<char>() + dims.offsets[3] * item;
    args.class_strides[2] = probabilities.stride(axis);
  } else {
    args.labels = static_cast<const char*>(labels.data) + dims.offsets[3] * (labels.wide ? 8 : 4);
    args.class_strides[2] = 1;
  }
  args.wide_labels = labels.wide;
  args.ignore_index = ignore_index;
  args.smoothing = smoothing;
  args.classes = logits.shape(axis);
  args.weight_sum = static_cast<double>(args.classes);
  if (weight.owner) {
    args.weight = weight.data;
    args.weight_sum = 0.0;  // that a GPU makes by itself
    for (std::int64_t i = 0; i < args.classes && !call.on_gpu(); ++i) {
      args.weight_sum += element(weight, i);
    }
  }
  const double divisor = reduction == Reduction::mean && !counts_there ? counted.weight : 1.0;
  args.scale = 1.0 / divisor;
  args.check = call.checks(kLabelRule);
  args.counted = static_cast<double*>(counts.get());
  args.class_strides[0] = logits.stride(axis);
  args.class_strides[1] = gradient ? gradient->array.stride(axis) : 1;
  args.unit_stride =
      args.classes == 1 ||
      (args.class_strides[0] == 1 && args.class_strides[1] == 1 && args.class_strides[2] == 1);
  args.stream = args.unit_stride && gradient && args.kind == RowLoss::labels &&
                args.dlogits != args.logits && 2 * logits.size * item >= kLossStream &&
                args.classes * item <= kMostKeptBytes;
  args.row_dims = dims.count;
  for (int d = 0; d < dims.count; ++d) {
    args.row_sizes[d] = dims.sizes[d];
    for (int k = 0; k < 4; ++k) args.row_strides[k][d] = dims.strides[k][d];
  }
  const int last = dims.count - 1;
  args.columns = !args.unit_stride && dims.sizes[last] > 1 && dims.strides[0][last] == 1 &&
                 (!gradient || dims.strides[1][last] == 1) && (!soft || dims.strides[3][last] == 1);
  std::int64_t units = rows, per_unit = args.classes > 0 ? args.classes : 1;
  if (args.columns && rows > 0) {
    const std::int64_t columns = dims.sizes[last];
    units = units / columns * ((columns + kLossColumns - 1) / kLossColumns);
    per_unit *= columns < kLossColumns ? columns : kLossColumns;
  }
  const bool pieces = args.unit_stride && args.kind == RowLoss::labels && gradient &&
                      (args.stream || args.classes > kRowPiece);
  const RowScratch row_scratch(pieces, args.stream, args.classes, item);
  args.memory = row_scratch.view();
  call.run("cross_entropy", cross_entropy_kernel(), args,
           Split{.units = units,
                 .grain = per_unit >= kLossGrain ? 1 : kLossGrain / per_unit,
                 .max_threads = row_scratch.threads,
                 .interruptible = !gradient || gradient->is_fresh});
  if (reduced) sum_where(call, logits.dtype, each, rows, divisor, loss.data, args.counted);
  if (!gradient) return loss.finish();
  return py::make_tuple(loss.finish(), gradient->finish());
}

struct PairName {
  const char *loss, *with_grad;
  PairLoss op;
};
constexpr PairName kPairNames[] = {
    {"mse_loss", "mse_loss_with_grad", PairLoss::mse},
    {"l1_loss", "l1_loss_with_grad", PairLoss::l1},
    {"huber_loss", "huber_loss_with_grad", PairLoss::huber},
    {"smooth_l1_loss", "smooth_l1_loss_with_grad", PairLoss::smooth_l1},
    {"binary_cross_entropy", "binary_cross_entropy_with_grad", PairLoss::bce},
    {"binary_cross_entropy_with_logits", "binary_cross_entropy_with_logits_with_grad",
     PairLoss::bce_with_logits},
    {"hinge_embedding_loss", "hinge_embedding_loss_with_grad", PairLoss::hinge_embedding},
    {"kl_div", "kl_div_with_grad", PairLoss::kl_div},
};

// A factor for every element: what broadcasts to the shape of x, as a dense array.
Array broadcast_factor(const char* op, const char* name, py::handle object, const Array& x) {
  const Array own = input(op, name, object);
  same_dtype(op, "x", x, name, own);
  py::object wide;
  try {
    py::tuple shape(static_cast<std::size_t>(x.ndim));
    for (int d = 0; d < x.ndim; ++d) shape[static_cast<std::size_t>(d)] = x.shape(d);
    wide = py::module_::import("numpy").attr("broadcast_to")(object, shape);
  } catch (const py::error_already_set&) {
    throw ShapeError(std::string(op) + ": " + name + " must broadcast to the shape of x " +
                     shape_text(x.shape_vector()) + ", got " + shape_text(own.shape_vector()));
  }
  return packed(input(op, name, wide));
}

py::object pair_loss_any(const char* name, py::handle x_object, py::handle target_object,
                         py::handle weight_object, py::handle positive_object, double parameter,
                         bool log_target, py::handle reduction_object, bool with_grad,
                         py::handle out_object) {
  const PairName* entry = kPairNames;
  while (std::strcmp(entry->loss, name) != 0) ++entry;  // the names are those of our own package
  const char* op = with_grad ? entry->with_grad : entry->loss;
  const Call call(op);
  const Array given_x = input(op, "x", x_object);
  const Array given_target = input(op, "target", target_object);
  same_dtype(op, "x", given_x, "target", given_target);
  const Reduction reduction = parse_reduction(op, reduction_object, entry->op == PairLoss::kl_div);
  const Shape shape = given_x.shape_vector();
  if (shape != given_target.shape_vector()) {
    throw ShapeError(std::string(op) + ": x and target must have the same shape, got " +
                     shape_text(shape) + " and " + shape_text(given_target.shape_vector()) +
                     "; reshape one of them (broadcasting would compare every pair)");
  }
  require_rows(op, "x", given_x, given_x.size, reduction);
  Array weight, positive;
  if (given(weight_object)) weight = broadcast_factor(op, "weight", weight_object, given_x);
  if (given(positive_object))
    positive = broadcast_factor(op, "pos_weight", positive_object, given_x);
  Output loss(op, py::none(), given_x.dtype, reduction == Reduction::none ? shape : Shape{});
  std::unique_ptr<Output> gradient;
  if (with_grad) {
    gradient = std::make_unique<Output>(op, out_object, given_x.dtype, shape, row_major(shape));
    no_overlap(op, *gradient, "x", given_x, Overlap::same_allowed);
    no_overlap(op, *gradient, "target", given_target, Overlap::same_allowed);
    if (weight.owner) no_overlap(op, *gradient, "weight", weight);
    if (positive.owner) no_overlap(op, *gradient, "pos_weight", positive);
  }
  const Array x = packed(given_x), target = packed(given_target);
  const std::int64_t units = (x.size + kPairChunk - 1) / kPairChunk;
  const bool reduced = reduction != Reduction::none;
  const std::int64_t part_bytes = reduced ? units * item_size(x.dtype) : 0;
  const Scratch scratch(call.on_gpu() ? 0 : static_cast<std::size_t>(part_bytes));
  const DeviceScratch device_scratch(op, call.device(), call.on_gpu() ? part_bytes : 0);
  void* const partials = call.on_gpu() ? device_scratch.get() : scratch.get();
  double divisor = reduction == Reduction::mean ? static_cast<double>(x.size) : 1.0;
  if (reduction == Reduction::batch_mean && x.ndim > 0) divisor = static_cast<double>(x.shape(0));
  PairLossArgs args{};
  args.dtype = x.dtype;
  args.op = log_target ? PairLoss::kl_div_log : entry->op;
  args.x = x.data;
  args.target = target.data;
  args.weight = weight.data;
  args.pos_weight = positive.data;
  args.losses = reduced ? nullptr : loss.data;
  args.partials = reduced ? partials : nullptr;
  args.dx = gradient ? gradient->data : nullptr;
  args.scale = 1.0 / divisor;
  args.parameter = parameter;
  args.n = x.size;
  call.run(
      "pair_loss", pair_loss_kernel(), args,
      Split{.units = units, .grain = kPairGrain, .interruptible = !gradient || gradient->is_fresh});
  if (reduced) sum_where(call, x.dtype, partials, units, divisor, loss.data);
  if (!gradient) return loss.finish();
  return py::make_tuple(loss.finish(), gradient->finish());
}

}  // namespace

void bind_loss(py::module_& module) {
  module.def("cross_entropy",
             [](py::handle logits, py::handle labels, py::handle weight, py::handle reduction,
                std::int64_t ignore_index, double label_smoothing) {
               return cross_entropy_any("cross_entropy", false, logits, labels, weight, reduction,
                                        ignore_index, label_smoothing, false, py::none());
             });
  module.def("cross_entropy_with_grad",
             [](py::handle logits, py::handle labels, py::handle weight, py::handle reduction,
                std::int64_t ignore_index, double label_smoothing, py::handle out) {
               return cross_entropy_any("cross_entropy_with_grad", false, logits, labels, weight,
                                        reduction, ignore_index, label_smoothing, true, out);
             });
  module.def("nll_loss", [](py::handle log_probs, py::handle labels, py::handle weight,
                            py::handle reduction, std::int64_t ignore_index) {
    return cross_entropy_any("nll_loss", true, log_probs, labels, weight, reduction, ignore_index,
                             0.0, false, py::none());
  });
  module.def("nll_loss_with_grad",
             [](py::handle log_probs, py::handle labels, py::handle weight, py::handle reduction,
                std::int64_t ignore_index, py::handle out) {
               return cross_entropy_any("nll_loss_with_grad", true, log_probs, labels, weight,
                                        reduction, ignore_index, 0.0, true, out);
             });
  module.def("pair_loss", &pair_loss_any);
}

}  // namespace hotloop
