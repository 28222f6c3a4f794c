// Optimizer steps, norms and clipping: every slot is one array or a list of them. Everything is
// checked before anything is written; then one launch over all tensors of a dtype.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>

#include "bindings/array.h"
#include "bindings/params.h"
#include "kernels/optimizer.h"

namespace hotloop {
namespace {

constexpr std::int64_t kHeavyGrain = 4, kLightGrain = 8;  // blocks: about 10 microseconds in cache

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
  const auto read = [&](const char* label, py::handle item) {
    slot.arrays.push_back(slot.written ? in_place(op, label, item) : input(op, label, item));
  };
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
  // The list of one of the arrays alone.
  std::vector<OptimizerTensor> of_array(std::size_t k) const {
    std::vector<OptimizerTensor> alone = tensors_;
    for (OptimizerTensor& tensor : alone) {
      tensor.array[0] = tensor.array[k];
      tensor.strides[0] = tensor.strides[k];
      if (tensor.ndim == 1) tensor.dense = tensor.strides[0][0] == 1;
    }
    return alone;
  }
  template <class Visit>
  void each_tensor(Visit visit) {
    for (OptimizerTensor& tensor : tensors_) {
      visit(tensor, (tensor.size + kOptimizerBlock - 1) / kOptimizerBlock);
    }
  }

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

// The slots of one call, checked, and the launches over them.
class Call {
 public:
  explicit Call(const char* op) : op_(op) { slots_.reserve(kOptimizerArrays); }

  void slot(const char* name, py::handle object, bool written = true) {
    slots_.push_back({name, written});
    read_slot(op_, slots_.back(), object);
  }
  void check() {
    require_same(op_, slots_);
    require_disjoint(op_, slots_);
    for (const DType dtype : {DType::f32, DType::f64}) lists_.emplace_back(op_, slots_, dtype);
  }
  std::int64_t units() const { return lists_[0].units() + lists_[1].units(); }
  std::vector<TensorList>& lists() { return lists_; }

  // The array that a one-array rule walks.
  void run(OptimizerRule rule, const math::OptimizerScalars<double>& scalars,
           double* partials = nullptr, std::size_t array = 0, std::size_t width = 1) {
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
      hotloop::run(optimizer_kernel(), args,
                   {.units = list.units(),
                    .grain = shape.arrays > 3 ? kHeavyGrain : kLightGrain,
                    .interruptible = shape.written == 0,
                    .from_end = from_end});
      if (partials) partials += width * static_cast<std::size_t>(list.units());
    }
  }

  // The norm of all arrays of a slot, summed in the order of the blocks.
  double norm(OptimizerRule rule, std::size_t array) {
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

 private:
  const char* op_;
  std::vector<Slot> slots_;
  std::vector<TensorList> lists_;
};

// As torch.nn.utils.clip_grad_norm_: 1, or what brings the norm just below the bound; NaN where the
// norm is.
double clipping(double norm, double most) {
  const double factor = most / (norm + 1e-6);
  return factor > 1.0 ? 1.0 : factor;
}

// What every step takes: grad_scale, maximize, max_norm.
struct Gradient {
  double factor;
  double most;  // of the norm; below 0: not clipped
};

Gradient parse_gradient(const char* op, py::handle grad_scale, bool maximize, py::handle max_norm) {
  const double scale = scalar(op, "grad_scale", grad_scale);
  if (scale <= 0.0) bad_value(op, "grad_scale", "above 0", scale);
  return {(maximize ? -1.0 : 1.0) / scale,
          given(max_norm) ? at_least_zero(op, "max_norm", max_norm) : -1.0};
}

// Returns the norm before it was clipped, or None.
py::object step(Call& call, OptimizerRule rule, math::OptimizerScalars<double> scalars,
                const Gradient& gradient) {
  call.check();
  scalars.gradient = gradient.factor;
  py::object result = py::none();
  if (gradient.most >= 0.0) {
    const double norm = call.norm(OptimizerRule::sum_squares, 1) * std::abs(gradient.factor);
    scalars.gradient *= clipping(norm, gradient.most);
    result = py::float_(norm);
  }
  call.run(rule, scalars);
  return result;
}

double fraction(const char* op, const char* name, py::handle object) {
  const double value = scalar(op, name, object);
  if (!(value >= 0.0 && value < 1.0)) bad_value(op, name, "in [0, 1)", value);
  return value;
}

void set_decay(const char* op, math::OptimizerScalars<double>& c, py::handle weight_decay,
               double lr, bool decoupled) {
  const double decay = at_least_zero(op, "weight_decay", weight_decay);
  if (decay == 0.0) return;
  c.kind = decoupled ? math::Decay::decoupled : math::Decay::l2;
  c.decay = decoupled ? 1.0 - lr * decay : decay;
}

void set_betas(const char* op, math::OptimizerScalars<double>& c, py::handle beta1,
               py::handle beta2) {
  c.beta1 = fraction(op, "betas[0]", beta1);
  c.beta2 = fraction(op, "betas[1]", beta2);
  c.rest1 = 1.0 - c.beta1;
  c.rest2 = 1.0 - c.beta2;
}

py::object sgd_step(py::handle params, py::handle grads, py::handle buffers, py::handle lr,
                    py::handle step_object, py::handle momentum, py::handle dampening,
                    bool nesterov, py::handle weight_decay, py::handle grad_scale, bool maximize,
                    py::handle max_norm) {
  const char* op = "sgd_step";
  math::OptimizerScalars<double> c{};
  c.lr = at_least_zero(op, "lr", lr);
  c.beta1 = at_least_zero(op, "momentum", momentum);
  const double dampens = scalar(op, "dampening", dampening);
  c.rest1 = 1.0 - dampens;
  set_decay(op, c, weight_decay, c.lr, false);
  c.first = step_number(op, step_object) == 1.0;
  c.nesterov = nesterov;
  if (nesterov && (c.beta1 == 0.0 || dampens != 0.0)) {
    throw std::invalid_argument(
        "sgd_step: nesterov needs a momentum above 0 and no dampening, got momentum " +
        std::to_string(c.beta1) + " and dampening " + std::to_string(dampens));
  }
  const bool with_momentum = c.beta1 != 0.0;
  if (with_momentum && !given(buffers)) {
    throw std::invalid_argument("sgd_step: momentum " + std::to_string(c.beta1) +
                                " needs momentum_buffers, got None; pass arrays like params");
  }
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  if (with_momentum) call.slot("momentum_buffers", buffers);
  return step(call, with_momentum ? OptimizerRule::momentum : OptimizerRule::sgd, c, gradient);
}

template <bool kDecoupled>
py::object adam_step(py::handle params, py::handle grads, py::handle exp_avgs,
                     py::handle exp_avg_sqs, py::handle largest, py::handle lr_object,
                     py::handle step_object, py::handle beta1, py::handle beta2, py::handle eps,
                     py::handle weight_decay, py::handle grad_scale, bool maximize,
                     py::handle max_norm) {
  const char* op = kDecoupled ? "adamw_step" : "adam_step";
  const double lr = at_least_zero(op, "lr", lr_object);
  const double number = step_number(op, step_object);
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  set_decay(op, c, weight_decay, lr, kDecoupled);
  c.lr = lr / (1.0 - std::pow(c.beta1, number));
  c.root_scale = 1.0 / std::sqrt(1.0 - std::pow(c.beta2, number));
  c.eps = at_least_zero(op, "eps", eps);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  if (given(largest)) call.slot("max_exp_avg_sqs", largest);
  return step(call, given(largest) ? OptimizerRule::amsgrad : OptimizerRule::adam, c, gradient);
}

py::object adamax_step(py::handle params, py::handle grads, py::handle exp_avgs,
                       py::handle exp_infs, py::handle lr, py::handle step_object, py::handle beta1,
                       py::handle beta2, py::handle eps, py::handle weight_decay,
                       py::handle grad_scale, bool maximize, py::handle max_norm) {
  const char* op = "adamax_step";
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  c.lr = at_least_zero(op, "lr", lr) / (1.0 - std::pow(c.beta1, step_number(op, step_object)));
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_infs", exp_infs);
  return step(call, OptimizerRule::adamax, c, gradient);
}

py::object nadam_step(py::handle params, py::handle grads, py::handle exp_avgs,
                      py::handle exp_avg_sqs, py::handle lr_object, py::handle step_object,
                      py::handle mu_product, py::handle beta1, py::handle beta2, py::handle eps,
                      py::handle weight_decay, py::handle momentum_decay, bool decoupled,
                      py::handle grad_scale, bool maximize, py::handle max_norm) {
  const char* op = "nadam_step";
  const double lr = at_least_zero(op, "lr", lr_object);
  const double number = step_number(op, step_object);
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  set_decay(op, c, weight_decay, lr, decoupled);
  const double psi = at_least_zero(op, "momentum_decay", momentum_decay);
  const auto mu = [&](double at) { return c.beta1 * (1.0 - 0.5 * std::pow(0.96, at * psi)); };
  const double product = fraction(op, "mu_product", mu_product), next = mu(number + 1.0);
  c.extra = lr * (1.0 - mu(number)) / (1.0 - product);
  c.lr = lr * next / (1.0 - product * next);
  c.root_scale = 1.0 / std::sqrt(1.0 - std::pow(c.beta2, number));
  c.eps = at_least_zero(op, "eps", eps);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  return step(call, OptimizerRule::nadam, c, gradient);
}

py::object rmsprop_step(py::handle params, py::handle grads, py::handle square_avgs,
                        py::handle buffers, py::handle means, py::handle lr, py::handle alpha,
                        py::handle eps, py::handle weight_decay, py::handle momentum,
                        py::handle grad_scale, bool maximize, py::handle max_norm) {
  const char* op = "rmsprop_step";
  math::OptimizerScalars<double> c{};
  c.lr = at_least_zero(op, "lr", lr);
  c.beta2 = at_least_zero(op, "alpha", alpha);
  c.rest2 = 1.0 - c.beta2;
  c.eps = at_least_zero(op, "eps", eps);
  c.extra = at_least_zero(op, "momentum", momentum);
  set_decay(op, c, weight_decay, c.lr, false);
  const bool with_momentum = c.extra != 0.0;
  if (with_momentum && !given(buffers)) {
    throw std::invalid_argument("rmsprop_step: momentum " + std::to_string(c.extra) +
                                " needs momentum_buffers, got None; pass arrays like params");
  }
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("square_avgs", square_avgs);
  if (with_momentum) call.slot("momentum_buffers", buffers);
  if (given(means)) call.slot("grad_avgs", means);
  using Rule = OptimizerRule;
  const Rule plain = given(means) ? Rule::rmsprop_centered : Rule::rmsprop;
  const Rule heavy = given(means) ? Rule::rmsprop_momentum_centered : Rule::rmsprop_momentum;
  return step(call, with_momentum ? heavy : plain, c, gradient);
}

py::object adagrad_step(py::handle params, py::handle grads, py::handle sums, py::handle lr,
                        py::handle step_object, py::handle lr_decay, py::handle eps,
                        py::handle weight_decay, py::handle grad_scale, bool maximize,
                        py::handle max_norm) {
  const char* op = "adagrad_step";
  math::OptimizerScalars<double> c{};
  c.lr = at_least_zero(op, "lr", lr) /
         (1.0 + (step_number(op, step_object) - 1.0) * at_least_zero(op, "lr_decay", lr_decay));
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("state_sums", sums);
  return step(call, OptimizerRule::adagrad, c, gradient);
}

py::object adadelta_step(py::handle params, py::handle grads, py::handle square_avgs,
                         py::handle acc_deltas, py::handle lr, py::handle rho, py::handle eps,
                         py::handle weight_decay, py::handle grad_scale, bool maximize,
                         py::handle max_norm) {
  const char* op = "adadelta_step";
  math::OptimizerScalars<double> c{};
  c.lr = at_least_zero(op, "lr", lr);
  c.beta2 = at_least_zero(op, "rho", rho);
  if (c.beta2 > 1.0) bad_value(op, "rho", "in [0, 1]", c.beta2);
  c.rest2 = 1.0 - c.beta2;
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("square_avgs", square_avgs);
  call.slot("acc_deltas", acc_deltas);
  return step(call, OptimizerRule::adadelta, c, gradient);
}

py::object lion_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle lr,
                     py::handle beta1, py::handle beta2, py::handle weight_decay,
                     py::handle grad_scale, bool maximize, py::handle max_norm) {
  const char* op = "lion_step";
  math::OptimizerScalars<double> c{};
  c.lr = at_least_zero(op, "lr", lr);
  set_betas(op, c, beta1, beta2);
  set_decay(op, c, weight_decay, c.lr, true);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("exp_avgs", exp_avgs);
  return step(call, OptimizerRule::lion, c, gradient);
}

// Each tensor's step is |p| / |u| long, 1 where either is 0: the moments and both norms first.
py::object lamb_step(py::handle params, py::handle grads, py::handle exp_avgs,
                     py::handle exp_avg_sqs, py::handle lr_object, py::handle step_object,
                     py::handle beta1, py::handle beta2, py::handle eps, py::handle weight_decay,
                     py::handle grad_scale, bool maximize, py::handle max_norm) {
  const char* op = "lamb_step";
  const double lr = at_least_zero(op, "lr", lr_object);
  const double number = step_number(op, step_object);
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  c.extra = 1.0 / (1.0 - std::pow(c.beta1, number));
  c.root_scale = 1.0 / std::sqrt(1.0 - std::pow(c.beta2, number));
  c.eps = at_least_zero(op, "eps", eps);
  c.decay = at_least_zero(op, "weight_decay", weight_decay);
  const Gradient gradient = parse_gradient(op, grad_scale, maximize, max_norm);
  Call call(op);
  call.slot("params", params);
  call.slot("grads", grads, false);
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  call.check();
  c.gradient = gradient.factor;
  py::object result = py::none();
  if (gradient.most >= 0.0) {
    const double norm = call.norm(OptimizerRule::sum_squares, 1) * std::abs(gradient.factor);
    c.gradient *= clipping(norm, gradient.most);
    result = py::float_(norm);
  }
  std::vector<double> partials(2 * static_cast<std::size_t>(call.units()));
  call.run(OptimizerRule::lamb_moments, c, partials.data(), 0, 2);
  const double* partial = partials.data();
  for (TensorList& list : call.lists()) {
    list.each_tensor([&](OptimizerTensor& tensor, std::int64_t units) {
      double size = 0.0, update = 0.0;
      for (std::int64_t i = 0; i < units; ++i, partial += 2) {
        size += partial[0];
        update += partial[1];
      }
      const bool both = size != 0.0 && update != 0.0;
      tensor.factor = lr * (both ? std::sqrt(size) / std::sqrt(update) : 1.0);
    });
  }
  call.run(OptimizerRule::lamb_apply, c);
  return result;
}

OptimizerRule norm_rule(const char* op, py::handle object) {
  const double type = scalar(op, "norm_type", object);
  if (type == 1.0) return OptimizerRule::sum_abs;
  if (type == 2.0) return OptimizerRule::sum_squares;
  if (type != HUGE_VAL) bad_value(op, "norm_type", "1, 2 or inf", type);
  return OptimizerRule::largest;
}

double grad_norm(py::handle grads, py::handle norm_type) {
  const char* op = "grad_norm";
  const OptimizerRule rule = norm_rule(op, norm_type);
  Call call(op);
  call.slot("grads", grads, false);
  call.check();
  return call.norm(rule, 0);
}

double clip_grad_norm(py::handle grads, py::handle max_norm, py::handle norm_type) {
  const char* op = "clip_grad_norm";
  const OptimizerRule rule = norm_rule(op, norm_type);
  const double most = at_least_zero(op, "max_norm", max_norm);
  Call call(op);
  call.slot("grads", grads);
  call.check();
  const double norm = call.norm(rule, 0);
  math::OptimizerScalars<double> c{};
  c.gradient = clipping(norm, most);
  if (c.gradient != 1.0) call.run(OptimizerRule::scale, c);
  return norm;
}

void clip_grad_value(py::handle grads, py::handle clip_value) {
  const char* op = "clip_grad_value";
  math::OptimizerScalars<double> c{};
  c.eps = at_least_zero(op, "clip_value", clip_value);
  Call call(op);
  call.slot("grads", grads);
  call.check();
  call.run(OptimizerRule::clamp, c);
}

}  // namespace

void bind_optimizer(py::module_& module) {
  module.def("sgd_step", &sgd_step);
  module.def("adam_step", &adam_step<false>);
  module.def("adamw_step", &adam_step<true>);
  module.def("adamax_step", &adamax_step);
  module.def("nadam_step", &nadam_step);
  module.def("rmsprop_step", &rmsprop_step);
  module.def("adagrad_step", &adagrad_step);
  module.def("adadelta_step", &adadelta_step);
  module.def("lion_step", &lion_step);
  module.def("lamb_step", &lamb_step);
  module.def("grad_norm", &grad_norm);
  module.def("clip_grad_norm", &clip_grad_norm);
  module.def("clip_grad_value", &clip_grad_value);
}

}  // namespace hotloop
