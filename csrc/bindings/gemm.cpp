// gemm, gemm_pack, linear, linear_backward: shapes, strides and batch axes become a GemmProblem.
#include "kernels/gemm.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "bindings/activation.h"
#include "bindings/array.h"
#include "bindings/device.h"
#include "bindings/dims.h"
#include "bindings/dot.h"
#include "bindings/flat.h"
#include "bindings/gemm_pack.h"
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

// Appends the leading axes of a and b, broadcast against each other as np.matmul does.
void broadcast_lead(const char* op, const Operand& a, const Operand& b, Shape& shape) {
  const int count = std::max(a.lead, b.lead);
  shape.resize(static_cast<std::size_t>(count));
  for (int back = 0; back < count; ++back) {
    const std::int64_t x = a.lead_size(back), y = b.lead_size(back);
    if (x != y && x != 1 && y != 1) {
      throw ShapeError(std::string(op) + ": leading axes must broadcast, got shapes " +
                       shape_text(a.array->shape_vector()) + " and " +
                       shape_text(b.array->shape_vector()));
    }
    shape[static_cast<std::size_t>(count - 1 - back)] = x == 1 ? y : x;
  }
}

struct Epilogue {
  double alpha = 1, beta = 0;
  py::handle bias;  // a given array of n elements, or none
  const char* bias_name = "bias";
  FusedActivation activation{Activation::none, 0};
  py::handle residual;  // a given array of the shape of the result, or none
  void* a_sums = nullptr;
};

// Fills in the batch axes; folds them into m or into one step where the strides allow it.
void lay_out_batches(GemmProblem& p, const Operand& a, const Operand& b, const Operand& c,
                     const Operand& d, std::vector<std::int64_t> (&offsets)[4]) {
  if (c.lead == 0) return;
  Dims<4> lead;  // c, a, b, d
  for (int back = c.lead - 1; back >= 0; --back) {
    lead.add(c.lead_size(back),
             {c.lead_step(back), a.lead_step(back), b.lead_step(back), d.lead_step(back)});
  }
  lead.simplify();
  const std::int64_t item = item_size(p.dtype);
  GemmMatrix* const matrices[4] = {&p.c, &p.a, &p.b, &p.d};
  const int used = p.d.data ? 4 : 3;
  for (int i = 0; i < used; ++i) {
    matrices[i]->data = static_cast<char*>(matrices[i]->data) + lead.offsets[i] * item;
  }
  // Rows of many matrices times one matrix are rows of one long matrix.
  const int last = lead.count - 1;
  const std::int64_t c_step = lead.strides[0][last], a_step = lead.strides[1][last];
  const std::int64_t d_step = lead.strides[3][last];
  if (lead.strides[2][last] == 0 && lead.sizes[last] > 1) {
    const bool folds = p.m == 1 || (a_step == p.m * p.a.row_step && c_step == p.m * p.c.row_step &&
                                    (!p.d.data || d_step == p.m * p.d.row_step));
    if (folds) {
      if (p.m == 1) {
        p.a.row_step = a_step;
        p.c.row_step = c_step;
        p.d.row_step = d_step;
      }
      p.m *= lead.sizes[last];
      --lead.count;
    }
  }
  p.batches = lead.product();
  if (lead.count == 0) return;
  if (lead.count == 1) {
    for (int i = 0; i < used; ++i) matrices[i]->batch_step = lead.strides[i][0];
    return;
  }
  for (int i = 0; i < used; ++i) {
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

// A stack of matrices of the result's shape (which may have one axis less: linear of one row).
Operand result_operand(const Array& array, std::int64_t rows, std::int64_t columns) {
  const int axes = array.ndim;
  return {&array, rows, columns, axes >= 2 ? array.stride(axes - 2) : 0, 1, std::max(axes - 2, 0)};
}

// The kernels read and write rows of contiguous elements.
bool has_rows(const Array& array) {
  return array.shape(array.ndim - 1) == 1 || array.stride(array.ndim - 1) == 1;
}

void multiply(const GemmProblem& p) {
  if (!gemm_is_long(p)) return gemm(p);
  const GilReleased released;
  gemm(p);
}

py::object product(const char* op, const Operand& a, const Operand& b, const char* b_name,
                   const char* a_name, const Shape& out_shape, const Epilogue& epilogue,
                   py::handle out_object, const GemmPack* pack = nullptr) {
  const DType dtype = a.array->dtype;
  Array bias, residual;
  if (given(epilogue.bias)) {
    bias = input(op, epilogue.bias_name, epilogue.bias);
    same_dtype(op, a_name, *a.array, epilogue.bias_name, bias);
    require_shape(op, epilogue.bias_name, bias, {b.columns});
    if (bias.stride(0) != 1) bias = packed(bias);
  }
  if (given(epilogue.residual)) {
    residual = input(op, "residual", epilogue.residual);
    same_dtype(op, a_name, *a.array, "residual", residual);
    require_shape(op, "residual", residual, out_shape);
    if (epilogue.beta != 0) {
      throw std::invalid_argument(
          std::string(op) + ": beta must be 0 where residual is given, got beta " +
          std::to_string(epilogue.beta) + "; residual takes the place of out");
    }
  }
  if (epilogue.beta != 0 && !given(out_object)) {
    throw OutputError(std::string(op) + ": out must be given where beta is not 0, got beta " +
                      std::to_string(epilogue.beta) + "; pass out, or beta=0");
  }
  Output out(op, out_object, dtype, out_shape);
  no_overlap(op, out, a_name, *a.array);
  if (!pack) no_overlap(op, out, b_name, *b.array);
  if (given(epilogue.bias)) no_overlap(op, out, epilogue.bias_name, bias);
  if (given(epilogue.residual)) no_overlap(op, out, "residual", residual, Overlap::same_allowed);
  if (out.array.size == 0) return out.finish();
  // Other layouts of the result go through scratch.
  if (!has_rows(out.array)) {
    out.array = describe(fresh_array(op, numpy_dtype(dtype), out_shape));
    out.data = out.array.data;
  }
  if (given(epilogue.residual) && !has_rows(residual)) residual = packed(residual);
  if (epilogue.beta != 0 && !out.array.owner.is(out.target)) {
    if (const DeviceArray* to = as_device_array(out.array.owner)) {
      copy_on_device(op, *to, *as_device_array(out.target));
    } else if (PyObject_SetItem(out.array.owner.ptr(), py::ellipsis().ptr(), out.target.ptr()) !=
               0) {
      throw py::error_already_set();
    }
  }

  GemmProblem p;
  p.dtype = dtype;
  p.activation = epilogue.activation.kind;
  p.activation_alpha = epilogue.activation.alpha;
  p.m = a.rows;
  p.n = b.columns;
  p.k = a.columns;
  p.alpha = epilogue.alpha;
  p.beta = given(epilogue.residual) ? 1 : epilogue.beta;
  p.bias = given(epilogue.bias) ? bias.data : nullptr;
  p.a_sums = epilogue.a_sums;
  p.interruptible = out.is_fresh;
  p.packed_columns = pack ? pack->columns : 0;
  p.a = {a.array->data, a.row_step, a.column_step, 0, nullptr};
  p.b = {b.array->data, b.row_step, b.column_step, 0, nullptr};
  const Operand c = result_operand(out.array, a.rows, b.columns);
  const Operand d = given(epilogue.residual) ? result_operand(residual, a.rows, b.columns) : c;
  p.c = {c.array->data, c.row_step, 1, 0, nullptr};
  if (p.beta != 0) p.d = {d.array->data, d.row_step, 1, 0, nullptr};
  std::vector<std::int64_t> offsets[4];
  lay_out_batches(p, a, b, c, d, offsets);
  const Call* const call = Call::current();
  if (call && call->on_gpu()) {
    call->run_gpu("gemm", p, 1, &GemmProblem::scratch);
  } else {
    multiply(p);
  }
  return out.finish();
}

py::object gemm_of(py::handle a_object, py::handle b_object, bool trans_a, bool trans_b,
                   const Epilogue& epilogue, py::handle out) {
  const char* op = "gemm";
  Call call(op);
  const GemmPack* pack = as_pack(op, b_object, trans_b);
  const Array a = input(op, "a", a_object);
  if (pack) call.meet("b", kCpu);
  const Array b = pack ? pack->array() : input(op, "b", b_object);
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
  Shape shape;
  shape.reserve(static_cast<std::size_t>(std::max(left.lead, right.lead)) + 2);
  broadcast_lead(op, left, right, shape);
  shape.push_back(left.rows);
  shape.push_back(right.columns);
  return product(op, left, right, "b", "a", shape, epilogue, out, pack);
}

// The shortest way, for what most products bring: two dense matrices, or transposes of such, and a
// given out in C order, all of one dtype. Null, and nothing done, for anything else; the problem is
// the one that gemm_of would make of them.
py::object gemm_flat(py::handle a, py::handle b, bool trans_a, bool trans_b, py::handle out) {
  GemmProblem p;
  bool a_columns = false, b_columns = false;  // in Fortran's order
  const auto* to = flat_array(out, true, &p.dtype);
  const auto* left = to ? flat_array(a, false, &p.dtype, &a_columns) : nullptr;
  const auto* right = left ? flat_array(b, false, &p.dtype, &b_columns) : nullptr;
  if (!right || left->descr != to->descr || right->descr != to->descr) return {};
  if (to->nd != 2 || left->nd != 2 || right->nd != 2) return {};
  p.m = left->dimensions[trans_a];
  p.k = left->dimensions[!trans_a];
  p.n = right->dimensions[!trans_b];
  if (right->dimensions[trans_b] != p.k || p.m < 1 || p.k < 1 || p.n < 1) return {};
  if (to->dimensions[0] != p.m || to->dimensions[1] != p.n) return {};
  const auto apart = [&](const py::detail::PyArray_Proxy* input, std::int64_t size) {
    const std::intptr_t behind =
        reinterpret_cast<std::intptr_t>(input->data) - reinterpret_cast<std::intptr_t>(to->data);
    const std::int64_t item = item_size(p.dtype);
    return behind >= p.m * p.n * item || -behind >= size * item;
  };
  if (!apart(left, p.m * p.k) || !apart(right, p.k * p.n)) return {};
  const bool tall_a = trans_a != a_columns, tall_b = trans_b != b_columns;
  p.interruptible = false;
  p.a = {left->data, tall_a ? 1 : p.k, tall_a ? p.m : 1, 0, nullptr};
  p.b = {right->data, tall_b ? 1 : p.n, tall_b ? p.k : 1, 0, nullptr};
  p.c = {to->data, p.n, 1, 0, nullptr};
  multiply(p);
  return py::reinterpret_borrow<py::object>(out);
}

// Without an epilogue: five arguments cost 50 ns less than ten.
py::object gemm_call(py::handle a, py::handle b, bool trans_a, bool trans_b, py::handle out) {
  if (py::object done = gemm_flat(a, b, trans_a, trans_b, out)) return done;
  if (is_bf16(a)) return gemm_bf16(a, b, trans_a, trans_b, out);
  return gemm_of(a, b, trans_a, trans_b, Epilogue{}, out);
}

py::object gemm_epilogue_call(py::handle a, py::handle b, bool trans_a, bool trans_b,
                              py::handle out, py::handle bias, py::handle residual, double alpha,
                              double beta, py::handle activation) {
  if (is_bf16(a)) {
    return gemm_bf16(a, b, trans_a, trans_b, out, bias, residual, alpha, beta, activation);
  }
  Epilogue epilogue;
  epilogue.alpha = alpha;
  epilogue.beta = beta;
  epilogue.bias = bias;
  epilogue.activation = parse_activation("gemm", activation);
  epilogue.residual = residual;
  return gemm_of(a, b, trans_a, trans_b, epilogue, out);
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
                      std::int64_t outputs, const char* what) {
  if (x.ndim >= 1 && x.shape(x.ndim - 1) == features) return;
  throw ShapeError(std::string(op) + ": the last axis of " + name + " must have the " +
                   std::to_string(features) + " " + what + " of w, got shapes " +
                   shape_text(x.shape_vector()) + " and " + shape_text({outputs, features}) +
                   "; w is (out, in)");
}

py::object linear_call(py::handle x_object, py::handle w_object, py::handle b,
                       py::handle activation, py::handle residual, py::handle out) {
  const char* op = "linear";
  Call call(op);
  const GemmPack* pack = as_pack(w_object);
  const Array x = input(op, "x", x_object);
  if (pack) call.meet("w", kCpu);
  const Array w = pack ? pack->array() : input(op, "w", w_object);
  same_dtype(op, "x", x, "w", w);
  require_ndim(op, "w", w, 2);
  const Operand right = Operand::of(w, !pack);  // a pack is w transposed: (in, out)
  require_features(op, "x", x, right.rows, right.columns, "input features");
  Shape shape = x.shape_vector();
  shape.back() = right.columns;
  Epilogue epilogue;
  epilogue.bias = b;
  epilogue.bias_name = "b";
  epilogue.activation = parse_activation(op, activation);
  epilogue.residual = residual;
  return product(op, rows_of(x), right, "w", "x", shape, epilogue, out, pack);
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

// Where there is no product that would give them.
void sum_of_rows(const Operand& a, void* sums) {
  GemmProblem p;
  p.dtype = a.array->dtype;
  p.m = a.rows;
  p.k = a.columns;
  p.a = {a.array->data, a.row_step, a.column_step, 0, nullptr};
  p.a_sums = sums;
  const Call* const call = Call::current();
  if (call && call->on_gpu()) {
    call->run_gpu("gemm", p, 1, &GemmProblem::scratch);
  } else {
    gemm_row_sums(p);
  }
}

py::tuple linear_backward_call(py::handle dy_object, py::handle x_object, py::handle w_object,
                               bool need_dx, bool need_db) {
  const char* op = "linear_backward";
  const Call call(op);
  const Array dy = input(op, "dy", dy_object);
  const Array x = input(op, "x", x_object);
  const Array w = input(op, "w", w_object);
  same_dtype(op, "dy", dy, "x", x);
  same_dtype(op, "x", x, "w", w);
  require_ndim(op, "w", w, 2);
  require_features(op, "x", x, w.shape(1), w.shape(0), "input features");
  Shape expected = x.shape_vector();
  expected.back() = w.shape(0);
  require_shape(op, "dy", dy, expected);

  const Array dy_rows = as_rows(dy), x_rows = as_rows(x);
  py::object dx = py::none(), db = py::none();
  if (need_dx) {
    dx = product(op, rows_of(dy), Operand::of(w, false), "w", "dy", x.shape_vector(), Epilogue{},
                 py::none());
  }
  // db is the sums of the rows of the left factor of dw.
  const Operand left = Operand::of(dy_rows, true);
  Epilogue epilogue;
  if (need_db) {
    Output sums(op, py::none(), dy.dtype, {w.shape(0)});
    epilogue.a_sums = sums.data;
    db = sums.finish();
    if (x_rows.shape(1) == 0) sum_of_rows(left, epilogue.a_sums);
  }
  py::object dw = product(op, left, Operand::of(x_rows, false), "x", "dy", w.shape_vector(),
                          epilogue, py::none());
  return py::make_tuple(dx, dw, db);
}

}  // namespace

void bind_gemm(py::module_& module) {
  define_gemm_pack(module);
  module.def("gemm", &gemm_call);
  module.def("gemm_epilogue", &gemm_epilogue_call);
  module.def("linear", &linear_call);
  module.def("linear_backward", &linear_backward_call);
}

}  // namespace hotloop
