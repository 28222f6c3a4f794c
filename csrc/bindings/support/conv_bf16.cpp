// conv2d where x is bfloat16.
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/conv.h"
#include "bindings/dot.h"
#include "kernels/conv_bf16.h"

namespace hotloop::conv {

py::object forward_bf16(py::handle x_object, py::handle w_object, py::handle b_object,
                        const Settings& s, py::handle activation, py::handle residual,
                        py::handle algorithm, py::handle out_object) {
  const char* op = "conv2d";
  constexpr DTypes kTaken = dtypes(DType::f32, DType::bf16);
  const Array x = input(op, "x", x_object, kFloats | kTaken);
  const Array w = input(op, "w", w_object, kFloats | kTaken);
  same_dtype(op, "x", x, "w", w);
  if (given(residual)) {
    throw std::invalid_argument(std::string(op) +
                                ": residual must be None where x is bfloat16, got " +
                                type_text(residual) + "; add it to the result");
  }
  if (given(algorithm) && !algorithm.equal(py::str("direct"))) {
    throw std::invalid_argument(std::string(op) +
                                ": algorithm must be \"direct\" where x is bfloat16, got " +
                                py::repr(algorithm).cast<std::string>());
  }
  ConvProblem problem = infer(op, x.dtype, s, "x", x.shape_vector(), "w", w.shape_vector());
  const FusedActivation fused = parse_activation(op, activation);
  Array b;
  std::vector<float> bias;
  if (given(b_object)) {
    b = input(op, "b", b_object, kTaken);
    require_shape(op, "b", b, {problem.o});
    bias = floats_of(b);
  }
  DType y_type = DType::bf16;
  if (given(out_object)) y_type = output_dtype(op, out_object, kTaken);
  const Shape shape = result_shape(s, problem);
  checked_image(op, shape, DType::f32);
  Output out(op, out_object, y_type, shape,
             image_strides(s, problem.o, problem.out_d, problem.out_h, problem.out_w));
  no_overlap(op, out, "x", x);
  no_overlap(op, out, "w", w);
  if (given(b_object)) no_overlap(op, out, "b", b);
  problem.interruptible = out.is_fresh;
  run_conv(problem, [&] {
    conv_forward_bf16(problem, image_of(x, s.axes), kernel_of(w, s.axes),
                      bias.empty() ? nullptr : bias.data(), fused.kind, fused.alpha, y_type,
                      out.data);
  });
  return out.finish();
}

}  // namespace hotloop::conv
