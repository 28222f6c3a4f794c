// gemm, linear, linear_backward: shapes, strides and batch axes become a GemmProblem.
#include "kernels/gemm.h"

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/activation.h"
#include "bindings/array.h"
#include "bindings/dims.h"
#include "bindings/gil.h"

namespace hotloop {

namespace {

// A stack of matrices: the last two axes, perhaps exchanged, and the axes before them.
struct Operand {
  const Array* array;
  std::int64_t rows, columns;
  std::int64_t row_step, column_step;
  int lead;  // leading axes

  static Operand of(const Array& array, bool transposed) {
    const int rows = array.ndim - (transposed ? 1 : 2), columns = array.ndim - (transposed ? 2 : 1);
    return {&array,
            array.shape(rows),
            array.shape(columns),
            array.stride(rows),
            array.stride(columns),
            array.ndim - 2};
  }
  // Size and stride of the leading axis that stands `back` places before the matrix.
  std::int64_t lead_size(int back) const { return back < lead ? array->shape(lead - 1 - back) : 1; }
  std::int64_t lead_step(int back) const {
    return back < lead && lead_size(back) != 1 ? array->stride(lead - 1 - back) : 0;
  }
};

void require_matrix(const char* op, const char* name, const Array& array) {
  if (array.ndim >= 2) return;
  throw ShapeError(std::string(op) + ": " + name + " must have at least 2 axes, got shape " +
                   shape_text(array.shape_vector()) + "; reshape it to a matrix");
}

// The leading axes of a and b, broadcast against each other as np.matmul does.
Shape broadcast_lead(const char* op, const Operand& a, const Operand& b) {
  const int count = std::max(a.lead, b.lead);
  Shape shape(static_cast<std::size_t>(count));
  for (int back = 0; back < count; ++back) {
    const std::int64_t x = a.lead_size(back), y = b.lead_size(back);
    if (x != y && x != 1 && y != 1) {
      throw ShapeError(std::string(op) + ": leading axes must broadcast, got shapes " +
                       shape_text(a.array->shape_vector()) + " and " +
                       shape_text(b.array->shape_vector()));
    }
    shape[static_cast<std::size_t>(count - 1 - back)] = x == 1 ? y : x;
  }
  return shape;
}

struct Epilogue {
  double alpha = 1, beta = 0;
  py::handle bias;  // a given array of n elements, or none
  const char* bias_name = "bias";
  FusedActivation activation{Activation::none, 0};
};

// Fills in c and the batch axes; folds them into m or into one step where the strides allow it.
void lay_out_batches(GemmProblem& p, const Operand& a, const Operand& b, const Operand& c,
                     std::vector<std::int64_t> (&offsets)[3]) {
  Dims<3> lead;  // c, a, b
  for (int back = c.lead - 1; back >= 0; --back) {
    lead.add(c.lead_size(back), {c.lead_step(back), a.lead_step(back), b.lead_step(back)});
  }
  if (lead.count == 0) return;
  lead.simplify();
  const std::int64_t item = item_size(p.dtype);
  GemmMatrix* const matrices[3] = {&p.c, &p.a, &p.b};
  for (int i = 0; i < 3; ++i) {
    matrices[i]->data = static_cast<char*>(matrices[i]->data) + lead.offsets[i] * item;
  }
  // Rows of many matrices times one matrix are rows of one long matrix.
  const int last = lead.count - 1;
  const std::int64_t c_step = lead.strides[0][last], a_step = lead.strides[1][last];
  if (lead.strides[2][last] == 0 && lead.sizes[last] > 1) {
    const bool folds = p.m == 1 || (a_step == p.m * p.a.row_step && c_step == p.m * p.c.row_step);
    if (folds) {
      if (p.m == 1) {
        p.a.row_step = a_step;
        p.c.row_step = c_step;
      }
      p.m *= lead.sizes[last];
      --lead.count;
    }
  }
  p.batches = lead.product();
  if (lead.count == 0) return;
  if (lead.count == 1) {
    for (int i = 0; i < 3; ++i) matrices[i]->batch_step = lead.strides[i][0];
    return;
  }
  for (int i = 0; i < 3; ++i) {
    offsets[i].reserve(static_cast<std::size_t>(p.batches));
    for (std::int64_t t = 0; t < p.batches; ++t) {
      std::int64_t at = 0, rest = t;
      for (int d = lead.count - 1; d >= 0; --d) {
        at += rest % lead.sizes[d] * lead.strides[i][d];
        rest /= lead.sizes[d];
      }
      offsets[i].push_back(at);
    }
    matrices[i]->offsets = offsets[i].data();
  }
}

py::object product(const char* op, const Operand& a, const Operand& b, const char* b_name,
                   const char* a_name, const Shape& out_shape, const Epilogue& epilogue,
                   py::handle out_object) {
  const DType dtype = a.array->dtype;
  Array bias;
  if (given(epilogue.bias)) {
    bias = input(op, epilogue.bias_name, epilogue.bias);
    same_dtype(op, a_name, *a.array, epilogue.bias_name, bias);
    require_shape(op, epilogue.bias_name, bias, {b.columns});
    if (bias.stride(0) != 1) bias = packed(bias);
  }
  if (epilogue.beta != 0 && !given(out_object)) {
    throw OutputError(std::string(op) + ": out must be given where beta is not 0, got beta " +
                      std::to_string(epilogue.beta) + "; pass out, or beta=0");
  }
  Output out(op, out_object, dtype, out_shape);
  no_overlap(op, out, a_name, *a.array);
  no_overlap(op, out, b_name, *b.array);
  if (given(epilogue.bias)) no_overlap(op, out, epilogue.bias_name, bias);
  if (out.array.size == 0) return out.finish();
  // The kernels write rows of contiguous elements: other layouts go through scratch.
  const int axes = out.array.ndim;
  if (out.array.shape(axes - 1) != 1 && out.array.stride(axes - 1) != 1) {
    out.array = describe(new_array(op, numpy_dtype(dtype), out_shape));
    out.data = out.array.data;
  }
  if (epilogue.beta != 0 && !out.array.owner.is(out.target) &&
      PyObject_SetItem(out.array.owner.ptr(), py::ellipsis().ptr(), out.target.ptr()) != 0) {
    throw py::error_already_set();
  }

  GemmProblem p;
  p.dtype = dtype;
  p.activation = epilogue.activation.kind;
  p.activation_alpha = epilogue.activation.alpha;
  p.m = a.rows;
  p.n = b.columns;
  p.k = a.columns;
  p.alpha = epilogue.alpha;
  p.beta = epilogue.beta;
  p.bias = given(epilogue.bias) ? bias.data : nullptr;
  p.interruptible = out.is_fresh;
  p.a = {a.array->data, a.row_step, a.column_step, 0, nullptr};
  p.b = {b.array->data, b.row_step, b.column_step, 0, nullptr};
  // `out` may have one axis less than a stack of matrices (linear of a single row).
  const Array& c = out.array;
  const Operand c_operand{
      &c, a.rows, b.columns, axes >= 2 ? c.stride(axes - 2) : 0, 1, std::max(axes - 2, 0)};
  p.c = {c.data, c_operand.row_step, 1, 0, nullptr};
  std::vector<std::int64_t> offsets[3];
  lay_out_batches(p, a, b, c_operand, offsets);
  if (gemm_is_parallel(p)) {
    const GilReleased released;
    gemm(p);
  } else {
    gemm(p);
  }
  return out.finish();
}

py::object gemm_call(py::handle a_object, py::handle b_object, py::handle bias, bool trans_a,
                     bool trans_b, double alpha, double beta, py::handle activation,
                     py::handle out) {
  const char* op = "gemm";
  const Array a = input(op, "a", a_object);
  const Array b = input(op, "b", b_object);
  same_dtype(op, "a", a, "b", b);
  require_matrix(op, "a", a);
  require_matrix(op, "b", b);
  const Operand left = Operand::of(a, trans_a), right = Operand::of(b, trans_b);
  if (left.columns != right.rows) {
    throw ShapeError(std::string(op) + ": the columns of a must equal the rows of b, got " +
                     shape_text(a.shape_vector()) + (trans_a ? " transposed" : "") + " and " +
                     shape_text(b.shape_vector()) + (trans_b ? " transposed" : "") +
                     "; trans_a and trans_b exchange the last two axes");
  }
  Shape shape = broadcast_lead(op, left, right);
  shape.push_back(left.rows);
  shape.push_back(right.columns);
  Epilogue epilogue{alpha, beta, bias, "bias", parse_activation(op, activation)};
  return product(op, left, right, "b", "a", shape, epilogue, out);
}

// x (..., in) as a stack of matrices: one row where x has a single axis.
Operand rows_of(const Array& x) {
  const int last = x.ndim - 1;
  return {&x,
          x.ndim >= 2 ? x.shape(last - 1) : 1,
          x.shape(last),
          x.ndim >= 2 ? x.stride(last - 1) : 0,
          x.stride(last),
          std::max(x.ndim - 2, 0)};
}

void require_features(const char* op, const char* name, const Array& x, std::int64_t features,
                      const Array& w, const char* what) {
  if (x.ndim >= 1 && x.shape(x.ndim - 1) == features) return;
  throw ShapeError(std::string(op) + ": the last axis of " + name + " must have the " +
                   std::to_string(features) + " " + what + " of w, got shapes " +
                   shape_text(x.shape_vector()) + " and " + shape_text(w.shape_vector()) +
                   "; w is (out, in)");
}

py::object linear_call(py::handle x_object, py::handle w_object, py::handle b,
                       py::handle activation, py::handle out) {
  const char* op = "linear";
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "x", x, "w", w);
  require_ndim(op, "w", w, 2);
  require_features(op, "x", x, w.shape(1), w, "input features");
  Shape shape = x.shape_vector();
  shape.back() = w.shape(0);
  Epilogue epilogue{1, 0, b, "b", parse_activation(op, activation)};
  return product(op, rows_of(x), Operand::of(w, true), "w", "x", shape, epilogue, out);
}

// The leading axes as one axis of rows: a view where the strides allow it, else a packed copy.
Array as_rows(const Array& x) {
  const int last = x.ndim - 1;
  std::int64_t rows = 1, row_step = 0;
  bool folds = true;
  for (int axis = last - 1; axis >= 0; --axis) {
    if (x.shape(axis) == 1) continue;
    if (rows == 1) {
      row_step = x.stride(axis);
    } else if (x.stride(axis) != rows * row_step) {
      folds = false;
    }
    rows *= x.shape(axis);
  }
  Array flat = folds ? x : packed(x);
  flat.strides[1] = folds ? x.stride(last) : 1;
  flat.strides[0] = folds ? row_step : x.shape(last);
  flat.shapes[1] = x.shape(last);
  flat.shapes[0] = rows;
  flat.ndim = 2;
  return flat;
}

py::tuple linear_backward_call(py::handle dy_object, py::handle x_object, py::handle w_object,
                               bool need_dx, bool need_db) {
  const char* op = "linear_backward";
  const Array dy = input(op, "dy", dy_object);
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "dy", dy, "x", x);
  same_dtype(op, "x", x, "w", w);
  require_ndim(op, "w", w, 2);
  require_features(op, "x", x, w.shape(1), w, "input features");
  Shape expected = x.shape_vector();
  expected.back() = w.shape(0);
  require_shape(op, "dy", dy, expected);

  const Array dy_rows = as_rows(dy), x_rows = as_rows(x);
  py::object dx = py::none(), db = py::none();
  if (need_dx) {
    dx = product(op, rows_of(dy), Operand::of(w, false), "w", "dy", x.shape_vector(), Epilogue{},
                 py::none());
  }
  py::object dw = product(op, Operand::of(dy_rows, true), Operand::of(x_rows, false), "x", "dy",
                          w.shape_vector(), Epilogue{}, py::none());
  if (need_db) {
    Output sums(op, py::none(), dy.dtype, {w.shape(0)});
    ColumnSumArgs args;
    args.dtype = dy.dtype;
    args.m = dy_rows.shape(0);
    args.n = dy_rows.shape(1);
    args.a = dy_rows.data;
    args.row_step = dy_rows.stride(0);
    args.column_step = args.n == 1 ? 1 : dy_rows.stride(1);
    args.c = sums.data;
    const std::int64_t units = (args.n + kColumnSumBlock - 1) / kColumnSumBlock;
    run(gemm_column_sums_kernel(), args,
        Split{.units = units,
              .grain = std::max<std::int64_t>(1, 65536 / std::max<std::int64_t>(64 * args.m, 1))});
    db = sums.finish();
  }
  return py::make_tuple(dx, dw, db);
}

}  // namespace

void bind_gemm(py::module_& module) {
  module.def("gemm", &gemm_call);
  module.def("linear", &linear_call);
  module.def("linear_backward", &linear_backward_call);
}

}  // namespace hotloop
