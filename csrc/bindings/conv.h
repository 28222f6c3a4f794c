// What the bindings of convolutions share: the axes under the names that the caller gives them,
// settings, inferred sizes, the epilogue.
#pragma once

#include <cstdint>
#include <string>

#include "bindings/activation.h"
#include "bindings/array.h"
#include "bindings/gil.h"
#include "bindings/params.h"
#include "kernels/conv.h"

namespace hotloop::conv {

inline constexpr double kConvReleaseWork = 4e6;  // products and sums: some 20 microseconds

// The caller's names of the axes, and ours: n c d h w, o i d h w. -1 where there is none.
struct Axes {
  int c, d, h, w;
  int weight_o, weight_i, weight_d, weight_h, weight_w;
};

// How signals, images and volumes are called, channels first and channels last.
struct Naming {
  const char *first, *last;
  const char *first_image, *last_image, *first_weight, *last_weight;
  Axes first_axes, last_axes;
};
// A number along each of d, h, w.
struct Triple {
  std::int64_t d, h, w;
};

struct Settings {
  int dims;
  bool first;  // channels first
  Axes axes;
  Triple stride, padding, dilation;
  std::int64_t groups;

  const char* layout() const { return first ? naming().first : naming().last; }
  const char* image_text() const { return first ? naming().first_image : naming().last_image; }
  const char* weight_text() const { return first ? naming().first_weight : naming().last_weight; }
  const Naming& naming() const;
};

Triple parse_triple(const char* op, const char* name, py::handle object, int dims,
                    std::int64_t least);
Settings parse_settings(const char* op, int dims, py::handle stride, py::handle padding,
                        py::handle dilation, py::handle groups, py::handle layout);

[[noreturn]] void fail(const char* op, const std::string& text);  // ShapeError
// The size along an axis, 1 where there is none.
inline std::int64_t at(const Shape& shape, int axis) {
  return axis < 0 ? 1 : shape[static_cast<std::size_t>(axis)];
}
void require_sizes(const char* op, const char* name, const Shape& shape, int dims,
                   const char* axes);
// Sizes of a convolution of x with w, checked against each other.
ConvProblem infer(const char* op, DType dtype, const Settings& s, const char* x_name,
                  const Shape& x, const char* w_name, const Shape& w);

// Shape under the caller's names, and strides that are channels last whatever they are.
Shape image_shape(const Settings& s, std::int64_t n, std::int64_t c, std::int64_t d, std::int64_t h,
                  std::int64_t w);
Shape image_strides(const Settings& s, std::int64_t c, std::int64_t d, std::int64_t h,
                    std::int64_t w);
Shape result_shape(const Settings& s, const ConvProblem& p);
ConvImage image_of(const Array& array, const Axes& axes);
ConvKernel kernel_of(const Array& array, const Axes& axes);
void checked_image(const char* op, const Shape& shape, DType dtype);

template <class Call>
void run_conv(const ConvProblem& problem, Call call) {
  if (conv_work(problem) >= kConvReleaseWork) {
    const GilReleased released;
    call();
  } else {
    call();
  }
}

// Bias of `channels` values, the activation, what is added before it; checked.
struct Epilogue {
  Array bias, residual;
  ConvEpilogue values;
};
Epilogue parse_epilogue(const char* op, const Array& x, py::handle b, std::int64_t channels,
                        py::handle activation);
// A residual of the result's shape; in other orders than ours it is copied, so that which kernel
// runs does not depend on it.
void add_residual(const char* op, const Settings& s, const Array& x, const Shape& shape,
                  py::handle residual, Epilogue& epilogue);
// Weights in the order in which forward passes read them.
struct ConvPack {
  DType dtype;
  std::int64_t o, i, d, h, w;  // i of a group; axes that are not there are 1
  int dims;
  std::int64_t groups, bytes;
  Scratch memory;

  ConvPack(const ConvProblem& p, int dims);
  Shape shape(const Settings& s) const;  // under the caller's names
};
void bind_pack(py::module_& module);

// The weights of a forward pass: an array, or a pack.
struct Weights {
  Array array;
  const ConvPack* pack = nullptr;

  Shape shape(const Settings& s) const { return pack ? pack->shape(s) : array.shape_vector(); }
  ConvKernel kernel(const Settings& s) const {
    return pack ? ConvKernel{} : kernel_of(array, s.axes);
  }
};
Weights read_weights(const char* op, const Array& x, py::handle w);
// infer for a forward pass; a pack must be one for such a convolution.
ConvProblem infer_forward(const char* op, const Array& x, const Settings& s, const Weights& w);

// conv2d where x is bfloat16.
py::object forward_bf16(py::handle x, py::handle w, py::handle b, const Settings& s,
                        py::handle activation, py::handle residual, py::handle algorithm,
                        py::handle out);

// An image with dense channels: itself, or a copy in our order.
Array with_dense_channels(const Settings& s, const Array& image);
// An image channels last without gaps: itself, or a copy.
Array in_our_order(const Settings& s, const Array& image);

}  // namespace hotloop::conv
