// Optimizer steps: every slot is one array or a list of them. Everything is checked before anything
// is written; then one launch over all tensors of a dtype.
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "bindings/array.h"
#include "bindings/params.h"
#include "kernels/optimizer.h"

namespace hotloop {
namespace {

constexpr std::int64_t kAdamGrain = 4, kSgdGrain = 8;  // blocks: about 10 microseconds in cache

struct Slot {
  const char* name;
  bool written;
  bool is_list = false;
  std::vector<Array> arrays{};
  std::string label(std::size_t i) const {
    return is_list ? std::string(name) + "[" + std::to_string(i) + "]" : std::string(name);
  }
};

[[noreturn]] void bad_value(const char* op, const char* name, const char* must, double got) {
  char number[32];
  std::snprintf(number, sizeof number, "%g", got);
  throw std::invalid_argument(std::string(op) + ": " + name + " must be " + must + ", got " +
                              number);
}

// A Python number, a NumPy scalar or a 0-d array.
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

void read_slot(const char* op, Slot& slot, py::handle object) {
  slot.is_list = PyList_Check(object.ptr()) || PyTuple_Check(object.ptr());
  if (!slot.is_list) {
    slot.arrays.push_back(slot.written ? in_place(op, slot.name, object)
                                       : input(op, slot.name, object));
    return;
  }
  const auto items = py::reinterpret_borrow<py::sequence>(object);
  const std::size_t count = items.size();
  slot.arrays.reserve(count);
  char label[64];
  for (std::size_t i = 0; i < count; ++i) {
    std::snprintf(label, sizeof label, "%s[%zu]", slot.name, i);
    const py::object item = items[i];
    slot.arrays.push_back(slot.written ? in_place(op, label, item) : input(op, label, item));
  }
}

// Every slot holds as many arrays as the first, of the same shapes and dtypes.
void require_same(const char* op, const std::vector<Slot>& slots) {
  const Slot& params = slots[0];
  for (std::size_t s = 1; s < slots.size(); ++s) {
    const Slot& slot = slots[s];
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
      if (a.dtype != b.dtype) {
        same_dtype(op, params.label(i).c_str(), a, slot.label(i).c_str(), b);
      }
    }
  }
}

// No array that is written may share memory with any other. Extents are compared in one sorted
// sweep; only where they cross is the exact question asked of every pair.
void require_disjoint(const char* op, const std::vector<Slot>& slots) {
  struct Extent {
    std::intptr_t low, high;
    bool written;
  };
  std::vector<Extent> extents;
  extents.reserve(slots.size() * slots[0].arrays.size());
  for (const Slot& slot : slots) {
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
  for (const Slot& slot : slots) {
    for (std::size_t i = 0; slot.written && i < slot.arrays.size(); ++i) {
      for (const Slot& other : slots) {
        for (std::size_t j = 0; j < other.arrays.size(); ++j) {
          if (&slot == &other && i == j) continue;
          no_overlap(op, slot.label(i).c_str(), slot.arrays[i].owner, other.label(j).c_str(),
                     other.arrays[j]);
        }
      }
    }
  }
}

// The tensors of one dtype, with their axes merged; owns the memory that the arguments point into.
class TensorList {
 public:
  TensorList(const char* op, const std::vector<Slot>& slots, DType dtype) {
    const std::size_t count = slots[0].arrays.size();
    tensors_.reserve(count);
    axes_.reserve(count);  // the tensors point into it
    for (std::size_t i = 0; i < count; ++i) {
      if (slots[0].arrays[i].dtype == dtype && slots[0].arrays[i].size > 0) add(op, slots, i);
    }
  }
  const OptimizerTensor* data() const { return tensors_.data(); }
  std::int64_t count() const { return static_cast<std::int64_t>(tensors_.size()); }
  std::int64_t units() const { return units_; }

 private:
  struct Axes {
    std::int64_t shape[kMaxDims];
    std::int64_t strides[kOptimizerArrays][kMaxDims];
  };

  void add(const char* op, const std::vector<Slot>& slots, std::size_t i) {
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
      tensor.array[s] = slots[s].arrays[i].data;
      tensor.strides[s] = axes.strides[s];
      tensor.dense = tensor.dense && axes.strides[s][0] == 1;
    }
    tensors_.push_back(tensor);
    units_ += (first.size + kOptimizerBlock - 1) / kOptimizerBlock;
  }

  std::vector<OptimizerTensor> tensors_;
  std::vector<Axes> axes_;
  std::int64_t units_ = 0;
};

// Checks the slots and runs the kernel over the tensors of each dtype.
template <class Args>
void run_step(const char* op, std::vector<Slot>& slots, Kernel<Args> kernel, Args args,
              std::int64_t grain) {
  require_same(op, slots);
  require_disjoint(op, slots);
  const TensorList lists[] = {TensorList(op, slots, DType::f32), TensorList(op, slots, DType::f64)};
  for (const DType dtype : {DType::f32, DType::f64}) {
    const TensorList& list = lists[dtype == DType::f32 ? 0 : 1];
    args.tensors = list.data();
    args.count = list.count();
    args.dtype = dtype;
    run(kernel, args, {.units = list.units(), .grain = grain, .interruptible = false});
  }
}

void sgd(py::handle params, py::handle grads, py::handle buffers, py::handle lr, py::handle step,
         py::handle momentum, py::handle dampening, bool nesterov, py::handle weight_decay) {
  const char* op = "sgd_step";
  SgdArgs args{};
  args.lr = at_least_zero(op, "lr", lr);
  args.momentum = at_least_zero(op, "momentum", momentum);
  args.dampening = scalar(op, "dampening", dampening);
  args.weight_decay = at_least_zero(op, "weight_decay", weight_decay);
  args.first = step_number(op, step) == 1.0;
  args.nesterov = nesterov;
  if (nesterov && (args.momentum == 0.0 || args.dampening != 0.0)) {
    throw std::invalid_argument(
        "sgd_step: nesterov needs a momentum above 0 and no dampening, got momentum " +
        std::to_string(args.momentum) + " and dampening " + std::to_string(args.dampening));
  }
  const bool with_momentum = args.momentum != 0.0;
  if (with_momentum && !given(buffers)) {
    throw std::invalid_argument("sgd_step: momentum " + std::to_string(args.momentum) +
                                " needs momentum_buffers, got None; pass arrays like params");
  }
  std::vector<Slot> slots{{"params", true}, {"grads", false}};
  if (with_momentum) slots.push_back({"momentum_buffers", true});
  read_slot(op, slots[0], params);
  read_slot(op, slots[1], grads);
  if (with_momentum) read_slot(op, slots[2], buffers);
  run_step(op, slots, with_momentum ? sgd_momentum_step_kernel() : sgd_step_kernel(), args,
           kSgdGrain);
}

template <bool kDecoupled>
void adam(py::handle params, py::handle grads, py::handle exp_avgs, py::handle exp_avg_sqs,
          py::handle lr_object, py::handle step_object, py::handle beta1_object,
          py::handle beta2_object, py::handle eps, py::handle weight_decay_object) {
  const char* op = kDecoupled ? "adamw_step" : "adam_step";
  const double lr = at_least_zero(op, "lr", lr_object);
  const double step = step_number(op, step_object);
  const double beta1 = scalar(op, "betas[0]", beta1_object);
  const double beta2 = scalar(op, "betas[1]", beta2_object);
  if (!(beta1 >= 0.0 && beta1 < 1.0)) bad_value(op, "betas[0]", "in [0, 1)", beta1);
  if (!(beta2 >= 0.0 && beta2 < 1.0)) bad_value(op, "betas[1]", "in [0, 1)", beta2);
  const double weight_decay = at_least_zero(op, "weight_decay", weight_decay_object);
  AdamArgs args{};
  args.one_minus_beta1 = 1.0 - beta1;
  args.beta2 = beta2;
  args.one_minus_beta2 = 1.0 - beta2;
  args.step_size = lr / (1.0 - std::pow(beta1, step));
  args.root_scale = 1.0 / std::sqrt(1.0 - std::pow(beta2, step));
  args.eps = at_least_zero(op, "eps", eps);
  args.has_decay = weight_decay != 0.0;
  args.decay = kDecoupled ? 1.0 - lr * weight_decay : weight_decay;
  std::vector<Slot> slots{
      {"params", true}, {"grads", false}, {"exp_avgs", true}, {"exp_avg_sqs", true}};
  read_slot(op, slots[0], params);
  read_slot(op, slots[1], grads);
  read_slot(op, slots[2], exp_avgs);
  read_slot(op, slots[3], exp_avg_sqs);
  run_step(op, slots, kDecoupled ? adamw_step_kernel() : adam_step_kernel(), args, kAdamGrain);
}

}  // namespace

void bind_optimizer(py::module_& module) {
  module.def("sgd_step", &sgd);
  module.def("adam_step", &adam<false>);
  module.def("adamw_step", &adam<true>);
}

}  // namespace hotloop
