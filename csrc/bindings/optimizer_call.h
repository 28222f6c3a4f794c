// One call of an optimizer family: its slots (each one array or a list of them), checked before
// anything is written, and its launches, one for all tensors of a dtype.
//
//   OptimizerCall call("adam_step", params, grads, {grad_scale, maximize, max_norm, bf16_params});
//   call.slot("exp_avgs", exp_avgs);
//   return call.step(OptimizerRule::adam, scalars);
#pragma once

#include "bindings/array.h"
#include "bindings/device.h"
#include "kernels/optimizer.h"

namespace hotloop {

[[noreturn]] void bad_value(const char* op, const char* name, const char* must, double got);
// A Python number, a NumPy scalar or a 0-d array.
double scalar(const char* op, const char* name, py::handle object);
double at_least_zero(const char* op, const char* name, py::handle object);
double fraction(const char* op, const char* name, py::handle object);  // in [0, 1)
double step_number(const char* op, py::handle object);                 // counts from 1

// A number of the host, or where it lies on a GPU: then a step that is captured in a graph sees
// what is there when it is replayed, and only its kernel can check it.
struct Number {
  const char* name = "";
  double value = 1.0;  // 1 where it is on a GPU
  const void* at = nullptr;
  bool wide = false;
  int device = kCpu;
};
Number learning_rate(const char* op, py::handle object);
Number counted_step(const char* op, py::handle object);
Number gradient_scale(const char* op, py::handle object);

// As torch.nn.utils.clip_grad_norm_: 1, or what brings the norm just below the bound; NaN where the
// norm is.
double clipping(double norm, double most);

// What every step takes.
struct StepOptions {
  py::handle grad_scale;
  bool maximize;
  py::handle max_norm;
  py::handle bf16_params;  // written: the new parameters as bf16; or None
};

struct OptimizerSlot {
  const char* name;
  bool written;
  bool is_copy = false;  // of the parameters, as bf16; the last slot
  bool is_list = false;
  std::vector<Array> arrays{};
  std::string label(std::size_t i) const {
    return is_list ? std::string(name) + "[" + std::to_string(i) + "]" : std::string(name);
  }
};

// The tensors of one dtype, with their axes merged; owns the memory that the arguments point into.
class TensorList {
 public:
  TensorList(const char* op, const std::vector<OptimizerSlot>& slots, DType dtype);
  const OptimizerTensor* data() const { return tensors_.data(); }
  std::int64_t count() const { return static_cast<std::int64_t>(tensors_.size()); }
  std::int64_t units() const { return units_; }
  // The list of one of the arrays alone.
  std::vector<OptimizerTensor> of_array(std::size_t k) const;
  template <class Visit>
  void each_tensor(Visit visit) {
    for (OptimizerTensor& tensor : tensors_) {
      visit(tensor, (tensor.size + kOptimizerBlock - 1) / kOptimizerBlock);
    }
  }

 private:
  struct Axes {
    std::int64_t shape[kMaxDims];
    std::int64_t strides[kOptimizerArrays + 1][kMaxDims];
  };
  void add(const char* op, const std::vector<OptimizerSlot>& slots, std::size_t i);

  std::vector<OptimizerTensor> tensors_;
  std::vector<Axes> axes_;
  std::int64_t units_ = 0;
};

class OptimizerCall {
 public:
  explicit OptimizerCall(const char* op) : op_(op), where_(op) {
    slots_.reserve(kOptimizerArrays + 1);
  }
  // A step: the slots that every rule has.
  OptimizerCall(const char* op, py::handle params, py::handle grads, const StepOptions& options);

  void slot(const char* name, py::handle object, bool written = true, bool is_copy = false);
  void check();
  std::int64_t units() const { return lists_[0].units() + lists_[1].units(); }
  std::vector<TensorList>& lists() { return lists_; }

  // After check(): each `array` is the one that a one-array rule walks.
  void run(OptimizerRule rule, const math::OptimizerScalars<double>& scalars,
           double* partials = nullptr, std::size_t array = 0, std::size_t width = 1,
           const double* factors = nullptr);
  // The norm of all arrays of a slot, summed in the order of the blocks; on the CPU.
  double norm(OptimizerRule rule, std::size_t array);
  // The same on a GPU, where it stays; each may be null. A norm above `most` is clipped to it,
  // below 0 it is not.
  struct OnGpu {
    double *norm, *clipping, *scale;
  };
  void norm_on_gpu(OptimizerRule rule, std::size_t array, double most, const OnGpu& to);
  // float64 without axes, where the arrays lie; null on the CPU.
  py::object new_number();

  // After the slots: where the step's numbers are. `slowing` as in OptimizerArgs.
  void moves(const Number& lr, const Number& step, double slowing = 0.0);
  void scales(const Number& grad_scale);  // likewise, of gradients that are only measured
  // Gradients are multiplied by it from now on; on a GPU.
  void clips(const double* factor) { clipping_ = factor; }

  // check(), and the gradient's factor with the clipping in it. Returns the norm before it was
  // clipped, or None.
  py::object begin(math::OptimizerScalars<double>& scalars);
  // begin() and the one launch.
  py::object step(OptimizerRule rule, math::OptimizerScalars<double> scalars);

  bool on_gpu() const { return where_.on_gpu(); }
  // LAMB after begin(), on a GPU: the lengths of the steps never come to the host.
  void lamb_on_gpu(const math::OptimizerScalars<double>& scalars);

 private:
  const char* op_;
  Call where_;
  Number lr_, step_, scale_;
  double slowing_ = 0.0;
  const double* clipping_ = nullptr;
  std::unique_ptr<DeviceScratch> clipping_memory_;
  double factor_ = 1.0;  // of the gradient
  double most_ = -1.0;   // of its norm; below 0: not clipped
  py::handle copies_;    // what the last slot will be, or None
  std::vector<OptimizerSlot> slots_;
  std::vector<TensorList> lists_;
};

}  // namespace hotloop
