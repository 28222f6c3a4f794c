#include "bindings/optimizer_call.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>

#include "bindings/params.h"

namespace hotloop {

void bad_value(const char* op, const char* name, const char* must, double got) {
  char number[32];
  std::snprintf(number, sizeof number, "%g", got);
  throw std::invalid_argument(std::string(op) + ": " + name + " must be " + must + ", got " +
                              number);
}

double scalar(const char* op, const char* name, py::handle object) {
  if (PyFloat_CheckExact(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (py::isinstance<py::array>(object)) {
    const auto array = py::reinterpret_borrow<py::array>(object);
    if (array.ndim() != 0) {
      throw ShapeError(std::string(op) + ": " + name + " must be a number or a 0-d array, got " +
                       std::to_string(array.ndim()) + " axes; index it with [()] or [0]");
    }
  }
  const double value = PyFloat_AsDouble(object.ptr());
  if (value == -1.0 && PyErr_Occurred()) {
    PyErr_Clear();
    throw DTypeError(std::string(op) + ": " + name + " must be a number or a 0-d array, got " +
                     type_text(object));
  }
  return value;
}

double at_least_zero(const char* op, const char* name, py::handle object) {
  const double value = scalar(op, name, object);
  if (!(value >= 0.0)) bad_value(op, name, "at least 0", value);
  return value;
}

double step_number(const char* op, py::handle object) {
  const double value = scalar(op, "step", object);
  if (!(value >= 1.0) || value != std::floor(value)) {
    bad_value(op, "step", "a whole number that counts from 1", value);
  }
  return value;
}

namespace {

// Whether it lies on a GPU, without axes.
bool number_on_gpu(const char* op, const char* name, py::handle object, Number* number) {
  const DeviceArray* const array = as_device_array(object);
  if (!array) return false;
  if (!array->shape.empty()) {
    throw ShapeError(std::string(op) + ": " + name + " must be a number or a 0-d array, got " +
                     std::to_string(array->shape.size()) + " axes; index it with [()] or [0]");
  }
  if (array->dtype.kind() != 'f' || array->item() < 4) {
    throw DTypeError(std::string(op) + ": " + name + " must be float32 or float64 on a GPU, got " +
                     py::str(array->dtype).cast<std::string>() + "; convert it with .astype");
  }
  *number = {name, 1.0, array->data, array->item() == 8, array->device};
  return true;
}

}  // namespace

Number learning_rate(const char* op, py::handle object) {
  Number number;
  if (!number_on_gpu(op, "lr", object, &number)) number.value = at_least_zero(op, "lr", object);
  return number;
}

Number counted_step(const char* op, py::handle object) {
  Number number;
  if (!number_on_gpu(op, "step", object, &number)) number.value = step_number(op, object);
  return number;
}

Number gradient_scale(const char* op, py::handle object) {
  Number number;
  if (number_on_gpu(op, "grad_scale", object, &number)) return number;
  number.value = scalar(op, "grad_scale", object);
  if (number.value <= 0.0) bad_value(op, "grad_scale", "above 0", number.value);
  return number;
}

double fraction(const char* op, const char* name, py::handle object) {
  const double value = scalar(op, name, object);
  if (!(value >= 0.0 && value < 1.0)) bad_value(op, name, "in [0, 1)", value);
  return value;
}

double clipping(double norm, double most) {
  const double factor = most / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;
}

namespace {

constexpr std::int64_t kHeavyGrain = 4, kLightGrain = 8;  // blocks: about 10 microseconds in cache

// An array that becomes the bf16 copy of a parameter.
Array read_copy(const char* op, const char* name, py::handle object) {
  Array array = input(op, name, object, dtypes(DType::bf16));
  const auto given_array = py::reinterpret_borrow<py::array>(object);
  if (!given_array.writeable() || !array.owner.is(object)) {
    throw OutputError(std::string(op) + ": " + name + " must be writable and aligned, got a " +
                      (given_array.writeable() ? "misaligned" : "read-only") + " array of shape " +
                      shape_text(array.shape_vector()) + "; pass a copy");
  }
  return array;
}

void read_slot(const char* op, OptimizerSlot& slot, py::handle object) {
  const auto read = [&](const char* label, py::handle item) {
    slot.arrays.push_back(slot.is_copy   ? read_copy(op, label, item)
                          : slot.written ? in_place(op, label, item)
                                         : input(op, label, item));
  };
  slot.is_list = PyList_Check(object.ptr()) || PyTuple_Check(object.ptr());
  if (!slot.is_list) {
    read(slot.name, object);
    return;
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  const std::size_t count = items.size();
  slot.arrays.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const py::object item = items[i];
    try {
      read(slot.name, item);
    } catch (const std::exception&) {  // once more, for a message that says which
      read(slot.label(i).c_str(), item);
    }
  }
}

// Every slot holds as many arrays as the first, of the same shapes and dtypes.
void require_same(const char* op, const std::vector<OptimizerSlot>& slots) {
  const OptimizerSlot& params = slots[0];
  for (std::size_t s = 1; s < slots.size(); ++s) {
    const OptimizerSlot& slot = slots[s];
    if (slot.arrays.size() != params.arrays.size()) {
      throw ShapeError(std::string(op) + ": " + slot.name + " must hold as many arrays as " +
                       params.name + ", got " + std::to_string(slot.arrays.size()) + " and " +
                       std::to_string(params.arrays.size()));
    }
    for (std::size_t i = 0; i < params.arrays.size(); ++i) {
      const Array &a = params.arrays[i], &b = slot.arrays[i];
      bool same = a.ndim == b.ndim;
      for (int axis = 0; same && axis < a.ndim; ++axis) same = a.shape(axis) == b.shape(axis);
      if (!same) require_shape(op, slot.label(i).c_str(), b, a.shape_vector());
      if (slot.is_copy) {
        if (a.dtype == DType::f32) continue;
        throw DTypeError(std::string(op) + ": " + slot.label(i) + " needs params of float32, got " +
                         dtype_name(a.dtype) + "; leave out bf16_params");
      }
      if (a.dtype != b.dtype) {
        same_dtype(op, params.label(i).c_str(), a, slot.label(i).c_str(), b);
      }
    }
  }
}

// No array that is written may share memory with any other. Extents are compared in one sorted
// sweep; only where they cross is the exact question asked of every pair.
void require_disjoint(const char* op, const std::vector<OptimizerSlot>& slots) {
  struct Extent {
    std::intptr_t low, high;
    bool written;
  };
  std::vector<Extent> extents;
  extents.reserve(slots.size() * slots[0].arrays.size());
  for (const OptimizerSlot& slot : slots) {
    for (const Array& array : slot.arrays) {
      if (array.size == 0) continue;
      std::int64_t below = 0, above = 0;
      for (int axis = 0; axis < array.ndim; ++axis) {
        const std::int64_t reach = array.stride(axis) * (array.shape(axis) - 1);
        (reach < 0 ? below : above) += reach;
      }
      const std::int64_t item = item_size(array.dtype);
      const auto base = reinterpret_cast<std::intptr_t>(array.data);
      extents.push_back({base + below * item, base + (above + 1) * item, slot.written});
    }
  }
  std::sort(extents.begin(), extents.end(),
            [](const Extent& a, const Extent& b) { return a.low < b.low; });
  std::intptr_t end = INTPTR_MIN, written_end = INTPTR_MIN;
  bool crossing = false;
  for (const Extent& extent : extents) {
    crossing = crossing || extent.low < (extent.written ? end : written_end);
    if (extent.high > end) end = extent.high;
    if (extent.written && extent.high > written_end) written_end = extent.high;
  }
  if (!crossing) return;
  for (const OptimizerSlot& slot : slots) {
    for (std::size_t i = 0; slot.written && i < slot.arrays.size(); ++i) {
      for (const OptimizerSlot& other : slots) {
        for (std::size_t j = 0; j < other.arrays.size(); ++j) {
          if (&slot == &other && i == j) continue;
          no_overlap(op, slot.label(i).c_str(), slot.arrays[i].owner, other.label(j).c_str(),
                     other.arrays[j]);
        }
      }
    }
  }
}

struct RuleShape {
  std::size_t arrays;
  unsigned written;
};

RuleShape shape_of(OptimizerRule rule) {
  switch (rule) {
#define HOTLOOP_RULE_SHAPE(name, arrays, written) \
  case OptimizerRule::name:                       \
    return {arrays, written};
    HOTLOOP_OPTIMIZER_RULES(HOTLOOP_RULE_SHAPE)
#undef HOTLOOP_RULE_SHAPE
  }
  return {0, 0};
}

}  // namespace

TensorList::TensorList(const char* op, const std::vector<OptimizerSlot>& slots, DType dtype) {
  const std::size_t count = slots[0].arrays.size();
  tensors_.reserve(count);
  axes_.reserve(count);  // the tensors point into it
  for (std::size_t i = 0; i < count; ++i) {
    if (slots[0].arrays[i].dtype == dtype && slots[0].arrays[i].size > 0) add(op, slots, i);
  }
}

std::vector<OptimizerTensor> TensorList::of_array(std::size_t k) const {
  std::vector<OptimizerTensor> alone = tensors_;
  for (OptimizerTensor& tensor : alone) {
    tensor.array[0] = tensor.array[k];
    tensor.strides[0] = tensor.strides[k];
    if (tensor.ndim == 1) tensor.dense = tensor.strides[0][0] == 1;
  }
  return alone;
}

void TensorList::add(const char* op, const std::vector<OptimizerSlot>& slots, std::size_t i) {
  const Array& first = slots[0].arrays[i];
  axes_.emplace_back();
  Axes& axes = axes_.back();
  // In the order of the parameter's memory, so that transposed views are dense as well.
  int order[kMaxDims], ndim = 0;
  for (int axis = 0; axis < first.ndim; ++axis) {
    if (first.shape(axis) == 1) continue;
    int at = ndim++;
    while (at > 0 && std::abs(first.stride(order[at - 1])) < std::abs(first.stride(axis))) {
      order[at] = order[at - 1];
      --at;
    }
    order[at] = axis;
  }
  int merged = 0;
  for (int a = 0; a < ndim; ++a) {
    const int axis = order[a];
    bool joins = merged > 0;
    for (std::size_t s = 0; s < slots.size(); ++s) {
      const std::int64_t stride = slots[s].arrays[i].stride(axis);
      if (slots[s].written && stride == 0) {
        throw OutputError(std::string(op) + ": " + slots[s].label(i) +
                          " is changed in place and must not repeat elements, got a stride of 0 "
                          "(a broadcast view); pass a copy");
      }
      joins = joins && axes.strides[s][merged - 1] == stride * first.shape(axis);
    }
    const int target = joins ? merged - 1 : merged++;
    axes.shape[target] = (joins ? axes.shape[target] : 1) * first.shape(axis);
    for (std::size_t s = 0; s < slots.size(); ++s) {
      axes.strides[s][target] = slots[s].arrays[i].stride(axis);
    }
  }
  if (merged == 0) {  // one element
    axes.shape[0] = 1;
    for (std::size_t s = 0; s < slots.size(); ++s) axes.strides[s][0] = 1;
    merged = 1;
  }

  OptimizerTensor tensor{};
  tensor.first_unit = units_;
  tensor.size = first.size;
  tensor.ndim = merged;
  tensor.shape = axes.shape;
  tensor.dense = merged == 1;
  for (std::size_t s = 0; s < slots.size(); ++s) {
    if (slots[s].is_copy) {
      tensor.copy = slots[s].arrays[i].as<std::uint16_t>();
      tensor.copy_strides = axes.strides[s];
    } else {
      tensor.array[s] = slots[s].arrays[i].data;
      tensor.strides[s] = axes.strides[s];
    }
    tensor.dense = tensor.dense && axes.strides[s][0] == 1;
  }
  tensors_.push_back(tensor);
  units_ += (first.size + kOptimizerBlock - 1) / kOptimizerBlock;
}

OptimizerCall::OptimizerCall(const char* op, py::handle params, py::handle grads,
                             const StepOptions& options)
    : OptimizerCall(op) {
  copies_ = options.bf16_params;
  scale_ = gradient_scale(op, options.grad_scale);
  factor_ = (options.maximize ? -1.0 : 1.0) / scale_.value;
  if (given(options.max_norm)) most_ = at_least_zero(op, "max_norm", options.max_norm);
  slot("params", params);
  slot("grads", grads, false);
}

void OptimizerCall::slot(const char* name, py::handle object, bool written, bool is_copy) {
  slots_.push_back({name, written, is_copy});
  read_slot(op_, slots_.back(), object);
}

void OptimizerCall::moves(const Number& lr, const Number& step, double slowing) {
  lr_ = lr;
  step_ = step;
  slowing_ = slowing;
}

void OptimizerCall::scales(const Number& grad_scale) {
  scale_ = grad_scale;
  factor_ = 1.0 / grad_scale.value;
}

void OptimizerCall::check() {
  for (const Number* number : {&lr_, &step_, &scale_}) {
    if (number->at) where_.meet(number->name, number->device);
  }
  require_same(op_, slots_);
  require_disjoint(op_, slots_);
  for (const DType dtype : {DType::f32, DType::f64}) lists_.emplace_back(op_, slots_, dtype);
}

void OptimizerCall::run(OptimizerRule rule, const math::OptimizerScalars<double>& scalars,
                        double* partials, std::size_t array, std::size_t width,
                        const double* factors) {
  const RuleShape shape = shape_of(rule);
  // Every other pass goes backwards, so that it begins with what the pass before has left in the
  // caches: forwards only, a network a little larger than the last cache finds nothing there.
  static std::atomic<unsigned> passes{0};
  const bool from_end = passes.fetch_add(1, std::memory_order_relaxed) % 2 != 0;
  for (std::size_t i = 0; i < 2; ++i) {
    TensorList& list = lists_[i];
    if (list.units() == 0) continue;
    OptimizerArgs args{};
    std::vector<OptimizerTensor> alone;
    args.tensors = list.data();
    if (array != 0) {
      alone = list.of_array(array);
      args.tensors = alone.data();
    }
    args.count = list.count();
    args.dtype = i == 0 ? DType::f32 : DType::f64;
    args.rule = rule;
    args.scalars = scalars;
    args.partials = partials;
    args.factors = factors;
    if (factors) factors += list.count();
    if (on_gpu()) {
      if (shape.written != 0) {  // norms are of the gradients as they are
        args.lr = lr_.at;
        args.step = step_.at;
        args.grad_scale = scale_.at;
        args.wide_lr = lr_.wide;
        args.wide_step = step_.wide;
        args.wide_scale = scale_.wide;
        args.given_lr = lr_.value;
        args.given_step = step_.value;
        args.slowing = slowing_;
        args.clipping = clipping_;
      }
      where_.run_gpu("optimizer", args, list.units(), &OptimizerArgs::scratch);
    } else {
      hotloop::run(optimizer_kernel(), args,
                   {.units = list.units(),
                    .grain = shape.arrays > 3 ? kHeavyGrain : kLightGrain,
                    .interruptible = shape.written == 0,
                    .from_end = from_end});
    }
    if (partials) partials += width * static_cast<std::size_t>(list.units());
  }
}

py::object OptimizerCall::new_number() {
  if (!on_gpu()) return py::object();
  return new_device_array(op_, where_.device(), py::dtype::of<double>(), {});
}

void OptimizerCall::norm_on_gpu(OptimizerRule rule, std::size_t array, double most,
                                const OnGpu& to) {
  const DeviceScratch partials(op_, where_.device(), 8 * units());
  run(rule, {}, static_cast<double*>(partials.get()), array);
  OptimizerNormArgs args{};
  args.rule = rule;
  args.partials = static_cast<const double*>(partials.get());
  args.count = units();
  args.gradient = factor_;
  args.grad_scale = scale_.at;
  args.wide_scale = scale_.wide;
  args.most = most;
  args.norm = to.norm;
  args.clipping = to.clipping;
  args.scale = to.scale;
  launch_cuda(op_, "optimizer_norm", &args, 1, where_.device());
}

void OptimizerCall::lamb_on_gpu(const math::OptimizerScalars<double>& scalars) {
  const std::int64_t count = units();
  if (count == 0) return;
  const int device = where_.device();
  const DeviceScratch memory(op_, device, 8 * (2 * count + lists_[0].count() + lists_[1].count()));
  auto* partials = static_cast<double*>(memory.get());
  double* const factors = partials + 2 * count;
  run(OptimizerRule::lamb_moments, scalars, partials, 0, 2);
  double* to = factors;
  for (const TensorList& list : lists_) {
    OptimizerLengthsArgs args{};
    args.tensors = list.data();
    args.count = list.count();
    args.partials = partials;
    args.lr = lr_.at;
    args.wide_lr = lr_.wide;
    args.given_lr = lr_.value;
    args.factors = to;
    launch_cuda(op_, "optimizer_lengths", &args, list.count(), device);
    partials += 2 * list.units();
    to += list.count();
  }
  run(OptimizerRule::lamb_apply, scalars, nullptr, 0, 1, factors);
}

double OptimizerCall::norm(OptimizerRule rule, std::size_t array) {
  std::vector<double> partials(static_cast<std::size_t>(units()));
  run(rule, {}, partials.data(), array);
  double total = 0.0;
  for (const double x : partials) {
    if (rule == OptimizerRule::largest) {
      if (x > total || x != x) total = x;
    } else {
      total += x;
    }
  }
  return rule == OptimizerRule::sum_squares ? std::sqrt(total) : total;
}

py::object OptimizerCall::begin(math::OptimizerScalars<double>& scalars) {
  if (given(copies_)) {
    if (on_gpu()) {
      throw DeviceError(
          std::string(op_) + ": bf16_params must be None for params on a GPU, whose " +
          "kernel writes no bf16 copies, got " + type_text(copies_) + "; leave them out");
    }
    slot("bf16_params", copies_, true, true);
  }
  check();
  scalars.gradient = factor_;
  if (most_ < 0.0) return py::none();
  if (on_gpu()) {
    py::object norm = new_number();
    clipping_memory_ = std::make_unique<DeviceScratch>(op_, where_.device(), 8);
    auto* const factor = static_cast<double*>(clipping_memory_->get());
    norm_on_gpu(OptimizerRule::sum_squares, 1, most_,
                {reinterpret_cast<double*>(as_device_array(norm)->data), factor, nullptr});
    clips(factor);
    return norm;
  }
  const double before = norm(OptimizerRule::sum_squares, 1) * std::abs(factor_);
  scalars.gradient *= clipping(before, most_);
  return py::float_(before);
}

py::object OptimizerCall::step(OptimizerRule rule, math::OptimizerScalars<double> scalars) {
  const py::object result = begin(scalars);
  run(rule, scalars);
  return result;
}

}  // namespace hotloop
