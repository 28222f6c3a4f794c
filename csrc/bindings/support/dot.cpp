#include "bindings/dot.h"

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/activation.h"
#include "bindings/dims.h"
#include "bindings/gemm_pack.h"
#include "bindings/params.h"

namespace hotloop {

void require_matrix(const char* op, const char* name, const Array& array) {
  if (array.ndim >= 2) return;
  throw ShapeError(std::string(op) + ": " + name + " must have at least 2 axes, got shape " +
                   shape_text(array.shape_vector()) + "; reshape it to a matrix");
}

namespace {

// Where each matrix of a batch starts, in c, a and b; one step each where the axes fold into one.
struct Batches {
  std::vector<std::int64_t> offsets[3];
  Dims<3> lead;
};

void lay_out(DotProblem& p, const Matrices& c, const Matrices& a, const Matrices& b,
             Batches& batches) {
  Dims<3>& lead = batches.lead;
  for (int back = c.lead - 1; back >= 0; --back) {
    lead.add(c.lead_size(back), {c.lead_step(back), a.lead_step(back), b.lead_step(back)});
  }
  if (lead.count == 0) return;
  lead.simplify();
  GemmMatrix* const matrices[3] = {&p.c, &p.a, &p.b};
  const DType types[3] = {p.c_type, p.a_type, p.b_type};
  for (int i = 0; i < 3; ++i) {
    matrices[i]->data =
        static_cast<char*>(matrices[i]->data) + lead.offsets[i] * item_size(types[i]);
  }
  // Rows of many matrices times one matrix are rows of one long matrix.
  const int last = lead.count - 1;
  const std::int64_t c_step = lead.strides[0][last], a_step = lead.strides[1][last];
  if (lead.strides[2][last] == 0 && lead.sizes[last] > 1 && a_step == p.m * p.a.row_step &&
      c_step == p.m * p.c.row_step) {
    p.m *= lead.sizes[last];
    --lead.count;
  }
  p.batches = lead.product();
  if (lead.count == 0) return;
  if (lead.count == 1) {
    for (int i = 0; i < 3; ++i) matrices[i]->batch_step = lead.strides[i][0];
    return;
  }
  for (int i = 0; i < 3; ++i) {
    for (std::int64_t t = 0; t < p.batches; ++t) {
      std::int64_t at = 0, rest = t;
      for (int d = lead.count - 1; d >= 0; --d) {
        at += rest % lead.sizes[d] * lead.strides[i][d];
        rest /= lead.sizes[d];
      }
      batches.offsets[i].push_back(at);
    }
    matrices[i]->offsets = batches.offsets[i].data();
  }
}

}  // namespace

std::vector<float> floats_of(const Array& x) {
  std::vector<float> values(static_cast<std::size_t>(x.size));
  for (std::int64_t j = 0; j < x.size; ++j) {
    const std::int64_t at = j * x.stride(0);
    float& value = values[static_cast<std::size_t>(j)];
    if (x.dtype == DType::f32) {
      value = x.as<float>()[at];
    } else {
      const std::uint32_t bits = std::uint32_t{x.as<std::uint16_t>()[at]} << 16;
      __builtin_memcpy(&value, &bits, 4);
    }
  }
  return values;
}

Matrices::Matrices(const Array& of, bool transposed) : array(&of), lead(of.ndim - 2) {
  const int down = of.ndim - (transposed ? 1 : 2), across = of.ndim - (transposed ? 2 : 1);
  rows = of.shape(down);
  columns = of.shape(across);
  row_step = of.stride(down);
  column_step = of.stride(across);
}

Shape product_shape(const char* op, const Array& a, bool trans_a, const Array& b, bool trans_b) {
  require_matrix(op, "a", a);
  require_matrix(op, "b", b);
  const Matrices left(a, trans_a), right(b, trans_b);
  const std::string shapes = shape_text(a.shape_vector()) + (trans_a ? " transposed" : "") +
                             " and " + shape_text(b.shape_vector()) +
                             (trans_b ? " transposed" : "");
  if (left.columns != right.rows) {
    throw ShapeError(std::string(op) + ": the columns of a must equal the rows of b, got " +
                     shapes + "; trans_a and trans_b exchange the last two axes");
  }
  const int count = std::max(left.lead, right.lead);
  Shape shape(static_cast<std::size_t>(count));
  for (int back = 0; back < count; ++back) {
    const std::int64_t x = left.lead_size(back), y = right.lead_size(back);
    if (x != y && x != 1 && y != 1) {
      throw ShapeError(std::string(op) + ": leading axes must broadcast, got shapes " + shapes);
    }
    shape[static_cast<std::size_t>(count - 1 - back)] = x == 1 ? y : x;
  }
  shape.push_back(left.rows);
  shape.push_back(right.columns);
  return shape;
}

py::object run_product(const char* op, DotProblem& p, const Matrices& a, const Matrices& b,
                       Output& out, bool reads_out) {
  if (out.array.size == 0) return out.finish();
  // The kernels write rows of contiguous elements: other layouts go through scratch.
  const int last = out.array.ndim - 1;
  if (out.array.shape(last) != 1 && out.array.stride(last) != 1) {
    out.array = describe(new_array(op, numpy_dtype(out.array.dtype), out.array.shape_vector()));
    out.data = out.array.data;
  }
  if (reads_out && !out.array.owner.is(out.target) &&
      PyObject_SetItem(out.array.owner.ptr(), py::ellipsis().ptr(), out.target.ptr()) != 0) {
    throw py::error_already_set();
  }
  const Matrices c(out.array, false);
  p.m = c.rows;
  p.n = c.columns;
  p.k = a.columns;
  p.interruptible = out.is_fresh;
  p.a = {a.array->data, a.row_step, a.column_step, 0, nullptr};
  p.b = {b.array->data, b.row_step, b.column_step, 0, nullptr};
  p.c = {out.data, c.row_step, 1, 0, nullptr};
  // Steps along an axis of one element mean nothing.
  if (p.k == 1) p.a.column_step = p.b.row_step = 1;
  if (p.n == 1) p.b.column_step = 1;
  Batches batches;
  lay_out(p, c, a, b, batches);
  if (dot_is_parallel(p)) {
    const GilReleased released;
    dot_product(p);
  } else {
    dot_product(p);
  }
  return out.finish();
}

bool is_bf16(py::handle a) {
  DType dtype;
  return find_dtype(a, &dtype) && dtype == DType::bf16;
}

py::object gemm_bf16(py::handle a_object, py::handle b_object, bool trans_a, bool trans_b,
                     py::handle out_object, py::handle bias_object, py::handle residual,
                     double alpha, double beta, py::handle activation) {
  const char* op = "gemm";
  if (given(residual)) {
    throw std::invalid_argument(std::string(op) +
                                ": residual must be None where a is bfloat16, got " +
                                type_text(residual) + "; copy it to out and use beta=1");
  }
  constexpr DTypes kTaken = dtypes(DType::f32, DType::bf16);
  const Array a = input(op, "a", a_object, kFloats | kTaken);
  const GemmPack* pack = as_pack(op, b_object, trans_b);
  const Array b = pack ? pack->array() : input(op, "b", b_object, kFloats | kTaken);
  same_dtype(op, "a", a, "b", b);
  const Shape shape = product_shape(op, a, trans_a, b, trans_b);
  const FusedActivation fused = parse_activation(op, activation);
  Array bias;
  if (given(bias_object)) {
    bias = input(op, "bias", bias_object, kTaken);
    require_shape(op, "bias", bias, {shape.back()});
  }
  if (beta != 0 && !given(out_object)) {
    throw OutputError(std::string(op) + ": out must be given where beta is not 0, got beta " +
                      std::to_string(beta) + "; pass out, or beta=0");
  }
  DType c_type = DType::bf16;
  if (given(out_object)) c_type = output_dtype(op, out_object, kTaken);
  Output out(op, out_object, c_type, shape);
  no_overlap(op, out, "a", a);
  if (!pack) no_overlap(op, out, "b", b);
  if (given(bias_object)) no_overlap(op, out, "bias", bias);

  DotProblem p;
  if (pack) pack->describe(p);
  p.a_type = p.b_type = DType::bf16;
  p.c_type = c_type;
  p.activation = fused.kind;
  p.activation_alpha = fused.alpha;
  p.alpha = alpha;
  p.beta = beta;
  std::vector<float> row;
  if (given(bias_object)) {
    row = floats_of(bias);
    p.bias = row.data();
  }
  return run_product(op, p, Matrices(a, trans_a), Matrices(b, trans_b), out, beta != 0);
}

}  // namespace hotloop
