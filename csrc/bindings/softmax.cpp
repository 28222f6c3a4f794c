// softmax, log_softmax and their backward twins.
#include "kernels/softmax.h"

#include <algorithm>

#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/dims.h"
#include "bindings/params.h"
#include "bindings/row_memory.h"

namespace hotloop {

namespace {

static_assert(kRowDims == kMaxDims);

// From here on (bytes of all arrays) the output is written around the caches.
constexpr std::int64_t kSoftmaxStream = std::int64_t{24} << 20;
constexpr std::int64_t kSoftmaxGrain = 8192;  // exponentials computed in about 10 microseconds

void run_softmax(SoftmaxOp op, const Array& a, const Array& b, const Output& out, int axis) {
  if (a.size == 0) return;
  SoftmaxArgs args{};
  args.dtype = a.dtype;
  args.op = op;
  Dims<3> rows;
  for (int d = 0; d < a.ndim; ++d) {
    if (d == axis) continue;
    rows.add(a.shape(d), {a.stride(d), b.stride(d), out.array.stride(d)});
  }
  rows.simplify();
  const std::int64_t item = item_size(a.dtype);
  args.a = a.as<char>() + rows.offsets[0] * item;
  args.b = b.as<char>() + rows.offsets[1] * item;
  args.out = out.array.as<char>() + rows.offsets[2] * item;
  args.n = a.shape(axis);
  args.axis_strides[0] = a.stride(axis);
  args.axis_strides[1] = b.stride(axis);
  args.axis_strides[2] = out.array.stride(axis);
  args.unit_stride = args.n == 1;
  if (args.n > 1) {
    args.unit_stride =
        args.axis_strides[0] == 1 && args.axis_strides[1] == 1 && args.axis_strides[2] == 1;
  }
  const std::int64_t moved = (b.data == a.data ? 2 : 3) * a.size * item;
  const bool forward = op == SoftmaxOp::softmax || op == SoftmaxOp::log_softmax;
  args.stream = args.unit_stride && moved >= kSoftmaxStream && args.out != args.a &&
                args.out != args.b && (!forward || args.n * item <= kMostKeptBytes);
  args.row_dims = rows.count;
  const int last = rows.count - 1;
  for (int d = 0; d < rows.count; ++d) {
    args.row_sizes[d] = rows.sizes[d];
    for (int k = 0; k < 3; ++k) args.row_strides[k][d] = rows.strides[k][d];
  }
  args.columns = !args.unit_stride && rows.sizes[last] > 1 && rows.strides[0][last] == 1 &&
                 rows.strides[1][last] == 1 && rows.strides[2][last] == 1;
  std::int64_t units = rows.product(), per_unit = args.n;
  if (args.columns) {
    const std::int64_t columns = rows.sizes[last];
    units = units / columns * ((columns + kSoftmaxColumns - 1) / kSoftmaxColumns);
    per_unit *= columns < kSoftmaxColumns ? columns : kSoftmaxColumns;
  }
  const bool pieces = args.unit_stride && (args.stream || args.n > kRowPiece);
  const bool two = args.stream && op == SoftmaxOp::softmax && keeps_two_rows(args.n, item);
  const RowScratch scratch(pieces && op == SoftmaxOp::softmax, args.stream, args.n, item, two);
  args.memory = scratch.view();
  std::int64_t grain = per_unit >= kSoftmaxGrain ? 1 : kSoftmaxGrain / per_unit;
  // The first row of a piece is not computed while another is written.
  if (two) grain = std::max(grain, std::clamp<std::int64_t>(units / 16, 1, 8));
  Call::current()->run("softmax", softmax_kernel(), args,
                       Split{.units = units,
                             .grain = grain,
                             .max_threads = scratch.threads,
                             .interruptible = out.is_fresh});
}

int row_axis(const char* op_name, const char* name, const Array& x, py::handle axis) {
  if (x.ndim == 0) {
    throw ShapeError(std::string(op_name) + ": " + name +
                     " must have at least one axis, got shape (); pass x.reshape(1)");
  }
  return parse_axis(op_name, axis, x.ndim);
}

py::object forward(const char* op_name, SoftmaxOp op, py::handle x_object, py::handle axis,
                   py::handle out_object) {
  const Call call(op_name);
  const Array x = input(op_name, "x", x_object);
  const int along = row_axis(op_name, "x", x, axis);
  Output out(op_name, out_object, x.dtype, x.shape_vector());
  no_overlap(op_name, out, "x", x, Overlap::same_allowed);
  run_softmax(op, x, x, out, along);
  return out.finish();
}

py::object backward(const char* op_name, SoftmaxOp op, py::handle dy_object, py::handle y_object,
                    py::handle axis, py::handle out_object) {
  const Call call(op_name);
  const Array dy = input(op_name, "dy", dy_object);
  const Array y = input(op_name, "y", y_object);
  same_dtype(op_name, "dy", dy, "y", y);
  require_shape(op_name, "dy", dy, y.shape_vector());
  const int along = row_axis(op_name, "y", y, axis);
  Output out(op_name, out_object, y.dtype, y.shape_vector());
  no_overlap(op_name, out, "dy", dy, Overlap::same_allowed);
  no_overlap(op_name, out, "y", y, Overlap::same_allowed);
  run_softmax(op, dy, y, out, along);
  return out.finish();
}

}  // namespace

void bind_softmax(py::module_& module) {
  module.def("softmax", [](py::handle x, py::handle axis, py::handle out) {
    return forward("softmax", SoftmaxOp::softmax, x, axis, out);
  });
  module.def("log_softmax", [](py::handle x, py::handle axis, py::handle out) {
    return forward("log_softmax", SoftmaxOp::log_softmax, x, axis, out);
  });
  module.def("softmax_backward", [](py::handle dy, py::handle y, py::handle axis, py::handle out) {
    return backward("softmax_backward", SoftmaxOp::softmax_backward, dy, y, axis, out);
  });
  module.def(
      "log_softmax_backward", [](py::handle dy, py::handle y, py::handle axis, py::handle out) {
        return backward("log_softmax_backward", SoftmaxOp::log_softmax_backward, dy, y, axis, out);
      });
}

}  // namespace hotloop
