// Optimizer steps, norms and clipping: the scalars of each rule, then one launch over all tensors
// of a dtype (bindings/optimizer_call.h).
#include <cmath>

#include "bindings/optimizer_call.h"

namespace hotloop {
namespace {

// Returns OptimizerArgs::slowing.
double set_decay(const char* op, math::OptimizerScalars<double>& c, py::handle weight_decay,
                 double lr, bool decoupled) {
  const double decay = at_least_zero(op, "weight_decay", weight_decay);
  if (decay == 0.0) return 0.0;
  c.kind = decoupled ? math::Decay::decoupled : math::Decay::l2;
  c.decay = decoupled ? 1.0 - lr * decay : decay;
  return decay;
}

void set_betas(const char* op, math::OptimizerScalars<double>& c, py::handle beta1,
               py::handle beta2) {
  c.beta1 = fraction(op, "betas[0]", beta1);
  c.beta2 = fraction(op, "betas[1]", beta2);
  c.rest1 = 1.0 - c.beta1;
  c.rest2 = 1.0 - c.beta2;
}

py::object sgd_step(py::handle params, py::handle grads, py::handle buffers, py::handle lr_object,
                    py::handle step_object, py::handle momentum, py::handle dampening,
                    bool nesterov, py::handle weight_decay, py::handle grad_scale, bool maximize,
                    py::handle max_norm, py::handle bf16_params) {
  const char* op = "sgd_step";
  math::OptimizerScalars<double> c{};
  const Number lr = learning_rate(op, lr_object), step = counted_step(op, step_object);
  c.lr = lr.value;
  c.beta1 = at_least_zero(op, "momentum", momentum);
  const double dampens = scalar(op, "dampening", dampening);
  c.rest1 = 1.0 - dampens;
  set_decay(op, c, weight_decay, c.lr, false);
  c.first = step.value == 1.0;
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
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  if (with_momentum) call.slot("momentum_buffers", buffers);
  call.moves(lr, step);
  return call.step(with_momentum ? OptimizerRule::momentum : OptimizerRule::sgd, c);
}

template <bool kDecoupled>
py::object adam_step(py::handle params, py::handle grads, py::handle exp_avgs,
                     py::handle exp_avg_sqs, py::handle largest, py::handle lr_object,
                     py::handle step_object, py::handle beta1, py::handle beta2, py::handle eps,
                     py::handle weight_decay, py::handle grad_scale, bool maximize,
                     py::handle max_norm, py::handle bf16_params) {
  const char* op = kDecoupled ? "adamw_step" : "adam_step";
  const Number lr = learning_rate(op, lr_object), step = counted_step(op, step_object);
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  const double decay = set_decay(op, c, weight_decay, lr.value, kDecoupled);
  c.lr = lr.value / (1.0 - std::pow(c.beta1, step.value));
  c.root_scale = 1.0 / std::sqrt(1.0 - std::pow(c.beta2, step.value));
  c.eps = at_least_zero(op, "eps", eps);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  if (given(largest)) call.slot("max_exp_avg_sqs", largest);
  call.moves(lr, step, decay);
  return call.step(given(largest) ? OptimizerRule::amsgrad : OptimizerRule::adam, c);
}

py::object adamax_step(py::handle params, py::handle grads, py::handle exp_avgs,
                       py::handle exp_infs, py::handle lr_object, py::handle step_object,
                       py::handle beta1, py::handle beta2, py::handle eps, py::handle weight_decay,
                       py::handle grad_scale, bool maximize, py::handle max_norm,
                       py::handle bf16_params) {
  const char* op = "adamax_step";
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  const Number lr = learning_rate(op, lr_object), step = counted_step(op, step_object);
  c.lr = lr.value / (1.0 - std::pow(c.beta1, step.value));
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_infs", exp_infs);
  call.moves(lr, step);
  return call.step(OptimizerRule::adamax, c);
}

py::object nadam_step(py::handle params, py::handle grads, py::handle exp_avgs,
                      py::handle exp_avg_sqs, py::handle lr_object, py::handle step_object,
                      py::handle mu_product, py::handle beta1, py::handle beta2, py::handle eps,
                      py::handle weight_decay, py::handle momentum_decay, bool decoupled,
                      py::handle grad_scale, bool maximize, py::handle max_norm,
                      py::handle bf16_params) {
  const char* op = "nadam_step";
  for (const auto& [name, object] : {std::pair{"lr", lr_object}, {"step", step_object}}) {
    if (as_device_array(object)) {
      throw DeviceError(std::string(op) + ": " + name + " must be a number of the CPU, got one " +
                        "on " + device_text(as_device_array(object)->device) +
                        "; read it with .item(), or use adam_step");
    }
  }
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
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  return call.step(OptimizerRule::nadam, c);
}

py::object rmsprop_step(py::handle params, py::handle grads, py::handle square_avgs,
                        py::handle buffers, py::handle means, py::handle lr_object,
                        py::handle alpha, py::handle eps, py::handle weight_decay,
                        py::handle momentum, py::handle grad_scale, bool maximize,
                        py::handle max_norm, py::handle bf16_params) {
  const char* op = "rmsprop_step";
  math::OptimizerScalars<double> c{};
  const Number lr = learning_rate(op, lr_object);
  c.lr = lr.value;
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
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("square_avgs", square_avgs);
  if (with_momentum) call.slot("momentum_buffers", buffers);
  if (given(means)) call.slot("grad_avgs", means);
  call.moves(lr, {});
  using Rule = OptimizerRule;
  const Rule plain = given(means) ? Rule::rmsprop_centered : Rule::rmsprop;
  const Rule heavy = given(means) ? Rule::rmsprop_momentum_centered : Rule::rmsprop_momentum;
  return call.step(with_momentum ? heavy : plain, c);
}

py::object adagrad_step(py::handle params, py::handle grads, py::handle sums, py::handle lr_object,
                        py::handle step_object, py::handle lr_decay, py::handle eps,
                        py::handle weight_decay, py::handle grad_scale, bool maximize,
                        py::handle max_norm, py::handle bf16_params) {
  const char* op = "adagrad_step";
  math::OptimizerScalars<double> c{};
  const Number lr = learning_rate(op, lr_object), step = counted_step(op, step_object);
  const double slowing = at_least_zero(op, "lr_decay", lr_decay);
  c.lr = lr.value / (1.0 + (step.value - 1.0) * slowing);
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("state_sums", sums);
  call.moves(lr, step, slowing);
  return call.step(OptimizerRule::adagrad, c);
}

py::object adadelta_step(py::handle params, py::handle grads, py::handle square_avgs,
                         py::handle acc_deltas, py::handle lr_object, py::handle rho,
                         py::handle eps, py::handle weight_decay, py::handle grad_scale,
                         bool maximize, py::handle max_norm, py::handle bf16_params) {
  const char* op = "adadelta_step";
  math::OptimizerScalars<double> c{};
  const Number lr = learning_rate(op, lr_object);
  c.lr = lr.value;
  c.beta2 = at_least_zero(op, "rho", rho);
  if (c.beta2 > 1.0) bad_value(op, "rho", "in [0, 1]", c.beta2);
  c.rest2 = 1.0 - c.beta2;
  c.eps = at_least_zero(op, "eps", eps);
  set_decay(op, c, weight_decay, c.lr, false);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("square_avgs", square_avgs);
  call.slot("acc_deltas", acc_deltas);
  call.moves(lr, {});
  return call.step(OptimizerRule::adadelta, c);
}

py::object lion_step(py::handle params, py::handle grads, py::handle exp_avgs, py::handle lr_object,
                     py::handle beta1, py::handle beta2, py::handle weight_decay,
                     py::handle grad_scale, bool maximize, py::handle max_norm,
                     py::handle bf16_params) {
  const char* op = "lion_step";
  math::OptimizerScalars<double> c{};
  const Number lr = learning_rate(op, lr_object);
  c.lr = lr.value;
  set_betas(op, c, beta1, beta2);
  const double decay = set_decay(op, c, weight_decay, c.lr, true);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("exp_avgs", exp_avgs);
  call.moves(lr, {}, decay);
  return call.step(OptimizerRule::lion, c);
}

// Each tensor's step is |p| / |u| long, 1 where either is 0: the moments and both norms first.
py::object lamb_step(py::handle params, py::handle grads, py::handle exp_avgs,
                     py::handle exp_avg_sqs, py::handle lr_object, py::handle step_object,
                     py::handle beta1, py::handle beta2, py::handle eps, py::handle weight_decay,
                     py::handle grad_scale, bool maximize, py::handle max_norm,
                     py::handle bf16_params) {
  const char* op = "lamb_step";
  const Number lr = learning_rate(op, lr_object), step = counted_step(op, step_object);
  math::OptimizerScalars<double> c{};
  set_betas(op, c, beta1, beta2);
  c.extra = 1.0 / (1.0 - std::pow(c.beta1, step.value));
  c.root_scale = 1.0 / std::sqrt(1.0 - std::pow(c.beta2, step.value));
  c.eps = at_least_zero(op, "eps", eps);
  c.decay = at_least_zero(op, "weight_decay", weight_decay);
  OptimizerCall call(op, params, grads, {grad_scale, maximize, max_norm, bf16_params});
  call.slot("exp_avgs", exp_avgs);
  call.slot("exp_avg_sqs", exp_avg_sqs);
  call.moves(lr, step);
  const py::object result = call.begin(c);
  if (call.on_gpu()) {
    call.lamb_on_gpu(c);
    return result;
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
      tensor.factor = lr.value * (both ? std::sqrt(size) / std::sqrt(update) : 1.0);
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

double* number_of(const py::object& array) {
  return reinterpret_cast<double*>(as_device_array(array)->data);
}

// A float, or on a GPU what stays there: float64 without axes.
py::object grad_norm(py::handle grads, py::handle norm_type) {
  const char* op = "grad_norm";
  const OptimizerRule rule = norm_rule(op, norm_type);
  OptimizerCall call(op);
  call.slot("grads", grads, false);
  call.check();
  if (!call.on_gpu()) return py::float_(call.norm(rule, 0));
  py::object norm = call.new_number();
  call.norm_on_gpu(rule, 0, -1.0, {number_of(norm), nullptr, nullptr});
  return norm;
}

py::object clip_grad_norm(py::handle grads, py::handle max_norm, py::handle norm_type) {
  const char* op = "clip_grad_norm";
  const OptimizerRule rule = norm_rule(op, norm_type);
  const double most = at_least_zero(op, "max_norm", max_norm);
  OptimizerCall call(op);
  call.slot("grads", grads);
  call.check();
  math::OptimizerScalars<double> c{};
  c.gradient = 1.0;
  if (call.on_gpu()) {
    py::object norm = call.new_number(), factor = call.new_number();
    call.norm_on_gpu(rule, 0, most, {number_of(norm), number_of(factor), nullptr});
    call.clips(number_of(factor));
    call.run(OptimizerRule::scale, c);
    return norm;
  }
  const double norm = call.norm(rule, 0);
  c.gradient = clipping(norm, most);
  if (c.gradient != 1.0) call.run(OptimizerRule::scale, c);
  return py::float_(norm);
}

// (the norm after grad_scale, the grad_scale that clips as well): of several calls' gradients.
py::tuple clipped_grad_scale(py::handle grads, py::handle max_norm, py::handle grad_scale) {
  const char* op = "clipped_grad_scale";
  const double most = at_least_zero(op, "max_norm", max_norm);
  const Number scale = gradient_scale(op, grad_scale);
  OptimizerCall call(op);
  call.slot("grads", grads, false);
  call.scales(scale);
  call.check();
  if (call.on_gpu()) {
    py::object norm = call.new_number(), clipped = call.new_number();
    call.norm_on_gpu(OptimizerRule::sum_squares, 0, most,
                     {number_of(norm), nullptr, number_of(clipped)});
    return py::make_tuple(norm, clipped);
  }
  const double norm = call.norm(OptimizerRule::sum_squares, 0) / scale.value;
  const double factor = clipping(norm, most);
  return py::make_tuple(norm, factor == 1.0 ? scale.value : scale.value / factor);
}

void clip_grad_value(py::handle grads, py::handle clip_value) {
  const char* op = "clip_grad_value";
  math::OptimizerScalars<double> c{};
  c.eps = at_least_zero(op, "clip_value", clip_value);
  OptimizerCall call(op);
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
  module.def("clipped_grad_scale", &clipped_grad_scale);
  module.def("clip_grad_value", &clip_grad_value);
}

}  // namespace hotloop
